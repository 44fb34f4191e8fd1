"""One safetensors file for an avatar: its tensors, and as metadata the parts and arguments that build it again."""

import inspect
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from headfields.avatar import Avatar
from headfields.parts import Part, part_class, part_name
from headfields.records import Camera, HeadState, Template
from headfields.tensor_files import read_safetensors, write_safetensors

_FORMAT = 1
_KEY = "headfields.avatar"
_RECORDS = {record.__name__: record for record in (Camera, HeadState, Template)}


def save_avatar(avatar: Avatar, path: str | Path) -> None:
    """Writes `avatar` to `path` through a temporary file beside it, so that a crash leaves the old file whole."""
    path = Path(path)
    tensors: dict[str, Tensor] = {f"state.{name}": value for name, value in avatar.state_dict().items()}
    description = {
        "format": _FORMAT,
        "parts": {
            "deformer": _encode(avatar.deformer, "deformer", tensors),
            "encoder": _encode(avatar.encoder, "encoder", tensors),
            "decoder": _encode(avatar.decoder, "decoder", tensors),
            "renderer": _encode(avatar.renderer, "renderer", tensors),
            "condition": _encode(list(avatar.conditions), "condition", tensors),
        },
        "template": _encode(avatar.template, "template", tensors),
        "preview": _encode(avatar.preview, "preview", tensors),
    }
    # Cloned, because the file format refuses tensors that share memory (a template's and its deformer's do).
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, owned, {_KEY: json.dumps(description)})


def load_avatar(path: str | Path) -> Avatar:
    """The avatar that `save_avatar` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file of an avatar, or a part's class is unknown.
    """
    tensors, description = read_safetensors(path, _KEY)
    if description["format"] != _FORMAT:
        raise ValueError(f"load_avatar: {path} has format {description['format']}, this headfields reads {_FORMAT}")
    parts = {name: _decode(part, tensors) for name, part in description["parts"].items()}
    avatar = Avatar(**parts, template=_decode(description["template"], tensors))
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    avatar.load_state_dict(state)
    avatar.preview = _decode(description["preview"], tensors)
    return avatar


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value; tensors go into `tensors` under a name derived from where they stand."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Part):
        arguments = {key: _encode(entry, f"{name}.{key}", tensors) for key, entry in value.arguments.items()}
        return {"part": part_name(value), "arguments": arguments}
    if type(value).__name__ in _RECORDS:
        return {
            "record": type(value).__name__,
            "fields": {key: _encode(entry, f"{name}.{key}", tensors) for key, entry in vars(value).items()},
        }
    if isinstance(value, dict):
        return {"dict": {key: _encode(entry, f"{name}.{key}", tensors) for key, entry in value.items()}}
    if isinstance(value, list | tuple):
        entries = [_encode(entry, f"{name}.{index}", tensors) for index, entry in enumerate(value)]
        return {"tuple": entries} if isinstance(value, tuple) else entries
    raise TypeError(
        f"Avatar.save: the argument {name} is a {type(value).__name__}; only numbers, strings, tensors, parts, "
        "records, and lists, tuples and dicts of these can be saved"
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_decode(entry, tensors) for entry in value["tuple"])
    if "dict" in value:
        return {key: _decode(entry, tensors) for key, entry in value["dict"].items()}
    if "record" in value:
        return _RECORDS[value["record"]](**{key: _decode(entry, tensors) for key, entry in value["fields"].items()})
    made = part_class(value["part"])
    arguments = {key: _decode(entry, tensors) for key, entry in value["arguments"].items()}
    positional: list[Any] = []
    for parameter in inspect.signature(made.__init__).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional = list(arguments.pop(parameter.name))
    return made(*positional, **arguments)
