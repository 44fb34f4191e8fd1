"""The turn between OpenCV's axes of a camera (x right, y down, z forward) and OpenGL's (x right, y up, z backward)."""

from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

_Array = TypeVar("_Array", np.ndarray, Tensor)


def flip_y_z(values: _Array, axis: Literal[-1, -2] = -1) -> _Array:
    """The values with the camera's y and z negated: from OpenCV's axes to OpenGL's, or back. Differentiable.

    Args:
        values: 3 entries along `axis`, or 4 (homogeneous).
        axis: which axis of the array has the camera's coordinates. -1: the last, as of directions (..., 3) and of
            matrices from camera to world; -2: the last but one, as of matrices from world to camera.
    """
    entries = [1.0, -1.0, -1.0, 1.0][: values.shape[axis]]
    signs = values.new_tensor(entries) if isinstance(values, Tensor) else np.array(entries, values.dtype)
    return values * (signs if axis == -1 else signs[:, None]) + 0.0  # no -0.0, which files and prints would show
