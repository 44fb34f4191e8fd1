"""Hair strands as thin three-sided tubes of triangles, for ray casting."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headfields.ops.vectors import unit_rows

__all__ = ["SIDES", "Tubes", "tube_faces", "tube_vertices"]

SIDES = 3


@dataclass(frozen=True)
class Tubes:
    """S strands of P points each.

    Attributes:
        points: (S, P, 3) center lines, meters, root first.
        radius: (S, P) meters.
        tone: (S,) random number in [0, 1) that varies the color of each strand.
    """

    points: Float[np.ndarray, "s p 3"]
    radius: Float[np.ndarray, "s p"]
    tone: Float[np.ndarray, " s"]

    @property
    def tangent(self) -> Float[np.ndarray, "s p 3"]:
        """(S, P, 3) unit vectors along the strands."""
        return unit_rows(np.gradient(self.points, axis=1))


def tube_vertices(tubes: Tubes) -> Float[np.ndarray, "v 3"]:
    """(S * P * SIDES, 3) vertices of the tubes' surfaces."""
    tangent = tubes.tangent
    # Any reference axis not along the strand works: the cross-section is a triangle under a millimeter wide.
    reference = np.where(np.abs(tangent[:, :1, :1]) < 0.7, [1.0, 0, 0], [0, 1.0, 0])
    across = unit_rows(np.cross(tangent, reference))
    other = np.cross(tangent, across)
    angle = np.arange(SIDES) * (2 * np.pi / SIDES)
    ring = np.cos(angle)[:, None] * across[:, :, None] + np.sin(angle)[:, None] * other[:, :, None]
    return (tubes.points[:, :, None] + tubes.radius[:, :, None, None] * ring).reshape(-1, 3)


def tube_faces(strands: int, points: int) -> Int[np.ndarray, "f 3"]:
    """Faces over the `tube_vertices` of `strands` strands of `points` points; the ends stay open."""
    ring = np.arange(SIDES)
    following = (ring + 1) % SIDES
    one = np.stack([ring, following, ring + SIDES], -1)
    two = np.stack([following, following + SIDES, ring + SIDES], -1)
    segment = np.concatenate([one, two])
    strand = (segment[None] + SIDES * np.arange(points - 1)[:, None, None]).reshape(-1, 3)
    return (strand[None] + SIDES * points * np.arange(strands)[:, None, None]).reshape(-1, 3)
