"""Nearest point on a triangle mesh in plain PyTorch: the definition of `closest` of `TriangleBVH`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.vectors import safe_norm

_TIE, _SLACK = 1e-6, 2.4e-7  # as in csrc/bvh.h


def _fraction(along: Tensor, squared_length: Tensor) -> Tensor:
    """`along / squared_length` clamped to [0, 1]; 0 on an edge without length."""
    has_length = squared_length > torch.finfo(squared_length.dtype).tiny
    return torch.where(has_length, along / torch.where(has_length, squared_length, 1.0), 0.0).clamp(0.0, 1.0)


def inverse_squared_area(corners: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """1 / |(b - a) x (c - a)|^2, 0 on a face without area: one whose angle at a has a sine that is lost in rounding."""
    ab, ac = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    squared = torch.linalg.cross(ab, ac).square().sum(-1)
    sine, least = (1e-6, 1e-36) if corners.dtype == torch.float32 else (1e-12, 1e-100)
    area = (squared > sine**2 * ab.square().sum(-1) * ac.square().sum(-1)) & (squared > least)
    return torch.where(area, 1.0 / torch.where(area, squared, 1.0), 0.0)


def _interior(
    points: Float[Tensor, "*batch 3"], corners: Float[Tensor, "*batch 3 3"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Barycentric coordinates of corners 1 and 2 of the foot of the perpendicular; (0, 0) on a face without area."""
    a = corners[..., 0, :]
    ab, ac, ap = corners[..., 1, :] - a, corners[..., 2, :] - a, points - a
    normal = torch.linalg.cross(ab, ac)
    inverse = inverse_squared_area(corners)
    u = (torch.linalg.cross(ac, normal) * ap).sum(-1) * inverse
    v = (torch.linalg.cross(normal, ab) * ap).sum(-1) * inverse
    return u, v


