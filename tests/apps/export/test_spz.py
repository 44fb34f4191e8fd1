"""Gaussians as `.spz`: what comes back is what went in, within the steps of the format."""

import pytest
import torch

from headfields.apps.export import spz
from headfields.networks import Gaussians
from headfields.records import Splats


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
    back = spz.load_spz(spz.save_spz(tmp_path / "new" / "a.spz", splats))()
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
