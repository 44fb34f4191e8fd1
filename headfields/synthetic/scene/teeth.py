"""Teeth, gums and tongue of a synthetic capture: rigid pieces on the skull and on the jaw.

Individual crowns with gums, because they are what the images show; `hf.heads.inner_mouth` has the plain arches that a
tracked mesh carries. Sizes are round figures within the range of adult teeth; the arch is more curved than the lips.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headfields.synthetic.scene.anatomy import Anatomy

__all__ = ["Teeth", "teeth_and_tongue"]

_UPPER = [(8.6, 9.6), (6.8, 8.6), (7.6, 9.6), (7.0, 8.2), (6.8, 7.6), (9.0, 7.0)]  # width, height in mm, middle first
_LOWER = [(5.4, 8.2), (6.0, 8.4), (6.8, 9.4), (7.0, 8.2), (7.2, 7.6), (9.5, 7.0)]
_BEHIND = 0.0065  # meters behind the line of the lips


@dataclass(frozen=True)
class Teeth:
    """Teeth, gums and tongue.

    Attributes:
        vertices (V, 3): at rest, meters. faces (F, 3).
        lower (V,): whether a vertex moves with the jaw.
        tooth (F,): whether a face belongs to a tooth.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    lower: Bool[np.ndarray, " v"]
    tooth: Bool[np.ndarray, " f"]


def _grid_faces(rows: int, columns: int) -> Int[np.ndarray, "f 3"]:
    """Two triangles for each cell of a grid of vertices."""
    first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None]).reshape(-1, 1)
    return np.concatenate([first + np.array([0, 1, columns]), first + np.array([1, columns + 1, columns])])


def _ellipsoid(
    size: tuple[float, float, float], power: float, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """A superellipsoid with semi-axes `size`; a power below 1 is boxy."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    longitude = np.linspace(0, 2 * np.pi, columns)[None]

    def shaped(value: np.ndarray) -> np.ndarray:
        return np.sign(value) * np.abs(value) ** power

    flat = shaped(np.cos(latitude))
    x, y, z = flat * shaped(np.sin(longitude)), shaped(np.sin(latitude)), flat * shaped(np.cos(longitude))
    points = np.stack(np.broadcast_arrays(x, y, z), -1)
    return (points * np.array(size)).reshape(-1, 3), _grid_faces(rows, columns)


def teeth_and_tongue(anatomy: Anatomy) -> Teeth:
    """Two rows of twelve teeth with gums, and a tongue, positioned by the landmarks of the lips at rest."""
    mark = anatomy.landmarks.double().numpy()
    middle = 0.5 * (mark[62] + mark[66])
    corner = 0.5 * (mark[60] + mark[64])
    half = 0.5 * abs(mark[64, 0] - mark[60, 0])
    bend = np.clip(2.2 * (middle[2] - corner[2]) / half**2, 24.0, 40.0)  # the dental arch is more curved than the lips

    pieces: list[tuple[np.ndarray, np.ndarray, bool, bool]] = []
    for table, lower in ((_UPPER, False), (_LOWER, True)):
        edge = middle[1] + (0.0002 if lower else -0.0012)  # upper teeth overlap the lower ones a little
        front = middle[2] - _BEHIND - (0.0018 if lower else 0.0)
        down = -1.0 if lower else 1.0
        for side in (-1.0, 1.0):
            reached = 0.0
            for width, height in table:
                x = _along(reached + width / 2000, bend)
                reached += (width + 0.15) / 1000
                slope = np.arctan(2 * bend * x)
                points, faces = _ellipsoid((width / 2000, height / 2000, 0.0028), 0.55, 9, 17)
                points[:, 0] *= 1 - 0.12 * np.clip(down * points[:, 1] / (height / 2000), 0, 1)  # narrower at the root
                points[:, 2] -= down * points[:, 1] * 0.08
                turn = np.array([[np.cos(slope), 0, -np.sin(slope)], [0, 1, 0], [np.sin(slope), 0, np.cos(slope)]])
                placed = points @ turn * [side, 1, 1] + [side * x, edge + down * height / 2000, front - bend * x * x]
                pieces.append((placed, faces if side > 0 else faces[:, ::-1], lower, True))
        across = np.linspace(-0.024, 0.024, 33)
        tall = np.array([0.0, 0.0035, 0.009, 0.016])
        deep = np.array([0.0015, -0.0012, 0.0, 0.004])  # bulges over the roots
        scallop = 0.0012 * np.cos(2 * np.pi * across / 0.008)
        sheet = np.stack(
            [
                np.broadcast_to(across, (4, 33)),
                edge + down * (0.0066 + tall[:, None] + scallop * np.array([[1.0], [0.3], [0], [0]])),
                front - bend * across**2 - deep[:, None] + 0.0012,
            ],
            -1,
        ).reshape(-1, 3)
        pieces.append((sheet, _grid_faces(4, 33), lower, False))
    points, faces = _ellipsoid((0.019, 0.0065, 0.024), 0.85, 13, 25)
    points[:, 1] -= 40 * points[:, 0] ** 2 * -0.15
    pieces.append((points + middle + [0, -0.0125, -0.037], faces, True, False))

    start = np.cumsum([0] + [len(piece[0]) for piece in pieces])
    return Teeth(
        np.concatenate([piece[0] for piece in pieces]),
        np.concatenate([piece[1] + first for piece, first in zip(pieces, start[:-1], strict=True)]),
        np.concatenate([np.full(len(piece[0]), piece[2]) for piece in pieces]),
        np.concatenate([np.full(len(piece[1]), piece[3]) for piece in pieces]),
    )


def _along(length: float, bend: float) -> float:
    """x at which the parabola z = -bend x^2 has the given length from its apex."""
    x = np.linspace(0, 0.06, 241)
    traveled = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(bend * x**2)))])
    return float(np.interp(length, traveled, x))
