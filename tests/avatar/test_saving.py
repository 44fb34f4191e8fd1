"""One file for an avatar: what comes back, what is refused, and that a crash leaves the old file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import headfields.files.safetensors
from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Chain, Static, SurfaceCanonicalizer
from headfields.encoders import Frequency, HashGrid, RegionGate
from headfields.part_names import part_class
from headfields.records import Camera, HeadState, Template
from headfields.renderers import OccupancySampler, UniformSampler, VolumeRenderer
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(5, 6, radius=0.1)
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
KEY = "headfields.avatar"


def avatar() -> Avatar:
    torch.manual_seed(0)
    mouth = torch.arange(len(FACES)) % 2 == 0
    template = Template(VERTICES, FACES, {"mouth": mouth}, face_count=len(FACES) - 2)
    made = Avatar(
        Chain(SurfaceCanonicalizer(VERTICES, FACES, shell=0.03), Static(BOX)),
        HashGrid(2, 2, 6, 4, 8),
        NeRFDecoder(hidden=8, density_bias=2.0),
        VolumeRenderer(OccupancySampler(resolution=4, step=0.02), early_stop=1e-3),
        condition=[RegionGate("expression", mouth, width=2), Frequency(2)],
        template=template,
    )
    made.preview = (
        Camera(torch.eye(4), torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), (8, 8)),
        HeadState(
            VERTICES[None] + torch.tensor([0.0, 0, 0.4]),
            expression=torch.ones(1, 2),
            codes={"id": torch.ones(1, 3)},
            frame_id=torch.tensor([5]),
        ),
    )
    return made


def small() -> Avatar:
    return Avatar(Static(BOX), Frequency(2), NeRFDecoder(hidden=8), VolumeRenderer(UniformSampler(4)))


def test_everything_comes_back(tmp_path: Path) -> None:
    made = avatar()
    made.renderer.sampler.grid.occupied[1] = False  # as after training
    made.save(tmp_path / "deep" / "avatar.safetensors")
    again = Avatar.load(tmp_path / "deep" / "avatar.safetensors")
    for name, value in made.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0, msg=name)
    assert list(again.state_dict()) == list(made.state_dict())
    assert isinstance(again.deformer, Chain) and again.deformer.deformers[0].shell == 0.03
    assert again.renderer.early_stop == 1e-3 and again.decoder.density_bias == 2.0
    assert [type(part) for part in again.conditions] == [RegionGate, Frequency]
    assert again.template is not None and again.template.face_count == len(FACES) - 2
    assert bool((again.template.regions["mouth"] == made.template.regions["mouth"]).all())
    assert made.preview is not None and again.preview is not None
    assert again.preview[0].size == (8, 8) and float(again.preview[1].codes["id"].sum()) == 3
    assert again.preview[1].frame_id.tolist() == [5]
    torch.testing.assert_close(again.render(*again.preview).rgb, made.render(*made.preview).rgb, atol=1e-6, rtol=0)
    again.save(tmp_path / "again")  # what was loaded can be saved
    assert Avatar.load(tmp_path / "again").template is not None


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "avatar.safetensors"
    small().save(path)
    before = path.read_bytes()

    def crash(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(headfields.files.safetensors.os, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        avatar().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["avatar.safetensors"], "nothing is left behind"


def test_files_that_are_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "avatar.safetensors"
    small().save(path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Avatar.load(tmp_path / "cut")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"without the header entry 'headfields\.avatar'"):
        Avatar.load(tmp_path / "other")


def test_arguments_that_no_file_holds_are_named(tmp_path: Path) -> None:
    class Odd(Frequency):
        def __init__(self, function: object) -> None:
            super().__init__(2)

    made = Avatar(Static(BOX), Odd(len), NeRFDecoder(hidden=8), VolumeRenderer(UniformSampler(4)))
    with pytest.raises(TypeError, match=r"argument encoder\.function is a builtin_function_or_method"):
        made.save(tmp_path / "odd")
    assert not list(tmp_path.iterdir())


def test_unknown_parts_are_named() -> None:
    assert part_class("headfields.encoders.frequency.Frequency") is Frequency
    with pytest.raises(ValueError, match=r"mine\.Encoder is not a part of headfields or of any module imported so far"):
        part_class("mine.Encoder")
    with pytest.raises(ValueError, match=r"headfields\.absent\.Encoder is not a part"):
        part_class("headfields.absent.Encoder")


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    made = avatar()
    path = tmp_path / "kept.safetensors"
    made.save(path)
    before = path.read_bytes()
    with torch.no_grad():
        made.encoder.table[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"encoder\.table has numbers that are not finite; .*kept\.safetensors"):
        made.save(path)
    assert path.read_bytes() == before
