"""Where the inside of a mouth lies at rest, in the mouth's own axes; sizes are round figures, our own choice."""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Lips", "cavity", "cavity_chart", "cavity_faces", "tooth_chart", "tooth_row"]

# Parts of the mouth's width:
_HEIGHT = 0.20  # of the roof over the upper lip and of the floor under the lower one
_RISE = 0.13  # depth at which roof and floor are reached
_GAP = 0.125  # between lips and teeth
_THICK = 0.055  # of teeth
_OVERLAP = 0.08  # of the upper teeth below the upper lip
_ARCH = 0.34  # half the width of a row of teeth
_SETBACK = 0.13  # most that the upper teeth stand behind the upper lip for the lower lip's sake
TOOTH_COLUMNS, TOOTH_PROFILE = 15, 6


@dataclasses.dataclass(frozen=True)
class Lips:
    """The inner-lip loop in the mouth's axes: x to the head's left, y up, z out; origin between the corners.

    Attributes:
        loop: (L,) vertex indices from the right corner over the upper lip to the left one and back below.
        left: where in `loop` the left corner is.
        place: (L, 3) meters.
        along: (L,) from -1 at the right corner to 1 at the left one, by length of the lip.
        upper: (L,) how far each moves with the skull: 1 on the upper lip, 0 on the lower, 1/2 at the corners.
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
        """From the loop and its places."""
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
        """Height y and place z of the upper (or lower) lip's smoothed line at x: a parabola through its middle part."""
        ring = torch.cat([self.place, self.place[:1]])
        chain = ring[: self.left + 1] if over else ring[self.left :]
        # Corners turn away from the line of the lips, so the middle counts for most.
        weight = (1 - (2 * chain[:, 0] / self.width).clamp(-1, 1) ** 2)[:, None] + 1e-3
        basis = torch.stack([torch.ones_like(chain[:, 0]), chain[:, 0], chain[:, 0] ** 2], 1)
        curve = torch.linalg.lstsq(weight * basis, weight * chain[:, 1:]).solution
        return torch.stack([torch.ones_like(x), x, x**2], 1) @ curve


def cavity(lips: Lips, rows: int, depth: float) -> tuple[Float[Tensor, "r l 3"], Float[Tensor, " r"]]:
    """Rings of the bag behind the lips, front to back, and how far each still goes with the lips themselves.

    Behind the upper lip the bag rises to a roof, behind the lower one it falls to a floor, and both close in toward the
    back; a ring's points keep above the line of the upper lip or below that of the lower one, so that closing the
    mouth brings roof and floor no nearer than they are at rest.

    Args:
        lips: the loop.
        rows: R, the number of rings.
        depth: from the foremost point of the lips to the last ring, meters.
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
    """Two triangles a quad between rings of `around` vertices; ring 0 is the loop, the others follow it in order.

    The loop runs as the mesh's faces run along it, so these run against it and are seen through the open mouth.
    """
    index = torch.arange((rows + 1) * around).reshape(rows + 1, around)
    after = index.roll(-1, 1)
    a, b, c, d = (part.reshape(-1) for part in (after[:-1], index[:-1], index[1:], after[1:]))
    return _quads(a, b, c, d)


def tooth_row(lips: Lips, over: bool) -> tuple[Float[Tensor, "n 3"], Int[Tensor, "f 3"]]:
    """A row of teeth as one closed arch behind the upper (or lower) lip, its faces seen from outside it.

    Vertices: `TOOTH_COLUMNS` times around the profile (`TOOTH_PROFILE` points, from the front root over the edge to the
    back root), then the right end and the left end.
    """
    width = lips.width
    half = _ARCH * width
    s = torch.linspace(-1, 1, TOOTH_COLUMNS + 2).to(lips.place)
    x = half * s
    line, other = lips.line(over, x), lips.line(not over, x)
    ahead = (line[:, 1] - other[:, 1]).clamp(0, _SETBACK * width)  # behind whichever lip stands back, if not too far
    front = line[:, 1] - ahead - _GAP * width - (0.0 if over else 1.3 * _THICK * width)
    sign = 1.0 if over else -1.0
    bag = _HEIGHT * width * (1 - (x / (0.5 * width)) ** 2).clamp_min(0).sqrt()
    taper = (1 - s.abs() ** 4).sqrt()
    root = 0.78 * bag
    edge = torch.full_like(root, -_OVERLAP * width if over else 0.0)
    middle = 0.5 * (root + edge)
    root, edge = middle + (root - middle) * taper, middle + (edge - middle) * taper
    # How far from the root to the edge, and how far in from the front, as a part of the thickness.
    profile = [(0.0, 0.0), (0.75, -0.05), (0.98, 0.25), (0.98, 0.7), (0.6, 1.0), (0.0, 1.3)]
    slope = torch.gradient(front, spacing=(x,))[0]
    normal = torch.stack([-slope, torch.ones_like(slope)], 1)
    normal = normal / normal.norm(dim=1, keepdim=True)  # outward in the plane of x and z
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
    tube = _quads(a, b, c, d)
    tip = columns * (around + 1) + torch.arange(around)
    right = torch.stack([index[0, 1:], index[0, :-1], tip], 1)
    left = torch.stack([index[-1, :-1], index[-1, 1:], tip + around], 1)
    faces = torch.cat([tube, right, left])
    return torch.cat([grid, *ends]), faces if over else faces.flip(1)


def _quads(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Int[Tensor, "f 3"]:
    """Two triangles for each quad (a, b, c, d), given as four index tensors (Q,)."""
    return torch.stack([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)], 1).reshape(-1, 3)
