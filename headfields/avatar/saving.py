"""Safetensors files of trees of parts: tensors, and as JSON metadata the classes and arguments that build them again.

`Avatar.save` and `Avatar.load` stand on this.
"""

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from headfields.avatar.saved_checks import Allowance, check_kind, check_saved_record
from headfields.files.reading import brief
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.files.versions import FileFormat
from headfields.part_base import Part
from headfields.part_names import part_class, part_name
from headfields.records import Camera, HeadState, Template
from headfields.records.head_rig import HeadRig

FORMAT = FileFormat("headfields.avatar", "an avatar", 2, "train it again, or load it with the version that saved it")
_LARGEST = 2**53  # of a number that is a size, a step or a seed
_RECORDS = {record.__name__: record for record in (Camera, HeadRig, HeadState, Template)}


@dataclass(frozen=True)
class SavedParts:
    """The content of a file of `write_parts`.

    Attributes:
        parts: the parts, or lists of parts, by name; built with their arguments, their parameters not yet loaded.
        records: the other records in the file, by name.
        state: the state dict, by the names in the file.
        allowance: for what is built of the parts (`headfields.avatar.saved_checks.Allowance`).
    """

    parts: dict[str, Any]
    records: dict[str, Any]
    state: dict[str, Tensor]
    allowance: Allowance


def write_parts(
    path: str | Path,
    parts: Mapping[str, Part | list[Part] | None],
    records: Mapping[str, Any],
    state: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor] | None = None,
    headers: Mapping[FileFormat, Mapping[str, Any]] | None = None,
) -> None:
    """Writes parts to `path` through a temporary file next to it, so that a crash leaves the old file intact.

    Args:
        path: the file; its folder is created.
        parts: parts by name; a part that occurs twice is written once.
        records: records, numbers, or tuples of these, by name.
        state: the state dict of the module that holds the parts.
        tensors: further tensors; no name begins with that of a part or with "state.".
        headers: further headers of the file, as `write_safetensors` takes them.

    Raises:
        TypeError: a part has an argument that cannot be saved; the message names it.
    """
    path = Path(path)
    content: dict[str, Tensor] = {f"state.{name}": value for name, value in state.items()}
    content |= tensors or {}
    writer = _Writer(content)
    description = {
        "parts": {name: writer.encode(part, name) for name, part in parts.items()},
        **{name: writer.encode(record, name) for name, record in records.items()},
    }
    # Cloned, because the file format refuses tensors that share memory (a template's and its deformer's do).
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in content.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, owned, {FORMAT: description, **(headers or {})})


def part_names(path: str | Path) -> list[str]:
    """The names of the parts in a file of `write_parts`; none if it is no such file. Builds nothing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file of an avatar, or of another version (`FileVersionError`).
    """
    entries = read_safetensors(path, FORMAT)[1].get("parts")
    return list(entries) if isinstance(entries, dict) else []


