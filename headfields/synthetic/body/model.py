"""A procedural upper body in SMPL-X's file format: the procedural head on a torso with stubs of the upper arms.

Templates of head and shoulders and rotations of neck and torso run on it without a licensed asset. It has SMPL-X's 55
joints, 300 + 100 components and correctives of 54 joints; most of the directions are zero.
"""

import functools

import numpy as np
from jaxtyping import Float, Int, Shaped

from headfields.heads.smplx import SmplxHead
from headfields.synthetic.body.rig import (
    BODY_PARENTS,
    body_positions,
    body_regressor,
    body_weights,
    correctives,
    shapes,
)
from headfields.synthetic.body.torso import torso
from headfields.synthetic.head.model import procedural_head_arrays

__all__ = ["procedural_body", "procedural_body_arrays"]

_MM = 1e-3
HEAD_CHART = 0.42
"""Lower border v of the head's texture in the body's texture."""
_TRUNK_CHART = (0.005, 0.005, 0.70, 0.405)  # u, v of one corner and of the other
_ARM_CHARTS = {1: (0.72, 0.21, 0.995, 0.405), -1: (0.72, 0.005, 0.995, 0.195)}


def _texture_coordinates() -> tuple[Float[np.ndarray, "t 2"], Int[np.ndarray, "f 3"]]:
    """The head's charts, compressed into the upper part, and three unrolled charts of trunk and arms."""
    own = procedural_head_arrays()
    below, start = torso(), len(own["v_template"])
    uv = [own["uv"] * [1, 1 - HEAD_CHART] + [0, HEAD_CHART]]
    total = len(own["uv"])
    index_of: dict[tuple[int, float, float], int] = {}
    faces = np.zeros_like(below.faces)
    place = {int(vertex): k / len(below.border) for k, vertex in enumerate(below.border)}
    # The loop of an arm belongs to the trunk's grid; it runs from the top of the shoulder over the front.
    loops = {sign: _arm_loop(sign) for sign in (1, -1)}
    lowest = below.row[below.part == 0].max()
    for index, corners in enumerate(below.faces.tolist()):
        parts = [0 if c < start else int(below.part[c - start]) for c in corners]
        part = next((p for p in parts if p), 0)
        turns, rows = [], []
        for c in corners:
            if c < start:
                turns.append(place[c])
                rows.append(0.0)
            elif part and not below.part[c - start]:
                turns.append(loops[part][c - start])
                rows.append(0.0)
            else:
                turns.append(float(below.column[c - start]))
                rows.append(float(below.row[c - start]) / (1.0 if part else lowest))
        known = [t for t, r in zip(turns, rows, strict=True) if r < 1.0]  # a pole has no angle
        if max(known) - min(known) > 0.5:
            turns = [t + 1 if t < 0.5 else t for t in turns]
            known = [t + 1 if t < 0.5 else t for t in known]
        turns = [sum(known) / len(known) if r >= 1.0 else t for t, r in zip(turns, rows, strict=True)]
        before = sum(known) / len(known) < 0.5
        low_u, low_v, high_u, high_v = _ARM_CHARTS[part] if part else _TRUNK_CHART
        for k, c in enumerate(corners):
            # Shifted by half a turn, which puts the seam at the back (arms: at the armpit).
            u = low_u + (high_u - low_u) * (turns[k] + (0.5 if before else -0.5))
            key = (c, round(u, 9), part)
            if key not in index_of:
                index_of[key] = total
                total += 1
                uv.append(np.array([[u, high_v - (high_v - low_v) * rows[k]]]))
            faces[index, k] = index_of[key]
    return np.concatenate(uv), np.concatenate([own["uv_faces"], faces])


def _arm_loop(sign: int) -> dict[int, float]:
    """Angle, in turns, of each trunk vertex at an arm's first ring: that of the adjacent ring vertex."""
    below, start = torso(), len(body_positions()) - len(torso().positions)
    out: dict[int, list[float]] = {}
    first = below.row[(below.part == sign)].min()
    for corners in below.faces.tolist():
        mine = [c - start for c in corners if c >= start]
        trunk = [c for c in mine if below.part[c] == 0]
        ring = [c for c in mine if below.part[c] == sign and below.row[c] == first]
        for c in trunk if ring else ():
            out.setdefault(c, []).extend(float(below.column[r]) for r in ring)
    # Neighbors across quads and across diagonals are mixed; the order along the loop gives uniform angles.
    count = len(out)
    order = sorted(out, key=lambda c: _circular_mean(out[c]))
    return {c: k / count for k, c in enumerate(_rotated(order, sign))}


