"""Shape of the procedural head: brow, eye sockets and lids, nose, lips, cheeks, jaw and ears on the base surface.

Positions are functions of a vertex's parameters on the base and in its loop, so they do not depend on the resolution of
the mesh. Millimeters, as in `base`.
"""

import functools

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline, PchipInterpolator

from headfields.ops.smoothstep import cubic
from headfields.ops.vectors import unit_rows
from headfields.synthetic.head.base import base_point, locate_front
from headfields.synthetic.head.mesh import EAR, EYE, LIDS, LIPS, MOUTH, PINNA, HeadMesh, head_mesh

__all__ = ["EYE_CENTER", "EYE_RADIUS", "LID_RADIUS", "lip_height", "skin_positions", "smoothstep"]

Values = Float[np.ndarray, "..."] | np.floating | float | int

EYE_CENTER = np.array([31.5, 0.0, 72.0])  # of the left eye
EYE_RADIUS = 13.2
LID_RADIUS = EYE_RADIUS + 1.4
_OPENING = (13.6, 5.9, 4.4)  # half width, height above and below the line between the corners


def smoothstep(x: Values, low: Values, high: Values) -> Float[np.ndarray, "..."]:
    """0 below `low`, 1 above `high` (which may be the smaller), a cubic between; arguments are broadcast."""
    return np.asarray(cubic(np.clip((x - low) / (high - low), 0, 1)))


def _bump(x, y, at, width, power=2.0):
    """exp(-r^power), r the distance from `at` in units of `width` per axis."""
    r2 = ((x - at[0]) / width[0]) ** 2 + ((y - at[1]) / width[1]) ** 2
    return np.exp(-(r2 ** (power / 2)))


_RIDGE = PchipInterpolator(
    [-75, -56, -52, -48, -45.5, -43, -40, -36, -32, -26, -16, -6, 2, 9, 16, 30],
    [0, 0, 0.6, 3.0, 8.0, 15.0, 20.5, 23.0, 22.0, 18.0, 12.2, 6.6, 3.0, 1.0, 0, 0],
)
_RIDGE_WIDTH = PchipInterpolator(
    [-75, -50, -44, -36, -28, -16, -4, 8, 30], [9, 9.5, 11.0, 11.2, 10.2, 9.6, 9.4, 10.5, 14]
)


def _nose(x, y):
    """Height of the nose above the face, mm."""
    width = _RIDGE_WIDTH(y)
    ridge = _RIDGE(y) * np.exp(-(np.abs(x / width) ** 2.1))
    wings = 8.5 * _bump(np.abs(x), y, (12.6, -41.0), (6.0, 6.6), 2.6)
    tip = 1.8 * _bump(x, y, (0, -37.5), (8.5, 6.0))
    nostril = -4.2 * _bump(np.abs(x), y, (6.6, -46.3), (3.6, 2.2))
    flank = -1.0 * _bump(np.abs(x), y, (17, -30), (5, 8))
    return ridge + wings + tip + nostril + flank


_UPPER = PchipInterpolator(
    [-1, 0, 1.0, 2.8, 5.0, 7.0, 8.4, 10.5, 14, 19, 40], [-2.4, -1.7, 2.3, 4.8, 5.2, 4.0, 2.3, 1.3, 0.6, 0, 0]
)
_LOWER = PchipInterpolator(
    [-1, 0, 1.2, 3.6, 6.4, 9.0, 11.2, 14, 18, 23, 40], [-2.4, -1.7, 2.7, 5.6, 5.4, 3.0, 0.2, -1.8, -1.5, 0, 0]
)


