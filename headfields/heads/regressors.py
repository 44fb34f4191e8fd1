"""Joints as weighted sums of vertices."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["affine_regressor"]


def affine_regressor(
    vertices: Float[np.ndarray, "v 3"], joints: Float[np.ndarray, "j 3"], bands: Sequence[Bool[np.ndarray, " v"]]
) -> Float[np.ndarray, "j v"]:
    """Weights (J, V), rows summing to 1, that give `joints` exactly: the most even ones on a band of vertices each.

    A joint outside its band is extrapolated, so the band should be wide in the direction that the joint lies in. A band
    that is flat there cannot give it: the row is then the nearest in the sense of least squares.
    """
    out = np.zeros((len(joints), len(vertices)))
    for joint, band in enumerate(bands):
        near = np.nonzero(band)[0]
        middle = vertices[near].mean(0)
        system = np.concatenate([(vertices[near] - middle).T, np.ones((1, len(near)))])
        wanted = np.concatenate([joints[joint] - middle, [1.0]])
        even = np.full(len(near), 1 / len(near))
        out[joint, near] = even + np.linalg.pinv(system) @ (wanted - system @ even)
    return out
