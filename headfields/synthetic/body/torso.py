"""Torso of the procedural body: rings below the border of the neck, projected onto an implicit surface.

Neck, shoulders, stubs of the upper arms and the trunk down to the waist, closed at the ends. Millimeters in the head's
frame (x to its left, y = 0 at the pupils, z = 0 at the ears). The numbers are round figures within the range of adult
anthropometry; the arms hang 52 degrees below the horizontal, about as in photographs of standing people.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.interpolate import PchipInterpolator

from headfields.ops.mesh_topology import edges_as_arrays
from headfields.synthetic.head.mesh import NECK_BORDER
from headfields.synthetic.head.parts import head_parts
from headfields.synthetic.head.shape import smoothstep

__all__ = ["ARM_AXIS", "ELBOW", "SHOULDER", "TRUNK_BOTTOM", "Torso", "torso"]

SHOULDER = np.array([178.0, -264.0, -47.0])  # center of the left shoulder
ARM_AXIS = np.array([np.cos(np.radians(52)), -np.sin(np.radians(52)), -0.03])
ELBOW = SHOULDER + 265.0 * ARM_AXIS
TRUNK_BOTTOM = -640.0
_STUB = 235.0  # length of the stub of the arm
_COLUMNS = 92
_ROWS = 47
_ARM_ROWS = 20
_HOLE = (17, 29)  # first and last row of the armholes
_ROUNDS = 60
_BLEND = 13.0  # width of the smooth union of parts, mm

_TUBE = np.array(  # y, half width, half depth, z of the axis
    [
        (-150, 53, 49, -15), (-170, 56, 49, -18), (-188, 62, 51, -22), (-205, 69, 55, -26), (-225, 88, 64, -31),
        (-250, 118, 78, -36), (-300, 145, 96, -42), (-380, 158, 110, -43), (-440, 158, 111, -40), (-520, 149, 101, -37),
        (-580, 143, 94, -35), (-640, 150, 98, -36), (-700, 160, 104, -38),
    ],
    dtype=np.float64,
)[::-1]  # fmt: skip
_TUBE_SPLINE = PchipInterpolator(_TUBE[:, 0], _TUBE[:, 1:])


def _capsule(p: np.ndarray, a: np.ndarray, b: np.ndarray, start: float | int, end: float | int) -> np.ndarray:
    """Signed distance to a rounded cone between two points."""
    along = b - a
    t = np.clip(((p - a) @ along) / (along @ along), 0, 1)
    return np.linalg.norm(p - a - t[:, None] * along, axis=1) - (start + (end - start) * t)


def _ball(p: np.ndarray, at: Sequence[float | int] | np.ndarray, size: Sequence[float | int]) -> np.ndarray:
    radii = np.asarray(size)
    return (np.linalg.norm((p - at) / radii, axis=1) - 1) * radii.min()


def _join(values: list[np.ndarray], soft: float | int) -> np.ndarray:
    stacked = np.stack(values) / soft
    low = stacked.min(0)
    return soft * (low - np.log(np.exp(low - stacked).sum(0)))


def _implicit(point: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Approximate signed distance to the body's surface, mm, negative inside; symmetric."""
    p = point * [1, 1, 1]
    p[:, 0] = np.sqrt(p[:, 0] ** 2 + 4.0)  # rounded, which avoids a crease at the midline
    x, y, z = p.T
    wide, deep, axis = _TUBE_SPLINE(np.clip(y, _TUBE[0, 0], _TUBE[-1, 0])).T
    power = np.interp(y, [-260, -200], [2.35, 2.0])
    round_ = ((x / wide) ** power + np.abs((z - axis) / deep) ** power + 1e-9) ** (1 / power)
    tube = (round_ - 1) * np.minimum(wide, deep) * 0.95
    tube = np.maximum(tube, y + 150.0)
    floor = TRUNK_BOTTOM - y
    tube = _join([-tube, -floor], 9.0) * -1  # a rounded edge at the waist
    wrist = SHOULDER + _STUB * ARM_AXIS
    parts = [
        tube,
        _capsule(p, np.array([18.0, -212, -50]), SHOULDER + np.array([-6, 11, -4]), 21, 36),  # trapezius
        _capsule(p, SHOULDER, wrist, 53, 40),
        _ball(p, SHOULDER + np.array([4, -2, 1]), (55, 52, 54)),
        _ball(p, (78, -362, 22), (76, 54, 42)),  # chest
        _ball(p, (84, -335, -112), (58, 88, 34)),  # shoulder blade
    ]
    body = _join(parts, _BLEND)
    collar = _capsule(p, np.array([15.0, -241, 13]), SHOULDER + np.array([-22, 20, 22]), 10, 9)
    notch = _ball(p, (0, -232, 41), (9, 10, 9))
    return -_join([-_join([body, collar], 6.0), notch], 7.0)


