"""Safetensors files of trees of parts: tensors, and as JSON metadata the classes and arguments that build them again.

`Avatar.save` and `Avatar.load` stand on this. Files of earlier versions are read through `headfields.renamed`.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from headfields import renamed
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.parts import Part, part_class, part_name
from headfields.records import Camera, HeadState, Template

_FORMAT = 1
_KEY = "headfields.avatar"
_RECORDS = {record.__name__: record for record in (Camera, HeadState, Template)}


@dataclass(frozen=True)
class SavedParts:
    """The content of a file of `write_parts`.

    Attributes:
        parts: the parts, or lists of parts, by name; built with their arguments, their parameters not yet loaded.
        records: the other records in the file, by name.
        state: the state dict, by the names in the file (`headfields.renamed.state`).
    """

    parts: dict[str, Any]
    records: dict[str, Any]
    state: dict[str, Tensor]


def write_parts(
    path: str | Path,
    parts: Mapping[str, Part | list[Part]],
    records: Mapping[str, Any],
    state: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor] | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Writes parts to `path` through a temporary file next to it, so that a crash leaves the old file intact.

    Args:
        path: the file; its folder is created.
        parts: parts by name; a part that occurs twice is written once.
        records: records, numbers, or tuples of these, by name.
        state: the state dict of the module that holds the parts.
        tensors: further tensors; no name begins with that of a part or with "state.".
        headers: further entries of the file's metadata.

    Raises:
        TypeError: a part has an argument that cannot be saved; the message names it.
    """
    path = Path(path)
    content: dict[str, Tensor] = {f"state.{name}": value for name, value in state.items()}
    content |= tensors or {}
    writer = _Writer(content)
    description = {
        "format": _FORMAT,
        "parts": {name: writer.encode(part, name) for name, part in parts.items()},
        **{name: writer.encode(record, name) for name, record in records.items()},
    }
    # Cloned, because the file format refuses tensors that share memory (a template's and its deformer's do).
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in content.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, owned, {_KEY: json.dumps(description), **(headers or {})})


def read_parts(path: str | Path) -> SavedParts:
    """Reads a file of `write_parts` and builds its parts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file of an avatar, or a part's class is unknown.
    """
    tensors, description = read_safetensors(path, _KEY)
    if description["format"] != _FORMAT:
        raise ValueError(f"Avatar.load: {path} has format {description['format']}, this headfields reads {_FORMAT}")
    reader = _Reader(tensors)
    parts = {name: reader.decode(part) for name, part in description["parts"].items()}
    records = {name: reader.decode(entry) for name, entry in description.items() if name not in ("format", "parts")}
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    return SavedParts(parts, records, state)


def import_parts(name: str | Path) -> ModuleType:
    """Imports a module that defines parts, so that avatars with these parts can be loaded.

    A part is saved under the name of its module: one of `my_parts.py`, imported by a script as `my_parts`, is
    `my_parts.MyEncoder`, and this import gives it the same name.

    Args:
        name: a Python file, imported under its name without `.py`; or a module, as `import` takes it, of an installed
            package or below the current folder.

    Raises:
        FileNotFoundError: there is no such file or module.
        ValueError: another module of the file's name is imported already.
    """
    path = Path(name)
    if path.suffix != ".py":
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(str(name))
        except ModuleNotFoundError as error:
            if error.name is None or not str(name).startswith(error.name):
                raise  # the module is there, and imports another that is not
            raise FileNotFoundError(f"{name}: there is no such module; name a file, as my_parts.py") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name the Python file that defines the parts")
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or ".").resolve() == path.resolve():
            return known
        raise ValueError(f"{path}: another module is named {path.stem} already; rename the file")
    if str(path.resolve().parent) not in sys.path:
        sys.path.insert(0, str(path.resolve().parent))  # for the modules beside it
    return importlib.import_module(path.stem)


class _Writer:
    """JSON for values; their tensors go into `tensors` under names derived from their position in the tree.

    A part that occurs twice (a vertex source under two encoders) is described once, so that it is one part again when
    it is read.
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
    """Rebuilds the values that `_Writer` described, in the order in which they were written."""

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
        name = renamed.part(value["part"])
        cls = part_class(name)
        arguments = {renamed.argument(name, key): entry for key, entry in self._entries(value["arguments"]).items()}
        positional: list[Any] = []
        for parameter in inspect.signature(cls.__init__).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional = list(arguments.pop(parameter.name))
        part = cls(*positional, **arguments)
        if "name" in value:  # files of earlier versions have none, and no part in two places
            self._parts[value["name"]] = part
        return part

    def _entries(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.decode(entry) for key, entry in values.items()}
