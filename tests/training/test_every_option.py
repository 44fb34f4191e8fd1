"""Every option of every preset changes the result, or is refused: a sweep of one that does nothing would be flat."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.training.presets import parameters_of, preset_arguments, presets
from tests.tables import table

_FIELD = {"levels": 2, "features": 2, "log2_table_size": 8}
SMALL: Mapping[str, Mapping[str, Any]] = {
    "insta": _FIELD, "static_field": _FIELD, "vp360": {**_FIELD, "fields": 2}, "monoavatar": {"start": 0},
    "gaussian_avatars": {"count": 60}, "flash_avatar": {"count": 60}, "rgb_avatar": {"count": 60},
}  # fmt: skip
CHANGED: Mapping[str, Any] = {
    "rays": 48, "samples": 300, "frames": 3, "learning_rate": 0.3, "network_learning_rate": 0.05,
    "schedule": "constant", "depth": 2.0, "depth_start": 1, "opacity": 0.5, "precision": "bf16-mixed",
}  # fmt: skip
"""A value of each option that no recipe has."""
USUAL = {"rays": 64, "samples": 0, "frames": 2, "depth": 0.1, "depth_start": 0}
"""A run's options where the option is not the one that changes; of rays alone."""


def tensors(
    model: str, folder: Path, out: Path, options: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """The weights of a run of four steps."""
    whole = model in ("gaussian_avatars", "flash_avatar", "rgb_avatar")
    usual = {} if whole else USUAL
    run = hf.training.train(
        model,
        folder,
        out,
        steps=4,
        arguments={**SMALL[model], **(own or {})},
        device="cpu",
        bar=False,
        recipe="cpu",
        **{**usual, **options},
    )
    return dict(run.avatar.state_dict())


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Function from a preset to the weights of its run without changes."""
    return functools.lru_cache(lambda model: tensors(model, tiny_folder, tmp_path_factory.mktemp("plain") / "run", {}))


@pytest.mark.parametrize("option", CHANGED)
@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name in ("gaussian_avatars",) else pytest.mark.slow) for name in SMALL]
)
def test_an_option_acts_or_is_refused(model, option, plain, tiny_folder, tmp_path) -> None:
    try:
        changed = tensors(model, tiny_folder, tmp_path / "run", {option: CHANGED[option]})
    except ValueError as error:
        assert option in str(error)
        assert not (tmp_path / "run" / "config.json").exists()
        return
    before = plain(model)
    assert any(not torch.equal(value, before[name]) for name, value in changed.items()), f"{option} changes nothing"


_GRID = {"levels": 3, "features": 4, "log2_table_size": 9, "finest_resolution": 64, "rows": "float16"}
_RAYS = {"grid_resolution": 16, "step": 0.01, "shell": 0.03, "behind": None}
_DRIVEN = {"expression_width": 1, "joints": (2,), "eyelids": True}
_SPLATS = {"count": 80, "degree": 3, "hair": 0.02, "backend": "gsplat"}
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "insta": {
        **_GRID, **_RAYS, "expression_width": 1, "extent": 0.3, "scaling": "length", "formula": "released", "people": 2,
        "person_width": 8,
    },
    "static_field": {**_GRID, "margin": 0.03},
    "vp360": {
        **_GRID, **_RAYS, "expression_width": 1, "joints": (2,), "fields": 3, "blend": "color", "kind": "mlp",
    },
    "monoavatar": {
        "frames": 40, "variant": "C", "expression_width": 1, "small": True, "start": 2,
        "coarse_to_fine": 2, "sizes": "paper", "pose_width": 3, "shell": 0.03, "behind": None,
    },
    "gaussian_avatars": {
        **_SPLATS, "degree": 1, "degree_every": 1, "share_above": 0.9, "antialiased": True, "low_pass": 0.4,
    },
    "flash_avatar": {
        **_SPLATS, **_DRIVEN, "degree_every": 1, "hidden": 32, "layers": 2, "bands": 4, "follows": "translation",
        "bounded": True, "round_start": True,
    },
    "rgb_avatar": {
        **_SPLATS, **_DRIVEN, "blendshapes": 5, "hidden": 32, "centered": False, "blend_from": 2, "scale": 0.01,
        "opacity": 0.3,
    },
}  # fmt: skip
"""A value of each argument of the presets that no recipe has."""
IN_PYTHON = {"template", "weights", "source"}
"""Arguments that are tensors or parts."""
REFUSED = {
    "insta": {"people", "person_width"}, "static_field": set(), "vp360": {"joints"},
    "monoavatar": {"expression_width", "pose_width"}, "gaussian_avatars": {"backend", "share_above"},
    "flash_avatar": {"backend", "joints", "eyelids"}, "rgb_avatar": {"backend", "joints", "eyelids"},
}  # fmt: skip
"""What a capture of one person without poses and lids, variant D, a head without hair, and an environment without
gsplat do not read."""


def test_all_arguments_of_presets_are_walked() -> None:
    for model, function in presets().items():
        assert set(ARGUMENTS[model]) == {each.name for each in parameters_of(function)} - IN_PYTHON, model


@pytest.mark.slow
@pytest.mark.parametrize(("model", "argument"), [(model, name) for model, own in ARGUMENTS.items() for name in own])
def test_an_argument_acts_or_is_refused(model, argument, plain, tiny_folder, tmp_path) -> None:
    try:
        changed = tensors(model, tiny_folder, tmp_path / "run", {}, {argument: ARGUMENTS[model][argument]})
    except (ValueError, ModuleNotFoundError) as error:
        assert argument in REFUSED[model] and argument in str(error), error
        assert not (tmp_path / "run" / "config.json").exists()
        return
    before = plain(model)
    if changed.keys() == before.keys() and all(value.shape == before[name].shape for name, value in changed.items()):
        assert any(not torch.equal(value, before[name]) for name, value in changed.items()), f"{argument} does nothing"


def test_all_presets_and_options_are_walked() -> None:
    assert set(SMALL) == set(presets())
    assert set(CHANGED) == {option for model in SMALL for option in hf.training.recipe_of(model, "cpu").options}


@table(
    ("model", "own", "reason"),
    [
        ("insta", {"person_width": 8}, "person_width=8 changes nothing for one person"),
        ("vp360", {"fields": 0, "kind": "mlp"}, "kind='mlp' changes nothing without fields"),
        ("vp360", {"fields": 0, "joints": (2,)}, "joints=(2,) changes nothing without fields"),
        ("monoavatar", {"expression_width": 2}, "expression_width=2 changes nothing with variant D"),
        ("gaussian_avatars", {"count": None, "hair": 0.01}, "hair=0.01 changes nothing with one Gaussian a triangle"),
        ("gaussian_avatars", {"hair": 0.0, "share_above": 0.2}, "share_above=0.2 changes nothing where no hair"),
    ],
)  # fmt: skip
def test_arguments_that_a_preset_does_not_read_are_refused(
    tiny_folder: Path, tmp_path: Path, model, own, reason
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{model}: {reason}")):
        hf.training.train(model, tiny_folder, tmp_path / "run", steps=1, arguments=own, device="cpu", bar=False)
    assert not (tmp_path / "run" / "config.json").exists()


def test_they_are_taken_where_they_are_read(tiny_folder: Path) -> None:
    capture = hf.data.load_capture(tiny_folder)
    joined = hf.data.JoinedCaptures([capture, hf.data.load_capture(tiny_folder)])
    own = {"people": 2, "person_width": 8}
    assert preset_arguments("insta", own, joined, hf.training.recipe_of("insta", "cpu")).items() >= own.items()
    for model, own in [
        ("vp360", {"kind": "mlp"}),
        ("monoavatar", {"variant": "C", "expression_width": 2}),
        ("gaussian_avatars", {"hair": 0.01, "share_above": 0.2}),
    ]:  # fmt: skip
        arguments = preset_arguments(model, own, capture, hf.training.recipe_of(model, "cpu"))
        assert arguments.items() >= own.items()
