"""The cubic step from 0 to 1, level at both ends: of tensors and of arrays."""

from typing import TypeVar

import numpy as np
from torch import Tensor

__all__ = ["cubic", "smoothstep"]

Values = TypeVar("Values", Tensor, np.ndarray)


def cubic(t: Values) -> Values:
    """3t² − 2t³ of values in [0, 1], by element: 0 at 0 and 1 at 1, with no slope there. Differentiable."""
    return t * t * (3 - 2 * t)


def smoothstep(value: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on (which may be the smaller), a cubic between, by element. Differentiable."""
    return cubic(((value - low) / (high - low)).clamp(0, 1))
