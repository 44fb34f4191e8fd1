"""Texture coordinates of the inside of a mouth: a chart of its own, and where there is room for it."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

from headfields.heads.mouth.shape import TOOTH_COLUMNS, TOOTH_PROFILE, Lips

__all__ = ["cavity_chart", "join_uv", "tooth_chart"]

_RESOLUTION = 256  # of the search for room
_SHRUNK = 5 / 6  # side left to the others where there is none


def cavity_chart(lips: Lips, rows: int, teeth: bool) -> Float[Tensor, "t 2"]:
    """((R + 1) L, 2) in the unit square: the view into the mouth, lips on a circle and rings inside it.

    Args:
        lips: the loop, which is ring 0.
        rows: R.
        teeth: whether room is left below for two strips.
    """
    center, radius = ((0.5, 0.655), 0.335) if teeth else ((0.5, 0.5), 0.49)
    angle = 0.5 * torch.pi * (1 - lips.along)  # 0 at the left corner, pi at the right one
    angle[lips.left :] *= -1
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    shrink = 1 - 0.75 * (torch.arange(rows + 1) / max(rows, 1)).to(ring)
    return (radius * shrink[:, None, None] * ring + ring.new_tensor(center)).reshape(-1, 2)


def tooth_chart(over: bool) -> tuple[Float[Tensor, "t 2"], Int[Tensor, "f 3"]]:
    """Coordinates and faces of a tooth row's strip, unrolled from the front root to the back one; see `tooth_row`."""
    columns, around = TOOTH_COLUMNS, TOOTH_PROFILE
    low, high = (0.17, 0.3) if over else (0.01, 0.14)
    first, last = (high, low) if over else (low, high)
    u = 0.01 + 0.98 * (torch.arange(columns) + 1) / (columns + 1)
    v = first + (last - first) * torch.arange(around + 1) / around
    grid = torch.stack([u[:, None].expand(-1, around + 1), v.expand(columns, -1)], -1).reshape(-1, 2)
    middle = 0.5 * (v[1:] + v[:-1])
    ends = [torch.stack([torch.full_like(middle, at), middle], 1) for at in (0.01, 0.99)]
    index = torch.arange(columns * (around + 1)).reshape(columns, around + 1)
    a, b = index[:-1, :-1].reshape(-1), index[:-1, 1:].reshape(-1)
    c, d = index[1:, 1:].reshape(-1), index[1:, :-1].reshape(-1)
    tube = torch.stack([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)], 1).reshape(-1, 3)
    tip = columns * (around + 1) + torch.arange(around)
    right = torch.stack([index[0, 1:], index[0, :-1], tip], 1)
    left = torch.stack([index[-1, :-1], index[-1, 1:], tip + around], 1)
    faces = torch.cat([tube, right, left])
    return torch.cat([grid, *ends]), faces if over else faces.flip(1)


def _occupied(uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(R, R) cells, row v and column u, that a chart reaches into, by points closer together than a cell."""
    # Once a triangle, though a mesh may put thousands of faces on one (mirrored halves, parts without a texture).
    corners = np.unique(np.sort(faces, axis=1), axis=0)
    corners = np.unique(uv[corners].astype(np.float64).reshape(-1, 6), axis=0).reshape(-1, 3, 2)
    edges = np.abs(corners - np.roll(corners, 1, axis=1)).max((1, 2))
    steps = np.minimum(np.ceil(1.5 * edges * _RESOLUTION).astype(int) + 1, 2 * _RESOLUTION)
    taken = np.zeros((_RESOLUTION, _RESOLUTION), bool)
    for count in np.unique(steps):
        i, j = np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij")
        keep = i + j <= count
        weights = np.stack([i[keep], j[keep], count - i[keep] - j[keep]], 1) / count
        group = corners[steps == count]
        for part in np.array_split(group, -(-len(group) * len(weights) // 1_000_000)):
            cell = np.floor(np.einsum("pk,fkc->fpc", weights, part) * _RESOLUTION).astype(int).reshape(-1, 2)
            cell = cell[((cell >= 0) & (cell < _RESOLUTION)).all(1)]
            taken[cell[:, 1], cell[:, 0]] = True
    return taken


def _room(uv: np.ndarray, faces: np.ndarray) -> tuple[float, float, float]:
    """(u, v, side) of the largest empty square in [0, 1], a cell away from all charts and from the border."""
    taken = np.pad(_occupied(uv, faces), 1, constant_values=True)
    away = distance_transform_cdt(~taken, "chessboard")
    row, column = np.unravel_index(int(away.argmax()), away.shape)
    reach = int(away[row, column]) - 2  # cells to each side of the middle one, without those beside a chart
    if reach < 0:
        return 0.0, 0.0, 0.0
    return (column - 1 - reach) / _RESOLUTION, (row - 1 - reach) / _RESOLUTION, (2 * reach + 1) / _RESOLUTION


def join_uv(
    uv: Float[Tensor, "t 2"],
    uv_faces: Int[Tensor, "f 3"],
    chart: Float[Tensor, "s 2"],
    chart_faces: Int[Tensor, "g 3"],
    least: float,
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, "h 3"]]:
    """Puts a chart of the unit square beside others, into the largest square that they leave free.

    Args:
        uv: (T, 2) the others.
        uv_faces: (F, 3) into them.
        chart: (S, 2) in [0, 1].
        chart_faces: (G, 3) into it.
        least: if the free square's side is less, the others are shrunk to 5/6 toward (0, 0) and the chart gets the
            corner at (1, 1).

    Returns:
        (T + S, 2) and (F + G, 3).
    """
    u, v, side = _room(uv.detach().cpu().numpy(), uv_faces.cpu().numpy())
    if side < least:
        uv = uv * _SHRUNK
        u = v = _SHRUNK + 1 / _RESOLUTION
        side = 1 - u
    placed = chart.to(uv) * side + uv.new_tensor([u, v])
    return torch.cat([uv, placed]), torch.cat([uv_faces, chart_faces.to(uv_faces) + len(uv)])
