"""Antialiasing of silhouettes in a point-sampled image of a mesh, which gives outlines gradients.

Neighboring pixels are blended by where a silhouette edge crosses the segment between their centers, after Laine et al.
2020, "Modular primitives for high-performance differentiable rendering", section 3.6. Our own choices: overlapping
shares are scaled to fill a pixel, and the search starts from the edges, not from the pixels. Every silhouette edge of
the mesh is traced over the pixels, so edges of triangles that are smaller than a pixel, or too thin for any pixel
center to hit, are found too.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import (
    MOST_VERTICES,
    check_floating,
    check_index,
    check_integer,
    check_record,
    check_same_device,
    check_shape,
)
from headfields.ops.mesh_topology import unique_edges
from headfields.records import Record


@dataclass(frozen=True)
class MeshEdges(Record):
    """The edges of a triangle mesh, computed once for a topology by `mesh_edges`. No gradient.

    Attributes:
        ends: (E, 2) the vertices at both ends.
        corner_edge: (3 F,) the edge opposite each corner of each face, face by face.
        corner: (3 F,) the vertex at that corner.
    """

    ends: Int[Tensor, "e 2"]
    corner_edge: Int[Tensor, " c"]
    corner: Int[Tensor, " c"]


@dataclass(frozen=True)
class Crossings(Record):
    """Crossings of silhouette edges with the segments between the centers of neighboring pixels.

    Attributes:
        near: (M,) the pixel on the edge's inner side, as row · W + column; it shows the surface that ends at the edge.
        far: (M,) its neighbor across the edge, which shows what is behind.
        position: (M,) where between the two centers, 0 at the near one and 1 at the far one; differentiable.
        point: (M, 2) the same in pixels (x right, y down); differentiable.
        edge: (M,) which edge.
        outer: (M,) whether the background is behind (the outline of the mesh), and not the mesh itself (a fold).
    """

    near: Int[Tensor, " m"]
    far: Int[Tensor, " m"]
    position: Float[Tensor, " m"]
    point: Float[Tensor, "m 2"]
    edge: Int[Tensor, " m"]
    outer: Bool[Tensor, " m"]


def mesh_edges(faces: Int[Tensor, "f 3"]) -> MeshEdges:
    """The edges of a mesh and the corners opposite them.

    Args:
        faces: (F, 3) vertex indices. Duplicate vertices (along seams) leave two border edges there; merge them first.

    Raises:
        TypeError: faces are not integers.
        ValueError: they are not (F, 3).
        IndexError: one is negative, or above 2^31 - 1 (checked on the CPU only).
    """
    check_integer("mesh_edges", "faces", faces)
    check_shape("mesh_edges", "faces", faces, "F 3")
    check_index("mesh_edges", "faces", faces, MOST_VERTICES)
    ends, edge = unique_edges(faces)
    return MeshEdges(ends, edge.roll(-1, 1).reshape(-1), faces.long().reshape(-1))


def silhouette_crossings(
    pixels: Float[Tensor, "v 2"],
    vertex_depth: Float[Tensor, " v"],
    edges: MeshEdges,
    depth: Float[Tensor, "h w"],
    mask: Bool[Tensor, "h w"],
) -> Crossings:
    """The crossings of the visible silhouette of a mesh with the segments between neighboring pixels.

    An edge is a silhouette if all of its faces lie on one side of it in the image: a border, an edge whose two faces
    look opposite ways, or where any number of faces fold over. Steep edges are traced from row to row (and cross the
    segment between two pixels side by side), flat ones from column to column, so the outline is counted once, and a
    moving edge changes the image by just the area that it sweeps. A crossing counts if the surface at the far pixel is
    behind the edge, and the surface at the near pixel lies nearer to the edge's depth than that; of several in one
    place, the outermost. Edges of a face that has a corner behind the camera are left out.

    Differentiable to any order in `pixels` (`position`, `point`): the edges are found in float64 without a graph, and
    the crossings computed from their ends.

    Args:
        pixels: (V, 2) vertices in the image, as `Camera.project` gives them.
        vertex_depth: (V,) their depth along the optical axis.
        edges: edges of the mesh.
        depth: (H, W) depth of the surface at each pixel's center, along the optical axis; ignored outside `mask`.
        mask: (H, W) whether the pixel's center shows the mesh.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, or devices differ.
    """
    op = "silhouette_crossings"
    for name, tensor, shape in (("pixels", pixels, "V 2"), ("vertex_depth", vertex_depth, f"{len(pixels)}")):
        check_floating(op, name, tensor)
        check_shape(op, name, tensor, shape)
    check_floating(op, "depth", depth)
    check_shape(op, "depth", depth, "H W")
    check_shape(op, "mask", mask, f"{depth.shape[0]} {depth.shape[1]}")
    check_same_device(op, pixels=pixels, vertex_depth=vertex_depth, edges=edges.ends, depth=depth, mask=mask)
    with torch.no_grad():
        place, away = pixels.detach().double(), vertex_depth.detach().double()
        edge, inside = _silhouettes(place, away, edges)
        surface = torch.where(mask, depth.detach().double(), torch.inf).reshape(-1)
        size = (depth.shape[0], depth.shape[1])
        parts = [_trace_edges(place, away, edges.ends[edge], inside, surface, size, along) for along in (1, 0)]
        row_of = [part[0] for part in parts]
        near, far, at = (torch.cat([part[k] for part in parts]) for k in (1, 2, 3))
        along = torch.cat([torch.full_like(part[0], axis) for part, axis in zip(parts, (1, 0), strict=True)])
        chosen = _outermost(near, far, at, surface.numel())
        picked = edge[torch.cat(row_of)][chosen]
        near, far, along = near[chosen], far[chosen], along[chosen]
    return _differentiable(pixels, edges.ends[picked], picked, near, far, along, size[1], ~mask.reshape(-1)[far])


def antialias(image: Float[Tensor, "h w c"], crossings: Crossings) -> Float[Tensor, "h w c"]:
    """Blends neighboring pixels by where a silhouette passes between them.

    A pixel is taken for the segment of length 1 about its center: if the edge crosses within the near pixel's half,
    the part beyond it has the far pixel's color, and the other way round. Where the shares of several edges exceed a
    pixel, they are scaled to fill it, so that the result is a mean of colors.

    Differentiable to any order in the image and in `crossings.position`. The
    derivative of the sum of a coverage image is, on average over sub-pixel shifts, that of the area.

    Args:
        image: (H, W, C) sampled at pixel centers, any values; transparent colors premultiplied.
        crossings: crossings in the same image, from `silhouette_crossings`.

    Raises:
        TypeError: image is not floating point.
        ValueError: image is not (H, W, C), or devices differ.
        IndexError: crossings name a pixel outside the image (CPU).
    """
    check_floating("antialias", "image", image)
    check_record("antialias", "crossings", crossings, Crossings)
    check_shape("antialias", "image", image, "H W C")
    check_same_device("antialias", image=image, crossings=crossings.near)
    flat = image.flatten(0, -2)
    beyond = crossings.position - 0.5
    inward = beyond < 0
    target = torch.where(inward, crossings.near, crossings.far)
    source = torch.where(inward, crossings.far, crossings.near)
    share = beyond.abs().to(flat.dtype)
    total = flat.new_zeros(len(flat)).index_add(0, target, share)
    share = share / total.clamp(min=1)[target]
    change = share[:, None] * (flat.index_select(0, source) - flat.index_select(0, target))
    return flat.index_add(0, target, change).reshape(image.shape)


def _silhouettes(place: Tensor, away: Tensor, edges: MeshEdges) -> tuple[Tensor, Tensor]:
    """Indices of the silhouette edges, and the side (+1 or -1) on which their faces lie."""
    if not len(edges.corner):
        return edges.corner, place.new_zeros(0)
    usable = (away > 0) & place.isfinite().all(-1)
    a, b = (place[edges.ends[:, k]] for k in (0, 1))
    line = b - a
    reach = place[edges.corner] - a[edges.corner_edge]
    own = line[edges.corner_edge]
    side = (own[:, 0] * reach[:, 1] - own[:, 1] * reach[:, 0]).sign()
    side = torch.where(usable[edges.corner], side, torch.nan)
    count = len(edges.ends)
    total = place.new_zeros(count).index_add(0, edges.corner_edge, side)
    voting = place.new_zeros(count).index_add(0, edges.corner_edge, side.abs())
    # A face behind the camera made NaN of its edges' sums, which compare as false.
    chosen = ((total.abs() == voting) & (voting > 0) & usable[edges.ends].all(-1)).nonzero()[:, 0]
    return chosen, total[chosen].sign()


def _trace_edges(
    place: Tensor, away: Tensor, ends: Tensor, inside: Tensor, surface: Tensor, size: tuple[int, int], along: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Visible crossings of steep edges with rows (`along` 1, y) or of flat edges with columns (0, x): row of `ends`,
    near pixel, far pixel, position."""
    a, b = place[ends[:, 0]], place[ends[:, 1]]
    span = b - a
    steep = span[:, 1].abs() > span[:, 0].abs()
    major = a[:, along], b[:, along]
    first = (torch.minimum(*major) - 0.5).ceil().clamp(0, size[1 - along])
    last = (torch.maximum(*major) - 0.5).ceil().clamp(0, size[1 - along])
    counts = torch.where(steep == bool(along), last - first, 0).nan_to_num().long()
    which = torch.repeat_interleave(torch.arange(len(ends), device=ends.device), counts)
    step = torch.arange(len(which), device=ends.device) - (counts.cumsum(0) - counts)[which]
    line = first[which].long() + step
    part = (line + 0.5 - a[which, along]) / span[which, along]
    across = a[which, 1 - along] + part * span[which, 1 - along]
    low = (across - 0.5).floor()
    # To the left of a steep edge the cross product with its direction has dy's sign; above a flat one, that of -dx.
    turn = span[which, along].sign() * (1 if along else -1)
    low_is_near = turn == inside[which]
    extent = size[along]
    fits = (low >= 0) & (low + 1 < extent)
    low = low.clamp(0, max(extent - 2, 0)).long()
    pixel = line * size[1] + low if along else low * size[1] + line
    other = pixel + (1 if along else size[1])
    near, far = torch.where(low_is_near, pixel, other), torch.where(low_is_near, other, pixel)
    fits_index = fits.nonzero()[:, 0]
    which, near, far = which[fits_index], near[fits_index], far[fits_index]
    part, across, low, low_is_near = part[fits_index], across[fits_index], low[fits_index], low_is_near[fits_index]
    edge_depth = 1 / ((1 - part) / away[ends[which, 0]] + part / away[ends[which, 1]])
    gap = surface[far] - edge_depth
    visible = (gap > 0) & ((surface[near] - edge_depth).abs() < gap)
    at = torch.where(low_is_near, across - low - 0.5, low + 1.5 - across)
    keep = visible.nonzero()[:, 0]
    return which[keep], near[keep], far[keep], at[keep]


