"""Packing a chart of texture coordinates into the largest free square of a texture."""

import numpy as np
import scipy
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["pack_chart"]

_RESOLUTION = 256  # cells a side in which the free square is searched
_SHRUNK = 5 / 6  # factor on the other charts where there is no free square


def _occupied(uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(R, R) mask, row v and column u, of the cells that the charts cover, from samples denser than the cells."""
    # Each triangle once: a mesh may map thousands of faces onto one (mirrored halves, parts without a texture).
    corners = np.unique(np.sort(faces, axis=1), axis=0)
    corners = np.unique(uv[corners].astype(np.float64).reshape(-1, 6), axis=0).reshape(-1, 3, 2)
    edges = np.abs(corners - np.roll(corners, 1, axis=1)).max((1, 2))
    steps = np.minimum(np.ceil(1.5 * edges * _RESOLUTION).astype(int) + 1, 2 * _RESOLUTION)
    occupied = np.zeros((_RESOLUTION, _RESOLUTION), bool)
    for count in np.unique(steps):
        i, j = np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij")
        keep = i + j <= count
        weights = np.stack([i[keep], j[keep], count - i[keep] - j[keep]], 1) / count
        group = corners[steps == count]
        for part in np.array_split(group, -(-len(group) * len(weights) // 1_000_000)):
            cell = np.floor(np.einsum("pk,fkc->fpc", weights, part) * _RESOLUTION).astype(int).reshape(-1, 2)
            cell = cell[((cell >= 0) & (cell < _RESOLUTION)).all(1)]
            occupied[cell[:, 1], cell[:, 0]] = True
    return occupied


def _free_square(uv: np.ndarray, faces: np.ndarray) -> tuple[float, float, float]:
    """(u, v, side) of the largest empty square in [0, 1]², one cell away from all charts and from the border."""
    occupied = np.pad(_occupied(uv, faces), 1, constant_values=True)
    distance = scipy.ndimage.distance_transform_cdt(~occupied, "chessboard")
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    reach = int(distance[row, column]) - 2  # cells to each side of the center, the margin taken off
    if reach < 0:
        return 0.0, 0.0, 0.0
    return (column - 1 - reach) / _RESOLUTION, (row - 1 - reach) / _RESOLUTION, (2 * reach + 1) / _RESOLUTION


def pack_chart(
    uv: Float[Tensor, "t 2"],
    uv_faces: Int[Tensor, "f 3"],
    chart: Float[Tensor, "s 2"],
    chart_faces: Int[Tensor, "g 3"],
    least: float,
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, "h 3"]]:
    """Places a chart of the unit square into the largest square that the other charts leave free.

    Args:
        uv: (T, 2) coordinates of the other charts.
        uv_faces: (F, 3) indices into `uv`.
        chart: (S, 2) in [0, 1].
        chart_faces: (G, 3) indices into `chart`.
        least: minimum side of the free square. If it is smaller, the other charts are scaled by 5/6 toward (0, 0) and
            the chart gets the corner at (1, 1).

    Returns:
        (T + S, 2) coordinates and (F + G, 3) faces.

    >>> import torch
    >>> from headfields.heads.mouth.uv_packing import pack_chart
    >>> uv = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    >>> chart = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> faces = torch.tensor([[0, 1, 2]])
    >>> joined, joined_faces = pack_chart(uv, faces, chart, faces, least=0.1)
    >>> joined.shape, joined_faces.tolist()
    (torch.Size([6, 2]), [[0, 1, 2], [3, 4, 5]])
    """
    u, v, side = _free_square(uv.detach().cpu().numpy(), uv_faces.cpu().numpy())
    if side < least:
        uv = uv * _SHRUNK
        u = v = _SHRUNK + 1 / _RESOLUTION
        side = 1 - u
    placed = chart.to(uv) * side + uv.new_tensor([u, v])
    return torch.cat([uv, placed]), torch.cat([uv_faces, chart_faces.to(uv_faces) + len(uv)])
