"""Topology of the procedural head: edge loops and graded free points on a sphere, and their triangulation.

Edge loops run around eyes, mouth and ears, where lids, lips and ears are shaped; free points fill the rest, denser on
the face. All lie on the parameter sphere, where the convex hull is their Delaunay triangulation. The half with x >= 0
is mirrored, so the mesh is exactly symmetric.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull, cKDTree

from headfields.ops.vectors import unit_rows
from headfields.synthetic.head.base import (
    base_point,
    latitude_of_row,
    locate_front,
    row_of_latitude,
    sphere_direction,
)

__all__ = ["EAR", "EYE", "FREE", "LIDS", "LIPS", "MOUTH", "NECK_BORDER", "PINNA", "HeadMesh", "head_mesh"]

FREE, LIDS, LIPS, PINNA, NECK_BORDER = range(5)
EYE = (31.5, 0.0, 14.0, 8.5)  # center x, y and semi-axes of the opening on the parameter sphere
MOUTH = (0.0, -68.0, 25.0, 8.0)
EAR = (1.72, 0.455, 20.0, 29.0)  # longitude, row, and semi-axes in millimeters along and across
_LID_RINGS = np.array([-5.0, -2.4, 0.0, 1.5, 3.2, 5.2, 7.6, 10.6])
_LIP_RINGS = np.array([-5.2, -2.6, 0.0, 1.5, 3.1, 4.9, 7.2, 10.2])
_EAR_RINGS = np.linspace(1.0, 0.12, 9)
_LID_COUNT, _LIP_COUNT, _EAR_COUNT, _BORDER_COUNT = 32, 48, 36, 24


@dataclasses.dataclass(frozen=True)
class HeadMesh:
    """Topology of the skin: the position of each vertex on the sphere and in its loop, and the faces.

    Attributes:
        longitude, row (V,): the parameters of `base_point`.
        patch (V,): FREE, LIDS, LIPS, PINNA or NECK_BORDER.
        side (V,): 1 for x > 0, -1 for its mirror image, 0 on the midline.
        ring (V,): offset of the loop from the opening's margin in mm (LIDS, LIPS; negative inside) or the radius in
            [0, 1] (PINNA).
        angle (V,): angle along the loop, radians: 0 toward +x (eyes, mouth, before mirroring) or the back (ears).
        faces (F, 3): counter-clockwise from outside.
        mirror (V,): index of each vertex's mirror image.
    """

    longitude: Float[np.ndarray, " v"]
    row: Float[np.ndarray, " v"]
    patch: Int[np.ndarray, " v"]
    side: Int[np.ndarray, " v"]
    ring: Float[np.ndarray, " v"]
    angle: Float[np.ndarray, " v"]
    faces: Int[np.ndarray, "f 3"]
    mirror: Int[np.ndarray, " v"]


def _loops() -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 4"]]:
    """Parameters of the loop points with x >= 0, and (patch, ring, angle, on the midline) of each."""
    places, labels = [], []

    def add(parameters: np.ndarray, patch: int, ring: float, angle: np.ndarray, midline: np.ndarray) -> None:
        places.append(parameters)
        labels.append(np.stack([np.full(len(angle), patch), np.full(len(angle), ring), angle, midline], -1))

    for ring in _LID_RINGS:
        angle = (np.arange(_LID_COUNT)) * 2 * np.pi / _LID_COUNT
        x = EYE[0] + (EYE[2] + ring) * np.cos(angle)
        xy = np.stack([x, EYE[1] + (EYE[3] + ring) * np.sin(angle)], -1)
        add(locate_front(xy), LIDS, ring, angle, np.zeros(len(angle)))
    for ring in _LIP_RINGS:
        angle = -np.pi / 2 + np.arange(_LIP_COUNT // 2 + 1) * 2 * np.pi / _LIP_COUNT
        x = MOUTH[0] + (MOUTH[2] + ring) * np.cos(angle)
        xy = np.stack([x, MOUTH[1] + (MOUTH[3] + ring) * np.sin(angle)], -1)
        midline = np.zeros(len(angle))
        midline[[0, -1]] = 1
        add(locate_front(xy), LIPS, ring, angle, midline)
    longitude, row, along, up = EAR
    step = 1e-4
    at = base_point(np.array([longitude]), np.array([row]))
    per_longitude = np.linalg.norm(base_point(np.array([longitude + step]), np.array([row])) - at) / step
    per_row = np.linalg.norm(base_point(np.array([longitude]), np.array([row + step])) - at) / step
    for ring in _EAR_RINGS:
        count = _EAR_COUNT if ring > 0.3 else _EAR_COUNT // 2
        angle = np.arange(count) * 2 * np.pi / count
        back, high = ring * along * np.cos(angle), ring * up * np.sin(angle)
        place = np.stack([longitude + back / per_longitude, row - high / per_row], -1)
        add(place, PINNA, ring, angle, np.zeros(count))
    border = np.linspace(0, np.pi, _BORDER_COUNT)
    ends = np.zeros(_BORDER_COUNT)
    ends[[0, -1]] = 1
    add(np.stack([border, np.ones(_BORDER_COUNT)], -1), NECK_BORDER, 0.0, border, ends)
    return np.concatenate(places), np.concatenate(labels)


def _spacing(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Target edge length at points of the base surface, mm."""
    x, y, z = points.T
    face = np.sqrt((x / 62) ** 2 + ((y + 32) / 88) ** 2)
    spacing = np.where(z > 0, 3.9 + 7.5 * np.clip(face - 0.55, 0, 1) ** 1.2, 10.5)
    spacing = np.minimum(spacing, 10.0)
    nose = np.hypot(x, np.maximum(np.abs(y + 26) - 18, 0))
    spacing = np.where(z > 0, np.minimum(spacing, 2.15 + 0.2 * np.clip(nose - 16, 0, None)), spacing)
    ear = np.linalg.norm(points - base_point(np.array([EAR[0]]), np.array([EAR[1]])), axis=1)
    return np.minimum(spacing, 3.4 + 0.16 * np.clip(ear - 22, 0, None))


