"""Joints, skinning weights and pose correctives of the procedural head, in FLAME's order of joints."""

import numpy as np
from jaxtyping import Float

from headfields.apps.rigging.regressors import affine_regressor
from headfields.synthetic.head.expressions import lid_closing
from headfields.synthetic.head.mesh import MOUTH
from headfields.synthetic.head.parts import HeadParts, head_parts
from headfields.synthetic.head.shape import EYE_CENTER, smoothstep

__all__ = ["JOINTS", "joint_regressor", "pose_correctives", "skinning_weights"]

JOINTS = np.array(
    [[0.0, -172.0, -22.0], [0.0, -112.0, -16.0], [0.0, -18.0, 8.0], EYE_CENTER, EYE_CENTER * [-1, 1, 1]]
)  # root, neck, jaw, left eye, right eye


def _smoothed(parts: HeadParts, values: Float[np.ndarray, " v"], rounds: int) -> Float[np.ndarray, " v"]:
    """Laplacian smoothing; the mesh is open at the mouth, so the lips do not mix."""
    for _ in range(rounds):
        total, degree = values.copy(), np.ones_like(values)
        for k in range(3):
            for j in (1, 2):
                np.add.at(total, parts.faces[:, k], values[parts.faces[:, (k + j) % 3]])
                np.add.at(degree, parts.faces[:, k], 1)
        values = total / degree
    return values


def skinning_weights() -> Float[np.ndarray, "v 5"]:
    """Skinning weights (V, 5); rows sum to 1."""
    parts = head_parts()
    x, y, z = parts.positions.T
    # The skin below the line from the corner of the mouth to the jaw joint moves with the jaw; the transition is sharp
    # between the lips and soft on the cheek.
    corner = np.array([MOUTH[1], 80.0])
    slope = (corner[0] - JOINTS[2, 1] + 14) / (corner[1] - JOINTS[2, 2])
    line = corner[0] + slope * (np.minimum(z, corner[1]) - corner[1])
    height = np.where(np.abs(x) < MOUTH[2] + 8, parts.open, y - line)
    blend = smoothstep(np.abs(x), MOUTH[2] - 2, MOUTH[2] + 14)
    height = (1 - blend) * parts.open + blend * (y - line)
    soft = 4.0 + 0.55 * np.clip(np.abs(x) - 18, 0, None) + 0.10 * np.clip(80 - z, 0, None)
    jaw = smoothstep(height / soft, 1.0, -1.0)
    jaw *= smoothstep(z, -24, 22)  # nothing behind the ears
    front_of_neck = smoothstep(y, -142, -114) * (1 - smoothstep(z, 62, 30) * smoothstep(y, -104, -128))
    jaw *= front_of_neck
    jaw[parts.eye != 0] = 0
    jaw = _smoothed(parts, jaw, 3)
    head = smoothstep(y, -180, -104)
    head = head * (1 - jaw) + jaw
    weights = np.zeros((len(x), 5))
    weights[:, 0] = 1 - head
    weights[:, 1] = head - np.minimum(jaw, head)
    weights[:, 2] = np.minimum(jaw, head)
    weights[parts.eye == 1] = np.eye(5)[3]
    weights[parts.eye == -1] = np.eye(5)[4]
    return weights / weights.sum(1, keepdims=True)


def joint_regressor() -> Float[np.ndarray, "5 v"]:
    """Joint regressor (5, V) of `JOINTS` at rest, from a band of vertices near each joint; rows sum to 1."""
    parts = head_parts()
    p = parts.positions
    skin = parts.eye == 0
    bands = [
        skin & (np.abs(p[:, 1] - JOINTS[0, 1]) < 14),
        skin & (np.abs(p[:, 1] - JOINTS[1, 1]) < 12),
        skin
        & (np.linalg.norm((p - JOINTS[2]) * [0, 1, 1], axis=1) < 26)
        & (np.abs(p[:, 0]) > 45)
        & (np.abs(p[:, 0]) < 76),
        parts.eye == 1,
        parts.eye == -1,
    ]
    return affine_regressor(p, JOINTS, bands)


def pose_correctives() -> Float[np.ndarray, "v 3 36"]:
    """Pose correctives (V, 3, 36), millimeters per unit of R - I of neck, jaw, left eye and right eye, row-major.

    Our own shapes: an opening jaw draws in the cheeks and the corners of the mouth, lids follow vertical gaze, and the
    throat bulges when the head bends.
    """
    parts = head_parts()
    p = parts.positions
    x, y, z = p.T
    a = np.abs(x)
    skin = (parts.eye == 0).astype(float)
    out = np.zeros((len(p), 3, 36))
    sine = 7  # entry (2, 1) of a rotation about x by t is sin t; positive t opens the jaw and looks down

    def bump(at, width):
        return np.exp(-(((np.stack([a, y, z], -1) - at) / np.asarray(width)) ** 2).sum(-1)) * skin

    cheek = bump((44, -62, 52), (16, 20, 30))
    corner = bump((25, -69, 76), (13, 12, 26))
    out[:, 0, 9 + sine] = -9.0 * np.sign(x) * cheek - 7.0 * np.sign(x) * corner
    out[:, 2, 9 + sine] = -3.0 * cheek
    throat = bump((0, -124, 44), (34, 16, 22))
    out[:, 2, 0 + sine] = 7.0 * throat
    for entry, side in ((18, 1), (27, -1)):
        out[:, :, entry + sine] = 1.15 * lid_closing(side, 1.0, 0.0)
    return out
