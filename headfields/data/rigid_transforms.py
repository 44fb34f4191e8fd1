"""Whether the transforms that a file holds are rigid."""

import numpy as np
from jaxtyping import Float

_ROUNDING = 1e-2
"""Tolerance: text is rounded."""


def are_rigid(transforms: Float[np.ndarray, "*j 4 4"]) -> bool:
    """Whether all matrices are rotations with a translation, without scale and mirroring."""
    rotation = transforms[..., :3, :3]
    error = np.abs(np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)).max(initial=0)
    last = np.abs(transforms[..., 3, :] - np.array([0, 0, 0, 1])).max(initial=0)
    return bool(error < _ROUNDING and last < _ROUNDING and (np.linalg.det(rotation) > 0).all())
