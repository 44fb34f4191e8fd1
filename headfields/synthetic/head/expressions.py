"""Expression directions of the procedural head: displacements in millimeters; weight 1 is a strong expression."""

import functools

import numpy as np
from jaxtyping import Float

from headfields.synthetic.head.mesh import LIDS, MOUTH
from headfields.synthetic.head.parts import head_parts
from headfields.synthetic.head.shape import EYE_CENTER, LID_RADIUS, almond, lip_height, smoothstep

__all__ = ["expression_fields", "lid_closing"]


def _gauss(point, at, width):
    """exp(-r^2) about `at`, r in units of `width` per axis."""
    return np.exp(-(((point - np.asarray(at)) / np.asarray(width)) ** 2).sum(-1))


def _lid_z(x, y):
    q = ((x - EYE_CENTER[0]) / 17.2) ** 2 + ((y - EYE_CENTER[1]) / (LID_RADIUS + 0.6)) ** 2
    return EYE_CENTER[2] + LID_RADIUS * np.sqrt(np.maximum(1 - q, 1e-3))


@functools.cache
def lid_closing(side: int, upper: float = 1.0, lower: float = 0.12) -> Float[np.ndarray, "v 3"]:
    """Displacements (V, 3) that close an eye along the bulge of the lids over the eyeball.

    Args:
        side: 1 for the left eye, -1 for the right.
        upper: fraction of the way that the upper lid moves down; 1 closes the eye.
        lower: height at which the margins meet, as a fraction of the opening; the lower lid moves up to it.
    """
    parts = head_parts()
    mesh = parts.mesh
    field = np.zeros_like(parts.positions)
    pick = np.nonzero((mesh.patch == LIDS) & (mesh.side == side))[0]
    angle, ring = mesh.angle[pick], mesh.ring[pick]
    rest = parts.positions[pick] * [side, 1, 1]
    c = np.cos(angle)
    top = almond(np.arccos(np.clip(c, -1, 1)))[:, 1]
    bottom = almond(-np.arccos(np.clip(c, -1, 1)))[:, 1]
    line = bottom + (top - bottom) * lower  # where the margins meet; the upper lid moves slightly past it
    weight = smoothstep(ring, 7.4, 0.2)
    past = 0.45 * np.sin(angle) ** 2
    move = np.where(np.sin(angle) > 0, (line - past - top) * upper, (line - bottom) * min(upper, 1.0)) * weight
    move = np.where(np.abs(np.sin(angle)) < 1e-9, 0.0, move)
    target = rest[:, 1] + move
    forward = (_lid_z(rest[:, 0], target) - _lid_z(rest[:, 0], rest[:, 1])) * weight
    # The lid is flat between the loops, so it needs clearance over the eyeball.
    room = 0.35 * weight + 2.4 * weight * (1 - weight)
    forward += np.where(np.sin(angle) > 0, upper, 0.0) * room * np.sin(angle) ** 2
    inside = ring < 0
    moved = rest + np.stack([0 * move, move, forward], -1)
    # The rim behind the margin rotates with it about the eye's center.
    rim = rest[inside] - EYE_CENTER
    turned = rim + np.stack([0 * move[inside], move[inside], forward[inside]], -1)
    turned *= (np.linalg.norm(rim, axis=1) / np.linalg.norm(turned, axis=1))[:, None]
    moved[inside] = EYE_CENTER + turned
    field[pick] = (moved - rest) * [side, 1, 1]
    return field


