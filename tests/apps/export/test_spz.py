"""Gaussians as `.spz`: what comes back is what went in, within the steps of the format."""

import gzip
import random

import pytest
import torch

from headfields.apps.export import spz
from headfields.networks import Gaussians
from headfields.records import Splats
from tests.files.test_fuzz import damage


def some(degree: int) -> Splats:
    torch.manual_seed(degree)
    gaussians = Gaussians(200, degree=degree)
    with torch.no_grad():
        gaussians.position.uniform_(-0.2, 0.2)
        gaussians.log_scale.uniform_(-8, -5)
        gaussians.quaternion.normal_()
        gaussians.opacity_logit.normal_()
        gaussians.color.uniform_(-1, 1)
        gaussians.harmonics.uniform_(-0.3, 0.3)
        return gaussians().detach()


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_frame_comes_back(tmp_path, degree: int) -> None:
    pytest.importorskip("gsply")
    splats = some(degree)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        back = spz.load_spz(spz.save_spz(tmp_path / "new" / "a.spz", splats))()
        assert torch.get_num_threads() == 1  # numba takes all cores
    finally:
        torch.set_num_threads(threads)
    assert (back.means - splats.means).abs().amax() < 1e-5
    assert (back.scales / splats.scales).log().abs().amax() < 0.5 / 16 + 1e-4
    assert (back.opacities - splats.opacities).abs().amax() < 0.5 / 255 + 1e-4
    assert back.harmonics.shape == splats.harmonics.shape
    assert (back.harmonics - splats.harmonics).abs().amax() < (0.02 if degree == 0 else 0.13)
    turn = (torch.nn.functional.normalize(back.quaternions) * torch.nn.functional.normalize(splats.quaternions)).sum(-1)
    assert turn.abs().amin() > 0.9999


def test_what_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"a.ply ends in '.ply'; expected .spz"):
        spz.save_spz(tmp_path / "a.ply", some(0))
    broken = some(0)
    broken.means[3] = torch.nan
    with pytest.raises(ValueError, match="means that are not finite"):
        spz.save_spz(tmp_path / "a.spz", broken)
    monkeypatch.setitem(__import__("sys").modules, "gsply", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'headfields\[spz\]'"):
        spz.save_spz(tmp_path / "a.spz", some(0))


def test_a_damaged_file_is_named(tmp_path) -> None:
    pytest.importorskip("gsply")
    whole = spz.save_spz(tmp_path / "a.spz", some(1)).read_bytes()
    unpacked, path = gzip.decompress(whole), tmp_path / "b.spz"
    for seed in range(120):
        chance = random.Random(seed)
        header, rest = unpacked[:16], unpacked[16:]
        path.write_bytes(
            chance.choice([damage(whole, chance), gzip.compress(damage(header, chance) + rest),
                           gzip.compress(damage(unpacked, chance))])
        )  # fmt: skip
        try:
            read = spz.load_spz(path)
        except ValueError as error:
            assert "b.spz" in str(error)
        else:
            assert all(bool(parameter.isfinite().all()) for parameter in read.parameters())
    path.write_bytes(gzip.compress(unpacked + bytes(1 << 24)))
    with pytest.raises(ValueError, match=r"b\.spz.*unpacks to more"):
        spz.load_spz(path)
    with pytest.raises(FileNotFoundError, match=r"c\.spz"):
        spz.load_spz(tmp_path / "c.spz")
