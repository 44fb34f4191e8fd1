"""Argument checks of the operations: the message names operation, argument, its shape or dtype, and the remedy."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from headfields.ops.dispatch import checks_indices
from headfields.records import Samples, Template
from headfields.records.base import Record

MOST_VERTICES = 2**31
"""Indices of a mesh's vertices are below this, where there are no vertices to count."""


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` is a floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} is {_described(tensor)}; {_TENSOR}{_remedy_for(tensor)}")
    if not tensor.is_floating_point():
        remedy = "colors: divide by 255; else " if tensor.dtype == torch.uint8 else ""
        raise TypeError(
            f"{op}: {name} has dtype {tensor.dtype}; expected float32 or float64 ({remedy}{name}.float() converts)"
        )


_TENSOR = "pass a torch.Tensor"


def _remedy_for(value: Any) -> str:
    """What makes a tensor of an argument that is none."""
    if isinstance(value, Template):
        return ": template.canonical_vertices, template.faces"
    return "" if value is None or isinstance(value, (Record, str)) else " (torch.as_tensor makes one)"


def check_integer(op: str, name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` is an int32 or int64 tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} is {_described(tensor)}; {_TENSOR}{_remedy_for(tensor)}")
    if tensor.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: {name} has dtype {tensor.dtype}; expected int64 ({name}.long() converts)")


