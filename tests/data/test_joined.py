"""Captures joined to one: frames, splits, pixels and states are those of each; codes of people and recordings."""

import copy
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.data import Capture, JoinedCaptures, load_capture
from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import blob, tiny_frames


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> list[Capture]:
    folder, made = tmp_path_factory.mktemp("captures"), []
    for name, count in (("a", 6), ("b", 4), ("c", 5)):
        write_insta(folder / name, tiny_frames(count), *blob(), test_frames=2)
        made.append(load_capture(folder / name))
    return made


def test_frames_are_those_of_the_captures(captures: list[Capture], unchecked: None) -> None:
    joined = JoinedCaptures(captures, identities=[7, 3, 7])
    assert len(joined) == 15 and joined.name == "a+b+c" and "train 9" in repr(joined)
    assert joined.splits["train"].tolist() == [0, 1, 2, 3, 6, 7, 10, 11, 12]
    assert joined.splits["test"].tolist() == [4, 5, 8, 9, 13, 14]
    frames = [12, 0, 7, 5, 7, 6]
    homes = [(2, 2), (0, 0), (1, 1), (0, 5), (1, 1), (1, 0)]
    for given in (frames, torch.tensor(frames)):
        state, camera = joined.state(given), joined.camera(given)
        assert state.frame_id.tolist() == frames and state.sequence.tolist() == [2, 0, 1, 0, 1, 1]
        assert state.identity.tolist() == [7, 7, 3, 7, 3, 3]
        for row, (number, own) in enumerate(homes):
            alone = captures[number].state([own])
            assert torch.equal(state[row].vertices, alone.vertices)
            assert torch.equal(state[row].expression, alone.expression)
            assert torch.equal(camera[row].world_to_camera, captures[number].camera([own]).world_to_camera)
    assert torch.equal(joined.image(7), captures[1].image(1)) and torch.equal(joined.label(7), captures[1].label(1))
    assert torch.equal(joined.depth(7), captures[1].depth(1))
    assert torch.equal(joined.landmarks(7), captures[1].landmarks(1))
    assert torch.equal(joined.pixels(7).rgb, captures[1].pixels(1).rgb)
    assert len(joined.state([])) == 0 and len(joined.camera([])) == 0
    without = copy.copy(captures[1])
    without.sample_pixels = lambda *given: (  # type: ignore[method-assign]
        (batch := captures[1].sample_pixels(*given))[0].replace(label=None),
        batch[1],
    )
    mixed, _ = JoinedCaptures([captures[0], without]).sample_pixels([0, 7], 50, torch.Generator())
    assert mixed.label is None and mixed.depth is not None, "labels of some captures alone are left out"
    assert JoinedCaptures(captures[:1]).state([1]).identity.tolist() == [0]


def test_pixels_are_those_of_their_frames(captures: list[Capture]) -> None:
    joined = JoinedCaptures(captures)
    batch, used = joined.sample_pixels([12, 0, 7, 6], 4000, torch.Generator().manual_seed(0), background="black")
    assert used.tolist() == [0, 7, 6, 12] and len(batch) == 4000
    share = batch.rays.frame.bincount() / 4000
    assert float((share - 0.25).abs().max()) < 0.03, "each frame is as likely"
    camera = joined.camera(used)
    for row, frame in enumerate(used.tolist()):
        mine = batch.rays.frame == row
        points = batch.rays.origins + batch.rays.directions
        column, line = camera[row].project(points[mine][None])[0][0].floor().long().unbind(-1)
        assert torch.equal(batch.rgb[mine], joined.image(frame)[line, column, :3])
        assert torch.equal(batch.label[mine], joined.label(frame)[line, column].long())
        assert torch.equal(batch.depth[mine], joined.depth(frame)[line, column])
    again, _ = joined.sample_pixels([12, 0, 7, 6], 4000, torch.Generator().manual_seed(0), background="black")
    assert torch.equal(again.rgb, batch.rgb)
    none, used = joined.sample_pixels([7, 1], 0, torch.Generator())
    assert len(none) == 0 and used.tolist() == [1, 7]
    mouth, _ = joined.sample_pixels([0, 7], 500, torch.Generator(), weights={"mouth": 1e6})
    assert float(torch.isin(mouth.label, torch.tensor(hf.data.labels.REGION_LABELS["mouth"])).float().mean()) > 0.95


