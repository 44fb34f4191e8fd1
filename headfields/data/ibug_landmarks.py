"""Landmarks of several schemes as iBUG's 68, which captures and heads share."""

import numpy as np
from jaxtyping import Float

__all__ = ["IBUG_OF_MEDIAPIPE", "ibug_points"]

IBUG_OF_MEDIAPIPE = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # contour
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
)  # fmt: skip
"""Index among the points of MediaPipe's face mesh nearest to each of iBUG's 68. Widely used, not published by either:
the brows and the contour differ by some pixels from what detectors of iBUG's points give."""

_COUNTS = (68, 468, 478)


def ibug_points(points: Float[np.ndarray, "l d"], where: str = "landmarks") -> Float[np.ndarray, "68 2"]:
    """iBUG's 68 landmarks (68, 2) float32 from 68 points, or from MediaPipe's 468 or 478.

    Args:
        points: (L, 2) or more columns, of which the first two are x and y.
        where: the start of messages.

    Raises:
        ValueError: another number of points, or fewer than two columns.

    >>> import numpy as np
    >>> from headfields.data.ibug_landmarks import ibug_points
    >>> ibug_points(np.zeros((478, 3))).shape
    (68, 2)
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] < 2 or len(points) not in _COUNTS or points.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: landmarks have shape {points.shape} and dtype {points.dtype}; expected 68 in iBUG's order, or "
            "MediaPipe's 468 or 478, with x and y each"
        )
    chosen = points[:, :2] if len(points) == 68 else points[list(IBUG_OF_MEDIAPIPE), :2]
    out = np.array(chosen, np.float32)
    out[~np.isfinite(out).all(1)] = np.nan
    return out
