"""Lighting of the scene: a key light with shadows, a fill light and sky light, fixed in the room."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.srgb import srgb_from_linear

__all__ = ["Lights", "lambert_specular", "strand_light", "to_srgb"]

_KEY = torch.nn.functional.normalize(torch.tensor([0.55, 0.50, 0.80]), dim=0)
_FILL = torch.nn.functional.normalize(torch.tensor([-0.80, 0.10, 0.55]), dim=0)
_KEY_COLOR = torch.tensor([1.80, 1.67, 1.50])
_FILL_COLOR = torch.tensor([0.30, 0.35, 0.42])
_SKY, _GROUND = torch.tensor([0.40, 0.44, 0.50]), torch.tensor([0.24, 0.20, 0.17])


@dataclass(frozen=True)
class Lights:
    """Directions of the room's lights in the head's frame: unit vectors toward key and fill light, and up."""

    key: Float[Tensor, "3"]
    fill: Float[Tensor, "3"]
    up: Float[Tensor, "3"]

    @classmethod
    def in_frame(cls, head_to_room: Float[Tensor, "3 3"]) -> "Lights":
        """The lights in the frame of a head with this rotation."""
        return cls(_KEY @ head_to_room, _FILL @ head_to_room, torch.tensor([0.0, 1.0, 0.0]) @ head_to_room)


def lambert_specular(
    color: Float[Tensor, "n 3"],
    normal: Float[Tensor, "n 3"],
    view: Float[Tensor, "n 3"],
    lights: Lights,
    key_visible: Float[Tensor, " n"],
    open_sky: Float[Tensor, " n"],
    gloss: Float[Tensor, "n 2"],
    bleed: Float[Tensor, "3"],
) -> Float[Tensor, "n 3"]:
    """Radiance toward the viewer, linear RGB.

    Args:
        color: (N, 3) albedo.
        normal, view: (N, 3) unit vectors away from the surface and toward the camera.
        lights: directions and colors, in the frame of the normals.
        key_visible: (N,) 1 where the key light is visible.
        open_sky: (N,) visible share of the surroundings (ambient occlusion).
        gloss: (N, 2) strength and exponent of the highlight (Blinn-Phong).
        bleed: (3,) wrap of light past the terminator by channel, for subsurface scattering in skin.
    """
    total = torch.zeros_like(color)
    for direction, power, visible in ((lights.key, _KEY_COLOR, key_visible), (lights.fill, _FILL_COLOR, open_sky)):
        cosine = normal @ direction
        wrapped = ((cosine[:, None] + bleed) / (1 + bleed)).clamp_min(0)
        total = total + color * wrapped * power * visible[:, None]
        half = torch.nn.functional.normalize(view + direction, dim=1)
        shine = (normal * half).sum(1).clamp_min(0) ** gloss[:, 1] * gloss[:, 0] * (cosine > 0)
        total = total + (shine * visible)[:, None] * power
    upward = 0.5 + 0.5 * (normal @ lights.up)
    sky = _GROUND + (_SKY - _GROUND) * upward[:, None]
    return total + color * sky * open_sky[:, None]


def strand_light(
    color: Float[Tensor, "n 3"],
    tangent: Float[Tensor, "n 3"],
    view: Float[Tensor, "n 3"],
    lights: Lights,
    key_visible: Float[Tensor, " n"],
    open_sky: Float[Tensor, " n"],
) -> Float[Tensor, "n 3"]:
    """Radiance of thin strands, linear RGB, by the model of Kajiya and Kay (1989)."""
    total = color * (0.5 * (_SKY + _GROUND)) * open_sky[:, None]
    along_view = (tangent * view).sum(1)
    for direction, power, visible in ((lights.key, _KEY_COLOR, key_visible), (lights.fill, _FILL_COLOR, open_sky)):
        along = tangent @ direction
        sine = (1 - along * along).clamp_min(0).sqrt()
        mirror = (sine * (1 - along_view * along_view).clamp_min(0).sqrt() - along * along_view).clamp_min(0)
        total = total + (color * sine[:, None] + 0.045 * (mirror**24)[:, None]) * power * visible[:, None]
    return total


def to_srgb(linear: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Linear RGB to sRGB in [0, 1], with a soft roll-off of highlights."""
    x = linear.clamp_min(0)
    x = torch.where(x > 0.7, 0.7 + 0.3 * (1 - torch.exp(-(x - 0.7) / 0.3)), x)
    return srgb_from_linear(x)
