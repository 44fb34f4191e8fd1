"""Identity directions of the procedural head: displacements in millimeters, one unit about one standard deviation."""

import numpy as np
from jaxtyping import Float

from headfields.synthetic.head.mesh import MOUTH, PINNA
from headfields.synthetic.head.parts import head_parts
from headfields.synthetic.head.shape import EYE_CENTER, lip_height, smoothstep

__all__ = ["identity_fields"]


def identity_fields() -> dict[str, Float[np.ndarray, "v 3"]]:
    """Displacement fields (V, 3) in millimeters by name, in the order of the model's shape coefficients.

    Around an eye each field is a translation, which preserves the fit of lids and eyeball.
    """
    parts = head_parts()

    def fields(p: np.ndarray) -> dict[str, np.ndarray]:
        x, y, z = p.T
        a, v = np.abs(x), y - MOUTH[1]
        sign = np.sign(x) * smoothstep(a, 0, 6)
        front = smoothstep(z, 0, 40)
        skull = smoothstep(y, -130, -60)

        def bump(at, width):
            return np.exp(-(((np.stack([a, y, z], -1) - at) / np.asarray(width)) ** 2).sum(-1))

        def move(weight, dx=0.0, dy=0.0, dz=0.0):
            return weight[:, None] * np.stack(np.broadcast_arrays(dx, dy, dz), -1)

        lips = np.exp(-((x / 32) ** 4) - (v / 14) ** 4) * front
        above = np.tanh(v / 3)
        jaw = smoothstep(y, -40, -85) * smoothstep(y, -150, -112) * smoothstep(z, -30, 10)
        lower = smoothstep(y, -25, -95) * smoothstep(z, -15, 40)
        nose = bump((0, -30, 108), (19, 26, 26))
        return {
            "width": move(0.35 + 0.65 * skull, 0.05 * x),
            "length": move(np.ones_like(x), 0, 0.045 * (y + 20)),
            "depth": move(skull, 0, 0, 0.045 * z),
            "jaw_width": move(jaw, 0.095 * x),
            "chin_length": move(lower, 0, -5.5 * smoothstep(y, -72, -108), 0),
            "chin_forward": move(smoothstep(y, -78, -100) * smoothstep(z, 30, 80), 0, 0, 5.0),
            "nose_length": move(nose, 0, -1.6, 4.2),
            "nose_width": move(bump((0, -40, 100), (24, 15, 26)), 0.17 * x),
            "nose_bridge": move(bump((0, -8, 100), (10, 14, 26)), 0, 0, 3.0),
            "nose_tip": move(bump((0, -38, 112), (14, 12, 18)), 0, 3.2, 0.6),
            "eye_spacing": move(bump((31.5, 0, 80), (24, 24, 40)), 2.4 * sign),
            "cheekbones": move(bump((50, -24, 62), (20, 18, 34)), 3.6 * sign, 0, 2.4),
            "face_fullness": move(bump((45, -64, 52), (24, 26, 38)), 5.0 * sign, 0, 3.0),
            "lip_fullness": move(lips * lip_height(x), 0, 1.3 * above, 1.7),
            "mouth_width": move(lips, 0.11 * x),
            "brow_ridge": move(bump((26, 18, 92), (26, 9, 30)) + 0.5 * bump((0, 16, 96), (12, 9, 30)), 0, -0.8, 2.8),
            "forehead_slope": move(smoothstep(y, 25, 95) * front, 0, 0, -6.5),
            "neck_thickness": move(smoothstep(y, -95, -145), 0.09 * x, 0, 0.09 * (z + 18)),
            "skull_back": move(smoothstep(z, -30, -95) * smoothstep(y, -70, 0), 0, 1.0, -6.0),
        }

    displacements = fields(parts.positions)
    pupils = np.stack([EYE_CENTER * [side, 1, 1] for side in (1, -1)])
    at_eyes = fields(pupils)
    for name, field in displacements.items():
        for index, side in enumerate((1, -1)):
            distance = np.linalg.norm((parts.positions - pupils[index]) * [1, 1, 0.6], axis=1)
            near = smoothstep(distance, 32, 17)
            near[parts.eye == side] = 1.0
            near[parts.eye == -side] = 0.0
            field += near[:, None] * (at_eyes[name][index] - field)
    ears = np.zeros_like(parts.positions)
    pinna = np.nonzero(parts.mesh.patch == PINNA)[0]
    center = np.array([0, -14.0, -6.0])
    out = smoothstep(parts.mesh.ring[pinna], 1.0, 0.8)[:, None]
    ears[pinna] = out * (parts.positions[pinna] - center) * [0.03, 0.11, 0.11]
    return {**displacements, "ear_size": ears}