def _free_points(loops: Float[np.ndarray, "n 2"]) -> tuple[Float[np.ndarray, "m 2"], int]:
    """Parameters of the free points of the half x >= 0, midline first, and the number on the midline."""
    rows = np.linspace(0.0, 1.0, 4001)
    midline = []
    for longitude in (0.0, np.pi):
        line = base_point(np.full(len(rows), longitude), rows)
        traveled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1) / _spacing(line)[1:])])
        count = round(traveled[-1] / 0.86)
        place = np.interp(np.arange(1, count) / count * traveled[-1], traveled, rows)
        midline.append(np.stack([np.full(count - 1, longitude), place], -1))
    line = np.concatenate([np.array([[0.0, 0.0]]), *midline])
    points = base_point(line[:, 0], line[:, 1])
    inside = (points[:, 2] > 0) & (np.abs(points[:, 1] - MOUTH[1]) < MOUTH[3] + _LIP_RINGS[-1] + 1.6)
    line = line[~inside]

    count = 26000  # a low-discrepancy sequence (Roberts' R2), independent of any random generator
    index = np.arange(1, count + 1)[:, None]
    unit = (0.5 + index * np.array([0.7548776662466927, 0.5698402909980532])) % 1.0
    low = np.sin(latitude_of_row(np.array(1.0)))
    trial = np.stack([np.pi * unit[:, 0], row_of_latitude(np.arcsin(low + (1 - low) * unit[:, 1]))], -1)
    points = base_point(trial[:, 0], trial[:, 1])
    x, y, z = points.T
    eye = np.hypot((x - EYE[0]) / (EYE[2] + _LID_RINGS[-1] + 1.5), (y - EYE[1]) / (EYE[3] + _LID_RINGS[-1] + 1.5))
    mouth = np.hypot(x / (MOUTH[2] + _LIP_RINGS[-1] + 1.5), (y - MOUTH[1]) / (MOUTH[3] + _LIP_RINGS[-1] + 1.5))
    at = base_point(np.array([EAR[0]]), np.array([EAR[1]]))[0]
    ear = np.hypot((z - at[2]) / (EAR[2] + 2), (y - at[1]) / (EAR[3] + 2))
    keep = ~((z > 0) & ((eye < 1) | (mouth < 1))) & ~((x > 40) & (ear < 1))
    spacing = _spacing(points)
    keep &= (x > 0.75 * spacing) & (np.linalg.norm(points[:, :2] - [0, 0], axis=1) > 0)
    trial, points, spacing = trial[keep], points[keep], spacing[keep]

    fixed = np.concatenate([base_point(loops[:, 0], loops[:, 1]), base_point(line[:, 0], line[:, 1])])
    chosen: list[int] = []
    reach = 0.73
    for start in range(0, len(points), 500):
        block = np.arange(start, min(start + 500, len(points)))
        accepted = cKDTree(np.concatenate([fixed, points[chosen]]) if chosen else fixed)
        block = block[accepted.query(points[block])[0] > reach * spacing[block]]
        apart = np.linalg.norm(points[block][:, None] - points[block][None], axis=-1) > reach * spacing[block][:, None]
        alive = np.ones(len(block), bool)
        for i in range(len(block)):
            if alive[i]:
                later = np.arange(len(block)) > i
                alive &= apart[:, i] | ~later
        chosen.extend(block[alive].tolist())
    return np.concatenate([line, trial[chosen]]), len(line)


