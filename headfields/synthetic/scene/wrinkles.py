"""Expression wrinkles: a height field on the skin at rest whose slope perturbs the normal.

Lines across the forehead (raised brow), between the brows (frown), at the outer corners of the eyes (squint or smile)
and from the nose to the mouth (smile). Positions follow the landmarks; depths and spacings are our own choice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.smoothstep import smoothstep
from headfields.synthetic.scene.anatomy import Anatomy, segment_distance
from headfields.synthetic.scene.noise import value_noise

__all__ = ["Activity", "crease", "wrinkle"]


@dataclass(frozen=True)
class Activity:
    """Muscle activities of a frame, in [0, 1]; `brow_raise`, `squint` and `smile` are (right, left)."""

    brow_raise: tuple[float, float] = (0.0, 0.0)
    frown: float = 0.0
    squint: tuple[float, float] = (0.0, 0.0)
    smile: tuple[float, float] = (0.0, 0.0)

    @property
    def active(self) -> bool:
        """Whether any activity is above zero."""
        return max(*self.brow_raise, self.frown, *self.squint, *self.smile) > 1e-3


def _valley(phase: Tensor) -> Tensor:
    """Narrow valleys of a periodic profile: 1 at integers, 0 between."""
    return (0.5 + 0.5 * torch.cos(2 * torch.pi * phase)) ** 4


def crease(points: Float[Tensor, "n 3"], anatomy: Anatomy, activity: Activity) -> Float[Tensor, " n"]:
    """Crease depth (N,) at skin points at rest: 0 on smooth skin, 1 at the bottom of a full wrinkle."""
    landmarks = anatomy.landmarks
    x, y = points[:, 0], points[:, 1]
    total = torch.zeros_like(x)
    brow = anatomy.brow_height
    left = torch.sigmoid(x / 0.008)

    if max(activity.brow_raise) > 0:
        amount = activity.brow_raise[0] * (1 - left) + activity.brow_raise[1] * left
        arch = y - brow - 0.003 * torch.cos(x / 0.03 * torch.pi) + 0.0022 * value_noise(points, 0.018, 51)
        height = 0.56 * (anatomy.top - brow)
        mask = smoothstep(y - brow, 0.008, 0.016) * smoothstep(brow + height - y, 0.002, 0.014)
        mask = mask * smoothstep(0.055 - x.abs(), 0.0, 0.02) * (points[:, 2] > anatomy.axis)
        total = total + amount * mask * _valley(arch / 0.0105)
    if activity.frown > 0:
        bridge = landmarks[27]
        side = (x.abs() - 0.0065 - 0.15 * (y - bridge[1]).clamp_min(0) * 0.3) / 0.0022
        mask = smoothstep(y - bridge[1], -0.004, 0.006) * smoothstep(bridge[1] + 0.034 - y, 0.0, 0.012)
        total = total + activity.frown * mask * torch.exp(-side * side) * (points[:, 2] > anatomy.axis)
    for index, (corner, sign) in enumerate(((36, -1.0), (45, 1.0))):
        strength = max(activity.squint[index], 0.8 * activity.smile[index])
        if strength > 0:
            offset = points - landmarks[corner]
            out = sign * offset[:, 0] + 0.008
            angle = torch.atan2(offset[:, 1], out.clamp_min(1e-4))
            reach = offset.norm(dim=1)
            mask = smoothstep(reach, 0.004, 0.009) * smoothstep(0.03 - reach, 0.0, 0.012) * (sign * offset[:, 0] > 0)
            mask = mask * smoothstep(0.95 - angle.abs(), 0.0, 0.35)
            total = total + strength * mask * _valley(angle / 0.36 + 0.3 * value_noise(points, 0.014, 57))
    for index, (wing, corner, sign) in enumerate(((31, 48, -1.0), (35, 54, 1.0))):
        strength = activity.smile[index]
        if strength > 0:
            start = landmarks[wing] + torch.tensor([sign * 0.005, 0.008, -0.004])
            middle = 0.5 * (landmarks[wing] + landmarks[corner]) + torch.tensor([sign * 0.010, 0.0, -0.005])
            end = landmarks[corner] + torch.tensor([sign * 0.0115, -0.004, -0.006])
            gap = torch.minimum(segment_distance(points, start, middle), segment_distance(points, middle, end))
            total = total + 0.9 * strength * torch.exp(-((gap / 0.0026) ** 2))
    return total.clamp(0, 1)


def wrinkle(
    points: Float[Tensor, "n 3"], anatomy: Anatomy, activity: Activity, depth: float = 0.0016
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Crease depth (N,) and the gradient (N, 3) of the height -depth * crease, by central differences."""
    depths = crease(points, anatomy, activity)
    step = 0.0006
    slope = torch.zeros_like(points)
    active = (depths > 1e-3).nonzero()[:, 0]
    for axis in range(3):
        shift = torch.zeros(3)
        shift[axis] = step
        high = crease(points[active] + shift, anatomy, activity)
        low = crease(points[active] - shift, anatomy, activity)
        slope[active, axis] = -depth * (high - low) / (2 * step)
    return depths, slope
