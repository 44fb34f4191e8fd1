"""Marching cubes: the isosurface of values on a grid, with differentiable vertices."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headfields.ops._checks import check_box, check_floating, check_same_device, check_shape, require_shapes
from headfields.ops._marching_table import marching_table
from headfields.ops.dispatch import native, use_native
from headfields.ops.reference import marching_cubes as reference
from headfields.ops.registration import register_op


@dataclass(frozen=True)
class Isosurface:
    """Result of `marching_cubes`.

    Attributes:
        vertices: (V, 3) in meters with `bounds`, else in cells from the grid's first point.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        ends: (V, 2) int64 flat indices of the two grid points between which each vertex lies.
        fraction: (V,) position between them: 0 at the first, 1 at the second.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int64[Tensor, "f 3"]
    ends: Int64[Tensor, "v 2"]
    fraction: Float[Tensor, " v"]

    def interpolate(self, attributes: Float[Tensor, "d h w c"]) -> Float[Tensor, "v c"]:
        """Attributes (V, C) at the vertices, of attributes (D, H, W, C) of the grid points. Differentiable."""
        low, high = attributes.flatten(0, 2)[self.ends].unbind(1)
        return low + (high - low) * self.fraction[:, None]


@torch.library.custom_op("headfields::crossed_edges", mutates_args=())
def _crossed_edges(values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    require_shapes("crossed_edges", values.ndim == 3 and level.ndim == 0, values=values, level=level)
    if not _native_serves(values):
        return reference.crossed_edges(values < level)
    values, table, threads = values.detach().contiguous(), marching_table(values.device), torch.get_num_threads()
    depth, height, width = values.shape
    bits = torch.empty(depth, height, -(-width // 64), dtype=torch.long)
    first_edge, first_triangle = torch.empty(2, depth * height + 1, dtype=torch.long)
    native.marching_scan(values, float(level), table.totals, bits, first_edge, first_triangle, threads)
    edge = torch.empty(int(first_edge[-1]), dtype=torch.long)
    faces = torch.empty(int(first_triangle[-1]), 3, dtype=torch.long)
    native.marching_emit(bits, width, table.totals, table.triangles, first_edge, first_triangle, edge, faces, threads)
    return edge, faces


def _native_serves(values: Tensor) -> bool:
    return use_native(values) and values.dtype in (torch.float32, torch.float64) and min(values.shape) >= 2


def _crossed_edges_shapes(values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    context: Any = torch.library.get_ctx()
    edges, faces = context.new_dynamic_size(), context.new_dynamic_size()
    return values.new_empty(edges, dtype=torch.long), values.new_empty(faces, 3, dtype=torch.long)


register_op(_crossed_edges, _crossed_edges_shapes, None)


@torch.library.custom_op("headfields::edge_vertices", mutates_args=())
def _edge_vertices(values: Tensor, level: Tensor, edge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fits = values.ndim == 3 and level.ndim == 0 and edge.ndim == 1 and edge.dtype == torch.int64
    require_shapes("edge_vertices", fits, values=values, level=level, edge=edge)
    if not _native_serves(values):
        return reference.edge_vertices(values, level, edge)
    vertices, ends = values.new_empty(len(edge), 3), edge.new_empty(len(edge), 2)
    fraction = values.new_empty(len(edge))
    native.marching_vertices(
        values.detach().contiguous(), float(level), edge.contiguous(), ends, fraction, vertices, torch.get_num_threads()
    )
    return vertices, ends, fraction


def _edge_vertices_shapes(values: Tensor, level: Tensor, edge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = edge.shape[0]
    return values.new_empty(count, 3), edge.new_empty(count, 2), values.new_empty(count)


def _edge_derivative(ctx: Any, by_vertices: Tensor, _: Any, by_fraction: Tensor) -> tuple[Tensor | None, ...]:
    values, level, edge = ctx.saved_tensors

    def places(values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        vertices, _, fraction = reference.edge_vertices(values, level, edge)
        return vertices, fraction

    _, pull = torch.func.vjp(places, values, level)
    return *pull((by_vertices, by_fraction)), None


register_op(_edge_vertices, _edge_vertices_shapes, reference.edge_vertices, derivative=_edge_derivative)


def marching_cubes(
    values: Float[Tensor, "d h w"],
    level: float | Float[Tensor, ""] = 0.0,
    bounds: Float[Tensor, "2 3"] | None = None,
) -> Isosurface:
    """The surface on which values on a grid reach a level: closed but for where it meets the grid's border.

    Inside is where a value is below the level, as for a signed distance; for a density pass `-density` and `-level`.
    Vertices are shared, every edge away from the border belongs to two faces, and the triangles at a vertex form one
    fan. Where a cell's face has inside corners across its diagonal, they stay apart (our table; see
    `headfields.ops._marching_table`), so the surface is a manifold but not always that of the trilinear interpolant.

    The kernel finds the edges of the grid that the surface cuts, and the faces; where along its edge a vertex lies is
    computed in PyTorch. So vertices are differentiable to any order in values, level and bounds, and move along their
    grid edges.

    Args:
        values: (D, H, W) at the points of a grid, whose axes are x, y and z. NaN is outside. A size below 2 has no
            cells and gives no surface.
        level: a number, or a tensor () that may require a gradient.
        bounds: (2, 3) positions of the first and last grid point, meters; None: vertices are in cells.

    Returns:
        An `Isosurface`. Its vertices are in the dtype of the values, and the same on every backend. A
        value that equals the level puts all vertices about its point there, so some faces have no area. Next to a NaN
        or an infinity a vertex is half-way along its edge, with no gradient.

    Raises:
        TypeError: values or bounds are not floating point.
        ValueError: a shape does not fit, devices differ, or level is NaN.

    On CPU the compiled module finds the edges; on CUDA, and without the module, the vectorized reference does, which
    sorts the cut edges.

    Source: Lorensen and Cline 1987, "Marching cubes".

    >>> import torch, headfields as hf
    >>> line = torch.linspace(-1, 1, 9)
    >>> distance = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).norm(dim=-1) - 0.5  # a ball
    >>> surface = hf.ops.marching_cubes(distance, bounds=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    >>> surface.vertices.shape[1], len(surface.vertices) - len(surface.faces) // 2  # Euler characteristic of a sphere
    (3, 2)
    """
    check_floating("marching_cubes", "values", values)
    check_shape("marching_cubes", "values", values, "D H W")
    if isinstance(level, Tensor):
        check_floating("marching_cubes", "level", level)
        if level.ndim:
            raise ValueError(f"marching_cubes: level has shape {tuple(level.shape)}; expected a number or ()")
        at = level.to(values)
    else:
        if level != level:
            raise ValueError("marching_cubes: level is NaN; expected a number")
        at = values.new_full((), level)
    if bounds is not None:
        check_floating("marching_cubes", "bounds", bounds)
        check_shape("marching_cubes", "bounds", bounds, "2 3")
        check_same_device("marching_cubes", values=values, bounds=bounds)
        check_box("marching_cubes", "bounds", bounds)
    return Isosurface(*_surface(values, at, bounds))


def _surface(values: Tensor, level: Tensor, bounds: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of the `Isosurface`."""
    edge, faces = _crossed_edges(values.detach(), level.detach())
    vertices, ends, fraction = _edge_vertices(values, level, edge)
    if bounds is not None:
        cells = torch.tensor([max(size - 1, 1) for size in values.shape], dtype=values.dtype, device=values.device)
        corner = bounds.to(values.dtype)
        vertices = corner[0] + vertices * ((corner[1] - corner[0]) / cells)
    return vertices, faces, ends, fraction
