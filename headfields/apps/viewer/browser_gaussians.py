"""Gaussians in the form that viser sends to the browser."""

from typing import Any

import numpy as np
from jaxtyping import UInt32

from headfields.apps.viewer.scene import SplatArrays

__all__ = ["draw_gaussians", "packed_gaussians"]

_UNIT = 1e-3
"""Meters in the unit of length of what is sent. Covariances are sent in half precision, whose smallest step is 6e-8:
in square meters a Gaussian of 0.2 mm would be one of no extent; in square millimeters one of 0.01 mm is kept."""


def draw_gaussians(scene: Any, name: str, arrays: SplatArrays) -> Any:
    """The node of Gaussians in a scene of viser's.

    Args:
        scene: the scene of a server or a tab.
        name: of the node.
        arrays: the Gaussians.
    """
    return scene.add_gaussian_splats(
        name, arrays.centers / _UNIT, arrays.covariances / _UNIT**2, arrays.colors, arrays.opacities, scale=_UNIT
    )


def packed_gaussians(arrays: SplatArrays) -> UInt32[np.ndarray, "n 8"]:
    """The buffer of such a node: position, upper triangle of the covariance in half precision, color and opacity."""
    count = len(arrays.centers)
    buffer = np.zeros((count, 8), np.uint32)
    buffer[:, :3] = (arrays.centers / np.float32(_UNIT)).view(np.uint32)
    upper = (arrays.covariances / np.float32(_UNIT**2)).reshape(count, 9)[:, [0, 1, 2, 4, 5, 8]]
    buffer[:, 4:7] = np.ascontiguousarray(upper, np.float16).view(np.uint32)
    rgba = np.concatenate([arrays.colors, arrays.opacities], 1)
    buffer[:, 7:] = (rgba * 255).round().clip(0, 255).astype(np.uint8).view(np.uint32)
    return buffer
