"""Joint regressors: joints as weighted sums of vertices."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["affine_regressor"]


def affine_regressor(
    vertices: Float[np.ndarray, "v 3"], joints: Float[np.ndarray, "j 3"], bands: Sequence[Bool[np.ndarray, " v"]]
) -> Float[np.ndarray, "j v"]:
    """Weights (J, V), rows summing to 1, that reproduce `joints` from a band of vertices each.

    Among such weights they are nearest to uniform. A joint outside its band is extrapolated, so the band should extend
    in the direction of the joint; for a band that is flat there, the row is the least-squares solution.

    Args:
        vertices: (V, 3).
        joints: (J, 3) in the same unit.
        bands: J masks (V,) of the vertices that each joint may use.

    >>> import numpy as np
    >>> from headfields.apps.rigging.regressors import affine_regressor
    >>> vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> rows = affine_regressor(vertices, np.array([[0.5, 0.25, 0]]), [np.ones(4, bool)])
    >>> (rows @ vertices).round(6).tolist()
    [[0.5, 0.25, 0.0]]
    """
    out = np.zeros((len(joints), len(vertices)))
    for joint, band in enumerate(bands):
        near = np.nonzero(band)[0]
        middle = vertices[near].mean(0)
        system = np.concatenate([(vertices[near] - middle).T, np.ones((1, len(near)))])
        target = np.concatenate([joints[joint] - middle, [1.0]])
        uniform = np.full(len(near), 1 / len(near))
        out[joint, near] = uniform + np.linalg.pinv(system) @ (target - system @ uniform)
    return out
