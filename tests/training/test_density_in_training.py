"""Density control and MCMC in a training: more Gaussians, a better image, and a resumed run to the bit."""

import pytest
import torch

from headfields.losses import SplatExtent, SplatOpacity
from tests.avatar.test_splat_avatar import Colored
from tests.training.gaussians import CONTROLS, make
from tests.training.test_asynchronous_steps import CAPTURED_ALONE
from tests.training.test_asynchronous_steps import late as late


def numbers(trainer):
    gaussians = trainer.avatar.gaussians
    return [*(p.detach() for p in gaussians.parameters()), gaussians.face]


@pytest.mark.parametrize("name", ["density", pytest.param("absolute", marks=pytest.mark.slow), "mcmc"])
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(name, tmp_path):
    whole, first = make(CONTROLS[name]()), make(CONTROLS[name](), tmp_path)
    whole.fit(steps=13)
    first.fit(steps=6)
    assert len(first.avatar.gaussians) != 30
    resumed = make(CONTROLS[name](), tmp_path)
    resumed.fit(steps=13, resume=True)
    assert len(whole.avatar.gaussians) > len(first.avatar.gaussians) > 30
    assert (whole.avatar.gaussians.face >= 0).all()
    assert all(torch.equal(*pair) for pair in zip(numbers(whole), numbers(resumed), strict=True))
    for ours, theirs in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert torch.equal(ours["exp_avg_sq"], theirs["exp_avg_sq"])


@pytest.mark.parametrize("late", CAPTURED_ALONE, indirect=True)
@pytest.mark.parametrize("name", CONTROLS)
def test_late_steps_are_those_that_are_waited_for(name, late):
    """Gaussians that grow and are reset between steps of which the host has read nothing."""
    own = make(CONTROLS[name]())
    own.fit(steps=13)
    prompt = make(CONTROLS[name](), asynchronous=False)
    prompt.fit(steps=13)
    assert (
        own.graph_reason == ("" if late == "captured" else "a test") and prompt.graph_reason == "asynchronous is False"
    )
    assert len(own.avatar.gaussians) == len(prompt.avatar.gaussians) > 30
    for mine, theirs in zip(numbers(own), numbers(prompt), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    assert own.avatar.renderer.sample_buffers is None


def test_the_losses_are_means_in_posed_space():
    trainer = make(CONTROLS["mcmc"]())
    capture, made = Colored(), trainer.avatar.train()
    batch, frames = capture.sample_images(torch.arange(2), torch.Generator())
    rendering = made(batch.camera, capture.state(frames), batch.background)
    assert torch.equal(SplatOpacity()(rendering, batch, 0), rendering.splats.opacities.mean())
    extent = SplatExtent(unit=0.1)(rendering, batch, 0)
    torch.testing.assert_close(extent, rendering.splats.scales.mean() / 0.1)
    empty = rendering.replace(splats=rendering.splats.map(lambda tensor: tensor[:, :0]))
    for loss in (SplatOpacity(), SplatExtent()):
        value = loss(empty, batch, 0)
        assert not value.detach() and value.requires_grad
        with pytest.raises(ValueError, match=f"{loss.name} loss: the rendering has no Gaussians"):
            loss(rendering.replace(splats=None), batch, 0)
    with pytest.raises(ValueError, match="SplatExtent: unit is 0"):
        SplatExtent(unit=0)
