"""Annotated tensor fields: the axes and dtypes that a dataclass's annotations state, checked without reading values.

`Float[Tensor, "b v 3"]` states the axes of a field for readers, for type checkers, and for the check at construction.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["TensorField", "check_fields", "is_readable", "tensor_fields"]

_REMEDIES = {"bool": "{name} > 0 makes a mask", "int64": "{name}.long() converts", "float32": "{name}.float() converts"}


@dataclass(frozen=True)
class TensorField:
    """The tensors of one field.

    Attributes:
        name: name of the field.
        axes: names or sizes of the axes; a leading `*name` stands for any number of them, `_` for one of any size.
        dtypes: the dtypes allowed.
        optional: whether it may be None.
        mapping: whether the field is a mapping from names to such tensors.
        variadic: whether any number of axes may lead.
        exact: the sizes that `axes` state, None for each name, without a leading `*name`.
    """

    name: str
    axes: tuple[str, ...]
    dtypes: frozenset[torch.dtype]
    optional: bool
    mapping: bool
    variadic: bool
    exact: tuple[int | None, ...]

    @property
    def text(self) -> str:
        """The expected shape, as messages write it."""
        names = ["..." if axis.startswith("*") else axis.upper() if len(axis) == 1 else axis for axis in self.axes]
        return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def tensor_fields(annotations: Mapping[str, Any]) -> tuple[TensorField, ...]:
    """The fields among the annotations of a class that are tensors, None or a tensor, or mappings to tensors."""
    out = []
    for name, annotation in annotations.items():
        options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
        optional = type(None) in options
        kinds = [option for option in options if option is not type(None)]
        mapping = len(kinds) == 1 and typing.get_origin(kinds[0]) is Mapping
        kind = typing.get_args(kinds[0])[1] if mapping else kinds[0]
        if len(kinds) == 1 and getattr(kind, "array_type", None) is Tensor:
            dtypes = frozenset(getattr(torch, dtype) for dtype in kind.dtypes if hasattr(torch, dtype))
            axes = tuple(kind.dim_str.split())
            variadic = axes[:1] != () and axes[0].startswith("*")
            exact = tuple(int(axis) if axis.isdigit() else None for axis in (axes[1:] if variadic else axes))
            out.append(TensorField(name, axes, dtypes, optional, mapping, variadic, exact))
    return tuple(out)


def check_fields(record: object, fields: tuple[TensorField, ...]) -> None:
    """Checks types, dtypes and shapes; axes of one name must agree over all fields. Reads no value of a tensor.

    Args:
        record: the object with these attributes.
        fields: the fields of its class, from `tensor_fields`.

    Raises:
        TypeError: a field is not a tensor, or of another dtype.
        ValueError: a shape does not fit, or two disagree.
    """
    owner = type(record).__name__
    sizes: dict[str, tuple[Any, str]] = {}
    for field in fields:
        value = getattr(record, field.name)
        if value is None and field.optional:
            continue
        if field.mapping:
            for key, entry in value.items():
                _check(owner, f"{field.name}[{key!r}]", field, entry, sizes)
        else:
            _check(owner, field.name, field, value, sizes)


def _check(owner: str, name: str, field: TensorField, tensor: Any, sizes: dict[str, tuple[Any, str]]) -> None:
    if not isinstance(tensor, Tensor):
        if tensor is None:
            raise TypeError(f"{owner}: {name} is None; pass a torch.Tensor")
        kind = type(tensor).__name__
        raise TypeError(f"{owner}: {name} is a {kind}; pass a torch.Tensor (torch.as_tensor({name}) makes one)")
    if tensor.dtype not in field.dtypes:
        usual = "bool" if torch.bool in field.dtypes else "float32" if torch.float32 in field.dtypes else "int64"
        if torch.int64 not in field.dtypes and usual == "int64":
            usual = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in field.dtypes))
        remedy = _REMEDIES.get(usual, "").format(name=name)
        raise TypeError(f"{owner}: {name} has dtype {tensor.dtype}; expected {usual}{remedy and f' ({remedy})'}")
    shape, axes, exact = tensor.shape, field.axes, field.exact
    if field.variadic and len(shape) >= len(exact):
        cut = len(shape) - len(exact)
        lead, whose = sizes.setdefault(axes[0], (shape[:cut], name))
        if lead != shape[:cut]:
            raise ValueError(
                f"{owner}: {name} has shape {tuple(shape)}, so its leading axes are {tuple(shape[:cut])}, but those of "
                f"{whose} are {tuple(lead)}; the two must agree"
            )
        shape, axes = shape[cut:], axes[1:]
    if len(shape) != len(exact):
        one = f" (of one: {name}[None])" if len(shape) == len(exact) - 1 and not field.variadic else ""
        raise ValueError(f"{owner}: {name} has shape {tuple(tensor.shape)}; expected {field.text}{one}")
    for axis, size, expected in zip(axes, shape, exact, strict=True):
        if expected is not None:
            if size != expected:
                raise ValueError(f"{owner}: {name} has shape {tuple(tensor.shape)}; expected {field.text}")
        elif axis != "_":
            other, whose = sizes.setdefault(axis, (size, name))
            if other != size:
                letter = axis.upper() if len(axis) == 1 else axis
                raise ValueError(
                    f"{owner}: {name} has shape {tuple(tensor.shape)}, so {letter} = {size}, but {whose} has "
                    f"{letter} = {other}; the two must agree"
                )


def is_readable(*tensors: Tensor) -> bool:
    """Whether values may be read for a check: on the CPU, so no device has to be waited for, and not while traced."""
    return not torch.compiler.is_compiling() and all(
        tensor.is_cpu and type(tensor) in (Tensor, torch.nn.Parameter) and not _is_batched(tensor) for tensor in tensors
    )


def _is_batched(tensor: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)
