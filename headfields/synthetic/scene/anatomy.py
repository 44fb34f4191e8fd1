"""Measures of the head at rest, from its 68 landmarks: brows, mouth, hairline and ears."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Anatomy", "segment_distance"]


@dataclass(frozen=True)
class Anatomy:
    """Measures of the head at rest, meters, y up and the face toward +z.

    Attributes:
        landmarks: (68, 3) in iBUG's order, from the head's right.
        top: y of the crown.
        axis: z of the vertical axis of the skull, about which the hairline's angles are measured.
        ear: (2, 3) centers of the right and the left ear.
    """

    landmarks: Float[Tensor, "68 3"]
    top: float
    axis: float
    ear: Float[Tensor, "2 3"]

    @property
    def brow_height(self) -> float:
        """Mean y of the eyebrows, meters."""
        return float(self.landmarks[17:27, 1].mean())

    def above_mouth(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """(N,) mask of the points above the line between the closed lips."""
        inner = 0.5 * (self.landmarks[[60, 61, 62, 63, 64]] + self.landmarks[[60, 67, 66, 65, 64]])
        line = np.interp(points[:, 0].numpy(), inner[:, 0].numpy(), inner[:, 1].numpy())
        return points[:, 1] > torch.from_numpy(line).to(points)

    def brow(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """(N,) distance to the nearest eyebrow, meters."""
        nearest = torch.full_like(points[:, 0], torch.inf)
        for first in (17, 22):
            for k in range(first, first + 4):
                nearest = torch.minimum(nearest, segment_distance(points, self.landmarks[k], self.landmarks[k + 1]))
        return nearest

    def hairline(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """(N,) height above the hairline, meters; positive where hair grows."""
        angle = torch.atan2(points[:, 0].abs(), points[:, 2] - self.axis)
        brow, ear = self.brow_height, float(self.ear[:, 1].mean())
        forehead = brow + 0.56 * (self.top - brow)
        degrees = np.array([0, 25, 48, 62, 78, 100, 125, 150, 180])
        above_ear = np.array([0.03, 0.028, -0.02, -0.045, -0.05])  # from the temples to the nape
        height = np.concatenate([[forehead, forehead, forehead - 0.004, brow + 0.018], ear + above_ear])
        line = np.interp(np.degrees(angle.numpy()), degrees, height)
        return points[:, 1] - torch.from_numpy(line).to(points)


def segment_distance(
    points: Float[Tensor, "n 3"], start: Float[Tensor, "3"], end: Float[Tensor, "3"]
) -> Float[Tensor, " n"]:
    """(N,) distance to the segment from `start` to `end`."""
    edge = end - start
    fraction = ((points - start) @ edge / edge.dot(edge).clamp_min(1e-12)).clamp(0, 1)
    return (points - start - fraction[:, None] * edge).norm(dim=1)
