"""Procedural albedo texture of the upper body: the head's texture, skin of the same tone, and a shirt."""

import numpy as np
import torch
from jaxtyping import Float

from headfields.ops.uv import UVRasterizer
from headfields.synthetic.body.model import HEAD_CHART, procedural_body_arrays
from headfields.synthetic.body.torso import ARM_AXIS, SHOULDER, torso
from headfields.synthetic.head.shape import smoothstep
from headfields.synthetic.head.texture import Color, lattice_noise, procedural_head_texture

__all__ = ["procedural_body_texture"]


def procedural_body_texture(
    resolution: int = 1024,
    skin: Color = (0.80, 0.60, 0.50),
    shirt: Color | None = (0.30, 0.38, 0.48),
    seed: int = 0,
) -> Float[np.ndarray, "r r 3"]:
    """An sRGB albedo in the body's texture coordinates: the head of `procedural_head_texture`, skin and a shirt.

    Args:
        resolution: side of the square image in texels.
        skin: sRGB color in [0, 1].
        shirt: its color, or None for bare skin.
        seed: seed of the noise.

    Returns:
        (R, R, 3) float64 in [0, 1]; row 0 is the top, v = 1.

    Raises:
        ValueError: `resolution` is less than 1.
    """
    head = torch.from_numpy(procedural_head_texture(resolution, skin=skin, seed=seed)).movedim(-1, 0)[None]
    rows = max(round(resolution * (1 - HEAD_CHART)), 1)
    squeezed = torch.nn.functional.interpolate(head, (rows, resolution), mode="area")[0].movedim(0, -1).numpy()
    arrays = procedural_body_arrays()
    faces, uv_faces = (torch.from_numpy(arrays[key].astype(np.int64)) for key in ("f", "uv_faces"))
    below = torch.from_numpy(arrays["region_torso"] | arrays["region_left_arm"] | arrays["region_right_arm"])
    count = len(arrays["v_template"])
    atlas = UVRasterizer(
        faces[below], torch.from_numpy(arrays["uv"].copy()), uv_faces[below], resolution, vertex_count=count
    )
    below_head = torso()
    left = np.stack([np.abs(below_head.positions[:, 0]), *below_head.positions[:, 1:].T], -1)
    along = np.where(below_head.part == 0, 0.0, (left - SHOULDER) @ ARM_AXIS)
    along = np.concatenate([np.zeros(count - len(along)), along])[:, None]
    values = np.concatenate([arrays["v_template"] * 1e3, along], 1)
    texels = atlas.vertices_to_map(torch.from_numpy(values).float()[None])[0].movedim(0, -1).double().numpy()
    point, along = texels[..., :3], texels[..., 3]
    image = np.broadcast_to(np.asarray(skin, float), (resolution, resolution, 3)).copy()
    coarse = lattice_noise(point, 17.0, seed) + 0.6 * lattice_noise(point, 6.0, seed + 1)
    fine = lattice_noise(point, 1.9, seed + 2) + 0.7 * lattice_noise(point, 0.9, seed + 3)
    image *= 1 + 0.035 * coarse[..., None] + 0.030 * fine[..., None]
    mole = smoothstep(lattice_noise(point, 14.0, seed + 11), 0.86, 0.93)
    image *= 1 - 0.45 * mole[..., None] * np.array([0.7, 1.0, 1.1])
    if shirt is not None:
        x, y, z = np.moveaxis(point, -1, 0)
        away = np.maximum(np.hypot(x, 1.15 * (z + 36)) - 92, -244 - 0.35 * (z + 36) - y)  # distance from the collar
        worn = smoothstep(away, -1.5, 1.5) * smoothstep(along, 152, 148)
        band = smoothstep(np.abs(away - 8), 8.5, 7.5) + smoothstep(np.abs(along - 143), 7, 6)
        stripe = smoothstep(np.sin((y + 0.15 * z) * 2 * np.pi / 46), 0.35, 0.5)
        knit = 0.05 * np.sin(x * 2.2) * np.sin(y * 2.2) + 0.05 * lattice_noise(point, 3.0, seed + 12)
        fold = 0.07 * lattice_noise(point * [1, 0.45, 1], 42.0, seed + 13)
        cloth = np.asarray(shirt) * (1 - 0.25 * np.clip(band, 0, 1) + 0.30 * stripe * (band < 0.5))[..., None]
        cloth = cloth * (1 + knit + fold)[..., None]
        image += worn[..., None] * (cloth - image)
    image[:rows] = squeezed
    return np.clip(image, 0.0, 1.0)
