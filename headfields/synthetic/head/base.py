"""Base surface of the procedural head, a smooth skull and neck, and its parametrization by a sphere.

Millimeters here and in the other files of this folder: x to the head's left, y up, z forward, y = 0 at the pupils,
z = 0 at the ears. Splines join nineteen rows, each a closed curve through one point on the front midline, one on the
side and one on the back midline. The numbers are round figures within the range of adult anthropometry.
"""

import functools

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

__all__ = ["BASE_BOTTOM", "base_point", "latitude_of_row", "locate_front", "row_of_latitude", "sphere_direction"]

# front (y, z), side (x, y, z), back (y, z), superellipse exponents of the front and the back (1 = an ellipse)
_ROWS = np.array(
    [
        # front        side               back          squareness
        (115, 22, 30, 114.5, -8, 113, -38, 1.00, 1.00),
        (105, 52, 52.5, 104, -8, 101, -68, 0.99, 1.00),
        (86, 75, 66.5, 84, -8, 80, -88, 0.96, 0.99),
        (62, 88.5, 73.5, 61, -9, 54, -98, 0.93, 0.97),
        (40, 94.5, 75.5, 38, -9, 30, -101, 0.90, 0.96),
        (22, 97, 75, 20, -7, 10, -99, 0.87, 0.95),
        (4, 94, 73, 3, -4, -10, -92, 0.86, 0.95),
        (-20, 94, 69.5, -20, -1, -32, -81, 0.87, 0.95),
        (-46, 95, 64, -42, 3, -52, -70, 0.90, 0.95),
        (-68, 95, 59, -58, 6, -68, -62, 0.93, 0.95),
        (-83, 92, 55.5, -69, 7, -80, -58, 0.95, 0.95),
        (-98, 92, 52, -79, 4, -92, -56, 0.97, 0.95),
        (-111, 84, 49.5, -89, 0, -102, -56, 0.98, 0.95),
        (-117, 64, 49, -100, -5, -112, -57, 0.97, 0.95),
        (-123, 42, 50, -112, -9, -123, -58, 0.97, 0.95),
        (-146, 34, 52, -135, -12, -143, -60, 0.97, 0.97),
        (-170, 30, 56, -160, -15, -164, -65, 1.00, 1.00),
        (-192, 29, 63, -186, -18, -184, -73, 1.00, 1.00),
    ],
    dtype=np.float64,
)
_CROWN = (118.0, -9.0)
BASE_BOTTOM = 1.0  # the row at the lower border of the neck; the crown is row 0


@functools.cache
def _splines() -> CubicSpline:
    """All nine columns as one spline of the row in [0, 1]; rows are mirrored at the crown, for smoothness."""
    y, z = _CROWN
    step = np.diff(np.vstack([(0, y, z), _ROWS[:, 2:5]]), axis=0)
    front = np.diff(np.vstack([(y, z), _ROWS[:, :2]]), axis=0)
    rows = np.cumsum(0.5 * np.linalg.norm(step, axis=1) + 0.5 * np.linalg.norm(front, axis=1))
    rows /= rows[-1]
    mirrored = _ROWS[::-1][:, [5, 6, 2, 3, 4, 0, 1, 8, 7]] * np.array([1, 1, -1, 1, 1, 1, 1, 1, 1])
    crown = np.array([[y, z, 0, y, z, y, z, 1, 1]])
    return CubicSpline(np.concatenate([-rows[::-1], [0.0], rows]), np.vstack([mirrored, crown, _ROWS]))


def base_point(longitude: Float[np.ndarray, "..."], row: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... 3"]:
    """Points of the base surface, mm; longitude in [-pi, pi], 0 at the front, pi/2 at the left ear; row in [0, 1]."""
    c = _splines()(row)
    cosine, sine = np.cos(longitude), np.sin(longitude)
    # The exponent changes smoothly from front to back, so the section stays smooth at the side.
    fade = 0.5 + 0.5 * np.tanh(3.0 * cosine)
    power = c[..., 7] * fade + c[..., 8] * (1 - fade)
    reach = np.abs(cosine) ** power
    x = c[..., 2] * np.sign(sine) * np.abs(sine) ** power
    front = cosine >= 0
    y = c[..., 3] + reach * (np.where(front, c[..., 0], c[..., 5]) - c[..., 3])
    z = c[..., 4] + reach * (np.where(front, c[..., 1], c[..., 6]) - c[..., 4])
    return np.stack([x, y, z], -1)


@functools.cache
def _latitudes() -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Rows and their latitudes on the sphere, for a nearly conformal map between sphere and head."""
    rows = np.linspace(0, 1, 801)
    longitude = np.linspace(-np.pi, np.pi, 65)[:-1]
    points = base_point(longitude[None], rows[:, None])
    length = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(1)
    around = np.linalg.norm(points - np.roll(points, 1, axis=1), axis=-1).sum(1) / (2 * np.pi)
    middle = 0.5 * (around[1:] + around[:-1])
    # Mercator latitude of each row; the first interval has the pole, so a cap of the sphere is used there.
    mercator = np.concatenate([[0.0], np.cumsum(length[1:] / middle[1:])])
    equator = np.interp(0.42, rows[1:], mercator)
    latitude = 2 * np.arctan(np.exp(equator - mercator)) - np.pi / 2
    return rows, np.concatenate([[np.pi / 2], latitude])


def latitude_of_row(row: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Latitude on the parameter sphere, pi/2 at the crown."""
    rows, latitude = _latitudes()
    return np.asarray(np.interp(row, rows, latitude))


def row_of_latitude(latitude: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The inverse of `latitude_of_row`."""
    rows, table = _latitudes()
    return np.asarray(np.interp(latitude, table[::-1], rows[::-1]))


def sphere_direction(longitude: Float[np.ndarray, "..."], row: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... 3"]:
    """Unit vectors on the parameter sphere."""
    latitude = latitude_of_row(row)
    flat = np.cos(latitude)
    return np.stack([flat * np.sin(longitude), np.sin(latitude), flat * np.cos(longitude)], -1)


@functools.cache
def _front_table() -> tuple[cKDTree, Float[np.ndarray, "n 2"]]:
    longitude, row = np.meshgrid(np.linspace(-1.45, 1.45, 117), np.linspace(0.02, 0.8, 261), indexing="ij")
    parameters = np.stack([longitude.ravel(), row.ravel()], -1)
    return cKDTree(base_point(parameters[:, 0], parameters[:, 1])[:, :2]), parameters


def locate_front(xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """(N, 2) longitude and row of the points on the front of the face at x and y, by Newton's method."""
    tree, parameters = _front_table()
    guess = parameters[tree.query(xy)[1]].copy()
    step = 1e-5
    for _ in range(6):
        current = base_point(guess[:, 0], guess[:, 1])[:, :2]
        along = (base_point(guess[:, 0] + step, guess[:, 1])[:, :2] - current) / step
        down = (base_point(guess[:, 0], guess[:, 1] + step)[:, :2] - current) / step
        jacobian = np.stack([along, down], -1)
        move = np.linalg.solve(jacobian + 1e-9 * np.eye(2), (xy - current)[..., None])[..., 0]
        guess += np.clip(move, -0.05, 0.05)
    return guess