def check_shape(op: str, name: str, tensor: Tensor, pattern: str) -> None:
    """Raises ValueError unless the shape fits `pattern`: space-separated sizes, names for any size, a leading `...`.

    `check_shape("closest_triangle", "points", points, "... 3")`
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} is {_described(tensor)}; {_TENSOR}{_remedy_for(tensor)}")
    sizes = pattern.split()
    shape = tuple(tensor.shape)
    any_batch = bool(sizes) and sizes[0] == "..."
    tail = sizes[1:] if any_batch else sizes
    fits = len(shape) >= len(tail) if any_batch else len(shape) == len(tail)
    if fits:
        for size, expected in zip(shape[len(shape) - len(tail) :], tail, strict=True):
            if expected.isdigit() and size != int(expected):
                fits = False
    if not fits:
        raise ValueError(f"{op}: {name} has shape {shape}; expected ({', '.join(sizes)})")


def check_same_device(op: str, **tensors: Tensor | None) -> None:
    """Raises ValueError unless all tensors are on one device; None is left out."""
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} is {_described(tensor)}; {_TENSOR}{_remedy_for(tensor)}")
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        listing = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{op}: arguments are on several devices ({listing}); move them to one with .to(device)")


def check_record(op: str, name: str, value: Any, record: type) -> None:
    """Raises TypeError unless `value` is a record of this class."""
    if not isinstance(value, record):
        raise TypeError(f"{op}: {name} is {_described(value)}; expected {record.__name__}")


def check_whole(op: str, name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises TypeError unless `value` is a whole number, and ValueError unless it lies in [least, most]."""
    expected = f"{least} or more" if most is None else f"{least} to {most}"
    if not isinstance(value, (int, np.integer, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{op}: {name} is {value!r}; expected a whole number, {expected}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{op}: {name} is {value}; expected {expected}")


def promoted(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the widest of their dtypes, which products need."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return [tensor.to(dtype) for tensor in tensors]


def check_samples(op: str, samples: Any, rays: Any, name: str = "samples") -> None:
    """Raises TypeError unless `samples` is a record of them and `rays` a number: what every operation on packed samples
    takes, after the values at them."""
    if not isinstance(samples, Samples):
        raise TypeError(
            f"{op}: {name} is {_described(samples)}; expected hf.Samples. The order is: what the samples hold, the "
            "samples, the number of rays"
        )
    check_ray_count(op, rays)


def check_ray_count(op: str, rays: Any) -> None:
    """Raises TypeError unless `rays` is a whole number, and ValueError if it is negative."""
    if not isinstance(rays, (int, np.integer, torch.SymInt)) or isinstance(rays, bool):
        remedy = "len(rays)" if isinstance(rays, Record) or (isinstance(rays, Tensor) and rays.ndim) else "int(...)"
        raise TypeError(f"{op}: rays is {_described(rays)}; expected the number of rays ({remedy})")
    if rays < 0:
        raise ValueError(f"{op}: rays is {rays}; expected the number of rays, 0 or more")


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def check_index(op: str, name: str, index: Tensor, count: int, least: int | None = 0) -> None:
    """Raises IndexError where an index lies outside [least, count); None: any negative index is legal.

    Checked on the CPU, and on CUDA, where it waits for the device, as `headfields.ops.dispatch.checks_indices` says;
    not while `torch.compile` or `torch.func` look for the operations.
    """
    if not has_readable_values(index):
        return
    low, high = (int(value) for value in torch.aminmax(index))
    if high >= count or (least is not None and low < least):
        bad = low if least is not None and low < least else high
        expected = f"expected {least or 0} to {count - 1}" if count else "there is nothing to name"
        there = "" if count == MOST_VERTICES else f", but there are {count}"
        raise IndexError(f"{op}: {name} holds {bad}{there}; {expected}")


def check_faces(op: str, vertices: Tensor, faces: Tensor) -> None:
    """Raises TypeError, ValueError or IndexError unless `faces` (F, 3) are integers that name rows of `vertices`
    (..., V, 3), on their device; the range as `check_index`."""
    check_integer(op, "faces", faces)
    check_shape(op, "faces", faces, "f 3")
    check_same_device(op, vertices=vertices, faces=faces)
    check_index(op, "faces", faces, vertices.shape[-2])


def check_fractions(op: str, name: str, values: Tensor) -> None:
    """Raises ValueError where a value is not in [0, 1]; as `check_index`."""
    if not has_readable_values(values):
        return
    low, high = (float(value) for value in torch.aminmax(values))
    if not (low >= 0 and high <= 1):  # NaN too
        raise ValueError(f"{op}: {name} has values outside [0, 1] ({low:g} to {high:g}); pass torch.rand(N)")


def check_box(op: str, name: str, box: Tensor) -> None:
    """Raises ValueError unless the corners (2, 3) are finite and the first is the lower one; as `check_index`."""
    if has_readable_values(box) and not bool(box.isfinite().all() & (box[0] <= box[1]).all()):
        raise ValueError(f"{op}: {name} has the corners {box.tolist()}; expected finite ones, the lower corner first")


def has_readable_values(tensor: Tensor) -> bool:
    """Whether the values can be looked at without a wait for a GPU, and outside transforms and compilation."""
    transformed = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
    return not transformed and not tensor.is_meta and bool(tensor.numel()) and checks_indices(tensor.device)


def check_offsets(op: str, offsets: Tensor, samples: int) -> None:
    """Raises ValueError unless the offsets of packed rays rise from 0 to the number of samples; as `check_index`."""
    if offsets.is_meta or not checks_indices(offsets.device):
        return
    fits = offsets.ndim == 1 and offsets.numel() > 0 and offsets.dtype == torch.int64
    fits = fits and int(offsets[0]) == 0 and int(offsets[-1]) == samples
    if not fits or bool((offsets[1:] < offsets[:-1]).any()):
        raise ValueError(
            f"{op}: packed samples: offsets do not fit the {samples} samples; "
            "expected what ray_offsets(ray, rays) gives"
        )


EMPTY_CHILD = -(2**31)
MOST_LEVELS = 9
"""Levels of a tree, for which the kernels' stacks have room (csrc/bvh.h)."""


def check_tree(
    op: str, children: Tensor, order: Tensor, slot: Tensor, rows: int, levels: Sequence[int] | None = None
) -> None:
    """Raises ValueError unless these are a tree over `rows` faces or vertices, as csrc/bvh.h describes it: the check of
    the compiled module. On CUDA as `check_index`.

    Args:
        op: name of the operation.
        children, order, slot: (N, 8), (8 L,) and (L,) int32.
        rows: number of faces or vertices.
        levels: the first node of each level, for a refit.
    """
    nodes, leaves = len(children), len(slot)
    fits = children.ndim == 2 and children.shape[1] == 8 and nodes > 0 and order.shape == (8 * leaves,)
    fits = fits and slot.ndim == 1 and all(part.dtype == torch.int32 for part in (children, order, slot))
    if fits and levels is not None:
        ends = [*levels, nodes]
        fits = ends[0] == 0 and all(first < end for first, end in itertools.pairwise(ends))
    if fits and not children.is_meta and checks_indices(children.device):
        fits = _is_tree(children.cpu().numpy(), order.cpu().numpy(), slot.cpu().numpy(), rows)
    if not fits:
        raise ValueError(
            f"{op}: children, order and slot are not a tree over these faces or vertices; TriangleBVH and VertexTree "
            "build one"
        )


def _is_tree(children: np.ndarray, order: np.ndarray, slot: np.ndarray, rows: int) -> bool:
    """Whether no query of this tree reads outside an array, or more levels than its stack holds."""
    nodes, leaves = len(children), len(slot)
    inner = children >= 0
    named = children[inner]
    leaf = ~children[~inner & (children != EMPTY_CHILD)]
    below = np.flatnonzero(inner) // 8 < named  # children come after their parents, so there is no circle
    fits = bool(below.all() and (named < nodes).all() and (leaf < leaves).all())
    fits = fits and (not len(named) or int(np.bincount(named).max()) == 1)
    fits = fits and (not leaves or bool(order.min() >= -1 and order.max() < rows))
    if not fits or (leaves and not bool(slot.min() >= 0 and slot.max() < 8 * nodes)):
        return False
    level = np.zeros(1, dtype=np.int64)
    for _ in range(MOST_LEVELS):
        level = children[level].ravel()
        level = level[level >= 0]
        if not len(level):
            return True
    return False


def common_batch(op: str, **tensors: Tensor | None) -> int:
    """B of tensors with B rows, or one for all; 1 where there is none. Raises ValueError where sizes differ."""
    sizes = {name: tensor.shape[0] for name, tensor in tensors.items() if tensor is not None}
    batches = {size for size in sizes.values() if size != 1}
    if len(batches) > 1:
        listing = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{op}: batch sizes differ ({listing}); pass B rows or one for each")
    return batches.pop() if batches else 1


def require_shapes(op: str, fits: bool, **tensors: Tensor | None) -> None:
    """Raises ValueError with the shapes of all tensors unless `fits`: the check of a registered operation, which a
    program may call without the public function."""
    if not fits:
        listing = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if tensor is not None)
        raise ValueError(f"torch.ops.headfields.{op}: shapes disagree ({listing}); call the function in headfields.ops")


def no_third_derivative(op: str, definition: str | None = None) -> Callable[..., NoReturn]:
    """A backward for the second derivative of an operation that has no third: it raises NotImplementedError.

    Args:
        op: its name.
        definition: where in `headfields.ops.reference` its definition is, which has further ones; None: under its own
            name; empty: it has none either.
    """

    place = f"{op}.{op}" if definition is None else definition

    def backward(ctx: Any, *grads: Tensor | None) -> NoReturn:
        raise NotImplementedError(
            f"{op}: a third derivative is requested, and the operation has two"
            + (f"; headfields.ops.reference.{place} has all of them" if place else "")
        )

    return backward