def test_codes_of_people_and_recordings(captures: list[Capture]) -> None:
    """Two people in three recordings: each table learns the rows that its index names."""
    joined = JoinedCaptures(captures, identities=[0, 1, 0])
    codes = {
        "who": hf.networks.LatentTable(3, 2, by="identity"),
        "where": hf.networks.LatentTable(3, 2, by="sequence"),
        "when": hf.networks.LatentTable(len(joined), 2),
    }
    torch.manual_seed(0)
    avatar = hf.Avatar(
        deformer=hf.deformers.Static(torch.tensor([[-0.15] * 3, [0.15] * 3])),
        encoder=hf.encoders.Frequency(2),
        condition=[hf.encoders.FrameCode(name, 2) for name in codes],
        decoder=hf.decoders.NeRFDecoder(8),
        renderer=hf.renderers.VolumeRenderer(sampler=hf.renderers.UniformSampler(8)),
        codes=codes,
    )
    before = {name: table.table.detach().clone() for name, table in codes.items()}
    options = {"rays_per_step": 60, "frames_per_step": 9, "bar": False, "device": "cpu"}
    hf.training.Trainer(avatar, joined, [hf.losses.HuberColor(region_weight=1)], **options).fit(steps=2)
    assert codes["who"].trained.tolist() == [True, True, False] and codes["where"].trained.all()
    assert codes["when"].trained.nonzero()[:, 0].tolist() == joined.splits["train"].tolist()
    for name, table in codes.items():
        assert torch.equal((table.table.detach() != before[name]).any(dim=1), table.trained), name
    held_out = joined.state([8])
    image = avatar.render(joined.camera([8])[0], held_out).rgb
    other = avatar.render(joined.camera([8])[0], held_out.replace(identity=torch.tensor([0]))).rgb
    assert not torch.equal(image, other)
    assert hf.training.evaluate(avatar, joined, "test")["frames"] == 6


def test_presets_and_runs(captures: list[Capture], tmp_path: Path) -> None:
    """A preset on the first capture's template, frames balanced by the view of all, and a run folder."""
    joined = JoinedCaptures(captures[:2])
    weights = hf.data.yaw_balanced_weights(joined)
    assert weights.shape == (10,) and bool((weights[joined.splits["train"]] > 0).all())
    avatar = hf.models.insta(joined.template, expression_width=5, levels=2, log2_table_size=8, finest_resolution=16)
    options = {"rays_per_step": 32, "frame_weights": weights, "bar": False, "device": "cpu", "out": tmp_path / "run"}
    hf.training.Trainer(avatar, joined, hf.training.insta_losses(), **options).fit(steps=1)
    assert (tmp_path / "run" / "avatar.safetensors").exists()
    assert joined.warnings == [f"a: {line}" for line in captures[0].warnings] + [
        f"b: {line}" for line in captures[1].warnings
    ]


def test_what_does_not_join(captures: list[Capture], tmp_path: Path, unchecked: None) -> None:
    for given, identities in (([], None), (captures, [0, 1]), (captures, [0, 1, -1])):
        with pytest.raises(ValueError, match=r"JoinedCaptures: \d captures and identities .*for each"):
            JoinedCaptures(given, identities)
    joined = JoinedCaptures(captures)
    assert joined.state(7).frame_id.tolist() == [7] and len(joined.camera(slice(5, 8))) == 3
    with pytest.raises(TypeError, match=r"JoinedCaptures 'a\+b\+c': frame 3\.5 is a float"):
        joined.image(3.5)
    for frame in (15, -1):
        with pytest.raises(IndexError, match=rf"'a\+b\+c': frame {frame} is out of range; it has frames 0 to 14"):
            joined.state([frame])
    write_insta(tmp_path / "bare", tiny_frames(4, optional=False), *blob(), test_frames=2)
    bare = load_capture(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"states of 'bare' have the shapes .*those of 'a'.*the same mesh"):
        JoinedCaptures([captures[0], bare])
