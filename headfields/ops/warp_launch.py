"""Launching a Warp kernel on torch tensors: their device, their CUDA stream, and no copies."""

import functools
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from headfields.ops._checks import check_index, check_tree, require_shapes
from headfields.ops.dispatch import require_cuda, warp, warp_cache

__all__ = ["launch", "launch_refit", "launch_search"]


_BLOCKS = {"ray_mesh": 32, "closest_triangle": 64, "nearest_vertices": 64, "occupancy": 64}
"""Threads of a block of these files' kernels on CUDA, Warp's 256 elsewhere. They run a thread for each of some thousand
rays or points, whose searches differ in length: small blocks reach every multiprocessor, and a long search holds few
others up. One number for a file, which Warp would compile again for another."""

_streams: dict[tuple[torch.device, int], Any] = {}  # torch has a pool of 32 a device and priority, and frees none
_making = threading.Lock()
_LEAF = {"closest": 144, "raycast": 144, "interval": 144, "nearest": 24}
"""Floats of a leaf, by the kernel that reads it."""


@functools.cache
def _kernel(name: Any) -> tuple[Any, list[Any], list[int], int]:
    """A kernel, the types of its arguments, the number of axes of the tensors that stand for them, and the threads of a
    block."""
    kernel, file = name, ""
    if isinstance(name, str):
        file, attribute = name.split(".")
        kernel = getattr(import_module(f"headfields.ops.kernels.{file}"), attribute)
    types = [argument.type for argument in kernel.adj.args]
    ranks = [getattr(kind, "ndim", 0) + len(getattr(getattr(kind, "dtype", None), "_shape_", ())) for kind in types]
    return kernel, types, ranks, _BLOCKS.get(file, 256)


def cuda_stream(stream: Any) -> Any:
    """Warp's view of one of torch's CUDA streams: made once, as each makes an event and enters an unlocked map."""
    key = (stream.device, stream.cuda_stream)
    view = _streams.get(key)
    if view is None:
        with _making:
            view = _streams.get(key) or _streams.setdefault(key, warp().stream_from_torch(stream))
    return view


def launch(name: Any, dim: int | tuple[int, ...], *arguments: Any) -> None:
    """Launches a kernel on the device, and CUDA stream, of its first tensor.

    Args:
        name: "file.kernel" in `headfields.ops.kernels`, no generic kernel; or a kernel that was made for its arguments.
        dim: threads, one number or one for each dimension; nothing is launched where one is 0.
        arguments: arguments of the kernel, in order; tensors are contiguous and stand for arrays, whose element may be
            a vector.
    """
    if dim == 0 or (isinstance(dim, tuple) and 0 in dim):
        return
    device: torch.device = next(a.device for a in arguments if isinstance(a, Tensor))
    if device.type == "cuda":
        require_cuda()
    wp = warp()
    kernel, types, ranks, block = _kernel(name)
    # A kernel takes its arrays' memory, strides and number of axes for granted.
    for argument, rank in zip(arguments, ranks, strict=True):
        if not isinstance(argument, Tensor):
            continue
        if argument.device != device or (argument.numel() and argument.ndim != rank):
            listing = ", ".join(f"{tuple(a.shape)} on {a.device}" for a in arguments if isinstance(a, Tensor))
            raise ValueError(
                f"headfields: kernel {kernel.key}: arguments have another shape or device than it takes ({listing}); "
                "call the function in headfields.ops"
            )
    stream = cuda_stream(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    converted = [
        wp.from_torch(argument.detach(), dtype=kind.dtype, return_ctype=True)
        if isinstance(argument, Tensor)
        else argument
        for argument, kind in zip(arguments, types, strict=True)
    ]
    with warp_cache():  # the first launch compiles
        wp.launch(kernel, dim, converted, device=wp.device_from_torch(device), stream=stream, block_dim=block)


def launch_refit(
    file: str, inputs: tuple[Tensor, ...], children: Tensor, slot: Tensor, levels: Sequence[int],
    bounds: Tensor, leaves: Tensor,
) -> None:  # fmt: skip
    """Refits a tree over B meshes: fills its leaves, then its levels of nodes from the lowest up.

    Args:
        file: file of the kernel `refit_leaves`.
        inputs: arguments of that kernel before `slot`.
        children, slot, levels: the topology that `build_topology` gives.
        bounds: (B, nodes, 48) to fill.
        leaves: (B, leaves, ...) to fill.

    Raises:
        ValueError: it is no tree (not checked on CUDA).
    """
    vertices, *faces, order = inputs
    op, rows = f"{file}: refit", len(faces[0]) if faces else vertices.shape[1]
    require_shapes(op, vertices.ndim == 3 and vertices.shape[2] == 3, vertices=vertices)
    check_tree(op, children, order, slot, rows, levels)
    for corners in faces:
        require_shapes(op, corners.ndim == 2 and corners.shape[1] == 3, faces=corners)
        check_index(op, "faces", corners, vertices.shape[1])
    boxes = bounds.flatten(1)
    launch(f"{file}.refit_leaves", (len(bounds), len(slot)), *inputs, slot, boxes, leaves.flatten(1))
    ends = [*levels[1:], len(children)]
    for first, end in reversed(list(zip(levels, ends, strict=True))):
        launch("closest_triangle.refit_nodes", (len(bounds), end - first), children, first, boxes)


def launch_search(
    name: str, queries: tuple[Tensor, ...], mesh_index: Tensor | None, tree: tuple[Tensor, Tensor, Tensor], rows: int,
    bounds: Tensor, leaves: Tensor, *arguments: Any, ordered: bool = True,
) -> None:  # fmt: skip
    """Searches a tree over B meshes, one thread per query.

    Args:
        name: name of the kernel, as `launch` takes it.
        queries: (N, ...) points, or origins and directions.
        mesh_index: (N,) int32, or None for the first mesh.
        tree: children, order and slot.
        rows: number of faces or vertices of a mesh.
        bounds, leaves: tensors filled by `launch_refit`.
        arguments: the rest of the kernel's.
        ordered: whether the kernel reads `order`.

    Raises:
        ValueError: it is no tree, or a shape does not fit it.
        IndexError: mesh_index is out of range, or there is no mesh (neither is checked on CUDA).
    """
    op, (children, order, slot), count = name.split(".")[1], tree, len(queries[0])
    fits = all(query.shape == (count, 3) for query in queries)
    fits = fits and (mesh_index is None or (mesh_index.shape == (count,) and mesh_index.dtype == torch.int32))
    fits = fits and bounds.ndim == leaves.ndim == 3 and len(bounds) == len(leaves)
    fits = fits and bounds.shape[1:] == (len(children), 48) and leaves.shape[1:] == (len(slot), _LEAF[op])
    require_shapes(op, fits, queries=queries[0], mesh_index=mesh_index, bounds=bounds, leaves=leaves)
    check_tree(op, children, order, slot, rows)
    if mesh_index is not None:
        check_index(op, "mesh_index", mesh_index, len(bounds))
    elif count and not len(bounds):
        raise IndexError(f"{op}: there is no mesh to query")
    index = children.view(-1) if mesh_index is None else mesh_index  # without one, any array of its type
    topology = (children, order) if ordered else (children,)
    launch(
        name, count, *queries, index, int(mesh_index is not None), *topology,
        bounds.flatten(1), leaves.flatten(1), *arguments,
    )  # fmt: skip
