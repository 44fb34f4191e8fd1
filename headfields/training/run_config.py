"""What config.json says of a run: the model and its parts, the capture, and the trainer's options."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headfields.models.preset import preset_of

__all__ = ["check_config", "run_config"]

_TEXT, _ENTRIES, _OR_NULL = "a string", "an object", " or null"
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "model": ((str, type(None)), _TEXT + _OR_NULL),
    "arguments": ((dict, type(None)), _ENTRIES + _OR_NULL),
    "capture": ((str, list, type(None)), "a folder, a list of folders" + _OR_NULL),
    "capture_name": ((str,), _TEXT),
    "mouth": ((str,), _TEXT),
    "convention": ((str,), _TEXT),
    "recipe": ((str,), _TEXT),
    "fine_tune": ((str,), _TEXT),
    "seed": ((int,), "an integer"),
    "trainer": ((dict,), _ENTRIES),
    "training": ((dict,), _ENTRIES),
    "parts": ((dict,), _ENTRIES),
}
_TEXTS = ("schedule", "precision")  # of the options in "training"; the others are numbers


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses a config.json, edited or damaged, whose entries are not of the kinds that `run_config` writes.

    Args:
        path: of the run's folder.
        config: its entries.

    Raises:
        ValueError: names the entry, what it holds, and what is expected.
    """
    for name, (kinds, expected) in _KINDS.items():
        if name in config:
            value = config[name]
            listed = not isinstance(value, list) or (bool(value) and all(isinstance(item, str) for item in value))
            _require(path, name, value, isinstance(value, kinds) and not isinstance(value, bool) and listed, expected)
    frame = config.get("head_frame", "keep")
    _require(path, "head_frame", frame, frame in ("keep", "normalize"), '"keep" or "normalize"')
    for name, value in config.get("training", {}).items():
        if name == "learning_rates":
            numbers = isinstance(value, dict) and all(_is_number(rate) for rate in value.values())
            _require(path, f"training.{name}", value, numbers, "an object of numbers")
        elif name in _TEXTS:
            _require(path, f"training.{name}", value, isinstance(value, str | None), "a string")
        else:
            _require(path, f"training.{name}", value, value is None or _is_number(value), "a number or null")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _require(path: Path, name: str, value: Any, right: bool, expected: str) -> None:
    if not right:
        text = json.dumps(value)
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ValueError(f"{path / 'config.json'}: {name} is {shown}; expected {expected}")


def run_config(avatar: nn.Module, capture: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of config.json.

    `model` and `arguments` name the preset that builds the avatar on the capture's template; they are null for an
    avatar that no preset made, whose `parts` are named instead. `capture` is the folder that the commands open; null
    for a capture without one.

    Args:
        avatar: what is trained.
        capture: what it is trained on.
        options: the trainer's arguments, as JSON.
    """
    model, arguments = _model(avatar, capture)
    path = getattr(capture, "path", None)
    config = {
        "model": model,
        "arguments": arguments,
        "capture": str(Path(path).resolve()) if path is not None and Path(path).is_dir() else None,
        "capture_name": str(capture.name),
        "head_frame": "keep" if getattr(capture, "head_frame", None) is None else "normalize",
        "mouth": getattr(capture, "mouth", "close"),
        "seed": options["seed"],
        "trainer": dict(options),
    }
    return config if model is not None else {**config, "parts": _parts(avatar)}


def _model(avatar: nn.Module, capture: Any) -> tuple[str | None, dict[str, Any] | None]:
    """Name and arguments of the preset that builds the avatar on the capture's template; None if none does."""
    made_by, template = preset_of(avatar), getattr(capture, "template", None)
    if made_by is None or template is None:
        return None, None
    same = made_by.template is template or (
        torch.equal(made_by.template.faces, template.faces)
        and torch.equal(made_by.template.canonical_vertices, template.canonical_vertices)
    )
    try:
        arguments = json.loads(json.dumps(made_by.arguments))
    except TypeError:  # a part or a tensor
        return None, None
    return (made_by.name, arguments) if same else (None, None)


def _parts(avatar: nn.Module) -> dict[str, Any]:
    """Class names of the avatar's parts."""
    return {name: type(part).__name__ for name, part in avatar.named_children()} or {"avatar": type(avatar).__name__}
