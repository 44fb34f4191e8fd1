"""One safetensors file for an avatar: its tensors, and as metadata the parts and arguments that build it again."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from headfields.avatar import Avatar
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.parts import Part, part_class, part_name
from headfields.records import Camera, HeadState, Template

_FORMAT = 1
_KEY = "headfields.avatar"
_RECORDS = {record.__name__: record for record in (Camera, HeadState, Template)}


def save_avatar(
    avatar: Avatar,
    path: str | Path,
    more: Mapping[str, Tensor] | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Writes `avatar` to `path` through a temporary file beside it, so that a crash leaves the old file whole.

    Args:
        avatar: what is saved.
        path: the file; its folder is made.
        more: further tensors that go into the file; no name begins with a part's or with "state.".
        headers: further entries of its header.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {f"state.{name}": value for name, value in avatar.state_dict().items()}
    tensors |= more or {}
    writer = _Writer(tensors)
    description = {
        "format": _FORMAT,
        "parts": {
            "deformer": writer.encode(avatar.deformer, "deformer"),
            "encoder": writer.encode(avatar.encoder, "encoder"),
            "decoder": writer.encode(avatar.decoder, "decoder"),
            "renderer": writer.encode(avatar.renderer, "renderer"),
            "condition": writer.encode(list(avatar.conditions), "condition"),
        },
        "template": writer.encode(avatar.template, "template"),
        "preview": writer.encode(avatar.preview, "preview"),
    }
    # Cloned, because the file format refuses tensors that share memory (a template's and its deformer's do).
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, owned, {_KEY: json.dumps(description), **(headers or {})})


def load_avatar(path: str | Path) -> Avatar:
    """The avatar that `save_avatar` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file of an avatar, or a part's class is unknown.
    """
    tensors, description = read_safetensors(path, _KEY)
    if description["format"] != _FORMAT:
        raise ValueError(f"load_avatar: {path} has format {description['format']}, this headfields reads {_FORMAT}")
    reader = _Reader(tensors)
    parts = {name: reader.decode(part) for name, part in description["parts"].items()}
    avatar = Avatar(**parts, template=reader.decode(description["template"]))
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    avatar.load_state_dict(state)
    avatar.preview = reader.decode(description["preview"])
    return avatar


class _Writer:
    """JSON for values; their tensors go into `tensors` under names derived from where they stand.

    A part that stands in two places (a vertex source under two encoders) is described once, so that it is one again
    when it is read.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._parts: dict[int, str] = {}

    def encode(self, value: Any, name: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            self._tensors[name] = value
            return {"tensor": name}
        if isinstance(value, Part):
            if id(value) in self._parts:
                return {"same": self._parts[id(value)]}
            self._parts[id(value)] = name
            return {"part": part_name(value), "name": name, "arguments": self._entries(value.arguments, name)}
        if type(value).__name__ in _RECORDS:
            return {"record": type(value).__name__, "fields": self._entries(vars(value), name)}
        if isinstance(value, dict):
            return {"dict": self._entries(value, name)}
        if isinstance(value, list | tuple):
            entries = [self.encode(entry, f"{name}.{index}") for index, entry in enumerate(value)]
            return {"tuple": entries} if isinstance(value, tuple) else entries
        raise TypeError(
            f"Avatar.save: the argument {name} is a {type(value).__name__}; only numbers, strings, tensors, parts, "
            "records, and lists, tuples and dicts of these can be saved"
        )

    def _entries(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        return {key: self.encode(entry, f"{name}.{key}") for key, entry in values.items()}


class _Reader:
    """The values that `_Writer` described, in the order in which it did."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._parts: dict[str, Part] = {}

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        if "tensor" in value:
            return self._tensors[value["tensor"]]
        if "same" in value:
            return self._parts[value["same"]]
        if "tuple" in value:
            return tuple(self.decode(entry) for entry in value["tuple"])
        if "dict" in value:
            return self._entries(value["dict"])
        if "record" in value:
            return _RECORDS[value["record"]](**self._entries(value["fields"]))
        made = part_class(value["part"])
        arguments = self._entries(value["arguments"])
        positional: list[Any] = []
        for parameter in inspect.signature(made.__init__).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional = list(arguments.pop(parameter.name))
        part = made(*positional, **arguments)
        if "name" in value:  # files of earlier versions have none, and no part in two places
            self._parts[value["name"]] = part
        return part

    def _entries(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.decode(entry) for key, entry in values.items()}