def _circular_mean(turns: list[float]) -> float:
    angle = 2 * np.pi * np.asarray(turns)
    return float(np.angle(np.exp(1j * angle).mean()) / (2 * np.pi) % 1.0)


def _rotated(order: list[int], sign: int) -> list[int]:
    """The loop from its topmost vertex in the middle of the shoulder, at angle 0."""
    below = torso()
    axis = np.array([below.positions[c] for c in order])
    top = int(np.argmax(axis[:, 1] - 0.02 * np.abs(axis[:, 2] + 46)))
    return order[top:] + order[:top]


@functools.cache
def _cached() -> dict[str, Shaped[np.ndarray, "..."]]:
    own = procedural_head_arrays()
    vertices, below = body_positions(), torso()
    count, head = len(vertices), len(own["v_template"])
    directions = np.zeros((count, 3, 400), np.float32)
    identities = shapes()
    for index, field in enumerate(identities.values()):
        directions[:, :, index] = field * _MM
    directions[:head, :, 300:] = own["shapedirs"][:, :, 300:]
    uv, uv_faces = _texture_coordinates()
    part = np.concatenate([np.zeros(head, int), below.part])
    faces = np.concatenate([own["f"], below.faces])
    trunk = np.zeros(len(faces), bool)
    trunk[len(own["f"]) :] = True
    arrays: dict[str, np.ndarray] = {
        "v_template": (vertices * _MM).astype(np.float32),
        "f": faces.astype(np.int32),
        "shapedirs": directions,
        "posedirs": correctives() * np.float32(_MM),
        "J_regressor": body_regressor().astype(np.float32),
        "kintree_table": np.array([BODY_PARENTS, range(55)], np.int64),
        "weights": body_weights().astype(np.float32),
        "hands_componentsl": np.eye(45, dtype=np.float32),
        "hands_componentsr": np.eye(45, dtype=np.float32),
        "hands_meanl": np.zeros(45, np.float32),
        "hands_meanr": np.zeros(45, np.float32),
        "lmk_faces_idx": own["lmk_face_idx"],
        "lmk_bary_coords": own["lmk_b_coords"],
        "uv": uv.astype(np.float32),
        "uv_faces": uv_faces.astype(np.int32),
        "expression_names": own["expression_names"],
        "shape_names": np.array(list(identities)),
    }
    for name, mask in own.items():
        if name.startswith("region_") and name != "region_boundary":  # the neck is not a border here
            arrays[name] = np.concatenate([mask, np.zeros(len(below.faces), bool)])
    arrays["region_torso"] = trunk & (part[faces] == 0).any(1)
    arrays["region_left_arm"] = trunk & (part[faces] == 1).all(1)
    arrays["region_right_arm"] = trunk & (part[faces] == -1).all(1)
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def procedural_body_arrays() -> dict[str, Shaped[np.ndarray, "..."]]:
    """The procedural upper body as the arrays of an SMPL-X file (read-only), meters; see `SmplxHead.from_file`.

    `numpy.savez("SMPLX_NEUTRAL.npz", **procedural_body_arrays())` writes a file that smplx and this library read.
    """
    return dict(_cached())


def procedural_body() -> SmplxHead:
    """A procedural upper body of 11,396 vertices; meters, y up, face toward +z, pupils at y = 0.

    Its first vertices and faces are those of `procedural_head()`, whose face, expressions, 68 landmarks and regions it
    has. The skin continues from the neck without a gap over the shoulders, stubs of the upper arms (52 degrees below
    the horizontal) and the trunk, and is closed at the waist. All 55 joints have positions, also those without a
    mesh. Deterministic; generated once per process, and each call returns a new model. `expression_names` and
    `shape_names` name the directions.
    """
    return SmplxHead.from_arrays(procedural_body_arrays(), "procedural_body()")
