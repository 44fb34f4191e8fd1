"""What `Trainer` does where it is told nothing: the recipe of the kind of avatar; what is given is taken."""

from typing import Any

import pytest

import headfields as hf
from headfields.training.recipes import GAUSSIAN_AVATARS, INSTA


def options_of(avatar: Any, capture: Any, **options: Any) -> dict[str, Any]:
    trainer = hf.training.Trainer(avatar, capture, [hf.losses.HuberColor()], bar=False, device="cpu", **options)
    return trainer.config["trainer"]


def field(capture: Any) -> Any:
    return hf.models.insta(capture.template, expression_width=4, levels=2, features=2, log2_table_size=8)


def test_a_field_has_the_recipe_of_insta(capture) -> None:
    found = options_of(field(capture), capture)
    names = {name: name for name in ("learning_rate", "network_learning_rate", "schedule")}
    for option, name in {**names, "rays_per_step": "rays", "samples_per_step": "samples"}.items():
        assert found[option] == INSTA.options[name]
    assert found["ema"] == 0.95 and tuple(found["betas"]) == (0.9, 0.99)


def test_gaussians_have_the_recipe_of_gaussian_avatars(capture) -> None:
    found = options_of(hf.models.gaussian_avatars(capture.template, count=20), capture)
    rates = GAUSSIAN_AVATARS.trainer["learning_rates"]
    assert found["learning_rates"] and found["learning_rates"].items() <= rates.items()
    assert found["learning_rate"] is None and found["network_learning_rate"] is None  # they would reach nothing
    assert found["ema"] == 0 and tuple(found["betas"]) == (0.9, 0.999) and found["weight_decay"] == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"learning_rate": 0.01}, {"learning_rate": 0.01, "network_learning_rate": 0.01, "schedule": "constant"}),
        ({"schedule": "constant"}, {"learning_rate": 1.75e-3, "schedule": "constant"}),
        ({"rays_per_step": 64}, {"rays_per_step": 64, "samples_per_step": None, "learning_rate": 0.02}),
        ({"ema": 0, "weight_decay": 0.1}, {"ema": 0, "weight_decay": 0.1, "schedule": "exponential"}),
    ],
)
def test_what_is_given_is_taken(capture, given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = options_of(field(capture), capture, **given)
    assert {name: found[name] for name in expected} == expected
