"""Recipes: which a device gets, where their numbers are from, and that presets and trainer take them."""

import dataclasses
import inspect

import pytest
import torch

import headfields as hf
from headfields.losses import Elastic, HuberColor, SquaredColor, WarpMagnitude
from headfields.runs.lazy_adam import lazy_adam
from headfields.training import recipe_of
from headfields.training.recipes import INSTA, MONOAVATAR, VP360
from tests.tables import table
from tests.training.ball import BallCapture

MODELS = ("insta", "static_field", "monoavatar", "vp360", "gaussian_avatars", "flash_avatar", "rgb_avatar")


@table("model", MODELS)
def test_the_device_chooses(model):
    assert recipe_of(model, device="cpu").name == "cpu"
    assert recipe_of(model, device=torch.device("cuda", 1)).name == "fast"
    assert recipe_of(model, "fast" if model in ("static_field", "vp360") else "released", device="cpu").name != "cpu"


def test_the_recipes_for_a_cpu():
    assert recipe_of("insta", "cpu") is INSTA is recipe_of("static_field", "cpu")
    assert recipe_of("monoavatar", "cpu") is MONOAVATAR and recipe_of("vp360", "cpu") is VP360


def test_insta_as_released():
    """main.json of INSTA's code: 16 levels of 8 features and 2^18 entries, 16 to 2048; 2^18 samples, 1.75e-3, 128^3."""
    recipe = recipe_of("insta", "released")
    sizes = {name: recipe.arguments[name] for name in ("features", "log2_table_size", "finest_resolution")}
    assert sizes == {"features": 8, "log2_table_size": 18, "finest_resolution": 2048} and recipe.steps == 33_000
    assert recipe.arguments["grid_resolution"] == 128 and recipe.arguments["expression_width"] == 16
    assert recipe.options["learning_rate"] == recipe.options["network_learning_rate"] == 1.75e-3
    assert recipe.options["samples"] == 2**18 and recipe.options["rays"] == 4096
    assert recipe.options["depth"] == 1.25 and recipe.options["schedule"] == "constant"
    arguments = recipe.trainer_arguments(torch.nn.Linear(1, 1), BallCapture())
    assert arguments["optimizer"] is lazy_adam and arguments["weight_decay"] == 1e-6
    assert arguments["most_rays"] == 2**18  # instant-ngp's testbed_nerf.cu
    fast = recipe_of("insta", "fast")
    assert sizes.items() <= fast.arguments.items() and "expression_width" not in fast.arguments
    assert fast.options["learning_rate"] == INSTA.options["learning_rate"]
    assert sizes.items() <= recipe_of("vp360", "fast").arguments.items()


def test_monoavatar_as_published():
    """The supplement: Adam (0.9, 0.999), 1,024 rays, 400,000 steps, 1e-3 to 1e-4, the warp 1e-4 to 1e-5; elastic energy
    1e-4, 1e-5 from step 155,000; magnitude 1e-2."""
    recipe = recipe_of("monoavatar", "released")
    arguments = recipe.trainer_arguments(torch.nn.Linear(1, 1), BallCapture())
    assert arguments["rays_per_step"] == 1024 and arguments["samples_per_step"] is None and recipe.steps == 400_000
    assert recipe.options["learning_rate"] == recipe.options["network_learning_rate"] == 1e-3
    assert recipe.trainer["learning_rates"] == {"warp": 1e-4} and arguments["schedule"] == "exponential"
    assert arguments["learning_rates"] == {}  # this avatar has no warp
    assert arguments["betas"] == (0.9, 0.999) and arguments["ema"] == 0.0 and "pixel_weights" not in arguments
    assert "final_rate" not in arguments  # a tenth is the trainer's default
    color, elastic, magnitude = arguments["losses"]
    assert isinstance(color, SquaredColor) and isinstance(elastic, Elastic) and isinstance(magnitude, WarpMagnitude)
    assert (elastic.weight, elastic.final_weight, elastic.after, magnitude.weight) == (1e-4, 1e-5, 155_000, 1e-2)


@table("model", MODELS)
def test_presets_and_trainer_take_the_arguments_of_every_recipe(model):
    capture, build = BallCapture(), inspect.signature(getattr(hf.models, model))
    required = {"frames": len(capture)} if model == "monoavatar" else {}
    for name in ("cpu", "fast", "released"):
        if name == "released" and model in ("static_field", "vp360"):
            having = "flash_avatar, gaussian_avatars, insta, monoavatar, rgb_avatar"
            with pytest.raises(ValueError, match=f"{model} has no recipe 'released'; {having} have one"):
                recipe_of(model, name)
            continue
        recipe = recipe_of(model, name)
        build.bind(capture.template, **required, **recipe.arguments)
        if name == "released" and model in ("gaussian_avatars", "flash_avatar"):
            continue  # need cameras that differ, and the package lpips: tests/models/test_splat_presets.py
        options = recipe.trainer_arguments(torch.nn.Linear(1, 1), capture)
        inspect.signature(hf.training.Trainer).bind(None, capture, **options)


def test_options_replace_numbers_of_a_recipe(unchecked):
    recipe = recipe_of("insta", "cpu")
    avatar, capture = torch.nn.Linear(1, 1), BallCapture()
    arguments = recipe.trainer_arguments(avatar, capture, rays=7, depth=0, samples=0)
    assert arguments["rays_per_step"] == 7 and arguments["samples_per_step"] is None
    assert [type(loss) for loss in arguments["losses"]] == [HuberColor]
    with pytest.raises(TypeError, match=r"recipe cpu: no option \['rais'\]; it has rays, samples"):
        recipe.trainer_arguments(avatar, capture, rais=7)
    with pytest.raises(ValueError, match="insta has no recipe 'slow'; expected cpu, fast or released"):
        recipe_of("insta", "slow")


def test_a_preset_of_ones_own_gets_the_rates_without_the_sizes():
    for device, name in (("cpu", "cpu"), ("cuda", "fast")):
        recipe = recipe_of("somebody's own", device=device)
        assert recipe.name == name and not recipe.arguments and dataclasses.asdict(recipe)["options"]["depth"] == 0.1
