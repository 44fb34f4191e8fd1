"""Checks of what a saved avatar holds: kinds of arguments, records, sizes of tables, and the state of its parts."""

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from headfields.files.reading import brief
from headfields.part_base import Part
from headfields.records import Camera, Record, Template

_LARGEST_SIDE = 2**15  # of an image, pixels
_SPARE = 1 << 27  # numbers that parts may make besides the file's: 0.5 GB


def check_kind(entry: str, parameter: inspect.Parameter, value: Any) -> None:
    """Raises ValueError for a value of another kind than the parameter's annotation: text for a number, say."""
    annotation = parameter.annotation
    if parameter.kind is parameter.VAR_POSITIONAL:
        fits = isinstance(value, list | tuple) and all(_kind(each) in _kinds(annotation) for each in value)
    elif parameter.kind is parameter.VAR_KEYWORD:
        fits = isinstance(value, dict)
    else:
        fits = _kind(value) in _kinds(annotation) or (value is not None and value == parameter.default)
    if not fits:
        raise ValueError(f"{entry}.{parameter.name} is {brief(value)}; expected {_spelled(annotation)}")


def _kind(value: Any) -> str:
    kinds = ((Tensor, "tensor"), (Part, "part"), (bool | int | float, "number"), (str, "text"), (dict, "mapping"))
    return next((kind for cls, kind in kinds if isinstance(value, cls)), "none" if value is None else "other")


def _kinds(annotation: Any) -> Container[str]:
    """The kinds of value that an annotation allows; all of them, if it says no more."""
    origin, every = typing.get_origin(annotation), ("tensor", "part", "number", "text", "mapping", "none", "other")
    if origin in (typing.Union, types.UnionType):
        return [kind for each in typing.get_args(annotation) for kind in every if kind in _kinds(each)]
    if origin is typing.Literal:
        return [_kind(each) for each in typing.get_args(annotation)]
    if annotation in (None, type(None)):
        return ("none",)
    cls = origin or annotation
    if not isinstance(cls, type):
        return every  # Any, a name that is not resolved, a type variable
    tensor = getattr(cls, "array_type", cls)  # jaxtyping's
    for base, kind in ((Tensor, "tensor"), (Part, "part"), (str, "text"), (dict, "mapping")):
        if isinstance(tensor, type) and issubclass(tensor, base):
            return (kind,)
    if issubclass(cls, int | float):
        return ("number",)
    if issubclass(cls, collections.abc.Mapping):
        return ("mapping",)
    return ("other",) if issubclass(cls, Sequence | Record) else every


def _spelled(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def check_saved_record(record: Any) -> None:
    """Raises ValueError unless the numbers of a record in a file are finite and its sizes sensible."""
    kind = type(record).__name__
    for name, value in vars(record).items():
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, Tensor) and each.is_floating_point() and not bool(each.isfinite().all()):
                raise ValueError(f"{kind}: {name} has numbers that are not finite")
    if isinstance(record, Template):
        count, most = record.face_count, len(record.faces)
        if count is not None and (type(count) is not int or not 0 <= count <= most):
            raise ValueError(f"{kind}: face_count is {brief(count)}; expected 0 to {most}, or None")
    if isinstance(record, Camera) and not all(0 < side <= _LARGEST_SIDE for side in record.size):
        raise ValueError(f"{kind}: size is {record.size}; expected 1 to {_LARGEST_SIDE} pixels")


class Allowance(TorchDispatchMode):
    """Within the block, operations may make no more numbers in all than a file backs: its own and 2^27 (0.5 GB).

    The arguments of a part say how large its tables are. Those of a damaged or hostile file say anything, and a table
    would be allocated before its size is compared with that of the saved one. Views and results of other operations
    are not counted: they are no larger than what they are made of.

    Args:
        numbers: how many the file holds.

    Raises:
        ValueError: operations ask for more numbers, or there are more than 2^20 operations.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._numbers, self._operations = 4 * numbers + _SPARE, 1 << 20

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its compiler, for seconds, to keep it away from the method below

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(result.alias_info is not None for result in func._schema.returns):  # no view, nothing in place
            names = (argument.name for argument in func._schema.arguments)
            self._numbers -= _requested(dict(zip(names, args, strict=False)) | kwargs)
            self._operations -= 1
        if min(self._numbers, self._operations) < 0:
            raise ValueError(
                "the arguments of its parts ask for larger or more tables than the file has; the file is damaged, or "
                "no avatar's"
            )
        return func(*args, **kwargs)


def _requested(arguments: Mapping[str, Any]) -> int:
    """How many numbers an operation makes, as far as its arguments alone say: zeros, random numbers, ranges, copies."""
    tensor = arguments.get("self", arguments.get("x"))
    existing = tensor.numel() if isinstance(tensor, Tensor) else 1
    for name, factor in (("size", 1), ("output_size", 1), ("repeats", existing)):
        if isinstance(arguments.get(name), list | tuple):
            return factor * math.prod(max(side, 0) for side in arguments[name])
    counts = [arguments[name] for name in ("end", "steps", "n", "bands") if name in arguments]
    numbers = [count for count in counts if isinstance(count, int | float)]
    if arguments.get("step"):
        numbers = [number / abs(arguments["step"]) for number in numbers]
    return max([int(number) * (existing if "bands" in arguments else 1) for number in numbers], default=0)


def load_state(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copies saved tensors into a module's parameters and buffers, all of which they must be.

    Args:
        module: the avatar, built from the same file.
        saved: tensors by their names in the file.

    Raises:
        ValueError: a name is missing or unknown, a shape or kind of number differs, a parameter is not finite, a
            buffer has NaN, or indices (faces, masks) are not those that the part was made with.
    """
    own = module.state_dict()
    lacking, unknown = [name for name in own if name not in saved], [name for name in saved if name not in own]
    if lacking or unknown:
        name = (lacking or unknown)[0]
        raise ValueError(f"state.{name} {'is missing' if lacking else 'belongs to no part'}; the file is damaged")
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in saved.items():
        if tensor.shape != own[name].shape or _numbers(tensor) != _numbers(own[name]):
            raise ValueError(
                f"state.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, and its part, by its arguments, has "
                f"{own[name].dtype} of shape {tuple(own[name].shape)}"
            )
        if not _sound(tensor, name in parameters):
            raise ValueError(f"state.{name} has numbers that are not finite; train again, or load an earlier file")
    for prefix, part in module.named_modules():
        for name, argument in part.arguments.items() if isinstance(part, Part) else ():
            key = f"{prefix}.{name}"
            if isinstance(argument, Tensor) and not argument.is_floating_point() and key in saved:
                same = argument.shape == saved[key].shape and bool((argument.long() == saved[key].long()).all())
                if not same:
                    raise ValueError(f"state.{key} differs from the argument {name} of its part")
    module.load_state_dict(dict(saved))


def unsound(module: nn.Module) -> list[str]:
    """Names of the parameters and buffers whose numbers `load_state` would refuse."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return [name for name, tensor in module.state_dict().items() if not _sound(tensor, name in parameters)]


def _numbers(tensor: Tensor) -> str:
    return "float" if tensor.is_floating_point() else "bool" if tensor.dtype == torch.bool else "integer"


def _sound(tensor: Tensor, parameter: bool) -> bool:
    """Whether a parameter is finite, a buffer without NaN: infinity may be a bound or a mark there."""
    if not tensor.is_floating_point():
        return not tensor.is_complex()
    return bool(tensor.isfinite().all()) if parameter else not bool(tensor.isnan().any())
