"""Joints, skinning weights, correctives and shapes of the procedural upper body, in SMPL-X's order of joints."""

import functools

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from jaxtyping import Float

from headfields.apps.rigging.regressors import affine_regressor
from headfields.ops.mesh_topology import uniform_laplacian
from headfields.synthetic.body.torso import ARM_AXIS, ELBOW, SHOULDER, torso
from headfields.synthetic.head.identities import identity_fields
from headfields.synthetic.head.parts import head_parts
from headfields.synthetic.head.rig import JOINTS as HEAD_JOINTS
from headfields.synthetic.head.rig import joint_regressor as head_regressor
from headfields.synthetic.head.rig import pose_correctives as head_correctives
from headfields.synthetic.head.rig import skinning_weights as head_weights
from headfields.synthetic.head.shape import smoothstep

__all__ = ["BODY_JOINTS", "BODY_PARENTS", "body_positions", "body_regressor", "body_weights", "correctives", "shapes"]

BODY_PARENTS = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
    20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52,
    53,
)  # fmt: skip
"""SMPL-X's kinematic tree."""
_HEAD_BLOCKS = (15, 22, 23, 24)  # the joints of the head's neck, jaw, left eye and right eye
_TRUNK = (0, 3, 6, 9)
Values = Float[np.ndarray, " n"] | float | int
_FLIP = np.array([-1.0, 1.0, 1.0])


def _joints() -> Float[np.ndarray, "55 3"]:
    place = np.zeros((55, 3))
    place[[0, 3, 6, 9, 12]] = [(0, -700, -40), (0, -600, -45), (0, -500, -52), (0, -400, -60), (0, -200, -34)]
    place[15], place[22:25] = HEAD_JOINTS[1], HEAD_JOINTS[2:]
    left = {1: (88, -770, -40), 4: (95, -1180, -36), 7: (92, -1590, -60), 10: (105, -1645, 55), 13: (34, -238, -34)}
    for joint, at in left.items():
        place[joint] = at
    place[16], place[18] = SHOULDER, ELBOW
    place[20] = ELBOW + 250 * ARM_AXIS
    ahead = np.array([0.0, 0.0, 1.0])
    # Index, middle, little and ring finger: offset to the front, start and bone length; then the thumb.
    for finger, (across, start, bone) in enumerate([(24, 92, 30), (4, 95, 32), (-34, 84, 22), (-15, 91, 29)]):
        for k in range(3):
            place[25 + 3 * finger + k] = place[20] + (start + k * bone) * ARM_AXIS + across * ahead
    for k in range(3):
        place[37 + k] = place[20] + (28 + 30 * k) * ARM_AXIS + (32 + 12 * k) * ahead
    pairs = [(1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21)]
    for mine, other in pairs + [(25 + k, 40 + k) for k in range(15)]:
        place[other] = place[mine] * _FLIP
    return place


BODY_JOINTS = _joints()
"""(55, 3) at rest, millimeters."""


@functools.cache
def body_positions() -> Float[np.ndarray, "v 3"]:
    """(V, 3) vertices of the head and of the torso, millimeters."""
    return np.concatenate([head_parts().positions, torso().positions])


def _extended(known: Float[np.ndarray, "h c"], target: Float[np.ndarray, "t c"], width: float | int) -> np.ndarray:
    """Values on the torso near `target`, smoothed over `width` edges and continuous with the head's `known`."""
    start = len(known)
    laplacian = uniform_laplacian(torch.from_numpy(torso().faces), len(body_positions())).tocsc()
    inner = laplacian[start:, start:] * width**2 + scipy.sparse.identity(len(target), format="csc")
    right = target - width**2 * (laplacian[start:, :start] @ known)
    return scipy.sparse.linalg.splu(inner.tocsc()).solve(right)


