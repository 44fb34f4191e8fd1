"""Rays against a triangle mesh in plain PyTorch: the definition of `raycast` and `interval` of `TriangleBVH`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.reference.closest_triangle import inverse_squared_area


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, 0 (and no gradient) where the denominator is 0."""
    divides = denominator != 0
    return torch.where(divides, numerator / torch.where(divides, denominator, 1.0), 0.0)


def ray_triangle(
    origins: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*batch 3"], corners: Float[Tensor, "*batch 3 3"]
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch"]]:
    """Barycentric coordinates and distance at which the line of a ray meets the plane of a triangle.

    The coordinates are the volumes that the ray spans with the three edges (Pluecker coordinates). Differentiable to
    any order; 0 where the ray is parallel.
    """
    a, b, c = (corner - origins for corner in corners.unbind(-2))

    def volume(p: Tensor, q: Tensor) -> Tensor:
        return _dot(torch.linalg.cross(p + q, q - p), directions)

    weights = torch.stack((volume(b, c), volume(c, a), volume(a, b)), dim=-1)
    normal = torch.linalg.cross(b - a, c - a)
    return _over(weights, weights.sum(-1)[..., None]), _over(_dot(normal, a), _dot(normal, directions))


def hit_distance(
    origins: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*batch 3"], corners: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Distance in float64 at which the line meets the triangle, on either side; infinity where it misses.

    Watertight (Woop et al. 2013): corners are sheared along the ray into the plane across it, alike for every face
    that has them, and the sign of an edge is a comparison of two products, and so the opposite for the face across. A
    ray in the plane of the face misses it, and a face without area (in the corners' dtype) is never met.
    """
    area = inverse_squared_area(corners) > 0
    origins, directions, corners = origins.double(), directions.double(), corners.double()
    axis = directions.abs().argmax(-1, keepdim=True)
    order = torch.cat((axis + 1, axis + 2, axis), dim=-1) % 3
    d = directions.take_along_dim(order, -1)[..., None, :]
    p = (corners - origins[..., None, :]).take_along_dim(order[..., None, :], -1)
    x = d[..., 2] * p[..., 0] - d[..., 0] * p[..., 2]
    y = d[..., 2] * p[..., 1] - d[..., 1] * p[..., 2]
    one, other = x.roll(-1, -1) * y.roll(-2, -1), y.roll(-1, -1) * x.roll(-2, -1)  # edges bc, ca, ab
    weights = torch.where(one == other, 0.0, one - other)
    total = weights.sum(-1)
    meets = ((weights >= 0).all(-1) | (weights <= 0).all(-1)) & (total != 0) & area & (d[..., 0, 2] != 0)
    distance = _over((_over(weights, total[..., None]) * p[..., 2]).sum(-1), d[..., 0, 2])
    return torch.where(meets, distance, torch.inf)


def hit_on_face(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    mesh_index: Int[Tensor, " n"] | None,
    face: Int[Tensor, " n"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Barycentric coordinates and distance of each hit on a known face; 0 and infinity where it is -1."""
    if faces.shape[0] == 0 or vertices.shape[0] == 0:
        nothing = torch.zeros_like(origins) + origins[:0].sum() + directions[:0].sum() + vertices[:0].sum()
        return nothing, nothing.sum(-1) + torch.inf
    valid = face >= 0
    mesh = torch.zeros_like(face) if mesh_index is None else torch.where(valid, mesh_index.long(), 0)
    corners = vertices[mesh[:, None], faces.long()[face.clamp(min=0)]]
    corners = torch.where(valid[:, None, None], corners, 0.0)
    mask = valid[:, None]
    barycentric, distance = ray_triangle(torch.where(mask, origins, 0.0), torch.where(mask, directions, 0.0), corners)
    return torch.where(mask, barycentric, 0.0), torch.where(valid, distance, torch.inf)


def _usable(*tensors: Tensor) -> Tensor:
    """Rows whose every coordinate is finite and below 1e18."""
    return torch.stack([(tensor.abs() < 1e18).flatten(2).all(-1) for tensor in tensors]).all(0)


def _pairs(
    origins: Tensor, directions: Tensor, vertices: Tensor, faces: Tensor, mesh_index: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every ray with every face of its mesh: origins, directions (n, f, 3), corners (n, f, 3, 3), usable (n, f)."""
    n, f = origins.shape[0], faces.shape[0]
    mesh = torch.zeros(n, dtype=torch.long, device=origins.device) if mesh_index is None else mesh_index.long()
    corners = vertices.detach()[mesh][:, faces.long()]
    o, d = (x.detach()[:, None].expand(n, f, 3) for x in (origins, directions))
    usable = _usable(o, d, corners)
    o, d = (torch.where(usable[..., None], x, 0.0) for x in (o, d))
    return o, d, torch.where(usable[..., None, None], corners, 0.0), usable


def first_hit(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    mesh_index: Int[Tensor, " n"] | None = None,
    max_distance: float = torch.inf,
    pairs: int = 1 << 20,
) -> Int[Tensor, " n"]:
    """Index of the first face that each ray hits at a distance in [0, max_distance], -1 where there is none.

    Distances are compared in float32, and of faces at one distance the lowest index wins. Brute force, `pairs` ray-face
    pairs at a time. Not differentiable.
    """
    face = torch.full((origins.shape[0],), -1, dtype=torch.long, device=origins.device)
    if faces.shape[0] == 0:
        return face
    step = max(1, pairs // faces.shape[0])
    for start in range(0, origins.shape[0], step):
        chunk = slice(start, start + step)
        index = None if mesh_index is None else mesh_index[chunk]
        o, d, corners, usable = _pairs(origins[chunk], directions[chunk], vertices, faces, index)
        t = hit_distance(o, d, corners).float()
        t = torch.where(usable & (t >= 0) & (t <= max_distance), t, torch.inf)
        nearest = t.amin(-1)
        face[chunk] = torch.where(nearest < torch.inf, (t == nearest[:, None]).int().argmax(-1), -1)
    return face


def _clip(lo: Tensor, hi: Tensor, c0: Tensor, c1: Tensor) -> tuple[Tensor, Tensor]:
    """The part of [lo, hi] where c0 + t c1 >= 0."""
    t = -c0 / torch.where(c1 == 0, 1.0, c1)
    lo = torch.where(c1 > 0, torch.maximum(lo, t), lo)
    hi = torch.where(c1 < 0, torch.minimum(hi, t), hi)
    return lo, torch.where((c1 == 0) & (c0 < 0), -torch.inf, hi)


def _within(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Where a t^2 + 2 b t + c <= 0; everywhere or nowhere where a is 0 but for rounding."""
    moves = a > 1e-10
    discriminant = b * b - a * c
    root, safe = discriminant.clamp(min=0).sqrt(), torch.where(moves, a, 1.0)
    stays = torch.where(~moves & (c <= 0), torch.inf, -torch.inf)
    meets = moves & (discriminant >= 0)
    return torch.where(meets, (-b - root) / safe, -stays), torch.where(meets, (root - b) / safe, stays)


def margin_interval(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    margin: float,
    mesh_index: Int[Tensor, " n"] | None = None,
    pairs: int = 1 << 18,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """First and last t >= 0 at which a ray of unit direction is within `margin` of the mesh; 0 and 0 where never.

    The points within the margin of a triangle are the union of a prism, three cylinders about the edges and three
    balls about the corners, and convex, so each face gives one interval. Brute force. Not differentiable.
    """
    near = origins.detach().new_full((origins.shape[0],), torch.inf)
    far = -near
    if faces.shape[0] == 0:
        return near, far
    step = max(1, pairs // faces.shape[0])
    for start in range(0, origins.shape[0], step):
        chunk = slice(start, start + step)
        index = None if mesh_index is None else mesh_index[chunk]
        o, d, corners, usable = _pairs(origins[chunk], directions[chunk], vertices, faces, index)
        a, b, c = corners.unbind(-2)
        shift = _dot(a - o, d)  # measured from the point nearest to a: small numbers
        w = o + shift[..., None] * d - a
        spans = []
        for base, edge in ((a, b - a), (b, c - b), (c, a - c)):
            from_base = w - (base - a)
            squared = _dot(edge, edge)
            inverse = torch.where(squared > 1e-30, 1.0 / torch.where(squared > 1e-30, squared, 1.0), 0.0)
            s0, s1 = _dot(from_base, edge) * inverse, _dot(d, edge) * inverse
            wp, dp = from_base - s0[..., None] * edge, d - s1[..., None] * edge
            lo, hi = _within(_dot(dp, dp), _dot(wp, dp), _dot(wp, wp) - margin**2)
            spans.append(_clip(*_clip(lo, hi, s0, s1), 1 - s0, -s1))
            spans.append(_within(_dot(d, d), _dot(from_base, d), _dot(from_base, from_base) - margin**2))
        inverse = inverse_squared_area(corners)
        normal = torch.linalg.cross(b - a, c - a)
        gu = inverse[..., None] * torch.linalg.cross(c - a, normal)
        gv = inverse[..., None] * torch.linalg.cross(normal, b - a)
        unit = inverse.sqrt()[..., None] * normal
        lo = torch.where(inverse > 0, -torch.inf, torch.inf)
        span = _clip(lo, -lo, margin + _dot(unit, w), _dot(unit, d))
        span = _clip(*span, margin - _dot(unit, w), -_dot(unit, d))
        span = _clip(*_clip(*span, _dot(gu, w), _dot(gu, d)), _dot(gv, w), _dot(gv, d))
        spans.append(_clip(*span, 1 - _dot(gu + gv, w), -_dot(gu + gv, d)))
        lows, highs = (torch.stack(ends) for ends in zip(*spans, strict=True))
        filled = lows <= highs
        lo = torch.where(filled, lows, torch.inf).amin(0) + shift
        hi = torch.where(filled, highs, -torch.inf).amax(0) + shift
        ahead = usable & (hi >= 0) & (lo <= hi)
        near[chunk] = torch.where(ahead, lo.clamp(min=0), torch.inf).amin(-1)
        far[chunk] = torch.where(ahead, hi, -torch.inf).amax(-1)
    miss = near > far
    return near.masked_fill(miss, 0.0), far.masked_fill(miss, 0.0)