def stomion(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Height y of the line between the lips."""
    r = np.clip(np.abs(x) / MOUTH[2], 0, 1.6)
    return MOUTH[1] + 0.8 * r * (1 - r) * 2 - 1.2 * r**3


def lip_height(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Fullness of the lips at x, in [0, 1]: 1 on the midline and 0 beyond the corners."""
    return np.clip(1 - (np.abs(x) / (MOUTH[2] + 2.0)) ** 2.2, 0, 1) ** 0.75


def _lips(x, v):
    """Height of the lips above the face at v mm above the line between them."""
    full = lip_height(x)
    stretch = 1 / (0.45 + 0.55 * full)  # the lips taper toward the corners
    bow = 1 - 0.16 * np.exp(-((x / 3.2) ** 2))  # Cupid's bow
    upper = _UPPER(np.abs(v) * stretch / bow)
    lower = _LOWER(np.abs(v) * stretch)
    height = np.where(v >= 0, upper, lower) * (0.12 + 0.88 * full)
    return height * smoothstep(np.abs(x), MOUTH[2] + 9, MOUTH[2] - 6)


def _face(x, y):
    """Height of the broad features above the base at the front, mm."""
    a = np.abs(x)
    brow = 3.6 * _bump(a, y - 0.0016 * (a - 30) ** 2 * -1, (27, 17.5), (17, 6.5))
    glabella = 1.2 * _bump(x, y, (0, 17), (9, 8))
    socket = -12.0 * _bump(a, y, (EYE[0] - 0.5, -1), (18.0, 13.0), 2.6)
    inner = -5.5 * _bump(a, y, (15.5, 1.5), (5.5, 7.5))
    cheek = 4.2 * _bump(a, y, (46, -27), (15, 14)) + 2.0 * _bump(a, y, (27, -36), (12, 13))
    fold = (
        -1.6 * np.exp(-(((a - (17 + 0.42 * (-44 - y))) / 4.2) ** 2)) * smoothstep(y, -76, -60) * smoothstep(y, -38, -48)
    )
    hollow = -2.6 * _bump(a, y, (45, -66), (13, 15))
    philtrum = -1.0 * _bump(x, y, (0, -55), (2.6, 5.0)) + 0.5 * _bump(a, y, (4.6, -56), (2.4, 5.5))
    chin = 3.6 * _bump(x, y, (0, -99), (14, 10), 2.6) + 1.2 * _bump(a, y, (7, -101), (7, 7))
    crease = -2.2 * _bump(x, y, (0, -85), (17, 4.5))
    temple = -2.6 * _bump(a, y, (66, 22), (12, 22))
    forehead = 2.2 * _bump(a, y, (24, 46), (22, 16))
    muzzle = 3.4 * _bump(x, y, (0, -66), (24, 19), 2.6)
    return (
        brow + glabella + socket + inner + cheek + fold + hollow + philtrum + chin + crease + temple + forehead + muzzle
    )


def _sides(point: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Outward displacement of jaw, neck and nape, which heights seen from the front do not shape."""
    x, y, z = point.T
    a = np.abs(x)
    out = unit_rows(np.stack([x, np.zeros_like(x), 0.8 * z], -1))
    jaw_line = np.interp(z, [-20, 5, 40, 80], [-62, -86, -97, -108])
    along = smoothstep(z, -22, 2) * smoothstep(a, 6, 26)
    jaw = 3.4 * np.exp(-(((y - jaw_line) / 14.0) ** 2)) * along
    under = -3.2 * np.exp(-(((y - jaw_line + 24) / 15.0) ** 2)) * along * smoothstep(z, 50, 20)
    arch = 2.0 * np.exp(-(((y + 17) / 9) ** 2)) * np.exp(-(((z - 38) / 26) ** 2)) * smoothstep(a, 40, 60)
    angle = 2.2 * np.exp(-(((y + 70) / 16) ** 2) - (((z - 2) / 18) ** 2)) * smoothstep(a, 30, 50)
    muscle = (
        2.6
        * np.exp(-(((a - np.interp(y, [-192, -100], [12, 50])) / 8.0) ** 2))
        * smoothstep(y, -105, -130)
        * smoothstep(z, -20, 5)
    )
    apple = 2.4 * np.exp(-((x / 7) ** 2) - (((y + 148) / 9) ** 2)) * smoothstep(z, 5, 25)
    return out * (jaw + under + arch + angle + muscle + apple)[:, None]


def _lid_surface(x, y):
    """z of the closed lids over the eyeball (side x >= 0); far behind the face elsewhere."""
    q = ((x - EYE_CENTER[0]) / 17.2) ** 2 + ((y - EYE_CENTER[1]) / (LID_RADIUS + 0.6)) ** 2
    return EYE_CENTER[2] + LID_RADIUS * np.sqrt(np.maximum(1 - q, 1e-4)) - 30 * np.maximum(q - 0.98, 0)


def _smooth_max(a, b, k):
    h = np.clip(0.5 + 0.5 * (a - b) / k, 0, 1)
    return b + h * (a - b) + k * h * (1 - h)


def almond(angle: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... 2"]:
    """Lid margin (x, y) of the left eye; angle 0 is the outer corner, pi/2 the top."""
    half, above, below = _OPENING
    c, s = np.cos(angle), np.sin(angle)
    lift = np.where(s >= 0, above, below) * np.abs(s) ** 1.55 * (1 - np.where(s >= 0, -0.16, 0.16) * c * 0.9)
    return np.stack([EYE_CENTER[0] + half * c, EYE_CENTER[1] + np.sign(s) * lift + 0.9 * c - 0.2], -1)


def _plain(point: Float[np.ndarray, "n 3"], v: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """The base plus all features of front and sides; `v` is the height above the line between the lips."""
    x, y, z = point.T
    front = smoothstep(z, 2, 42)
    under = smoothstep(y, -124, -108)  # heights of the front do not apply below the chin
    height = _face(x, y) * front * under + _nose(x, y) * front + _lips(x, v) * front
    placed = point + _sides(point)
    placed[:, 2] += height
    lids = _lid_surface(np.abs(x), y)
    mixed = _smooth_max(placed[:, 2], lids, 3.0)
    near = smoothstep(np.hypot((np.abs(x) - EYE[0]) / 24, y / 20), 1.15, 0.8) * front
    placed[:, 2] += near * (mixed - placed[:, 2])
    droop = -2.6 * _bump(x, y, (0, -44), (9, 4.5)) * front  # columella and nostrils turn under
    placed[:, 1] += droop
    return placed


def _shape_lids(mesh: HeadMesh, positions: Float[np.ndarray, "v 3"]) -> None:
    pick = mesh.patch == LIDS
    ring, angle, side = mesh.ring[pick], mesh.angle[pick], mesh.side[pick]
    outer = mesh.ring[pick].max()
    margin = almond(angle)
    ellipse = np.stack([EYE[0] + (EYE[2] + ring) * np.cos(angle), EYE[1] + (EYE[3] + ring) * np.sin(angle)], -1)
    blend = np.clip(ring / outer, 0, 1)[:, None] ** 1.2
    offset = np.stack([np.cos(angle), np.sin(angle)], -1) * np.maximum(ring, 0)[:, None]
    xy = (1 - blend) * (margin + offset * 0.8) + blend * ellipse
    z = _plain(np.stack([xy[:, 0], xy[:, 1], base_z(xy)], -1), np.full(len(xy), 30.0))[:, 2]
    upper = np.sin(angle) > 0
    crease = np.exp(-(((ring - 4.3) / 1.5) ** 2)) * np.where(upper, 1.5, 0.5) * np.sin(angle) ** 2
    at = np.stack([xy[:, 0], xy[:, 1], z - crease], -1)
    inside = ring < 0
    rim = np.stack([margin[:, 0], margin[:, 1], z], -1)[inside] - EYE_CENTER
    deep = -ring[inside] > 3
    rim *= ((EYE_RADIUS + 0.35) / np.linalg.norm(rim, axis=1))[:, None]
    # The last ring lies behind the lid on the eyeball, rotated away from the optical axis.
    turned = rim * np.array([1.1, 1.38, 1.0])
    turned *= ((EYE_RADIUS + 0.45) / np.linalg.norm(turned, axis=1))[:, None]
    at[inside] = EYE_CENTER + np.where(deep[:, None], turned, rim)
    at[:, 0] *= side
    positions[pick] = at


def base_z(xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """z of the front of the base surface at x and y."""
    parameters = locate_front(np.stack([np.abs(xy[:, 0]), xy[:, 1]], -1))
    return base_point(parameters[:, 0], parameters[:, 1])[:, 2]


_EAR_RADIUS = CubicSpline(
    [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [0, 0.16, 0.30, 0.42, 0.56, 0.74, 0.90, 1.0, 1.0, 0.84, 0.72]
)
_EAR_HEIGHT = CubicSpline(
    [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    [0.10, 0.10, 0.16, 0.42, 0.74, 0.66, 0.80, 1.0, 0.84, 0.42, 0.0],
)


def _shape_ears(mesh: HeadMesh, positions: Float[np.ndarray, "v 3"]) -> None:
    """Shapes the ears: outward to the rim of the helix, over it and into the concha."""
    pick = mesh.patch == PINNA
    ring, angle, side = mesh.ring[pick], mesh.angle[pick], mesh.side[pick]
    root = base_point(np.array([EAR[0]]), np.array([EAR[1]]))
    root = (root + _sides(root))[0]
    c, s = np.cos(angle), np.sin(angle)
    back = 0.5 + 0.5 * c
    # Outline of the rim: wider at the top and the back, narrow at the lobe.
    along = np.where(c > 0, 17.5, 13.0) * (1 + 0.16 * s)
    up = np.where(s > 0, 31.0, 31.0)
    radius = _EAR_RADIUS(ring)
    u, w = along * c * radius, up * s * radius
    lobe = smoothstep(-s, 0.45, 1.0)
    rise = (2.5 + 17.5 * back**0.8 * (1 - 0.55 * lobe) + 5 * smoothstep(s, 0.2, 1.0) * (1 - back)) * _EAR_HEIGHT(ring)
    rise += lobe * 3.0 * np.exp(-(((ring - 0.45) / 0.25) ** 2))
    tragus = (
        5.0 * np.exp(-(((ring - 0.55) / 0.2) ** 2)) * np.exp(-((np.angle(np.exp(1j * (angle - np.pi))) / 0.4) ** 2))
    )
    rise += tragus
    u = u + tragus * 0.5
    tilt = 0.2
    turn = np.stack([np.cos(tilt) * u + np.sin(tilt) * w, -np.sin(tilt) * u + np.cos(tilt) * w], -1)
    surface = base_point(mesh.longitude[pick], mesh.row[pick])
    surface = surface + _sides(surface)
    flat = np.stack([root[0] + 0 * u, root[1] + turn[:, 1], root[2] - turn[:, 0]], -1)
    flat[:, 0] += 0.10 * turn[:, 0] * 0 - 0.06 * (root[2] - flat[:, 2])
    out = flat.copy()
    out[:, 0] += rise
    hold = smoothstep(ring, 0.86, 1.0)[:, None]
    attached = np.stack([np.abs(surface[:, 0]), surface[:, 1], surface[:, 2]], -1)
    out = (1 - hold) * out + hold * attached
    out[:, 0] *= side
    positions[pick] = out


@functools.cache
def skin_positions() -> Float[np.ndarray, "v 3"]:
    """(V, 3) positions of `head_mesh()`'s vertices, millimeters."""
    mesh = head_mesh()
    point = base_point(mesh.longitude, mesh.row)
    point[mesh.side == 0, 0] = 0.0
    x, y, z = point.T.copy()
    # The mouth is open on the sphere; here its margins are closed.
    domain = y - MOUTH[1]
    gap = MOUTH[3] * np.sqrt(np.clip(1 - (x / MOUTH[2]) ** 2, 0, 1))
    lips = mesh.patch == LIPS
    along = np.clip(mesh.ring / mesh.ring[lips].max(), 0, 1)
    gap = np.where(lips, (1 - along) * MOUTH[3] * np.abs(np.sin(mesh.angle)) + along * gap, gap)
    fade = smoothstep(np.abs(domain), gap + 26.0, gap) * smoothstep(z, 20, 45)
    v = domain - np.sign(domain) * np.minimum(gap * fade, np.abs(domain))
    inside = lips & (mesh.ring < 0)
    above = np.sign(np.round(np.sin(mesh.angle), 9))
    margin = lips & (mesh.ring <= 0)
    depth = np.zeros_like(x)
    depth[inside] = np.where(mesh.ring[inside] < -4, 9.0, 4.5)
    # The lips touch, and the gap behind the contact rises, which blocks the view through it.
    part = np.where(mesh.ring < -4, 0.45 + 0.85 * above, 0.45 + 0.15 * above) * (above != 0)
    v = np.where(margin, np.where(inside, part, 0.01 * above) * np.clip(1 - (np.abs(x) / MOUTH[2]) ** 4, 0, 1), v)
    moved = np.stack([x, v + MOUTH[1] + (stomion(x) - MOUTH[1]) * smoothstep(np.abs(v), 24, 4) * fade, z], -1)
    positions = _plain(moved, v)
    positions[:, 2] -= depth
    # The lips follow the dental arch: their corners lie further back.
    arch = 0.0052 * np.clip(np.abs(x), 0, 34) ** 2 * fade
    positions[:, 2] -= arch * 0.6
    _shape_lids(mesh, positions)
    _shape_ears(mesh, positions)
    return positions