def _project(point: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Points projected onto the surface along the gradient."""
    step = 0.5
    for _ in range(rounds):
        value = _implicit(point)
        slope = np.stack([(_implicit(point + step * axis) - value) / step for axis in np.eye(3)], -1)
        move = (value / np.maximum((slope**2).sum(1), 0.05))[:, None] * slope
        length = np.linalg.norm(move, axis=1, keepdims=True)
        point = point - move * np.minimum(1, 25 / np.maximum(length, 1e-9))
    return point


@dataclasses.dataclass(frozen=True)
class Torso:
    """Vertices and faces of the torso.

    Attributes:
        positions (V, 3): millimeters.
        faces (F, 3): indices into the body's vertices, the head's first; the top faces use the neck's border.
        border (B,): indices of the neck's border among the head's vertices, from the front midline over the left side
            to the back.
        column (V,), row (V,): grid coordinates on the trunk or an arm: angle in turns in [0, 1) from the front midline
            (arms: from the top of the shoulder), and position in [0, 1] from the neck (arms: the shoulder) to the end.
        part (V,): 0 trunk, 1 left arm, -1 right arm.
        mirror (V,): index of each vertex's mirror image.
    """

    positions: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    border: Int[np.ndarray, " b"]
    column: Float[np.ndarray, " v"]
    row: Float[np.ndarray, " v"]
    part: Int[np.ndarray, " v"]
    mirror: Int[np.ndarray, " v"]


def _border() -> Int[np.ndarray, " b"]:
    mesh = head_parts().mesh
    ring = np.nonzero(mesh.patch == NECK_BORDER)[0]
    turn = np.where(mesh.side[ring] < 0, 2 * np.pi - np.abs(mesh.longitude[ring]), np.abs(mesh.longitude[ring]))
    return ring[np.argsort(turn)]


@functools.cache
def torso() -> Torso:
    """The torso, symmetric about x = 0; computed once."""
    head = head_parts()
    border = _border()
    start = len(head.positions)
    first_row, last_row = _HOLE
    # Columns 0 (front midline) to 91; the left side is columns 1 to 45, 46 the back midline. The hole of the right
    # arm is the mirror image. Hole cells are rows [first, last) by columns [low, high); the vertices within are left
    # out.
    number = np.full((_ROWS, _COLUMNS), -1, np.int64)
    mirrored = (-np.arange(_COLUMNS)) % _COLUMNS
    inner = np.zeros((_ROWS, _COLUMNS), bool)
    columns = np.arange(_COLUMNS)
    side = np.minimum(columns, _COLUMNS - columns)  # 0 front to 46 back, on both sides
    low, high = 23 - 8, 23 + 8
    inner[first_row + 1 : last_row] = (side > low) & (side < high)
    keep = ~inner
    number[keep] = np.arange(keep.sum())
    rows, cols = np.nonzero(keep)

    # An initial embedding without folds: a ring around the neck that widens to the shoulders and then hangs down.
    turn = 2 * np.pi * columns / _COLUMNS
    ring = np.stack([np.sin(turn), np.zeros(_COLUMNS), np.cos(turn)], -1)
    t = np.arange(1, _ROWS + 1) / _ROWS
    y = np.interp(t, [0, 0.36, 0.62, 1.0], [-190, -224, -350, -640])
    wide = np.interp(t, [0, 0.36, 0.62, 1.0], [62, 165, 165, 150])
    deep = np.interp(t, [0, 0.36, 0.62, 1.0], [51, 88, 108, 98])
    axis = np.interp(t, [0, 0.36, 0.62, 1.0], [-22, -42, -43, -36])
    grid = np.stack(
        [
            wide[:, None] * ring[None, :, 0],
            np.broadcast_to(y[:, None], (_ROWS, _COLUMNS)),
            axis[:, None] + deep[:, None] * ring[None, :, 2],
        ],
        -1,
    )
    places = [grid[rows, cols]]
    column = [cols / _COLUMNS]
    row = [(rows + 1) / (_ROWS + 1)]
    part = [np.zeros(len(rows), np.int64)]
    count = int(keep.sum())

    # Quads of the trunk, as rows of four indices.
    quads: list[np.ndarray] = []
    for r in range(_ROWS - 1):
        for c in range(_COLUMNS):
            d = (c + 1) % _COLUMNS
            if first_row <= r < last_row and low <= min(side[c], side[d]) and max(side[c], side[d]) <= high:
                continue
            quads.append(np.array([number[r, c], number[r + 1, c], number[r + 1, d], number[r, d]]))

    # The loop of an armhole, from the top middle over the front, and the rings of the arm.
    def loop_of(sign: int) -> np.ndarray:
        def at(r: int, s: int) -> int:
            c = s if sign > 0 else mirrored[s]
            return int(number[r, c])

        mid = (low + high) // 2
        walk = [at(first_row, s) for s in range(mid, low, -1)]
        walk += [at(r, low) for r in range(first_row, last_row)]
        walk += [at(last_row, s) for s in range(low, high)]
        walk += [at(r, high) for r in range(last_row, first_row, -1)]
        walk += [at(first_row, s) for s in range(high, mid, -1)]
        return np.array(walk)

    flip = np.array([-1.0, 1.0, 1.0])
    arms: dict[int, np.ndarray] = {}
    poles: dict[int, int] = {}
    for sign in (1, -1):
        loop = loop_of(sign)
        around = len(loop)
        angle = 2 * np.pi * np.arange(around) / around
        up = np.array([-ARM_AXIS[1], ARM_AXIS[0], 0.0])
        up /= np.linalg.norm(up)
        ahead = np.cross(ARM_AXIS, up) * -1
        ahead = ahead if ahead[2] > 0 else -ahead
        circle = np.cos(angle)[:, None] * up + np.sin(angle)[:, None] * ahead
        base = places[0][loop] * (flip if sign < 0 else 1)
        table = [loop]
        for k in range(1, _ARM_ROWS + 1):
            s = k / _ARM_ROWS
            round_ = SHOULDER + ARM_AXIS * (_STUB + 20) * s + (52 - 12 * s) * circle
            near = np.clip(1.6 * s, 0, 1)
            ring_k = (1 - near) * base + near * round_
            places.append(ring_k * (flip if sign < 0 else 1))
            table.append(count + np.arange(around))
            column.append(np.arange(around) / around)
            row.append(np.full(around, s * 0.97))
            part.append(np.full(around, sign))
            count += around
        places.append(((SHOULDER + ARM_AXIS * (_STUB + 45)) * (flip if sign < 0 else 1))[None])
        column.append(np.zeros(1))
        row.append(np.ones(1))
        part.append(np.full(1, sign))
        poles[sign] = count
        count += 1
        arms[sign] = np.stack(table)
        for k in range(_ARM_ROWS):
            for c in range(around):
                d = (c + 1) % around
                quad = np.array([table[k][c], table[k + 1][c], table[k + 1][d], table[k][d]])
                quads.append(quad if sign < 0 else quad[[3, 2, 1, 0]])

    # The floor of the trunk: rings that shrink to a pole.
    last = number[_ROWS - 1]
    floor = [last]
    for k in range(1, 8):
        s = 1 - k / 8
        center = np.array([0, TRUNK_BOTTOM, -36.0])
        places.append(center + (grid[_ROWS - 1] - center) * [s, 1, s])
        floor.append(count + np.arange(_COLUMNS))
        column.append(columns / _COLUMNS)
        row.append(np.full(_COLUMNS, 1 + 0.12 * k / 8))
        part.append(np.zeros(_COLUMNS, np.int64))
        count += _COLUMNS
    places.append(np.array([[0, TRUNK_BOTTOM, -36.0]]))
    column.append(np.zeros(1))
    row.append(np.full(1, 1.12))
    part.append(np.zeros(1, np.int64))
    bottom = count
    count += 1
    for k in range(7):
        for c in range(_COLUMNS):
            d = (c + 1) % _COLUMNS
            quads.append(np.array([floor[k][c], floor[k + 1][c], floor[k + 1][d], floor[k][d]]))

    triangles: list[tuple[int, int, int]] = []
    for pole, ring_, sign in ((bottom, floor[-1], 1), (poles[1], arms[1][-1], -1), (poles[-1], arms[-1][-1], 1)):
        for c in range(len(ring_)):
            d = (c + 1) % len(ring_)
            triangles.append((ring_[c], pole, ring_[d]) if sign > 0 else (ring_[d], pole, ring_[c]))
    whole = np.stack(quads)
    points = np.concatenate(places)
    mirror = _mirror(number, keep, arms, floor, poles, bottom, mirrored, count)
    points = 0.5 * (points + points[mirror] * flip)

    # Edges for smoothing; the first ring is also connected to the border, which is fixed.
    edges = np.concatenate([whole[:, [0, 1]], whole[:, [1, 2]], whole[:, [2, 3]], whole[:, [3, 0]]])
    edges = np.concatenate([edges, edges_as_arrays(np.array(triangles))[0]])
    edges = np.unique(np.sort(edges, 1), axis=0)
    degree = np.bincount(edges.ravel(), minlength=count).astype(float)
    neck = head.positions[border]
    doubled = np.empty((_COLUMNS, 3))
    doubled[0::2], doubled[1::2] = neck, 0.5 * (neck + np.roll(neck, -1, 0))
    top = number[0]
    degree[top] += 1
    for round_ in range(_ROUNDS):
        total = np.zeros_like(points)
        for k in range(3):
            total[:, k] = np.bincount(edges[:, 0], points[edges[:, 1], k], count) + np.bincount(
                edges[:, 1], points[edges[:, 0], k], count
            )
        total[top] += doubled
        points = points + 0.8 * (total / degree[:, None] - points)
        points = _project(points, 1 if round_ < _ROUNDS - 1 else 3)
        points = 0.5 * (points + points[mirror] * flip)
    # The border is slightly off the implicit surface; the difference fades over the first rings.
    off = doubled - _project(doubled.copy(), 4)
    fade = smoothstep(np.arange(1.0, 13.0), 13, 0)
    for r in range(12):
        points[number[r]] += fade[r] * off

    stitch: list[tuple[int, int, int]] = []
    size = len(border)
    for k in range(size):
        a, b = int(border[k]), int(border[(k + 1) % size])
        c0, c1, c2 = (int(top[(2 * k + j) % _COLUMNS]) + start for j in range(3))
        stitch += [(a, c0, c1), (a, c1, b), (b, c1, c2)]
    cut = [_split(quad, points) for quad in whole]
    own = np.concatenate([np.concatenate(cut), np.array(triangles)]) + start
    return Torso(
        positions=points,
        faces=np.concatenate([np.array(stitch), own]),
        border=border,
        column=np.concatenate(column),
        row=np.concatenate(row),
        part=np.concatenate(part),
        mirror=mirror,
    )


def _split(quad: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Two triangles of a quad, along its shorter diagonal; ties are broken symmetrically."""
    a, b, c, d = quad
    one, other = np.linalg.norm(points[a] - points[c]), np.linalg.norm(points[b] - points[d])
    if abs(one - other) < 1e-6 and points[quad, 0].mean() < 0:
        one, other = other, one
    return np.array([[a, b, c], [a, c, d]] if one <= other else [[a, b, d], [b, c, d]])


def _mirror(
    number: np.ndarray,
    keep: np.ndarray,
    arms: dict[int, np.ndarray],
    floor: list[np.ndarray],
    poles: dict[int, int],
    bottom: int,
    mirrored: np.ndarray,
    count: int,
) -> np.ndarray:
    out = np.arange(count)
    out[number[keep]] = number[:, mirrored][keep]
    out[arms[1].ravel()], out[arms[-1].ravel()] = arms[-1].ravel(), arms[1].ravel()
    out[poles[1]], out[poles[-1]] = poles[-1], poles[1]
    for ring in floor[1:]:
        out[ring] = ring[mirrored]
    out[bottom] = bottom
    return out
