"""The base of records: dataclasses of tensors that are checked, copied, indexed, joined and printed alike."""

import dataclasses
import inspect
import operator
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from headfields.records.annotated import TensorField, check_fields, is_readable, tensor_fields
from headfields.records.device_copy import device_here, send
from headfields.records.display import Displayed

R = TypeVar("R", bound="Record")

_TINY = 4
"""Tensors of at most so many entries are printed with their values."""


class Record(Displayed):
    """Base class of records: `.to(...)`, `.detach()`, `.replace(...)`, indexing and joining along the leading axis.

    The tensors of a record fit its annotations: type, dtype and shape are checked at construction, values are not read.

    >>> import torch, headfields as hf
    >>> state = hf.HeadState(torch.zeros(2, 5, 3), frame_id=torch.tensor([7, 8]))
    >>> state
    HeadState(vertices=(2, 5, 3) float32, frame_id=tensor([7, 8]))
    >>> hf.HeadState.cat([state, state[1]]).frame_id
    tensor([7, 8, 8])
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    _tensors: ClassVar[tuple[TensorField, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = tensor_fields(inspect.get_annotations(cls))
        names = {each.name for each in own}
        cls._tensors = (*(each for each in cls._tensors if each.name not in names), *own)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Record.__repr__  # type: ignore[method-assign]  # before the dataclass adds one of its own

    def __post_init__(self) -> None:
        check_fields(self, self._tensors)

    def map(self: R, function: Any) -> R:
        """A copy with `function` applied to every tensor, in mappings and nested records too."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, Record):
                return value.map(function)
            if isinstance(value, Mapping):
                return {key: apply(entry) for key, entry in value.items()}
            return value

        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self: R, device: torch.device | str) -> R:
        """A copy on the given device; for CUDA the host does not wait for it."""
        if isinstance(device, str):
            device = device_here(f"{type(self).__name__}.to", device)
        return self.map(lambda tensor: send(tensor, device))

    def detach(self: R) -> R:
        """A copy detached from the autograd graph."""
        return self.map(lambda tensor: tensor.detach())

    def replace(self: R, **changes: Any) -> R:
        """A copy with some fields changed; the checks run again."""
        return dataclasses.replace(self, **changes)

    def require(self, *names: str) -> list[Tensor]:
        """The tensors of the optional fields `names`, which the caller requires.

        Raises:
            ValueError: one of them is None.
        """
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"{type(self).__name__}: {name} is None; the part that gave it does not fill it")
        return [getattr(self, name) for name in names]

    def __getitem__(self: R, index: Any) -> R:
        """Rows along the leading axis: by integer (one row, the axis stays), slice, list, index tensor or mask.

        Raises:
            IndexError: an integer is out of range.
        """
        if isinstance(index, Tensor) and index.ndim == 1 and index.dtype == torch.long:
            return self.map(lambda tensor: tensor.index_select(0, index))  # three times as fast, backward too
        if isinstance(index, Tensor) and index.ndim == 0 and index.dtype != torch.bool:
            index = index[None].long()
        elif not isinstance(index, bool) and hasattr(index, "__index__") and not isinstance(index, Tensor):
            row, count = operator.index(index), self._rows()
            if not -count <= row < count:
                raise IndexError(f"{type(self).__name__}: row {row} is out of range; there are {count}")
            index = slice(row, row + 1 or None)
        return self.map(lambda tensor: tensor[index])

    def _rows(self) -> int:
        """The size of the leading axis."""
        tensor = next((x for x in (getattr(self, each.name) for each in self._tensors) if isinstance(x, Tensor)), None)
        if tensor is None or not tensor.ndim:
            raise TypeError(f"{type(self).__name__}: it has no rows to index")
        return tensor.shape[0]

    @classmethod
    def cat(cls: type[R], records: Sequence[R]) -> R:
        """One record of several, joined along the leading axis: what indexing takes apart.

        Fields without tensors (an image size, names) must agree. Indices into other data (`Rays.frame`, `Samples.ray`)
        keep their values. Differentiable.

        Args:
            records: one or more, of one class.

        Raises:
            TypeError: another class, or one without a common leading axis.
            ValueError: no records, or a field disagrees; the message names it.

        >>> import torch, headfields as hf
        >>> one = hf.HeadState(torch.zeros(1, 5, 3))
        >>> len(hf.HeadState.cat([one, one, one]))
        3
        """
        return cls._joined("cat", _list_of(cls, "cat", records))

    @classmethod
    def stack(cls: type[R], records: Sequence[R]) -> R:
        """One record of several, joined along a new leading axis: single cameras, images of `Avatar.render`.

        Args:
            records: one or more, of one class whose tensors may have any number of leading axes.

        Raises:
            TypeError: another class, or one whose tensors have a fixed number of axes (`cat` joins those).
            ValueError: no records, or a field disagrees; the message names it.

        >>> import torch, headfields as hf
        >>> camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(48, 64), fov=20)
        >>> len(hf.Camera.stack([camera, camera]))
        2
        """
        return cls._joined("stack", _list_of(cls, "stack", records))

    @classmethod
    def collate(cls: type[R], records: Sequence[R]) -> R:
        """One record of the items of a batch: what PyTorch's `default_collate` and so a `DataLoader` make of them.

        As `cat`; records without a leading axis (single cameras) and images are stacked. Items are of one frame each:
        their rays and points (`frame` is 0 in an item) get the item's number, the row of its state in the batch.

        Raises:
            TypeError, ValueError: as `cat`; or `frame` of an item is not 0.
        """
        records = _list_of(cls, "collate", records)
        return type(records[0])._joined("collate", records)

    @classmethod
    def _joined(cls: type[R], verb: str, records: list[R]) -> R:
        first = records[0]
        if verb == "collate" and any(each.name == "frame" for each in cls._tensors):
            records = [_numbered(cls.__name__, record, item) for item, record in enumerate(records)]
        how = verb
        if verb == "collate":
            given = [each for each in cls._tensors if each.variadic and getattr(first, each.name) is not None]
            one_axis = not given or getattr(first, given[0].name).ndim == len(given[0].axes)
            how = "cat" if one_axis else "stack"
        cls._check_joinable(how, first)
        where = f"{cls.__name__}.{verb}"
        return cls(
            **{
                f.name: _join(f"{where}: {f.name}", verb, how, [getattr(record, f.name) for record in records])
                for f in fields(cls)
            }
        )

    @classmethod
    def _check_joinable(cls, verb: str, record: "Record") -> None:
        """Raises TypeError if the tensors of a record do not all have a row for each of its rows."""
        lead = cls._lead()
        for each in cls._tensors:
            if getattr(record, each.name) is None:
                continue
            if each.axes[:1] != (lead,) or lead.isdigit():
                raise TypeError(
                    f"{cls.__name__}.{verb}: {each.name} {each.text} has no row for each row of "
                    f"{cls._tensors[0].name} {cls._tensors[0].text}, so records cannot be joined; leave it out (None), "
                    "or join the tensors yourself"
                )
            if verb == "stack" and not each.variadic:
                raise TypeError(
                    f"{cls.__name__}.stack: {each.name} has the axes {each.text} and no room for another; "
                    f"{cls.__name__}.cat joins along the first"
                )
        for f in fields(cls):
            value = getattr(record, f.name)
            if isinstance(value, Record) and cls._tensors and value._lead().strip("*") != lead.strip("*"):
                raise TypeError(
                    f"{cls.__name__}.{verb}: the rows of {f.name} ({type(value).__name__}) are not those of "
                    f"{cls._tensors[0].name}; leave it out with replace({f.name}=None)"
                )

    @classmethod
    def _lead(cls) -> str:
        """Name of the leading axis."""
        axes = cls._tensors[0].axes if cls._tensors else ()
        return axes[0] if axes else "0"

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        shown = (f"{name}={_short(value)}" for name, value in values.items() if value is not None and value != {})
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    """A value in a few words: of tensors the shape, dtype and device, of tiny ones on the CPU the values."""
    if isinstance(value, Tensor):
        if 0 < value.numel() <= _TINY and is_readable(value):
            return " ".join(repr(value.detach()).split())
        device = "" if value.device.type == "cpu" else f" {value.device}"
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{device}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_short(entry)}" for key, entry in value.items()) + "}"
    text = " ".join(repr(value).split())
    return text if isinstance(value, Record) or len(text) <= 80 else f"{text[:77]}..."


