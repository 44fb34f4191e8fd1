"""Bytes that a launch moves between a GPU and its memory, from the sizes of what it reads and writes.

Each number that a launch is given counts once, however often it is read, and each that it writes once: what a cache
holds within a launch is free, what it could keep from one launch to the next is not. Work by arithmetic is not counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WRITE_ONLY = _names("bernoulli_ copy_ exponential_ fill_ normal_ random_ uniform_ zero_ _foreach_copy_ _foreach_zero_")
"""Operations that do not read what they write to."""

PICKING = _names("gather index index_select take_along_dim embedding")
"""Operations that read of their first argument as much as they give, at most."""

ADDING = _names("index_add_ index_add index_put_ _index_put_impl_ index_copy_ scatter_ scatter_add_")
"""Operations that touch of their first argument, in place, as much as they are given, at most."""


@dataclass(frozen=True)
class Launch:
    """What one launch moves.

    Attributes:
        name: of the operation or the kernel.
        place: line of the package that asked for it.
        bytes: each number once.
        requested: what its threads ask the cache for, where that is more: rows of tables.
    """

    name: str
    place: str
    bytes: float
    requested: float = 0.0


def size_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor, of which what is expanded is there once."""
    numbers = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= length if stride or not length else 1
    return numbers * tensor.element_size()


def of_operation(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], results: Any) -> int:
    """Bytes of an operation of PyTorch's, which is taken to be one launch."""
    name, given, written = operation.overloadpacket.__name__, list[torch.Tensor](), list[torch.Tensor]()
    total = 0
    for place, argument in enumerate(operation._schema.arguments):
        value = kwargs.get(argument.name, args[place] if place < len(args) else None)
        tensors = list(_tensors(value))
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if argument.name == "grads" and kwargs.get("grad_scale") is None:
            is_written = False  # fused optimizers write gradients where they unscale them alone
        written += tensors if is_written else []
        if not (is_written and (name in WRITE_ONLY or argument.name == "out")):
            given += tensors
    results = list(_tensors(results))
    fresh = [result for result in results if all(result is not tensor for tensor in written)]
    if name in PICKING and given and fresh:
        total += size_of(given[0]) and min(size_of(given[0]), sum(map(size_of, fresh)))
        given = given[1:]
    elif name in ADDING and given:
        source = sum(size_of(tensor) for tensor in given[1:] if tensor.is_floating_point())
        total += min(2 * size_of(given[0]), 2 * source)
        total += 0 if written else 2 * size_of(given[0])  # a copy of the first argument comes before
        return total + sum(map(size_of, given[1:]))
    return total + sum(map(size_of, _distinct(given))) + sum(map(size_of, [*written, *fresh]))


def of_warp(kernel: Any, dim: Any, arrays: Iterable[Any], wp: Any) -> tuple[int, int]:
    """Bytes of a launch of a Warp kernel, and those that its threads request: each array once, but for hash grids,
    which read (or add to) a row for each corner, and whose sums are read as they are added to."""
    total, seen = 0, set[tuple[int, int]]()
    sizes: dict[str, int] = {}
    for argument, value in zip(kernel.adj.args, arrays, strict=True):
        if not hasattr(argument.type, "ndim") or not hasattr(value, "data"):
            continue
        size = wp.types.type_size_in_bytes(argument.type.dtype)
        for axis in range(argument.type.ndim):
            size *= value.shape[axis]
        sizes[argument.label] = size
        if (value.data, size) not in seen:
            seen.add((value.data, size))
            total += size
    if ".hash_grid_" not in kernel.module.name:
        return total, 0
    dimensions = next(a.type.dtype._length_ for a in kernel.adj.args if a.label == "points")
    name = "total" if "total" in sizes else "table"
    total += sizes.get("total", 0)
    features = sizes["grad" if "grad" in sizes else "out"] // 4  # of all levels and points
    number = next(a.type.dtype for a in kernel.adj.args if a.label == name)
    row = wp.types.type_size_in_bytes(number)
    return total, 2**dimensions * features * row * (2 if name == "total" else 1)


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _distinct(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
