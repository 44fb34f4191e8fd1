"""Arrays from a file, checked: keys, shapes, numbers, indices, weights. Errors name the file and the key."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headfields.files.unpickler import to_array

__all__ = ["WEIGHT_SLACK", "check_names", "check_sums", "checked_arrays", "names_in", "number", "whole_numbers"]

WEIGHT_SLACK = 1e-3
"""How far weights may be below 0, and their sum off 1: the rounding of 16-bit floats."""


def checked_arrays(
    where: str, raw: Mapping[str, Any], keys: Mapping[str, str], whole: Collection[str] = (), optional: bool = False
) -> dict[str, np.ndarray]:
    """The entries of a file as dense arrays of finite numbers: float64, or int64 for those in `whole`.

    Args:
        where: operation and file, for messages.
        raw: the entries of the file.
        keys: the keys and their axes, such as "V 3"; a named axis has the same size in all arrays.
        whole: keys of indices.
        optional: whether keys may be missing.

    Raises:
        ValueError: a key is missing, is not numeric or not finite, is not whole, or has the wrong shape.
    """
    missing = [key for key in keys if key not in raw]
    if missing and not optional:
        raise ValueError(
            f"{where} lacks {', '.join(missing)}; required are {', '.join(keys)} "
            f"(the file has {', '.join(sorted(raw)) or 'nothing'})"
        )
    arrays: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for key, pattern in keys.items():
        if key not in raw:
            continue
        array = to_array(raw[key], f"{where}: {key}")
        axes, shape = pattern.split(), array.shape
        expected = f"({', '.join(axes)})"
        if len(shape) != len(axes):
            raise ValueError(f"{where}: {key} has shape {shape}; expected {expected}")
        for axis, size in zip(axes, shape, strict=True):
            if axis.isdigit() and size != int(axis):
                raise ValueError(f"{where}: {key} has shape {shape}; expected {expected}")
            if not axis.isdigit() and sizes.setdefault(axis, (size, key))[0] != size:
                raise ValueError(
                    f"{where}: {key} has shape {shape}; expected {expected} with {axis} = {sizes[axis][0]} as in "
                    f"{sizes[axis][1]}"
                )
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{where}: {key} has dtype {array.dtype}; expected numbers")
        if not np.isfinite(array).all():
            bad = tuple(int(entry) for entry in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{where}: {key} at {bad} is {array[bad]}; every number must be finite")
        arrays[key] = whole_numbers(array, f"{where}: {key}") if key in whole else array.astype(np.float64)
    return arrays


def whole_numbers(value: Any, where: str, count: int | None = None, of: str = "") -> Int[np.ndarray, "..."]:
    """Indices as int64; floats pass if they are whole, as some exporters write them.

    Args:
        value: the entry of the file.
        where: file and key, for messages.
        count: indices are in [0, count), if it is given.
        of: what there are `count` of.

    Raises:
        ValueError: a number is not whole, or out of range.
    """
    array = to_array(value, where)
    if array.dtype.kind not in "iuf" and array.size:
        raise ValueError(f"{where} has dtype {array.dtype}; expected whole numbers")
    if array.dtype.kind == "f" and not (array == np.floor(array)).all():
        bad = tuple(int(entry) for entry in np.argwhere(array != np.floor(array))[0])
        raise ValueError(f"{where} at {bad} is {array[bad]}; expected whole numbers")
    if array.dtype.kind == "f" and array.size and np.abs(array).max() > 2**53:
        raise ValueError(f"{where} holds {np.abs(array).max():g}; expected whole numbers below 2^53")
    indices = array.astype(np.int64)
    if count is not None and indices.size and not 0 <= indices.min() <= indices.max() < count:
        raise ValueError(f"{where} has indices in [{indices.min()}, {indices.max()}], but there are {count} {of}")
    return indices


def number(value: Any, where: str) -> float:
    """One finite number.

    Raises:
        ValueError: the entry holds another thing.
    """
    array = to_array(value, where)
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"{where} has shape {array.shape} and dtype {array.dtype}; expected one finite number")
    return float(array.reshape(()))


def check_sums(
    values: Float[np.ndarray, "*rows n"], where: str, slack: float = WEIGHT_SLACK, lowest: float | None = -WEIGHT_SLACK
) -> None:
    """Checks that weights add up to 1 along the last axis, and none is below `lowest` (None: any may be negative).

    Raises:
        ValueError: they do not; the message has the row.
    """
    if not values.size:
        return
    sums = values.sum(-1)
    if np.abs(sums - 1).max() > slack:
        row = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
        raise ValueError(f"{where}: row {_place(row)} adds up to {sums[row]:.6g}; expected 1 (to {slack:g})")
    if lowest is not None and values.min() < lowest:
        place = np.unravel_index(values.argmin(), values.shape)
        raise ValueError(f"{where} at {_place(place)} is {values[place]:.6g}; expected no negative weight")


def names_in(raw: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The names under a key, or none; raises as `to_array`, with `where` and the key."""
    return tuple(str(name) for name in to_array(raw.get(key, ()), f"{where}: {key}").ravel())


def check_names(names: Sequence[str], count: int, where: str, of: str) -> None:
    """Checks that names are at most `count`, and no two the same.

    Raises:
        ValueError: they are not.
    """
    if len(names) > count:
        raise ValueError(f"{where} has {len(names)} names for {count} {of}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where} has the name {twice[0]!r} twice; names are unique")


def _place(index: Any) -> str:
    return str(tuple(int(entry) for entry in index)) if len(index) != 1 else str(int(index[0]))
