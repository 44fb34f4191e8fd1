"""Presets of Gaussians: their parts, and that they learn with their recipes from a start by the images."""

import math
from typing import Any

import pytest
import torch

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.decoders import SplatDecoder
from headfields.deformers import TriangleBinding
from headfields.losses import L1DSSIM, SplatPosition, SplatScale, SquaredColor
from headfields.models import flash_avatar, gaussian_avatars, rgb_avatar
from headfields.records import HeadState
from headfields.training.recipes import recipe_of
from headfields.training.trainer import Trainer
from tests.avatar.test_splat_avatar import TEMPLATE, Colored

PRESETS = {"gaussian_avatars": gaussian_avatars, "flash_avatar": flash_avatar, "rgb_avatar": rgb_avatar}


def make(name: str, **options: Any) -> SplatAvatar:
    width = {} if name == "gaussian_avatars" else {"expression_width": 3}
    return PRESETS[name](TEMPLATE, count=80, **width, **options)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_learn_with_their_recipes(name: str) -> None:
    torch.manual_seed(0)
    avatar, capture, recipe = make(name, hair=0.02), Colored(), recipe_of(name, device="cpu")
    assert isinstance(avatar.deformer, TriangleBinding) and avatar.template is TEMPLATE
    recipe.start(avatar, capture)
    assert len(avatar.gaussians) <= 80
    trainer = Trainer(avatar, capture, **recipe.trainer_arguments(avatar, capture), bar=False, device="cpu")
    before = {id(parameter): parameter.detach().clone() for parameter in avatar.parameters()}
    early = trainer.fit(steps=2).psnr
    assert trainer.fit(steps=20).psnr > early
    for key, parameter in avatar.named_parameters():
        linear_yet = key.startswith("blendshapes.") and key.endswith("bias")  # the mapping network bends later
        if parameter.numel() and not linear_yet:
            assert not torch.equal(parameter, before[id(parameter)]), key


def test_gaussian_avatars_has_the_papers_losses_and_rates() -> None:
    recipe = recipe_of("gaussian_avatars", device="cpu")
    color, position, scale, squared = recipe.losses_for(recipe.options, make("gaussian_avatars"))
    assert isinstance(color, L1DSSIM) and color.dssim == 0.2 and color.weight == 1
    assert isinstance(position, SplatPosition) and (position.threshold, position.weight) == (1.0, 0.01)
    assert isinstance(scale, SplatScale) and (scale.threshold, scale.weight) == (0.6, 1.0)
    assert isinstance(squared, SquaredColor)  # our own choice
    rates = recipe.trainer["learning_rates"]
    assert (rates["position"], rates["log_scale"]) == (5e-3, 1.7e-2)
    assert (rates["quaternion"], rates["opacity_logit"]) == (1e-3, 0.05)  # 3DGS
    with pytest.raises(ValueError, match="depth is 1"):
        recipe.losses(1, 0)


class Partly(Colored):
    """The capture, without the last of three expressions."""

    def state(self, frames: object) -> HeadState:
        state = super().state(frames)
        assert state.expression is not None
        return state.replace(expression=state.expression * torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("name", ["flash_avatar", "rgb_avatar"])
def test_an_expression_that_training_never_shows_has_no_effect(name: str) -> None:
    torch.manual_seed(0)
    avatar, capture, recipe = make(name), Partly(), recipe_of(name, device="cpu")
    Trainer(avatar, capture, **recipe.trainer_arguments(avatar, capture), bar=False, device="cpu").fit(steps=8)
    state = capture.state([0])
    before = avatar.splats(state)
    for changed, same in (([0.0, 0.0, 1.0], True), ([1.0, 0.0, 0.0], False)):
        after = avatar.splats(state.replace(expression=state.expression + torch.tensor(changed)))
        assert torch.equal(after.means, before.means) == same == torch.equal(after.quaternions, before.quaternions)


def test_what_each_preset_adds() -> None:
    flash, rgb = make("flash_avatar"), make("rgb_avatar", blendshapes=5)
    assert isinstance(flash.decoder, SplatDecoder) and flash.needs == ("expression",)
    assert rgb.decoder is None and rgb.blendshapes is not None and rgb.blendshapes.fields == 5
    assert rgb.gaussians.blendshape_table is not None and rgb.gaussians.blendshape_table.shape == (80, 5, 10)
    assert make("gaussian_avatars", degree=2).gaussians.harmonics.shape == (80, 8, 3)
    assert math.isclose(float(make("gaussian_avatars").gaussians().opacities.detach().mean()), 0.5, rel_tol=1e-4)
