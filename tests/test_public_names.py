"""The surface of the library: how much is exported, and that names of before still work, with a warning."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import headfields as hf
from tests.tables import table

OLD = importlib.import_module("headfields.old_names")
PACKAGE = Path(hf.__file__).parent
ROOM = {"headfields.records"}
"""Rooms whose `__init__` serves the library's own imports; what of them is public is exported by the root."""


def namespaces() -> list[ModuleType]:
    """The package and its folders that export something."""
    folders = [path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("__init__.py")]
    modules = [importlib.import_module(".".join(folder.parts)) for folder in sorted(folders)]
    return [module for module in modules if hasattr(module, "__all__") and module.__name__ not in ROOM]


def exported(module: ModuleType) -> list[str]:
    return [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]


def test_the_surface_is_small_enough_to_keep() -> None:
    """docs/stability.md promises these names."""
    names = [f"{module.__name__}.{name}" for module in namespaces() for name in exported(module)]
    assert 200 < len(names) <= 270, len(names)
    assert len(hf.__all__) <= 40


def test_everything_exported_is_there() -> None:
    for module in namespaces():
        assert len(set(module.__all__)) == len(module.__all__), module.__name__
        assert set(module.__all__) <= set(dir(module)), module.__name__


@table("namespace", sorted({*OLD._MOVED, *OLD._RENAMED}))
def test_old_names_work_with_a_warning(namespace: str) -> None:
    module = importlib.import_module(namespace)
    moved = {name: home for home, names in OLD._MOVED.get(namespace, {}).items() for name in names.split()}
    for name, home in moved.items():
        with pytest.warns(DeprecationWarning, match=rf"{namespace}\.{name} is headfields\.{home}\.{name} now"):
            assert getattr(module, name) is getattr(importlib.import_module(f"headfields.{home}"), name)
    for name, new in OLD._RENAMED.get(namespace, {}).items():
        with pytest.warns(DeprecationWarning, match=rf"{namespace}\.{name} is {namespace}\.{new} now"):
            assert callable(getattr(module, name))
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        module.nothing_of_this_name  # noqa: B018


def test_old_arguments_reach_the_new_ones() -> None:
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(8, 8), fov=20)
    turn, size = torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.02)
    ball = torch.zeros(1, 3), turn, size, torch.tensor([0.9]), torch.ones(1, 1)
    screen = torch.zeros(1, 1, 2, requires_grad=True)
    with pytest.warns(DeprecationWarning, match="rasterize_gaussians now"):
        splat = hf.ops.splat
    splat(*ball, camera, screen=screen, room=0).color[0, 0, 0].sum().backward()
    assert screen.grad is not None