def barycentric_of_closest(
    points: Float[Tensor, "*batch 3"], corners: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch 3"]:
    """Barycentric coordinates of the point of a triangle nearest to `points`.

    The nearest point is the best of four candidates: the foot of the perpendicular where it falls inside, and the
    nearest point of each edge. A face without area is its edges, and its corner where all three coincide. (The usual
    case analysis, Ericson, Real-Time Collision Detection, 5.1.5, loses slivers to rounding; candidates do not.)

    Differentiable to any order in both arguments: within one case (interior, an edge, a corner) the coordinates are
    smooth, and which case holds is not differentiated. Finite for every finite input.

    Args:
        points: (..., 3).
        corners: (..., 3, 3) corners of the triangle of each point, corner index second to last.
    """
    zero = torch.zeros_like(points[..., 0])
    with torch.no_grad():
        a, b, c = corners.detach().unbind(-2)
        p = points.detach()
        u, v = _interior(p, corners.detach())
        inside = (u > 0) & (v > 0) & (u + v < 1)
        u, v = torch.where(inside, u, 0.0), torch.where(inside, v, 0.0)
        feet = [a + u[..., None] * (b - a) + v[..., None] * (c - a)]
        for start, end in ((a, b), (b, c), (c, a)):
            edge = end - start
            t = _fraction(((p - start) * edge).sum(-1), edge.square().sum(-1))
            feet.append(start + t[..., None] * edge)
        case = (p[..., None, :] - torch.stack(feet, dim=-2)).square().sum(-1).argmin(-1)
        case = torch.where((case == 0) & ~inside, 1, case)  # corner a: also an end of edge 1
    u, v = _interior(points, corners)
    interior = torch.stack((1 - u - v, u, v), dim=-1)
    first = (case - 1).clamp(min=0)
    second = (first + 1) % 3
    start = torch.take_along_dim(corners, first[..., None, None], -2)[..., 0, :]
    edge = torch.take_along_dim(corners, second[..., None, None], -2)[..., 0, :] - start
    t = _fraction(((points - start) * edge).sum(-1), edge.square().sum(-1))
    weights = [torch.where(first == k, 1 - t, torch.where(second == k, t, zero)) for k in range(3)]
    return torch.where((case == 0)[..., None], interior, torch.stack(weights, dim=-1))


def closest_on_face(
    points: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    mesh_index: Int[Tensor, " n"] | None,
    face: Int[Tensor, " n"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Barycentric coordinates, nearest point and distance for a known face.

    Where `face` is -1: barycentric coordinates 0, the point itself, distance infinity, and no gradient.
    """
    valid = face >= 0
    if faces.shape[0] == 0 or vertices.shape[0] == 0:
        nothing = torch.zeros_like(points) + points[:0].sum() + vertices[:0].sum()  # zeros that keep a gradient
        return nothing, points + nothing, nothing.sum(-1) + torch.inf
    mesh = torch.zeros_like(face) if mesh_index is None else torch.where(valid, mesh_index.long(), 0)
    corners = vertices[mesh[:, None], faces.long()[face.clamp(min=0)]]
    corners = torch.where(valid[:, None, None], corners, 0.0)  # a face of infinity must not reach the gradient
    query = torch.where(valid[:, None], points, 0.0)
    barycentric = barycentric_of_closest(query, corners)
    nearest = (barycentric[..., None] * corners).sum(-2)
    distance = torch.where(valid, safe_norm(query - nearest), torch.inf)
    barycentric = torch.where(valid[:, None], barycentric, 0.0)
    return barycentric, torch.where(valid[:, None], nearest, points), distance


def closest_face(
    points: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    mesh_index: Int[Tensor, " n"] | None = None,
    max_distance: float = torch.inf,
    pairs: int = 1 << 20,
) -> Int[Tensor, " n"]:
    """Index of the face nearest to each point, by brute force, `pairs` point-face pairs at a time.

    -1 where no face is within `max_distance`, and for points that are not finite or farther than 1e18 from the origin.
    Faces with such a vertex are left out. Of faces that are equally near but for the rounding of float32 (to 1e-6 of
    the distance, and 2.4e-7 of the mesh's largest coordinate) the lowest index wins. Not differentiable.
    """
    points, vertices = points.detach(), vertices.detach()
    face = torch.full((points.shape[0],), -1, dtype=torch.long, device=points.device)
    if faces.shape[0] == 0:
        return face
    for start in range(0, points.shape[0], max(1, pairs // faces.shape[0])):
        chunk = points[start : start + max(1, pairs // faces.shape[0])]
        mesh = torch.zeros(len(chunk), dtype=torch.long, device=points.device)
        if mesh_index is not None:
            mesh = mesh_index[start : start + len(chunk)].long()
        corners = vertices[mesh][:, faces.long()]
        usable = (corners.abs() < 1e18).all(-1).all(-1) & (chunk.abs() < 1e18).all(-1)[:, None]
        corners = torch.where(usable[..., None, None], corners, 0.0)
        query = torch.where(usable[..., None], chunk[:, None, :], 0.0)
        barycentric = barycentric_of_closest(query, corners)
        squared = (query - (barycentric[..., None] * corners).sum(-2)).square().sum(-1)
        distance = torch.where(usable, squared, torch.inf).sqrt()
        lowest = distance.amin(-1)
        extent = corners.abs().amax((1, 2, 3))
        equal = distance <= (lowest * (1 + _TIE) + extent * _SLACK)[:, None]
        near = torch.isfinite(lowest) & (lowest <= max_distance)
        face[start : start + len(chunk)] = torch.where(near, equal.int().argmax(-1), -1)
    return face


def pseudo_normal_sign(
    points: Float[Tensor, "n 3"],
    face: Int[Tensor, " n"],
    barycentric: Float[Tensor, "n 3"],
    nearest: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    edges: Int[Tensor, "f 3"],
    mesh_index: Int[Tensor, " n"] | None,
) -> Float[Tensor, " n"]:
    """+1 outside and -1 inside a closed mesh; +1 where `face` is -1.

    By the angle-weighted pseudo-normal of the feature that the nearest point lies on, which the zeros of its
    barycentric coordinates name (Baerentzen and Aanaes, Signed distance computation using the angle weighted
    pseudonormal, 2005). `edges` numbers the edge opposite each corner. Not differentiable.
    """
    count, meshes = faces.shape[0], vertices.shape[0]
    if count == 0 or meshes == 0:
        return torch.ones_like(points[:, 0])
    corners = vertices[:, faces.long()]  # (B, F, 3, 3)
    onward = corners.roll(-1, 2) - corners
    normal = torch.linalg.cross(onward[:, :, 0], onward[:, :, 1])
    # A face without area has no normal and, up to rounding, lends its neighbors none.
    normal = torch.nn.functional.normalize(normal, dim=-1, eps=torch.finfo(normal.dtype).tiny)
    back = -onward.roll(1, 2)
    angle = torch.atan2(torch.linalg.cross(onward, back).norm(dim=-1), (onward * back).sum(-1))
    flat = faces.reshape(-1).long()
    by_vertex = torch.zeros_like(vertices).index_add(1, flat, (angle[..., None] * normal[:, :, None]).flatten(1, 2))
    by_edge = vertices.new_zeros(meshes, int(edges.max()) + 1, 3)
    by_edge = by_edge.index_add(1, edges.reshape(-1), normal[:, :, None].expand(-1, -1, 3, -1).flatten(1, 2))
    mesh = torch.zeros_like(face) if mesh_index is None else mesh_index.long()
    index = face.clamp(min=0)
    on_edge = barycentric == 0
    zeros = on_edge.sum(-1)
    edge = torch.take_along_dim(edges[index], on_edge.long().argmax(-1, keepdim=True), -1)[:, 0]
    corner = torch.take_along_dim(faces.long()[index], barycentric.argmax(-1, keepdim=True), -1)[:, 0]
    direction = torch.where((zeros == 1)[:, None], by_edge[mesh, edge], normal[mesh, index])
    direction = torch.where((zeros >= 2)[:, None], by_vertex[mesh, corner], direction)
    inside = (face >= 0) & (((points - nearest) * direction).sum(-1) < 0)
    return torch.where(inside, -1.0, 1.0).to(points.dtype)
