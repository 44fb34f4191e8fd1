"""Which face, and where on it, each texel of a texture atlas belongs to."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.closest_triangle import TriangleBVH
from headfields.ops.reference.uv import texel_coordinates

_LEAST_AREA = 1e-9  # square texels, doubled; a face with less holds no center


def find_texels(
    uv: Float[Tensor, "t 2"], uv_faces: Int[Tensor, "f 3"], height: int, width: int, padding: float
) -> tuple[Int[Tensor, "h w"], Float[Tensor, "h w 3"], Bool[Tensor, "h w"]]:
    """What `headfields.ops.reference.uv.find_texels` defines, without the distance.

    Faces are filled row by row, all at once, in float64. An edge crosses a row at the same number for both of its
    faces, so that no texel on a seam between two faces is missed. What no face covers asks a tree for the nearest.
    """
    place = texel_coordinates(uv.double(), height, width)
    corners = place[uv_faces.long()]
    face = _covering(corners, height, width)
    covered = face >= 0
    barycentric = place.new_zeros(height * width, 3)
    texel = covered.nonzero()[:, 0]
    barycentric[texel] = _barycentric(_centers(texel, width), corners, face[texel])
    if padding > 0 and uv_faces.shape[0]:
        texel = (~covered).nonzero()[:, 0]
        flat = torch.nn.functional.pad(place, (0, 1)).float()
        near = TriangleBVH(uv_faces, flat).closest(
            torch.nn.functional.pad(_centers(texel, width), (0, 1)).float(), max_distance=float(padding)
        )
        face[texel] = near.face
        barycentric[texel] = near.barycentric.double()
    shape = (height, width)
    return face.reshape(shape), barycentric.float().reshape(*shape, 3), covered.reshape(shape)


def _centers(texel: Int[Tensor, " n"], width: int) -> Float[Tensor, "n 2"]:
    return torch.stack([texel % width, texel // width], dim=-1).double()


def _covering(corners: Float[Tensor, "f 3 2"], height: int, width: int) -> Int[Tensor, " texels"]:
    """The lowest face that holds each texel's center, its edges included; -1 for none."""
    faces = corners.shape[0]
    low, high = corners[..., 1].amin(dim=1), corners[..., 1].amax(dim=1)
    first, last = low.ceil().clamp(min=0).long(), high.floor().clamp(max=height - 1).long()
    edges = corners[:, 1:] - corners[:, :1]
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    rows = torch.where(area.abs() > _LEAST_AREA, (last - first + 1).clamp(min=0), 0)
    face, step = _expand(rows)
    row = first[face] + step
    left, right = _crossings(corners[face], row.double())
    first, last = left.ceil().clamp(min=0).long(), right.floor().clamp(max=width - 1).long()
    span, step = _expand((last - first + 1).clamp(min=0))
    texel = row[span] * width + first[span] + step
    owner = torch.full((height * width,), faces, dtype=torch.long, device=corners.device)
    owner = owner.scatter_reduce(0, texel, face[span], "amin")
    return torch.where(owner < faces, owner, -1)


def _expand(counts: Int[Tensor, " n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Each number i `counts[i]` times, and a count from 0 within each."""
    which = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    begin = counts.cumsum(0) - counts
    return which, torch.arange(len(which), device=counts.device) - begin[which]


def _crossings(
    corners: Float[Tensor, "n 3 2"], row: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Where the outline of each triangle first and last crosses its row."""
    left, right = torch.full_like(row, torch.inf), torch.full_like(row, -torch.inf)
    for k in range(3):
        a, b = corners[:, k], corners[:, (k + 1) % 3]
        # From the lower end to the upper, so that the two faces of an edge compute the same.
        swap = (a[:, 1] > b[:, 1]) | ((a[:, 1] == b[:, 1]) & (a[:, 0] > b[:, 0]))
        a, b = torch.where(swap[:, None], b, a), torch.where(swap[:, None], a, b)
        rise = b[:, 1] - a[:, 1]
        level = rise == 0
        x = a[:, 0] + (row - a[:, 1]) / torch.where(level, 1.0, rise) * (b[:, 0] - a[:, 0])
        x = torch.where(row == b[:, 1], b[:, 0], x)
        x = x.clamp(torch.minimum(a[:, 0], b[:, 0]), torch.maximum(a[:, 0], b[:, 0]))
        meets = (a[:, 1] <= row) & (row <= b[:, 1])
        left = torch.where(meets, torch.minimum(left, torch.where(level, a[:, 0], x)), left)
        right = torch.where(meets, torch.maximum(right, x), right)
    return left, right


def _barycentric(
    points: Float[Tensor, "n 2"], corners: Float[Tensor, "f 3 2"], face: Int[Tensor, " n"]
) -> Float[Tensor, "n 3"]:
    """Of points inside their faces, which have an area."""
    a, (ax, ay), (bx, by) = corners[:, 0], *((corners[:, k] - corners[:, 0]).unbind(-1) for k in (1, 2))
    area = ax * by - ay * bx
    area = torch.where(area.abs() > _LEAST_AREA, area, 1.0)
    # One row a face, so that there is one thing to look up for a point.
    rows = torch.stack([by / area, -bx / area, -ay / area, ax / area, a[:, 0], a[:, 1]], dim=-1)
    p, q, r, s, x, y = rows.index_select(0, face).unbind(-1)
    x, y = points[:, 0] - x, points[:, 1] - y
    second, third = (p * x + q * y).clamp(0, 1), (r * x + s * y).clamp(0, 1)  # an edge's point is on it up to rounding
    first = (1 - second - third).clamp(min=0)
    return torch.stack([first, second, third], dim=-1) / (first + second + third)[:, None]