def _hull(directions: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "f 3"]:
    faces = ConvexHull(directions).simplices.astype(np.int64)
    a, b, c = (directions[faces[:, k]] for k in range(3))
    flipped = (np.cross(b - a, c - a) * (a + b + c)).sum(1) < 0
    faces[flipped] = faces[flipped][:, ::-1]
    return faces


@functools.cache
def head_mesh() -> HeadMesh:
    """The topology, symmetric about x = 0; computed once."""
    loops, labels = _loops()
    free, line_count = _free_points(loops)
    place = np.concatenate([loops, free])
    patch = np.concatenate([labels[:, 0].astype(np.int64), np.full(len(free), FREE)])
    ring = np.concatenate([labels[:, 1], np.zeros(len(free))])
    angle = np.concatenate([labels[:, 2], np.zeros(len(free))])
    middle = np.concatenate([labels[:, 3] > 0, np.arange(len(free)) < line_count])
    half = sphere_direction(place[:, 0], place[:, 1])
    half[middle, 0] = 0.0
    count, flip = len(half), np.array([-1.0, 1.0, 1.0])
    paired = np.nonzero(~middle)[0]
    image = np.arange(count)
    image[paired] = count + np.arange(len(paired))
    mirror = np.concatenate([image, paired])
    movable = patch == FREE
    movable[middle] = False
    directions = half
    for _ in range(6):  # Laplacian smoothing of the free points
        both = np.concatenate([directions, directions[paired] * flip])
        faces = _hull(both)
        total, degree = np.zeros_like(both), np.zeros(len(both))
        for k in range(3):
            for j in (1, 2):
                np.add.at(total, faces[:, k], both[faces[:, (k + j) % 3]])
                np.add.at(degree, faces[:, k], 1)
        moved = unit_rows(total[:count] / degree[:count, None])
        directions = np.where(movable[:, None], moved, directions)
    both = np.concatenate([directions, directions[paired] * flip])
    faces = _hull(both)
    faces = faces[(both[faces][:, :, 0].sum(1) > 0) & (faces < count).all(1)]
    hole = ((patch == LIDS) & (ring == _LID_RINGS[0])) | ((patch == LIPS) & (ring == _LIP_RINGS[0]))
    hole |= patch == NECK_BORDER
    faces = faces[~hole[faces].all(1)]
    faces = np.concatenate([faces, mirror[faces][:, ::-1]])
    longitude = np.arctan2(directions[:, 0], directions[:, 2])
    longitude = np.where(middle & (directions[:, 2] < 0), np.pi, longitude)
    row = row_of_latitude(np.arcsin(np.clip(directions[:, 1], -1, 1)))
    fixed = patch != FREE
    longitude[fixed], row[fixed] = place[fixed, 0], place[fixed, 1]
    return HeadMesh(
        longitude=np.concatenate([longitude, -longitude[paired]]),
        row=np.concatenate([row, row[paired]]),
        patch=np.concatenate([patch, patch[paired]]),
        side=np.concatenate([np.where(middle, 0, 1), np.full(len(paired), -1)]),
        ring=np.concatenate([ring, ring[paired]]),
        angle=np.concatenate([angle, angle[paired]]),
        faces=faces,
        mirror=mirror,
    )
