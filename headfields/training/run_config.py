"""What config.json says of a run: the model and its parts, the capture, and the trainer's options."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headfields.models.preset import preset_of

__all__ = ["run_config"]


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
