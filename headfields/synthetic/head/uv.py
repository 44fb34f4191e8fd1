"""Texture coordinates, regions and landmarks of the procedural head."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.interpolate import PchipInterpolator
from scipy.spatial import cKDTree

from headfields.synthetic.head.base import base_point, sphere_direction
from headfields.synthetic.head.mesh import EYE, LIDS, LIPS, MOUTH, NECK_BORDER, PINNA, head_mesh
from headfields.synthetic.head.parts import eye_polar_angles, head_parts

__all__ = [
    "EYE_UV",
    "eye_polar",
    "eye_reach",
    "hairline",
    "landmark_embedding",
    "region_masks",
    "skin_uv",
    "texture_coordinates",
]

EYE_UV = {1: (0.93, 0.07, 0.06), -1: (0.07, 0.07, 0.06)}  # side -> center u, v and radius of the eyeball's disc
_SKIN_BOTTOM = 0.15
_FACE_SHARE = 0.62  # stretch of the front relative to the back
_EYE_POWER = 0.6  # below 1 the iris gets a larger part of the eyeball's disc
_DOWN = PchipInterpolator([0, 0.18, 0.36, 0.74, 0.84, 1], [0, 0.085, 0.24, 0.85, 0.93, 1])  # the face gets more rows


def skin_uv(longitude: Float[np.ndarray, "..."], row: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... 2"]:
    """Texture coordinates (u, v) of the skin, v up: unrolled, with the face widened in the middle, the crown on top."""
    longitude, row = np.broadcast_arrays(longitude, row)
    turn = longitude / np.pi
    u = 0.5 + 0.5 * (turn + _FACE_SHARE * np.sin(np.pi * turn) / np.pi)
    return np.stack([u, 1 - (1 - _SKIN_BOTTOM) * _DOWN(row)], -1)


def eye_reach(polar: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Radius in [0, 1] in an eyeball's disc, for an angle from the eyeball's axis in radians."""
    return (polar / np.pi) ** _EYE_POWER