def _outermost(near: Tensor, far: Tensor, at: Tensor, count: int) -> Tensor:
    """Index of the crossing farthest from the near pixel, for each pair of pixels."""
    if not len(near):
        return near
    key = near * count + far
    order = torch.argsort(at, stable=True)
    order = order[torch.argsort(key[order], stable=True)]
    sorted_key = key[order]
    last = torch.ones_like(sorted_key, dtype=torch.bool)
    last[:-1] = sorted_key[1:] != sorted_key[:-1]
    return order[last]


def _differentiable(
    pixels: Tensor, ends: Tensor, edge: Tensor, near: Tensor, far: Tensor, along: Tensor, width: int, outer: Tensor
) -> Crossings:
    """The crossings, recomputed from the ends of their edges with a graph."""
    a, b = pixels.index_select(0, ends[:, 0]), pixels.index_select(0, ends[:, 1])
    by_row = along == 1
    near_x, near_y = near % width + 0.5, torch.div(near, width, rounding_mode="floor") + 0.5
    line = torch.where(by_row, near_y, near_x).to(pixels.dtype)
    start, stop = torch.where(by_row[:, None], a.flip(-1), a), torch.where(by_row[:, None], b.flip(-1), b)
    slope = (stop[:, 1] - start[:, 1]) / (stop[:, 0] - start[:, 0])
    across = start[:, 1] + (line - start[:, 0]) * slope
    center = torch.where(by_row, near_x, near_y).to(pixels.dtype)
    outward = torch.where(far > near, 1.0, -1.0).to(pixels.dtype)
    point = torch.stack([torch.where(by_row, across, line), torch.where(by_row, line, across)], -1)
    return Crossings(near, far, (across - center) * outward, point, edge, outer)
