"""Presets of Gaussians: their parts, and that they learn with their recipes from a start by the images."""

import math
from typing import Any

import pytest
import torch

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.data.camera_extent import camera_extent
from headfields.decoders import SplatDecoder
from headfields.deformers import TriangleBinding
from headfields.losses import L1DSSIM, SplatPosition, SplatScale, SquaredColor
from headfields.models import flash_avatar, gaussian_avatars, rgb_avatar
from headfields.records import HeadState
from headfields.training import preset_losses
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


def test_recipes_are_the_released_codes() -> None:
    """Values of arguments/__init__.py (GaussianAvatars), config/online.yaml (RGBAvatar)."""
    capture = Colored()
    recipe = recipe_of("gaussian_avatars", "released")
    avatar = gaussian_avatars(TEMPLATE, **recipe.arguments)
    arguments, extent = recipe.trainer_arguments(avatar, capture), camera_extent(capture)
    rates, (control,) = arguments["learning_rates"], arguments["callbacks"]
    assert math.isclose(rates["position"], 0.005 * extent) and rates["harmonics"] == 0.0025 / 20
    assert math.isclose(arguments["schedules"]["position"](0.5, 300_000), 0.1) and arguments["schedule"] == "constant"
    assert (control.start, control.every, control.stop, control.reset_every) == (10_000, 2_000, 600_000, 60_000)
    assert control.keep_bound == "all" and math.isclose(control.size, 0.01 * extent) and control.largest_radius == 20
    trainer = Trainer(avatar, capture, **arguments, bar=False, device="cpu")
    trainer.fit(steps=1)
    assert trainer.config["trainer"]["schedules"]["position"].startswith("LogLinearFall(final=0.01")
    recipe = recipe_of("rgb_avatar", "released")
    avatar = rgb_avatar(TEMPLATE, **{**recipe.arguments, "count": 80, "blend_from": 1}, expression_width=3)
    recipe.start(avatar, capture)
    assert len(avatar.gaussians) == 80
    trainer = Trainer(avatar, capture, **recipe.trainer_arguments(avatar, capture), bar=False, device="cpu")
    expected = {"position": 8e-4, "blend_position": 4e-5, "blend_quaternion": 2.5e-3, "blend_color": 6.25e-3}
    assert all(math.isclose(trainer.rates[name], rate) for name, rate in expected.items())
    trainer.fit(steps=3)
    groups = {group["name"]: group for group in trainer.optimizer.param_groups}
    assert math.isclose(groups["blend_position"]["lr"], 4e-5 * 0.01 ** (2 / 3000), rel_tol=1e-6)
    assert groups["color"]["lr"] == 0.0125 and bool((avatar.gaussians.blend_color != 0).any())
    with pytest.raises(ValueError, match="schedules has 'positions'; the groups of this avatar are"):
        Trainer(avatar, capture, [L1DSSIM()], schedules={"positions": "constant"}, device="cpu")


def test_flash_avatar_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """src/deform_model.py, arguments/__init__.py, train.py: a Huber mean, 41 times at the mouth."""
    recipe = recipe_of("flash_avatar", "released")
    monkeypatch.setattr(preset_losses, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install headfields\[lpips\]"):
        recipe.losses_for(recipe.options)
    monkeypatch.setattr(preset_losses, "find_spec", lambda name: object())
    sizes = {"count": 60, "hidden": 16, "expression_width": 3}
    avatar, capture = flash_avatar(TEMPLATE, **{**recipe.arguments, **sizes}), Colored()
    trainer = Trainer(avatar, capture, **recipe.trainer_arguments(avatar, capture), bar=False, device="cpu")
    trainer.fit(steps=2)
    assert trainer.rates["networks"] == 1e-4 and trainer.rates["log_scale"] == 5e-3
    color, perceptual = trainer.losses
    batch, frames = capture.sample_images([0], torch.Generator())
    avatar.train()
    rendering = avatar(batch.camera, capture.state(frames), batch.background)
    expected = torch.nn.functional.huber_loss(rendering.rgb, batch.target, delta=0.1)
    assert batch.label is None
    torch.testing.assert_close(color(rendering, batch, 0) * color.weight, expected)
    assert (color.region_weight, perceptual.weight, perceptual.start) == (41, 0.05, 15_000)
    assert perceptual(rendering, batch, 14_999).item() == 0
    assert not avatar.gaussians.position.requires_grad  # no parameter there


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
    driven = {"expression_width": 100, "joints": (2, 3, 4), "eyelids": True}
    flash = flash_avatar(TEMPLATE, count=80, **driven)  # 100 + 3 * 6 + 2, as in src/deform_model.py of the release
    assert flash.conditions[0].width == 120 and set(flash.needs) == {"expression", "pose", "eyelids"}
    driven["joints"] = (1, 2, 3, 4)
    neck = rgb_avatar(TEMPLATE, count=80, centered=False, **driven).blendshapes
    assert neck is not None and neck.network[0].in_features == 126  # and the translation, which cameras have here
    assert [layer.out_features for layer in neck.network[::2]] == [128, 128, 20]
    assert rgb.decoder is None and rgb.blendshapes is not None and rgb.blendshapes.fields == 5
    assert rgb.gaussians.blend_quaternion is not None and rgb.gaussians.blend_quaternion.shape == (80, 4, 5)
    assert isinstance(rgb.deformer, TriangleBinding) and rgb.deformer.follows == "rotation"
    assert make("gaussian_avatars", degree=2).gaussians.harmonics.shape == (80, 8, 3)
    each = gaussian_avatars(TEMPLATE, count=None)
    start, faces = each.gaussians(), len(TEMPLATE.faces)
    assert torch.equal(each.gaussians.face, torch.arange(faces)) and bool((start.means == 0).all())
    assert bool((start.scales == 1).all()) and math.isclose(float(start.opacities.detach().max()), 0.1, rel_tol=1e-5)
    assert math.isclose(float(make("gaussian_avatars").gaussians().opacities.detach().mean()), 0.5, rel_tol=1e-4)
