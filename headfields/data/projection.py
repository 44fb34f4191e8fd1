"""Projection of points and coarse grids over an image in NumPy, for the checks that a capture's files align."""

import numpy as np
from einops import reduce

__all__ = ["coarse_mask", "inside_image", "project"]

_NEAR = 1e-6  # meters


def project(points: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2), x right and y down, and depth (N,) in meters of points (N, 3); a depth below 0 is behind.

    >>> import numpy as np
    >>> from headfields.data.projection import project
    >>> pixels, depth = project(np.array([[0.1, 0.0, 2.0]]), np.eye(4), np.diag([100.0, 100.0, 1.0]))
    >>> pixels.tolist(), depth.tolist()
    ([[5.0, 0.0]], [2.0])
    """
    local = points.astype(np.float64) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    depth = local[:, 2]
    return (local @ intrinsics.T)[:, :2] / np.where(depth > _NEAR, depth, 1.0)[:, None], depth


def inside_image(pixels: np.ndarray, depth: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Mask (N,) of projected points in front of the camera and inside an image of `size` (height, width)."""
    (x, y), (height, width) = pixels.T, size
    inside: np.ndarray = (depth > _NEAR) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return inside


def coarse_mask(mask: np.ndarray, cell: int, least: float = 0.5) -> np.ndarray:
    """Mask of the cells of `cell` × `cell` pixels of which at least the fraction `least`, and any pixel, is set."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell), (0, -width % cell))).astype(np.float32)
    part = reduce(padded, "(rows h) (columns w) -> rows columns", "mean", h=cell, w=cell)
    return (part > 0) & (part >= least)