def _list_of(cls: type[R], verb: str, records: Sequence[R]) -> list[R]:
    where, out = f"{cls.__name__}.{verb}", list(records)
    if not out:
        raise ValueError(f"{where}: records is empty; pass at least one")
    for record in out:
        if not isinstance(record, cls) or type(record) is not type(out[0]):
            names = sorted({type(each).__name__ for each in out})
            raise TypeError(f"{where}: records are of {', '.join(names)}; pass records of one class, {cls.__name__}")
    return out


def _numbered(owner: str, record: Any, item: int) -> Any:
    """The rays or points of one item of a batch, with the item's number as their frame."""
    if is_readable(record.frame) and bool((record.frame != 0).any()):
        raise ValueError(
            f"{owner}.collate: frame of item {item} holds {int(record.frame.max())}; items of one frame each have 0, "
            f"and get their number in the batch ({owner}.cat joins parts of one batch)"
        )
    return record.replace(frame=torch.full_like(record.frame, item))


def _join(where: str, verb: str, how: str, values: list[Any]) -> Any:
    """One value of those that several records have in one field: nested records by `verb`, tensors by `how`."""
    missing = [item for item, value in enumerate(values) if value is None]
    if missing:
        if len(missing) == len(values):
            return None
        given = next(item for item, value in enumerate(values) if value is not None)
        raise ValueError(f"{where} is None in record {missing[0]} and not in record {given}; give it to all or none")
    first = values[0]
    if isinstance(first, Tensor):
        return _join_tensors(where, how, values)
    if isinstance(first, Record):
        return type(first)._joined(verb, _list_of(type(first), verb, values))
    if isinstance(first, Mapping):
        for item, value in enumerate(values):
            if set(value) != set(first):
                raise ValueError(
                    f"{where} has {sorted(first)} in record 0 and {sorted(value)} in record {item}; names must agree"
                )
        return {key: _join(f"{where}[{key!r}]", verb, how, [value[key] for value in values]) for key in first}
    for item, value in enumerate(values):
        if value is not first and value != first:
            raise ValueError(
                f"{where} is {_short(first)} in record 0 and {_short(value)} in record {item}; it must agree in all"
            )
    return first


def _join_tensors(where: str, how: str, tensors: list[Tensor]) -> Tensor:
    axis = 1 if how == "cat" else 0
    first = tensors[0]
    for item, tensor in enumerate(tensors):
        for what, own, other, agree in (
            ("shape", tuple(tensor.shape), tuple(first.shape), tensor.shape[axis:] == first.shape[axis:]),
            ("dtype", tensor.dtype, first.dtype, tensor.dtype == first.dtype),
            ("device", tensor.device, first.device, tensor.device == first.device),
        ):
            if not agree:
                raise ValueError(f"{where} has {what} {other} in record 0 and {own} in record {item}; they must agree")
    return torch.cat(tensors) if how == "cat" else torch.stack(tensors)


def _collate_records(batch: Sequence[Any], *, collate_fn_map: Any = None) -> Any:
    return type(batch[0]).collate(batch)


default_collate_fn_map[Record] = _collate_records  # how `torch.utils.data.default_collate` learns a type