def eye_polar(reach: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Angle from the eyeball's axis, radians, for a radius in its disc: the inverse of `eye_reach`."""
    return reach ** (1 / _EYE_POWER) * np.pi


def texture_coordinates() -> tuple[Float[np.ndarray, "t 2"], Int[np.ndarray, "f 3"]]:
    """Texture coordinates (T, 2) and their faces (F, 3); the seam runs down the back, each eyeball maps to a disc."""
    parts = head_parts()
    mesh = parts.mesh
    uv = list(skin_uv(mesh.longitude, mesh.row))
    for side in (1, -1):
        u, v, radius = EYE_UV[side]
        around = parts.positions[parts.eyeball(side)] - parts.positions[parts.eyeball(side)].mean(0)
        angle = np.arctan2(around[:, 1], around[:, 0])
        reach = eye_reach(eye_polar_angles()) * radius
        uv.extend(np.stack([u + reach * np.cos(angle), v + reach * np.sin(angle)], -1))
    faces = parts.faces.copy()
    half = parts.skin_faces // 2
    copies: dict[int, int] = {}
    for index in range(half, parts.skin_faces):  # the mirrored half has the seam at u = 0
        for k in range(3):
            vertex = int(parts.faces[index, k])
            if mesh.longitude[vertex] == np.pi:
                if vertex not in copies:
                    copies[vertex] = len(uv)
                    uv.append(skin_uv(np.array(-np.pi), mesh.row[vertex : vertex + 1])[0])
                faces[index, k] = copies[vertex]
    poles = [int(np.argmin(mesh.row)), *(int(np.nonzero(parts.eyeball(side))[0][-1]) for side in (1, -1))]
    for pole in poles:  # a pole has no angle: each of its faces uses the mean of its other corners
        for index, k in np.argwhere(parts.faces == pole):
            others = np.array([uv[faces[index, (k + j) % 3]] for j in (1, 2)])
            place = others.mean(0)
            if pole == poles[0]:
                place[1] = 1.0
            else:
                u, v, radius = EYE_UV[int(parts.eye[pole])]
                place = np.array([u, v]) + radius * (place - [u, v]) / np.linalg.norm(place - [u, v])
            faces[index, k] = len(uv)
            uv.append(place)
    return np.array(uv), faces


_HAIRLINE = np.array(
    [
        (0.0, 66.0), (0.45, 68.0), (0.8, 60.0), (1.02, 38.0), (1.2, 8.0), (1.33, -14.0), (1.42, -10.0), (1.5, 20.0),
        (1.95, 20.0), (2.1, -20.0), (2.3, -58.0), (2.6, -74.0), (np.pi, -80.0),
    ]
)  # fmt: skip


def hairline(longitude: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Height y of the hairline on the base, mm."""
    return np.asarray(np.interp(np.abs(longitude), _HAIRLINE[:, 0], _HAIRLINE[:, 1]))


def region_masks() -> dict[str, Bool[np.ndarray, " f"]]:
    """Named face masks (F,)."""
    parts = head_parts()
    mesh = parts.mesh
    eye_vertices = len(parts.positions) - parts.skin

    def faces_of(skin: np.ndarray, eyes: np.ndarray | None = None) -> np.ndarray:
        vertices = np.concatenate([skin, np.zeros(eye_vertices, bool)])
        return (vertices if eyes is None else vertices | eyes)[parts.faces].all(1)

    base = base_point(mesh.longitude, mesh.row)
    x, y, z = base.T
    lid, lip, pinna = (mesh.patch == patch for patch in (LIDS, LIPS, PINNA))
    left, right = mesh.side >= 0, mesh.side <= 0
    scalp = (y > hairline(mesh.longitude)) & ~pinna
    neck = ((mesh.row > 0.735) & (z > 20)) | ((y < -84) & (z < 20)) | ((y < -60) & (z < -25))
    ahead = (z > 12) & ~neck & ~scalp & ~pinna
    eyeballs = {side: parts.eyeball(side) for side in (1, -1)}
    near_eye = np.hypot((np.abs(x) - EYE[0]) / 24.0, (y - EYE[1]) / 17.0) < 1
    near_mouth = np.hypot(x / 38.0, (y - MOUTH[1]) / 21.0) < 1
    region = {
        "face": faces_of(ahead),
        "mouth": faces_of(ahead & (near_mouth | lip)),
        "lips": faces_of(lip & (mesh.ring < 5.5)),
        "eyes": faces_of(ahead & near_eye, eyeballs[1] | eyeballs[-1]),
        "left_eye_region": faces_of(ahead & near_eye & left),
        "right_eye_region": faces_of(ahead & near_eye & right),
        "left_eyeball": faces_of(np.zeros(parts.skin, bool), eyeballs[1]),
        "right_eyeball": faces_of(np.zeros(parts.skin, bool), eyeballs[-1]),
        "left_ear": faces_of(pinna & left),
        "right_ear": faces_of(pinna & right),
        "nose": faces_of(ahead & (np.abs(x) < 20) & (y < 8) & (y > -51) & ~lid & ~lip),
        "forehead": faces_of(ahead & (y > 24)),
        "scalp": faces_of(scalp),
        "neck": faces_of(neck),
        "boundary": faces_of(neck & ((mesh.row > 0.93) | (mesh.patch == NECK_BORDER))),
    }
    region["face"] |= region["left_eyeball"] | region["right_eyeball"]
    return region


def landmark_embedding() -> tuple[Int[np.ndarray, " 68"], Float[np.ndarray, "68 3"]]:
    """The 68 landmarks in iBUG's order: faces (68,) and barycentric coordinates (68, 3)."""
    parts = head_parts()
    mesh = head_mesh()
    skin = np.arange(parts.skin)
    place = parts.positions[: parts.skin]
    directions = cKDTree(sphere_direction(mesh.longitude, mesh.row))

    def at_front(x: float, y: float) -> tuple[int, np.ndarray]:
        """Face and barycentric coordinates of the foremost point of the skin at x and y."""
        corners = place[mesh.faces]
        a, b, c = (corners[:, k, :2] for k in range(3))
        cross = lambda p, q: p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]  # noqa: E731
        target = np.array([[x, y]])
        area = cross(b - a, c - a)
        area = np.where(np.abs(area) < 1e-9, 1e-9, area)
        weights = np.stack(
            [cross(b - target, c - target), cross(c - target, a - target), cross(a - target, b - target)], -1
        )
        weights = weights / area[:, None]
        depth = np.where((weights >= -1e-9).all(1) & (area > 0), (weights * corners[:, :, 2]).sum(1), -np.inf)
        best = int(np.argmax(depth))
        return best, weights[best]

    def at_vertex(vertex: int) -> tuple[int, np.ndarray]:
        face, corner = np.argwhere(mesh.faces == vertex)[0]
        return int(face), np.eye(3)[corner]

    def on_loop(patch: int, ring: float, angle: float, side: int) -> tuple[int, np.ndarray]:
        pick = skin[(mesh.patch == patch) & (mesh.ring == ring) & ((mesh.side == side) | (mesh.side == 0))]
        apart = np.abs(np.angle(np.exp(1j * (mesh.angle[pick] - angle))))
        return at_vertex(int(pick[np.argmin(apart)]))

    def contour(longitude: float, y: float) -> tuple[int, np.ndarray]:
        rows = np.linspace(0.3, 0.8, 501)
        row = rows[np.argmin(np.abs(base_point(np.full(501, longitude), rows)[:, 1] - y))]
        return at_vertex(int(directions.query(sphere_direction(np.array(longitude), np.array(row)))[1]))

    degrees = [87, 83, 78, 72, 64, 53, 38, 19]
    heights = [-6.0, -26.0, -45.0, -62.0, -78.0, -91.0, -102.0, -109.0]
    marks = [contour(-np.radians(d), h) for d, h in zip(degrees, heights, strict=True)]
    marks.append(contour(0.0, -113.0))
    marks += [contour(np.radians(d), h) for d, h in zip(degrees[::-1], heights[::-1], strict=True)]
    brow = [(51.0, 14.0), (43.0, 20.0), (33.0, 21.5), (23.0, 20.0), (13.0, 16.5)]
    marks += [at_front(-x, y) for x, y in brow] + [at_front(x, y) for x, y in brow[::-1]]
    marks += [at_front(0.0, y) for y in (2.0, -11.0, -23.0, -35.0)]
    marks += [at_front(x, y) for x, y in ((-12.0, -45.0), (-6.5, -47.0), (0.0, -48.0), (6.5, -47.0), (12.0, -45.0))]
    upper, lower = (np.radians(60), np.radians(120)), (np.radians(-120), np.radians(-60))
    eye = [0.0, *upper, np.pi, *lower]  # from the outer corner along the upper lid and back below
    marks += [on_loop(LIDS, 0.0, angle, -1) for angle in eye]
    marks += [on_loop(LIDS, 0.0, angle, 1) for angle in (np.pi, *upper[::-1], 0.0, *lower[::-1])]

    def lip(ring: float, degrees: list[int]) -> list[tuple[int, np.ndarray]]:
        """Landmarks at angles in degrees, 0 at the left corner; the right half mirrors the left."""
        out = []
        for d in degrees:
            mirrored = 90 < d % 360 < 270
            out.append(on_loop(LIPS, ring, np.radians(180 - d if mirrored else d), -1 if mirrored else 1))
        return out

    red = float(np.sort(np.unique(mesh.ring[mesh.patch == LIPS]))[6])  # the border of the red of the lips
    marks += lip(1.5, [180]) + lip(red, [142, 112, 90, 68, 38]) + lip(1.5, [0]) + lip(red, [-38, -68, -90, -112, -142])
    marks += lip(0.0, [172, 120, 90, 60, 8, -60, -90, -120])
    return np.array([face for face, _ in marks]), np.stack([weights for _, weights in marks])
