"""Geometry of the inside of a mouth at rest: cavity, rows of teeth, and their texture charts.

In the mouth's own axes; sizes are round figures, our own choice.
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Lips", "cavity", "cavity_chart", "cavity_faces", "tooth_chart", "tooth_row"]

# Fractions of the mouth's width:
_HEIGHT = 0.20  # height of the roof over the upper lip and of the floor under the lower one
_RISE = 0.13  # depth at which the cavity has its full height
_GAP = 0.125  # gap between lips and teeth
_THICK = 0.055  # thickness of the teeth
_OVERLAP = 0.08  # length of the upper teeth below the upper lip
_ARCH = 0.34  # half the width of a row of teeth
_SETBACK = 0.13  # largest setback of a row of teeth where the other lip lies further back
TOOTH_COLUMNS, TOOTH_PROFILE = 15, 6


@dataclasses.dataclass(frozen=True)
class Lips:
    """The inner-lip loop in the mouth's axes: x to the head's left, y up, z outward; origin between the corners.

    Attributes:
        loop: (L,) vertex indices from the right corner over the upper lip to the left one and back below.
        left: index of the left corner in `loop`.
        place: (L, 3) meters.
        along: (L,) arc length along the lip, from -1 at the right corner to 1 at the left.
        upper: (L,) weight of the skull against the jaw: 1 on the upper lip, 0 on the lower, 1/2 at the corners.
        width: distance of the corners, meters.
    """

    loop: Int[Tensor, " l"]
    left: int
    place: Float[Tensor, "l 3"]
    along: Float[Tensor, " l"]
    upper: Float[Tensor, " l"]
    width: float

    @classmethod
    def of(cls, loop: Int[Tensor, " l"], left: int, place: Float[Tensor, "l 3"], width: float) -> "Lips":
        """From the loop and its positions."""
        along, upper = torch.empty(len(loop)).to(place), torch.empty(len(loop)).to(place)
        ring = torch.cat([place, place[:1]])
        for first, last, over in ((0, left, 1.0), (left, len(loop), 0.0)):
            traveled = torch.cat([place.new_zeros(1), (ring[first + 1 : last + 1] - ring[first:last]).norm(dim=1)])
            share = traveled.cumsum(0) / traveled.sum().clamp_min(1e-12)
            t = 2 * share - 1
            soft = ((1 - t.abs()) / 0.35).clamp(0, 1)
            mix = 0.5 + (over - 0.5) * soft * (2 - soft)
            pick = slice(first, last)
            along[pick], upper[pick] = (t if over else -t)[: last - first], mix[: last - first]
        return cls(loop, left, place, along, upper, width)

    def line(self, over: bool, x: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
        """(N, 2) y and z of the upper (or lower) lip at x, from a parabola fitted to its middle part."""
        ring = torch.cat([self.place, self.place[:1]])
        chain = ring[: self.left + 1] if over else ring[self.left :]
        # The corners bend away from the lip line, so the middle gets the largest weights.
        weight = (1 - (2 * chain[:, 0] / self.width).clamp(-1, 1) ** 2)[:, None] + 1e-3
        basis = torch.stack([torch.ones_like(chain[:, 0]), chain[:, 0], chain[:, 0] ** 2], 1)
        curve = torch.linalg.lstsq(weight * basis, weight * chain[:, 1:]).solution
        return torch.stack([torch.ones_like(x), x, x**2], 1) @ curve


def cavity(lips: Lips, rows: int, depth: float) -> tuple[Float[Tensor, "r l 3"], Float[Tensor, " r"]]:
    """Rings of the cavity behind the lips, front to back, and the weight of the lips in the motion of each.

    The cavity rises behind the upper lip and falls behind the lower lip, and narrows toward the back. Points of a ring
    stay above the line of the upper lip or below that of the lower lip, so closing the mouth does not bring roof and
    floor closer than at rest.

    Args:
        lips: the inner-lip loop.
        rows: R, the number of rings.
        depth: distance from the foremost point of the lips to the last ring, meters.

    Returns:
        (R, L, 3) points in the mouth's axes, meters, and (R,) weights in [0, 1].
    """
    place, width = lips.place, lips.width
    t = ((torch.arange(rows) + 1) / max(rows, 1)).to(place)[:, None] ** 1.25
    back = (depth - (place[:, 2].amax() - place[:, 2])).clamp_min(0.35 * depth)
    deep = t * back
    rise = (deep / (_RISE * width)).clamp(0, 1)
    rise = rise * (2 - rise)
    shrink = (1 - (0.85 * t) ** 2).sqrt()
    side = torch.ones_like(place[:, 1])
    side[lips.left :] = -1
    tall = side * _HEIGHT * width * (1 - lips.along**2).clamp_min(0).sqrt()
    points = torch.stack(
        [place[:, 0] * (0.3 + 0.7 * shrink), place[:, 1] + tall * rise * shrink, place[:, 2] - deep], -1
    )
    return points, (1 - t[:, 0] / 0.35).clamp_min(0)


def cavity_faces(rows: int, around: int) -> Int[Tensor, "f 3"]:
    """Triangles between `rows` + 1 rings of `around` vertices; ring 0 is the loop.

    The loop has the direction of the mesh's faces along it, and these faces the opposite one, so they face the viewer
    through the open mouth.
    """
    index = torch.arange((rows + 1) * around).reshape(rows + 1, around)
    after = index.roll(-1, 1)
    a, b, c, d = (part.reshape(-1) for part in (after[:-1], index[:-1], index[1:], after[1:]))
    return _quads(a, b, c, d)


def tooth_row(lips: Lips, over: bool) -> tuple[Float[Tensor, "n 3"], Int[Tensor, "f 3"]]:
    """A row of teeth as one closed arch behind the upper (or lower) lip, its faces outward.

    Vertices: `TOOTH_COLUMNS` cross-sections of `TOOTH_PROFILE` points (front root, over the edge, back root), then the
    tips at the right and the left end.
    """
    width = lips.width
    half = _ARCH * width
    s = torch.linspace(-1, 1, TOOTH_COLUMNS + 2).to(lips.place)
    x = half * s
    line, other = lips.line(over, x), lips.line(not over, x)
    ahead = (line[:, 1] - other[:, 1]).clamp(0, _SETBACK * width)  # behind the lip further back, within limits
    front = line[:, 1] - ahead - _GAP * width - (0.0 if over else 1.3 * _THICK * width)
    sign = 1.0 if over else -1.0
    bag = _HEIGHT * width * (1 - (x / (0.5 * width)) ** 2).clamp_min(0).sqrt()
    taper = (1 - s.abs() ** 4).sqrt()
    root = 0.78 * bag
    edge = torch.full_like(root, -_OVERLAP * width if over else 0.0)
    middle = 0.5 * (root + edge)
    root, edge = middle + (root - middle) * taper, middle + (edge - middle) * taper
    # Fraction of the way from the root to the edge, and of the thickness from the front.
    profile = [(0.0, 0.0), (0.75, -0.05), (0.98, 0.25), (0.98, 0.7), (0.6, 1.0), (0.0, 1.3)]
    slope = torch.gradient(front, spacing=(x,))[0]
    normal = torch.stack([-slope, torch.ones_like(slope)], 1)
    normal = normal / normal.norm(dim=1, keepdim=True)  # outward in the x-z plane
    points = []
    for down, inward in profile:
        y = line[:, 0] + sign * (root + down * (edge - root))
        shift = -inward * _THICK * width * taper[:, None] * normal
        points.append(torch.stack([x + shift[:, 0], y, front + shift[:, 1]], 1))
    ring = torch.stack(points, 1)
    ends = torch.stack([ring[0].mean(0), ring[-1].mean(0)])
    vertices = torch.cat([ring[1:-1].reshape(-1, 3), ends])
    columns, around = TOOTH_COLUMNS, TOOTH_PROFILE
    index = torch.arange(columns * around).reshape(columns, around)
    after = index.roll(-1, 1)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1], after[:-1], after[1:], index[1:]))
    tube = _quads(a, b, c, d)
    first, last = columns * around, columns * around + 1
    right = torch.stack([after[0], index[0], torch.full_like(index[0], first)], 1)
    left = torch.stack([index[-1], after[-1], torch.full_like(index[-1], last)], 1)
    faces = torch.cat([tube, right, left])
    return vertices, faces if over else faces.flip(1)


def cavity_chart(lips: Lips, rows: int, teeth: bool) -> Float[Tensor, "t 2"]:
    """((R + 1) L, 2) texture coordinates in the unit square: the lips on a circle, the rings inside it.

    Args:
        lips: the inner-lip loop, ring 0.
        rows: R.
        teeth: whether to leave space below for the strips of two rows of teeth.
    """
    center, radius = ((0.5, 0.655), 0.335) if teeth else ((0.5, 0.5), 0.49)
    angle = 0.5 * torch.pi * (1 - lips.along)  # 0 at the left corner, pi at the right one
    angle[lips.left :] *= -1
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    shrink = 1 - 0.75 * (torch.arange(rows + 1) / max(rows, 1)).to(ring)
    return (radius * shrink[:, None, None] * ring + ring.new_tensor(center)).reshape(-1, 2)


def tooth_chart(over: bool) -> tuple[Float[Tensor, "t 2"], Int[Tensor, "f 3"]]:
    """Texture coordinates (T, 2) and faces (F, 3) of a row of teeth, unrolled into a strip; see `tooth_row`."""
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
    tube = _quads(a, b, c, d)
    tip = columns * (around + 1) + torch.arange(around)
    right = torch.stack([index[0, 1:], index[0, :-1], tip], 1)
    left = torch.stack([index[-1, :-1], index[-1, 1:], tip + around], 1)
    faces = torch.cat([tube, right, left])
    return torch.cat([grid, *ends]), faces if over else faces.flip(1)


def _quads(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Int[Tensor, "f 3"]:
    """Two triangles for each quad (a, b, c, d), given as four index tensors (Q,)."""
    return torch.stack([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)], 1).reshape(-1, 3)