def read_parts(path: str | Path, names: Mapping[str, bool]) -> SavedParts:
    """Reads a file of `write_parts` and builds its parts. Call it within `headfields.files.reading.reading`.

    Args:
        path: the file.
        names: the names that parts may have in it, and whether each is needed.

    Raises:
        FileNotFoundError: there is no such file.
        FileVersionError: it has another version of the format.
        ValueError: it is not a safetensors file of an avatar, or an entry is not what it should be: its name is told.
    """
    tensors, description = read_safetensors(path, FORMAT)
    reader, entries = _Reader(tensors), description.get("parts")
    if not isinstance(entries, dict):
        raise ValueError(f"parts is {brief(entries)}; expected parts by name")
    for name in (*entries, *(name for name, needed in names.items() if needed)):
        if name not in names or name not in entries:
            raise ValueError(f"parts has {'no' if name in names else 'an unknown'} {brief(name)}")
    allowance = Allowance(sum(tensor.numel() for tensor in tensors.values()))
    with allowance:
        parts = {name: reader.decode(part, f"parts.{name}") for name, part in entries.items()}
        names_of_records = ("template", "preview", "trained_on", "rig")
        records = {name: reader.decode(description.get(name), name) for name in names_of_records}
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    return SavedParts(parts, records, state, allowance)


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
            while name in self._tensors:  # a key with a dot may make the name of another position
                name += "_"
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
    """Rebuilds the values that `_Writer` described, in the order in which they were written.

    Every error says where in the description it is. A tensor is used once, as it was written, so that what is built
    is no larger than the file.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("state.")}
        self._parts: dict[str, Part] = {}

    def decode(self, value: Any, entry: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | float):
            if math.isnan(value) or (abs(value) > _LARGEST and math.isfinite(value)):
                raise ValueError(f"{entry} is {value}; expected a number")
            return value
        if isinstance(value, list):
            return [self.decode(each, f"{entry}[{index}]") for index, each in enumerate(value)]
        if "part" in value:
            return self._part(value, entry)
        if "record" in value:
            return self._record(value, entry)
        kind = next(iter(value)) if len(value) == 1 else None
        if kind == "tensor":
            return self._tensor(value["tensor"], entry)
        if kind == "same" and isinstance(value["same"], str) and value["same"] in self._parts:
            return self._parts[value["same"]]
        if kind == "tuple" and isinstance(value["tuple"], list):
            return tuple(self.decode(value["tuple"], entry))
        if kind == "dict":
            return self._entries(value["dict"], entry)
        raise ValueError(f"{entry} is {brief(value)}, which describes no value")

    def _entries(self, values: Any, entry: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            raise ValueError(f"{entry} is {brief(values)}; expected values by name")
        return {key: self.decode(each, f"{entry}.{key}") for key, each in values.items()}

    def _tensor(self, name: Any, entry: str) -> Tensor:
        tensor = self._tensors.pop(name, None) if isinstance(name, str) else None
        if tensor is None:
            raise ValueError(f"{entry} is the tensor {brief(name)}, which the file does not have, or uses elsewhere")
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ValueError(f"{entry}: the tensor has NaN")
        return tensor

    def _record(self, value: dict[str, Any], entry: str) -> Any:
        cls = _RECORDS.get(value["record"]) if isinstance(value["record"], str) else None
        if cls is None:
            raise ValueError(f"{entry} is a record {brief(value['record'])}; expected {', '.join(_RECORDS)}")
        content = self._entries(value.get("fields"), entry)
        _check_names(entry, content, inspect.signature(cls))
        with _at(entry):
            record = cls(**content)
            check_saved_record(record)
            return record

    def _part(self, value: dict[str, Any], entry: str) -> Part:
        if not isinstance(value["part"], str):
            raise ValueError(f"{entry} is a part called {brief(value['part'])}; expected module.Class")
        with _at(entry):
            cls = part_class(value["part"])
        arguments = self._entries(value.get("arguments"), entry)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        signature = inspect.Signature(parameters)
        _check_names(entry, arguments, signature)
        for parameter in parameters:
            if parameter.name in arguments:
                check_kind(entry, parameter, arguments[parameter.name])
        with _at(entry):
            bound = inspect.BoundArguments(signature, arguments)
            part = cls(*bound.args, **bound.kwargs)
        self._parts[str(value.get("name"))] = part
        return part


@contextlib.contextmanager
def _at(entry: str) -> Iterator[None]:
    """Within the block, errors are ValueErrors that begin with the name of the entry."""
    try:
        yield
    except Exception as error:
        what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{entry}: {what}{' '.join(str(error).split())}") from error


def _check_names(entry: str, given: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Raises ValueError unless the names are those of a constructor's parameters, and none that it needs is missing."""
    parameters = signature.parameters.values()
    unknown = [name for name in given if name not in signature.parameters]
    missing = [
        each.name
        for each in parameters
        if each.default is each.empty and each.name not in given and each.kind.name[:3] != "VAR"
    ]
    if unknown or missing:
        wrong = f"the argument {brief(unknown[0])}, which it does not take" if unknown else f"no {missing[0]}"
        raise ValueError(f"{entry} has {wrong}; its arguments are {', '.join(signature.parameters) or 'none'}")
