"""Occupancy grids: marching rays through a grid, and looking up points in it.

A grid divides the axis-aligned box `aabb` (2, 3), lower corner first, into X x Y x Z cells. Nothing here is
differentiable: samples are found, and positions are recomputed from them in PyTorch.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import (
    check_box,
    check_floating,
    check_fractions,
    check_same_device,
    check_shape,
    require_shapes,
)
from headfields.ops.dispatch import checks_indices, native, use_native, use_warp
from headfields.ops.reference import occupancy as reference
from headfields.ops.reference import sampling as reference_sampling
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch
from headfields.records import Samples

DEFAULT_BUDGET = 1 << 22
_MOST_STEPS = 1 << 30  # of one ray, in Warp, which counts them in 32 bits
_MOST_EDGES = 1 << 26  # of one ray's lattice, where the definition in PyTorch makes them all
_MOST_PADDED = 1 << 24  # of one ray, where a CPU marches into padded buffers


def march_occupancy(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    occupied: Bool[Tensor, "x y z"],
    aabb: Float[Tensor, "2 3"],
    step: float,
    budget: int = DEFAULT_BUDGET,
    jitter: Float[Tensor, " n"] | None = None,
    cone_angle: float = 0.0,
) -> Samples:
    """Samples of each ray's step lattice that lie in occupied cells.

    The step lattice of `headfields.ops.sampling.uniform_step` starts at `near`, is jittered once per ray, and does not
    depend on the grid. An interval is kept if the cell at its midpoint is occupied. Empty cells are skipped (Amanatides
    and Woo 1987), which changes the time and not the result. Steps grow with distance as in Müller et al. 2022,
    "Instant neural graphics primitives", appendix E.

    Args:
        origins, directions: (N, 3) meters and unit directions.
        near, far: (N,) meters along the direction. Rays with near >= far or a non-finite value get no samples.
        occupied: (X, Y, Z) cells; space outside the box is empty.
        aabb: (2, 3) the box, meters, lower corner first.
        step: shortest step length, meters.
        budget: maximum number of samples of all rays together.
        jitter: (N,) in [0, 1), as `torch.rand(N)`: fraction of a step by which the lattice is shifted toward `near`.
        cone_angle: growth of steps with distance; a step at distance t is max(step, cone_angle * t) long.

    Returns:
        Samples. Not differentiable.

    Raises:
        ValueError: there are more samples than `budget` (the message has the number), shapes do not fit, or jitter is
            outside [0, 1] or the box not finite or upside down (both checked on the CPU only).
        TypeError: a dtype does not fit.

    >>> import torch, headfields as hf
    >>> occupied = torch.zeros(2, 2, 2, dtype=torch.bool)
    >>> occupied[:, :, 1] = True  # the upper half of the box, in z
    >>> box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    >>> origins, directions = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    >>> near, far = torch.tensor([0.0]), torch.tensor([2.0])
    >>> samples = hf.ops.march_occupancy(origins, directions, near, far, occupied, box, step=0.5)
    >>> samples.ray.tolist(), samples.start.tolist(), samples.end.tolist()
    ([0, 0], [0.0, 0.5], [0.5, 1.0])
    """
    check_range("march_occupancy", near, far, jitter)
    for name, tensor in (("origins", origins), ("directions", directions)):
        check_floating("march_occupancy", name, tensor)
        check_shape("march_occupancy", name, tensor, f"{near.shape[0]} 3")
    _check_grid("march_occupancy", occupied, aabb)
    check_step("march_occupancy", step, cone_angle, near.dtype)
    check_same_device(
        "march_occupancy", origins=origins, directions=directions, near=near, occupied=occupied, aabb=aabb
    )
    dtype = near.dtype
    return Samples(
        *march_lattice(
            origins.detach().to(dtype),
            directions.detach().to(dtype),
            near.detach(),
            far.detach(),
            None if jitter is None else jitter.detach().to(dtype),
            occupied,
            aabb.detach().to(dtype),
            step,
            cone_angle,
            budget,
            "march_occupancy",
        )
    )


def march_padded(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    step: float,
    capacity: int,
    occupied: Bool[Tensor, "x y z"] | None = None,
    aabb: Float[Tensor, "2 3"] | None = None,
    jitter: Float[Tensor, " n"] | None = None,
) -> tuple[Samples, Int[Tensor, " offsets"], Int[Tensor, ""]]:
    """As `march_occupancy`, into buffers of a fixed size, so that a GPU is not waited for; space outside the grid is
    not culled.

    Args:
        origins, directions, near, far, step, jitter: as in `march_occupancy`.
        capacity: C, rows of the result.
        occupied, aabb: the grid, as in `march_occupancy`; None: every interval is kept.

    Returns:
        C rows, of which those behind the last offset are no samples: they are of ray 0 and have no length. The offsets
        (N + 1,) of the rays' samples, none above C: samples without room are left out, those of the last rays first.
        The number of samples () with and without room. Not differentiable.

    Raises:
        ValueError: capacity is below 1, shapes do not fit, or, on a CPU, a ray has more than 2^24 steps, jitter is
            outside [0, 1] or the box not finite or upside down.
        TypeError: a dtype does not fit.
    """
    check_range("march_padded", near, far, jitter)
    for name, tensor in (("origins", origins), ("directions", directions)):
        check_floating("march_padded", name, tensor)
        check_shape("march_padded", name, tensor, f"{near.shape[0]} 3")
    if (occupied is None) != (aabb is None):
        raise ValueError("march_padded: occupied and aabb belong together; pass both or neither")
    if occupied is not None and aabb is not None:
        _check_grid("march_padded", occupied, aabb)
    check_step("march_padded", step, 0.0, near.dtype)
    if capacity < 1:
        raise ValueError(f"march_padded: capacity is {capacity}; expected at least 1 row")
    check_same_device("march_padded", origins=origins, directions=directions, near=near, occupied=occupied, aabb=aabb)
    dtype = near.dtype
    ray, start, end, offsets, needed = _march_padded(
        origins.detach().to(dtype), directions.detach().to(dtype), near.detach(), far.detach(),
        None if jitter is None else jitter.detach().to(dtype), occupied,
        None if aabb is None else aabb.detach().to(dtype), step, capacity,
    )  # fmt: skip
    return Samples(ray, start, end), offsets, needed


def lookup_occupancy(
    points: Float[Tensor, "*batch 3"], occupied: Bool[Tensor, "x y z"], aabb: Float[Tensor, "2 3"]
) -> Bool[Tensor, "*batch"]:
    """Whether the cell that contains each point is occupied; False outside the box and for non-finite points.

    Args:
        points: (..., 3) meters, in the frame of the box.
        occupied: (X, Y, Z) cells.
        aabb: (2, 3) the box, meters, lower corner first. Its upper faces count as outside.

    Returns:
        (...) bool. Not differentiable.

    Raises:
        ValueError: a shape does not fit, or the box is not finite or upside down (checked on the CPU only).
        TypeError: a dtype does not fit.
    """
    check_floating("lookup_occupancy", "points", points)
    check_shape("lookup_occupancy", "points", points, "... 3")
    _check_grid("lookup_occupancy", occupied, aabb)
    check_same_device("lookup_occupancy", points=points, occupied=occupied, aabb=aabb)
    if points.dtype in (torch.float16, torch.bfloat16):
        points = points.float()
    flat = points.detach().reshape(-1, 3)
    return _lookup(flat, occupied, aabb.detach().to(points.dtype)).reshape(points.shape[:-1])


def check_range(op: str, near: Tensor, far: Tensor, jitter: Tensor | None = None) -> None:
    """Raises unless near, far (and jitter) are floating-point, (N,) and of one shape, dtype and device, and jitter in
    [0, 1] (checked on the CPU only)."""
    given = {"near": near, "far": far} | ({} if jitter is None else {"jitter": jitter})
    for name, tensor in given.items():
        check_floating(op, name, tensor)
        if tensor.dim() != 1 or tensor.shape != near.shape:
            raise ValueError(
                f"{op}: {name} has shape {tuple(tensor.shape)}; expected (N,), near has {tuple(near.shape)}"
            )
    if near.dtype not in (torch.float32, torch.float64) or far.dtype != near.dtype:
        raise TypeError(f"{op}: near is {near.dtype} and far {far.dtype}; expected both float32 or both float64")
    check_same_device(op, near=near, far=far, jitter=jitter)
    if jitter is not None:
        check_fractions(op, "jitter", jitter.detach())


def check_step(op: str, step: float, cone_angle: float, dtype: torch.dtype) -> None:
    """Raises unless step > 0, also in the dtype of the distances, and cone_angle >= 0, both finite."""
    for name, value in (("step", step), ("cone_angle", cone_angle)):
        if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
            raise TypeError(f"{op}: {name} is a {type(value).__name__}; expected a number")
    if not 0 < step < float("inf"):
        raise ValueError(f"{op}: step is {step}; expected a positive length in meters")
    if step < torch.finfo(dtype).tiny:
        raise ValueError(
            f"{op}: step is {step}, which {dtype} cannot hold; expected a length in meters, such as 0.0025 (no ray is "
            "sampled more finely than its distances are rounded)"
        )
    if not 0 <= cone_angle < float("inf"):
        raise ValueError(f"{op}: cone_angle is {cone_angle}; expected 0 (constant steps) or a positive ratio")


def _check_grid(op: str, occupied: Tensor, aabb: Tensor) -> None:
    check_shape(op, "occupied", occupied, "x y z")
    if occupied.dtype != torch.bool:
        raise TypeError(f"{op}: occupied has dtype {occupied.dtype}; expected bool (densities > threshold)")
    if occupied.numel() == 0:
        raise ValueError(
            f"{op}: occupied has shape {tuple(occupied.shape)}; expected at least one cell along each axis"
        )
    check_floating(op, "aabb", aabb)
    check_shape(op, "aabb", aabb, "2 3")
    check_box(op, "aabb", aabb)


@torch.library.custom_op("headfields::occupancy_lookup", mutates_args=())
def _lookup(points: Tensor, occupied: Tensor, aabb: Tensor) -> Tensor:
    points, occupied, aabb = points.contiguous(), occupied.contiguous(), aabb.contiguous()
    out = torch.empty(points.shape[0], dtype=torch.bool, device=points.device)
    if use_native(points):
        native.lookup(points, occupied.view(torch.uint8), aabb, out.view(torch.uint8), torch.get_num_threads())
    elif use_warp(points):
        fits = points.ndim == 2 and points.shape[1] == 3 and occupied.ndim == 3 and occupied.numel() > 0
        require_shapes("occupancy_lookup", fits and aabb.shape == (2, 3), points=points, occupied=occupied, aabb=aabb)
        launch("occupancy.lookup", points.shape[0], points, occupied.view(torch.uint8), aabb, out.view(torch.uint8))
    else:
        return reference.lookup(points, occupied, aabb)
    return out


@torch.library.custom_op("headfields::march", mutates_args=())
def march_lattice(
    origins: Tensor | None, directions: Tensor | None, near: Tensor, far: Tensor, jitter: Tensor | None,
    occupied: Tensor | None, aabb: Tensor | None, step: float, cone_angle: float, budget: int, op: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`march_occupancy`, or without a grid `uniform_step`, which keeps every interval. Two passes: count, then fill."""
    arguments: list[Any] = [None if t is None else t.contiguous() for t in (origins, directions, near, far, jitter)]
    cells = None if occupied is None else occupied.contiguous().view(torch.uint8)
    box = None if aabb is None else aabb.contiguous()
    rays, threads = near.shape[0], torch.get_num_threads()
    counts = torch.empty(rays, dtype=torch.long, device=near.device)
    if use_native(near):
        arguments = [*arguments, cells, box, step, cone_angle]
        native.march_count(*arguments, counts, threads)
    elif use_warp(near):
        _check_march(op, origins, directions, near, far, jitter, cells, box, step, cone_angle, budget)
        nothing = near.new_empty(0)
        arguments = [near.new_empty(0, 3) if t is None else t for t in arguments[:2]] + arguments[2:]
        arguments[4] = torch.zeros_like(near) if jitter is None else arguments[4]
        arguments += [near.new_empty(0, 0, 0, dtype=torch.uint8) if cells is None else cells]
        arguments += [near.new_empty(0, 3) if box is None else box, step, cone_angle, False]
        launch_march = lambda fill, *out: launch("occupancy.march", rays, *arguments, fill, *out)  # noqa: E731
        launch_march(False, counts, counts, nothing, nothing)
    else:
        # Every edge of the lattices is made, also in empty cells: a few rays at a time, and none of too many edges.
        edges = reference_sampling.step_count(near, far, step, cone_angle)
        if occupied is None:
            _check_budget(op, max(int(edges.sum()) - 2 * rays, 0), budget, rays)
        longest = float(edges.max()) + 3 if rays else 1.0
        _check_budget(f"{op} (in float64 without the compiled module)", int(longest), _MOST_EDGES, 1)
        parts = []
        for first in range(0, max(rays, 1), chunk := max(int((1 << 22) / longest), 1)):
            own = slice(first, first + chunk)
            shift = None if jitter is None else jitter[own]
            if occupied is None or origins is None or directions is None or aabb is None:
                ray, start, end = reference_sampling.uniform_step(near[own], far[own], step, cone_angle, shift)
            else:
                ray, start, end = reference.march(
                    origins[own], directions[own], near[own], far[own], occupied, aabb, step, cone_angle, shift
                )  # fmt: skip
            parts.append((ray + first, start, end))
            _check_budget(op, sum(len(part[0]) for part in parts), budget, rays)
        rays_of, starts, ends = (torch.cat(column) for column in zip(*parts, strict=True))
        return rays_of, starts, ends
    offsets = torch.zeros(rays + 1, dtype=torch.long, device=near.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    total = int(offsets[-1])
    _check_budget(op, total, budget, rays)
    ray = torch.empty(total, dtype=torch.long, device=near.device)
    start, end = near.new_empty(total), near.new_empty(total)
    if use_native(near):
        native.march_fill(*arguments, offsets, ray, start, end, threads)
    else:
        launch_march(True, offsets, ray, start, end)
    if occupied is not None or not total or near.device.type != "cpu":  # a GPU would be waited for
        return ray, start, end
    longer = start < end
    if bool(longer.all()):
        return ray, start, end
    return ray[longer], start[longer], end[longer]  # some intervals, the first of a ray above all, are rounded to none


def _check_march(
    op: str, origins: Tensor | None, directions: Tensor | None, near: Tensor, far: Tensor, jitter: Tensor | None,
    cells: Tensor | None, box: Tensor | None, step: float, cone_angle: float, budget: int,
) -> None:  # fmt: skip
    """What the kernel takes for granted, as the compiled one checks it; of a call that skips the public function."""
    rays = len(near)
    fits = near.ndim == 1 and far.shape == near.shape and (jitter is None or jitter.shape == near.shape)
    if cells is not None:
        given = all(tensor is not None and tensor.shape == (rays, 3) for tensor in (origins, directions))
        fits = fits and given and cells.ndim == 3 and cells.numel() > 0 and box is not None and box.shape == (2, 3)
    require_shapes("march", fits, near=near, far=far, jitter=jitter, origins=origins, directions=directions,
                   occupied=cells, aabb=box)  # fmt: skip
    check_step(op, step, cone_angle, near.dtype)
    if near.is_meta or not checks_indices(near.device) or not rays:
        return
    edges = reference_sampling.step_count(near, far, step, cone_angle)
    if cells is None:
        _check_budget(op, max(int(edges.sum()) - 2 * rays, 0), budget, rays)
    elif float(edges.max()) > _MOST_STEPS:
        raise ValueError(f"{op}: a ray has {float(edges.max()):.3g} steps of {step} m; lengthen step")


def _check_budget(op: str, total: int, budget: int, rays: int) -> None:
    if total > budget:
        raise ValueError(
            f"{op}: {rays} rays have {total} samples, more than budget = {budget}; raise budget to at least {total}, "
            "lengthen step, or pass fewer rays per call"
        )


def _march_lattice_shapes(origins: Any, directions: Any, near: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    return near.new_empty(total, dtype=torch.long), near.new_empty(total), near.new_empty(total)


@torch.library.custom_op("headfields::march_padded", mutates_args=())
def _march_padded(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, jitter: Tensor | None,
    occupied: Tensor | None, aabb: Tensor | None, step: float, capacity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`march_padded`. Two passes, count and fill, without a look at the count between them."""
    rays = near.shape[0]
    ray, start, end = near.new_zeros(capacity, dtype=torch.long), near.new_zeros(capacity), near.new_zeros(capacity)
    counts = near.new_empty(rays, dtype=torch.long)
    offsets = near.new_zeros(rays + 1, dtype=torch.long)
    if use_warp(near):
        if checks_indices(near.device):
            _longest_padded(origins, directions, near, far, occupied, step)
        most = torch.iinfo(torch.long).max
        _check_march("march_padded", origins, directions, near, far, jitter, occupied, aabb, step, 0.0, most)
        arguments: list[Any] = [tensor.contiguous() for tensor in (origins, directions, near, far)]
        arguments.append(torch.zeros_like(near) if jitter is None else jitter.contiguous())
        cells = near.new_empty(0, 0, 0, dtype=torch.bool) if occupied is None else occupied.contiguous()
        box = near.new_empty(0, 3) if aabb is None else aabb.contiguous()
        arguments += [cells.view(torch.uint8), box, step, 0.0, True]
        launch("occupancy.march", rays, *arguments, False, counts, ray, start, end)
        torch.cumsum(counts, 0, out=offsets[1:])
        launch("occupancy.march", rays, *arguments, True, offsets, ray, start, end)
    else:  # what it means, for the CPU, which may read sizes
        if occupied is not None:
            far = torch.where((origins + directions).isfinite().all(dim=-1), far, near)
        longest = _longest_padded(origins, directions, near, far, occupied, step)
        if jitter is not None:
            check_fractions("march_padded", "jitter", jitter)
        total = 0
        for first in range(0, rays, chunk := max(int(DEFAULT_BUDGET / longest), 1)):
            own = slice(first, first + chunk)
            intervals = march_lattice(
                None, None, near[own], far[own], None if jitter is None else jitter[own], None, None, step, 0.0,
                max(2 * _MOST_PADDED, DEFAULT_BUDGET), "march_padded",
            )  # fmt: skip
            of_ray = intervals[0] + first
            columns = (of_ray, *intervals[1:])
            if occupied is not None and aabb is not None:
                places = origins[of_ray] + (0.5 * (columns[1] + columns[2]))[:, None] * directions[of_ray]
                inside = torch.ones_like(occupied)
                keep = _lookup(places, occupied, aabb) | ~_lookup(places, inside, aabb)
                columns = tuple(column[keep] for column in columns)
            offsets[1 + first : 1 + first + chunk] = torch.bincount(columns[0] - first, minlength=len(near[own]))
            for padded, column in zip((ray, start, end), columns, strict=True):
                padded[total : total + len(column)] = column[: max(capacity - total, 0)]
            total += len(columns[0])
        offsets.cumsum_(0)
    return ray, start, end, offsets.clamp(max=capacity), offsets[-1].clone()


def _longest_padded(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupied: Tensor | None, step: float
) -> float:
    """The number of edges of the longest ray; raises where it is too large. A GPU would be waited for."""
    check_step("march_padded", step, 0.0, near.dtype)
    if occupied is not None:
        far = torch.where((origins + directions).isfinite().all(dim=-1), far, near)
    longest = float(reference_sampling.step_count(near, far, step, 0.0).max()) + 3 if len(near) else 1.0
    if longest > _MOST_PADDED:
        raise ValueError(f"march_padded: a ray has {longest:.3g} steps of {step} m; lengthen step")
    return longest


def _march_padded_shapes(
    origins: Tensor, directions: Tensor, near: Tensor, far: Any, jitter: Any, occupied: Any, aabb: Any, step: Any,
    capacity: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    columns = (near.new_empty(capacity, dtype=torch.long), near.new_empty(capacity), near.new_empty(capacity))
    offsets = near.new_empty(near.shape[0] + 1, dtype=torch.long)
    return *columns, offsets, near.new_empty((), dtype=torch.long)


register_op(_march_padded, _march_padded_shapes, None, remedy="samples are constants: detach the arguments")
register_op(
    _lookup, lambda points, *_: points.new_empty(points.shape[0], dtype=torch.bool), None, rows=(0,),
    remedy="an occupancy is a constant: detach the arguments",
)  # fmt: skip
register_op(march_lattice, _march_lattice_shapes, None, remedy="samples are constants: detach the arguments")
