"""Procedural albedo texture of the head, in its texture coordinates."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from headfields.ops.smoothstep import cubic
from headfields.synthetic.head.base import base_point
from headfields.synthetic.head.mesh import EYE, MOUTH
from headfields.synthetic.head.shape import smoothstep
from headfields.synthetic.head.uv import EYE_UV, eye_polar, hairline, skin_uv

__all__ = ["lattice_noise", "paint_over", "procedural_head_texture"]

Color = Sequence[float]


def lattice_noise(point: Float[np.ndarray, "h w 3"], cell: float | int, seed: int) -> Float[np.ndarray, "h w"]:
    """Value noise in [-1, 1] on a lattice of `cell` mm: hashed values at the corners, cubic interpolation."""
    place = point / cell + 1000.0
    corner = np.floor(place).astype(np.int64)
    t = place - corner
    t = cubic(t)
    total = np.zeros(point.shape[:-1])
    for k in range(8):
        offset = np.array([k & 1, k >> 1 & 1, k >> 2])
        key = ((corner + offset) * np.array([73856093, 19349663, 83492791])).sum(-1) + seed * 2654435761
        key = (key ^ (key >> 13)) * 1274126177 & 0x7FFFFFFF
        key = (key ^ (key >> 16)) * 668265263 & 0x7FFFFFFF
        total += np.prod(np.where(offset, t, 1 - t), -1) * (key / 0x3FFFFFFF - 1)
    return total


def paint_over(image: Float[np.ndarray, "*pixels 3"], color: Color, weight: Float[np.ndarray, "*pixels"]) -> None:
    """Blends a color over the image in place, with weights in [0, 1]."""
    image += weight[..., None] * (np.asarray(color) - image)


def _skin(resolution: int, skin: Color, lips: Color, brows: Color, stubble: float, seed: int) -> np.ndarray:
    center = (np.arange(resolution) + 0.5) / resolution
    dense = np.linspace(-np.pi, np.pi, 4001)
    longitude = np.interp(center, skin_uv(dense, np.zeros(4001))[:, 0], dense)
    dense_row = np.linspace(0, 1, 4001)
    v = skin_uv(np.zeros(4001), dense_row)[:, 1]
    row = np.interp(1 - center, v[::-1], dense_row[::-1])
    longitude, row = np.meshgrid(longitude, row)
    point = base_point(longitude, row)
    x, y, z = np.moveaxis(point, -1, 0)
    a = np.abs(x)
    front = smoothstep(z, 5, 40)
    coarse = lattice_noise(point, 17.0, seed) + 0.6 * lattice_noise(point, 6.0, seed + 1)
    fine = lattice_noise(point, 1.9, seed + 2) + 0.7 * lattice_noise(point, 0.9, seed + 3)
    image = np.broadcast_to(np.asarray(skin, float), (*x.shape, 3)).copy()
    image *= 1 + 0.035 * coarse[..., None] + 0.030 * fine[..., None]

    def spot(cx, cy, wx, wy):
        return np.exp(-(((a - cx) / wx) ** 2) - ((y - cy) / wy) ** 2) * front

    flush = spot(40, -30, 17, 15) + 0.8 * spot(0, -38, 16, 10) + 0.35 * spot(0, -97, 15, 9)
    image *= 1 + flush[..., None] * np.array([0.03, -0.11, -0.10])
    ear = np.exp(-(((np.abs(longitude) - 1.72) / 0.22) ** 2) - ((y + 14) / 28) ** 2)
    image *= 1 + ear[..., None] * np.array([0.0, -0.10, -0.09])
    socket = spot(EYE[0], -2, 20, 13)
    image *= 1 - socket[..., None] * np.array([0.08, 0.13, 0.10])
    freckle = smoothstep(lattice_noise(point, 1.5, seed + 4), 0.58, 0.8) * spot(28, -26, 26, 16)
    image *= 1 - 0.16 * freckle[..., None] * np.array([0.6, 1, 1.1])
    beard = np.exp(-((x / 46) ** 4)) * smoothstep(y, -44, -54) * front * smoothstep(y, -128, -114)
    image *= 1 - stubble * (beard * (0.7 + 0.5 * np.clip(lattice_noise(point, 0.7, seed + 5), -1, 1)))[..., None]

    over_scalp = smoothstep(y - hairline(longitude) + 5 * lattice_noise(point, 5, seed + 6), -3, 7)
    image *= 1 - 0.20 * over_scalp[..., None]

    # The mouth is open on the sphere: the red of the lips is a ring around an ellipse, the inside lies within it.
    radius = np.hypot(x / MOUTH[2], (y - MOUTH[1]) / MOUTH[3])
    flat = np.hypot(x, y - MOUTH[1])
    offset = flat * (1 - 1 / np.maximum(radius, 1e-3))  # mm outside the opening, along the ray from its center
    taper = np.clip(1 - (a / (MOUTH[2] + 3.5)) ** 4, 0, 1)
    bow = 1 - 0.2 * np.exp(-((x / 3.5) ** 2)) * (y > MOUTH[1])
    width = np.where(y > MOUTH[1], 5.3, 6.2) * taper * bow
    red = smoothstep(offset, width + 0.9, width - 0.7) * (taper > 0) * front
    wrinkle = 1 + 0.07 * np.sin(x * 4.2 + 1.5 * lattice_noise(point, 3.0, seed + 7))
    paint_over(image, lips, 0.9 * red)
    image *= np.where((red > 0.3)[..., None], wrinkle[..., None], 1)
    paint_over(image, (0.33, 0.09, 0.09), smoothstep(offset, 0.6, -2.0) * front)

    line = np.interp(a, [9, 14, 24, 34, 44, 53], [15.5, 17.5, 20, 21.5, 19.5, 13.5])
    thick = np.interp(a, [8, 14, 26, 40, 53, 55], [2.2, 4.3, 4.2, 3.2, 1.2, 0.4])
    hair = np.sin((x * np.sign(x) * 1.5 + (y - line) * np.interp(a, [10, 30, 52], [-0.2, 1.4, 3.0])) * 1.9)
    brow = smoothstep(np.abs(y - line) / thick, 1.15, 0.45) * smoothstep(a, 8, 11) * smoothstep(a, 56, 50) * front
    paint_over(image, brows, brow * np.clip(0.72 + 0.22 * hair + 0.2 * fine, 0, 1))

    opening = np.hypot((a - EYE[0]) / EYE[2], (y - EYE[1]) / EYE[3])
    margin = np.hypot(a - EYE[0], y - EYE[1]) * (1 - 1 / np.maximum(opening, 1e-3))
    lash = smoothstep(margin, 1.1, 0.1) * front * np.where(y > EYE[1], 0.85, 0.30)
    pink = smoothstep(margin, 0.0, -1.2) * front
    paint_over(image, brows, lash * (opening > 0.6))
    paint_over(image, (0.72, 0.42, 0.38), pink)
    nostril = np.exp(-((((a - 6.6) / 3.3) ** 2 + ((y + 47.0) / 1.9) ** 2) ** 1.5)) * front
    paint_over(image, (0.16, 0.07, 0.06), 0.85 * nostril)
    return image


def _eye(image: np.ndarray, side: int, iris: Color, seed: int) -> None:
    resolution = image.shape[0]
    u, v, radius = EYE_UV[side]
    center = (np.arange(resolution) + 0.5) / resolution
    du, dv = np.meshgrid(center - u, (1 - center) - v)
    polar = np.degrees(eye_polar(np.hypot(du, dv) / radius))
    around = np.arctan2(dv, du)
    ray = np.stack([np.cos(around), np.sin(around), 0 * around], -1)
    fiber = lattice_noise(ray * 40 + polar[..., None] * 0.05, 1.6, seed + 20) + 0.6 * lattice_noise(
        ray * 40, 0.7, seed + 21
    )
    vein = smoothstep(np.abs(lattice_noise(ray * 25 + polar[..., None] * 0.12, 3.0, seed + 22)), 0.06, 0.0)
    eye = np.broadcast_to(np.array([0.90, 0.87, 0.84]), image.shape).copy()
    paint_over(eye, (0.78, 0.42, 0.38), 0.35 * vein * smoothstep(polar, 34, 70) + 0.35 * smoothstep(polar, 50, 95))
    paint_over(eye, (0.10, 0.08, 0.07), smoothstep(polar, 28.5, 25.5))
    inner = np.asarray(iris) * (1 + 0.35 * fiber[..., None]) * (1.25 - 0.02 * np.clip(polar - 10, 0, 20)[..., None])
    blend = smoothstep(polar, 25.8, 24.0)[..., None]
    eye = eye + blend * (np.clip(inner, 0, 1) - eye)
    paint_over(eye, (0.015, 0.015, 0.015), smoothstep(polar, 11.0, 9.6))
    disc = np.hypot(du, dv) < radius * 1.15
    image[disc] = eye[disc]


def procedural_head_texture(
    resolution: int = 1024,
    skin: Color = (0.80, 0.60, 0.50),
    lips: Color = (0.70, 0.36, 0.34),
    iris: Color = (0.30, 0.42, 0.50),
    brows: Color = (0.20, 0.13, 0.09),
    stubble: float = 0.05,
    seed: int = 0,
) -> Float[np.ndarray, "r r 3"]:
    """An sRGB albedo in the procedural head's texture coordinates: skin, lips, brows, lids, nostrils, eyes.

    Args:
        resolution: side of the square image in texels.
        skin, lips, iris, brows: sRGB colors in [0, 1].
        stubble: darkening of the beard area, in [0, 1].
        seed: seed of the noise.

    Returns:
        (R, R, 3) float64 in [0, 1]; row 0 is the top, v = 1, so texel (i, j) has its center at
        u = (j + 0.5) / R, v = 1 - (i + 0.5) / R.

    Raises:
        ValueError: `resolution` is less than 1.
    """
    if resolution < 1:
        raise ValueError(f"procedural_head_texture: resolution is {resolution}; expected at least 1")
    image = _skin(resolution, skin, lips, brows, stubble, seed)
    for side in (1, -1):
        _eye(image, side, iris, seed)
    return np.clip(image, 0.0, 1.0)