def _neck_share(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Share of the neck joint, against the chest, in the weights that the head does not carry."""
    return smoothstep(y, -258, -176) * smoothstep(np.abs(x), 135, 70)


def body_weights() -> Float[np.ndarray, "v 55"]:
    """Skinning weights (V, 55); rows sum to 1."""
    head, below = head_parts(), torso()
    own = head_weights()
    out = np.zeros((len(body_positions()), 55))
    count = len(head.positions)
    x, y, _ = head.positions.T
    neck = _neck_share(y, x)
    out[:count, 12], out[:count, 9] = own[:, 0] * neck, own[:, 0] * (1 - neck)
    for column, joint in enumerate(_HEAD_BLOCKS, 1):
        out[:count, joint] = own[:, column]

    p = below.positions
    x, y, _ = p.T
    rough = np.zeros((len(p), 55))
    steps = [np.ones_like(y), *(smoothstep(y, BODY_JOINTS[j, 1] - 50, BODY_JOINTS[j, 1] + 50) for j in _TRUNK[1:])]
    for k, joint in enumerate(_TRUNK):
        rough[:, joint] = steps[k] - (steps[k + 1] if k < 3 else 0)
    for sign, collar, shoulder in ((1, 13, 16), (-1, 14, 17)):
        unmirrored = p * (1, 1, 1) if sign > 0 else p * _FLIP
        along = (unmirrored - SHOULDER) @ ARM_AXIS
        arm = np.where(below.part == sign, smoothstep(along, -30, 45), 0.0)
        girdle = smoothstep(unmirrored[:, 0], 25, 120) * smoothstep(unmirrored[:, 1], -345, -275) * 0.75
        girdle = np.where(below.part == -sign, 0.0, girdle) * (1 - arm)
        for values, joint in ((girdle, collar), (arm, shoulder)):
            rough *= (1 - values)[:, None]
            rough[:, joint] += values
    neck = _neck_share(y, x) * (below.part == 0)
    rough *= (1 - neck)[:, None]
    rough[:, 12] += neck
    smooth = np.maximum(_extended(out[:count], rough, 1.8), 0)
    out[count:] = np.where(smooth < 1e-4, 0, smooth)
    return out / out.sum(1, keepdims=True)


def body_regressor() -> Float[np.ndarray, "55 v"]:
    """Joint regressor (55, V) of `BODY_JOINTS` at rest, rows sum to 1; joints without a mesh are extrapolated."""
    p, head = body_positions(), head_parts()
    part = np.concatenate([np.full(len(head.positions), 9), torso().part])
    trunk = part == 0
    bands = []
    for joint, at in enumerate(BODY_JOINTS):
        arm = {1: part == 1, -1: part == -1}[1 if at[0] > 0 else -1]
        if joint in _HEAD_BLOCKS:
            band = part == 9
        elif joint in (16, 17):
            band = (part != 9) & (np.linalg.norm(p - at, axis=1) < 95)
        elif joint in (18, 19, 20, 21) or joint >= 25:
            band = arm & (np.linalg.norm(p - SHOULDER * (1 if at[0] > 0 else _FLIP), axis=1) > 70)
        elif joint in (13, 14):
            band = trunk & (np.linalg.norm(p - at, axis=1) < 90)
        elif joint == 12:
            band = (np.abs(p[:, 1] - at[1]) < 16) & (np.abs(p[:, 0]) < 80)
        elif at[1] < -580:
            band = trunk & (p[:, 1] < -330)
        else:
            band = trunk & (np.abs(p[:, 1] - at[1]) < 45)
        bands.append(band)
    out = affine_regressor(p, BODY_JOINTS, bands)
    count = len(head.positions)
    out[list(_HEAD_BLOCKS)] = 0
    out[list(_HEAD_BLOCKS), :count] = head_regressor()[1:]
    return out


def correctives() -> Float[np.ndarray, "v 3 486"]:
    """Pose correctives (V, 3, 486), millimeters per unit of R - I of joints 1 to 54: those of the head."""
    own = head_correctives()
    out = np.zeros((len(body_positions()), 3, 486), np.float32)
    for block, joint in enumerate(_HEAD_BLOCKS):
        start = 9 * (joint - 1)
        out[: len(own), :, start : start + 9] = own[:, :, 9 * block : 9 * block + 9]
    return out


def shapes() -> dict[str, Float[np.ndarray, "v 3"]]:
    """Shape directions (V, 3) in millimeters by name: the head's, fading out over the shoulders, and then the torso's,
    which leave the head unchanged."""
    head, below = head_parts(), torso()
    count = len(head.positions)
    fields = identity_fields()
    names = list(fields)
    known = np.concatenate([fields[name] for name in names], 1)
    faded = _extended(known, np.zeros((len(below.positions), known.shape[1])), 5.0)
    out = {
        name: np.concatenate([known[:, 3 * k : 3 * k + 3], faded[:, 3 * k : 3 * k + 3]]) for k, name in enumerate(names)
    }
    x, y, z = below.positions.T
    lower = smoothstep(y, -205, -265)
    sides = np.sign(x)

    def torso_field(weight: np.ndarray, dx: Values = 0.0, dy: Values = 0.0, dz: Values = 0.0) -> np.ndarray:
        field = (weight * lower)[:, None] * np.stack(np.broadcast_arrays(dx, dy, dz, x)[:3], -1)
        return np.concatenate([np.zeros((count, 3)), field])

    left = np.stack([np.abs(x), y, z], -1)
    axis = SHOULDER + np.clip((left - SHOULDER) @ ARM_AXIS, 0, 300)[:, None] * ARM_AXIS
    away = (left - axis) * np.stack([sides, 0 * x + 1, 0 * x + 1], -1)
    arm = smoothstep((left - SHOULDER) @ ARM_AXIS, 0, 60) * (below.part != 0)
    out["shoulder_width"] = torso_field(smoothstep(np.abs(x), 20, 150), 14.0 * sides)
    out["shoulder_slope"] = torso_field(smoothstep(np.abs(x), 50, 170) * smoothstep(y, -420, -300), 0.0, -14.0)
    out["torso_width"] = torso_field(np.ones_like(x), 0.07 * x)
    out["torso_depth"] = torso_field(np.ones_like(x), 0.0, 0.0, 0.10 * (z + 40))
    out["torso_length"] = torso_field((below.part == 0).astype(float), 0.0, 0.06 * (y + 265))
    chest = np.exp(-(((np.abs(x) - 75) / 60) ** 2) - ((y + 370) / 70) ** 2) * smoothstep(z, -40, 20)
    out["chest"] = torso_field(chest, 0.0, 0.0, 10.0)
    out["arm_thickness"] = torso_field(arm, *(0.12 * away.T))
    return out