def expression_fields() -> dict[str, Float[np.ndarray, "v 3"]]:
    """Displacement fields (V, 3) in millimeters by name, in the order of the model's expression coefficients."""
    parts = head_parts()
    p = parts.positions.copy()
    x, y, z = p.T
    front = smoothstep(z, 0, 35) * (parts.eye == 0)
    upper = smoothstep(parts.open, -2.5, 2.5)
    lower = 1 - upper
    v = y - MOUTH[1]
    full = lip_height(x)
    corner_y = -69.0
    # Weight of the lips: 1 on the red of the lips, fading over the skin around.
    lips = np.exp(-((x / 30) ** 4) - (v / 13) ** 4) * front
    around = np.exp(-((x / 40) ** 4) - (v / 24) ** 4) * front

    def unit(dx=0.0, dy=0.0, dz=0.0):
        return np.stack(np.broadcast_arrays(dx, dy, dz), -1)

    def weighted(weight, dx=0.0, dy=0.0, dz=0.0):
        return (weight * front)[:, None] * unit(dx, dy, dz)

    fields: dict[str, np.ndarray] = {}
    sides = (("left", 1), ("right", -1))

    def both(name, make):
        for label, s in sides:
            fields[f"{name}_{label}"] = make(s)

    def half(s, soft=9.0):
        return smoothstep(x * s, -soft, soft)

    def smile(s):
        corner = _gauss(p, (25 * s, corner_y, 76), (17, 15, 28)) * half(s)
        cheek = _gauss(p, (38 * s, -40, 74), (17, 15, 30))
        fold = _gauss(p, (31 * s, -56, 78), (6, 14, 26))
        pull = weighted(corner, 11.0 * s, 9.0, -5.5) + weighted(lips * half(s) * (1 - corner), 2.0 * s, 0.6, -1.6)
        return pull + weighted(cheek, 1.5 * s, 4.5, 4.0) + weighted(fold, 1.0 * s, 0, -1.2)

    both("smile", smile)

    def frown(s):
        corner = _gauss(p, (25 * s, corner_y, 76), (15, 14, 28)) * half(s)
        return weighted(corner, 2.5 * s, -8.5, -2.0) + weighted(
            _gauss(p, (30 * s, -84, 74), (11, 10, 26)), 0.5 * s, -2, 1.6
        )

    both("frown", frown)

    def brow_raise(s):
        brow = _gauss(p, (32 * s, 22, 82), (25, 13, 40)) * half(s, 12)
        lid = _gauss(p, (32 * s, 11, 82), (17, 4.5, 40))
        return (
            weighted(brow, 0, 8.0, -1.2)
            + weighted(lid, 0, 0.9, 0)
            + weighted(_gauss(p, (30 * s, 46, 85), (26, 15, 50)), 0, 3, 0.8)
        )

    both("brow_raise", brow_raise)
    inner = _gauss(p, (0, 17, 95), (21, 11, 40))
    fields["brow_furrow"] = weighted(inner, -0.22 * x, -5.0, 1.8) + weighted(
        _gauss(np.abs(p) * [1, 1, 1], (28, 17, 88), (18, 8, 40)),
        -2.2 * np.sign(x) * smoothstep(np.abs(x), 0, 12),
        -2.6,
        0,
    )
    fields["brow_inner_raise"] = weighted(_gauss(p, (0, 20, 95), (22, 12, 40)), 0, 7.0, -0.8)
    both("blink", lambda s: lid_closing(s))
    both(
        "squint",
        lambda s: (
            0.35 * lid_closing(s, 0.75, 0.5)
            + weighted(_gauss(p, (33 * s, -15, 78), (18, 7, 30)), 0, 3.2, 1.6)
            + weighted(_gauss(p, (36 * s, 18, 84), (17, 8, 30)), 0, -1.8, 0)
        ),
    )
    both(
        "eye_wide",
        lambda s: -0.28 * lid_closing(s, 1.0, 0.12) + weighted(_gauss(p, (32 * s, 19, 82), (20, 9, 40)), 0, 1.8, 0),
    )
    fields["mouth_open"] = weighted(lips * full, 0, upper * 3.6 - lower * 6.0, -lower * 0.6) + weighted(
        around, -0.03 * x, 0, 0
    )
    fields["pucker"] = weighted(around, -0.40 * x, -0.10 * v, 3.0) + weighted(
        lips * full**0.5, 0, upper * 0.8 - lower * 0.8, 5.0
    )
    fields["funnel"] = weighted(around, -0.26 * x, 0, 2.0) + weighted(
        lips * full**0.5, 0, upper * 4.6 - lower * 5.4, 5.5
    )
    fields["lip_press"] = weighted(lips * full, 0, -0.24 * v, -3.0) + weighted(around, 0.05 * x, 0, 0)
    puff = sum(_gauss(p, (42 * s, -62, 66), (21, 19, 30)) for _, s in sides)
    fields["cheek_puff"] = weighted(puff, 7.5 * np.sign(x), 0, 6.0) + weighted(lips, -0.06 * x, 0, 1.5)
    wings = sum(_gauss(p, (13 * s, -36, 98), (10, 12, 24)) for _, s in sides)
    fields["nose_wrinkle"] = (
        weighted(wings, 0.10 * x, 4.0, 0.8)
        + weighted(_gauss(p, (0, 8, 96), (15, 10, 30)), 0, -2.4, 1.4)
        + weighted(lips * upper * full, 0, 2.2, 0)
    )
    fields["upper_lip_raise"] = weighted(around * upper * full**0.6, 0, 6.0, 0.4)
    fields["lower_lip_depress"] = weighted(around * lower * full**0.6, 0, -7.0, 0.2)
    fields["mouth_left"] = weighted(around, 9.0, 0.8 * x / 25, -np.abs(x) * 0.05)
    fields["mouth_right"] = weighted(around, -9.0, -0.8 * x / 25, -np.abs(x) * 0.05)
    both("dimple", lambda s: weighted(_gauss(p, (27 * s, -68, 76), (10, 10, 26)), 3.5 * s, 1.0, -4.5))
    both("mouth_stretch", lambda s: weighted(_gauss(p, (25 * s, -71, 76), (17, 14, 28)) * half(s), 8.5 * s, -3.0, -4.0))
    fields["lip_roll"] = weighted(lips * full, 0, upper * -2.2 + lower * 2.6, -4.2)
    fields["chin_raise"] = weighted(_gauss(p, (0, -94, 96), (22, 13, 30)), 0, 4.0, 1.8) + weighted(
        lips * lower * full, 0, 2.6, 1.6
    )
    for name, field in fields.items():
        if not name.endswith(("_left", "_right")):  # exact symmetry despite rounding
            mirrored = field[: parts.skin][parts.mesh.mirror] * [-1, 1, 1]
            field[: parts.skin] = 0.5 * (field[: parts.skin] + mirrored)
    return fields
