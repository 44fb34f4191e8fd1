"""Albedo of skin and lips, eyes, teeth, gums and hair at points of the surfaces at rest, linear RGB. Our own choice."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.synthetic.scene.anatomy import Anatomy
from headfields.synthetic.scene.noise import fractal_noise, value_noise

__all__ = ["eye_color", "gum_color", "hair_color", "skin_color", "tooth_color"]

_SKIN = torch.tensor([0.56, 0.315, 0.225])
_BLUSH = torch.tensor([0.56, 0.20, 0.155])
_LIP = torch.tensor([0.44, 0.135, 0.125])
_SCALP = torch.tensor([0.10, 0.058, 0.036])
_HAIR = torch.tensor([0.105, 0.055, 0.027])
_TOOTH = torch.tensor([0.82, 0.71, 0.54])
_GUM = torch.tensor([0.48, 0.16, 0.15])
_IRIS = torch.tensor([0.10, 0.20, 0.30])
_SCLERA = torch.tensor([0.72, 0.69, 0.66])


def _blend(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return one + (other - one) * share.clamp(0, 1)[:, None]


def skin_color(points: Float[Tensor, "n 3"], lip: Float[Tensor, " n"], anatomy: Anatomy) -> Float[Tensor, "n 3"]:
    """(N, 3) skin: mottled and freckled, redder on cheeks, nose and ears, darker under hair and brows.

    Args:
        points: points at rest.
        lip: weight of the red of the lips, in [0, 1].
        anatomy: measures of the same head.
    """
    mark = anatomy.landmarks
    mottle = 1 + 0.10 * fractal_noise(points, 0.02, 3, seed=1) + 0.05 * value_noise(points, 0.0022, seed=5)
    color = _SKIN * mottle[:, None]
    blush = torch.exp(-(((points - mark[30]).norm(dim=1) / 0.014) ** 2)) * 0.6
    for eye, wing in ((40, 31), (47, 35)):
        cheek = 0.5 * (mark[eye] + mark[wing]) + torch.tensor([0.02, -0.006, -0.008]) * mark[wing].sign()
        blush = blush + 0.75 * torch.exp(-(((points - cheek).norm(dim=1) / 0.019) ** 2))
    for ear in anatomy.ear:
        blush = blush + 0.6 * torch.exp(-(((points - ear).norm(dim=1) / 0.03) ** 2))
    color = _blend(color, _BLUSH * mottle[:, None], 0.6 * blush)
    face = torch.exp(-((((points - mark[29]) * torch.tensor([1, 1, 0.6])).norm(dim=1) / 0.055) ** 4))
    freckle = ((value_noise(points, 0.0042, seed=71) + 0.5 * value_noise(points, 0.0031, seed=72) - 0.62) / 0.3).clamp(
        0, 1
    )
    color = color * (1 - 0.30 * freckle * face)[:, None]
    beard = (0.004 - (points - mark[8]).norm(dim=1) + 0.055).clamp(0, 0.03) / 0.03
    color = _blend(color, color * torch.tensor([0.82, 0.86, 0.9]), 0.6 * beard)

    near = (lip > 0).nonzero()[:, 0]
    fold = value_noise(points[near] * torch.tensor([1.0, 0.15, 0.15]), 0.0016, seed=83)
    red = _LIP * (1 + 0.14 * fold)[:, None]
    color[near] = _blend(color[near], red, 1.6 * lip[near] - 0.3 + 0.15 * fold)

    brow = anatomy.brow(points)
    color = _blend(color, _SCALP, 0.55 * (1.4 - brow / 0.0042) * (brow < 0.006))
    for ring in (range(36, 42), range(42, 48)):  # darker lid margins, for the lashes
        corners = mark[list(ring)]
        close = ((points[:, :2] - corners[:, :2].mean(0)).norm(dim=1) < 0.03).nonzero()[:, 0]
        gap = (points[close, None] - corners).norm(dim=-1).amin(1)
        color[close] = color[close] * (1 - 0.35 * torch.exp(-((gap / 0.005) ** 2)))[:, None]
    scalp = anatomy.hairline(points) + 0.006 * fractal_noise(points, 0.02, 2, seed=11)
    near_ear = (points[:, None] - anatomy.ear).norm(dim=-1).amin(1)
    share = (scalp / 0.008 + 0.4) * ((near_ear - 0.026) / 0.006).clamp(0, 1)
    return _blend(color, _SCALP, 0.93 * share.clamp(0, 1)).clamp(0.005, 1)


def eye_color(gaze: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """(N, 3) sclera, iris and pupil by the unit direction in the eyeball's axes, +z forward."""
    angle = torch.acos(gaze[:, 2].clamp(-1, 1))
    around = torch.atan2(gaze[:, 1], gaze[:, 0])
    fibers = 1 + 0.25 * torch.sin(17 * around) * torch.cos(5 * around + 9 * angle)
    iris = _IRIS * (fibers * (1.25 - 1.2 * (angle / 0.5)).clamp_min(0.35))[:, None]
    veins = ((value_noise(gaze * 0.01, 0.0024, seed=91) - 0.45) * 2).clamp(0, 1)
    white = _blend(_SCLERA.expand(len(gaze), 3), torch.tensor([0.6, 0.35, 0.32]), veins * (angle / 1.0) * 0.35)
    color = _blend(iris, white, (angle - 0.50) / 0.05)
    return _blend(torch.full_like(color, 0.008), color, (angle - 0.19) / 0.03)


def tooth_color(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """(N, 3) teeth, slightly mottled."""
    return _TOOTH * (1 + 0.05 * fractal_noise(points, 0.006, 2, seed=95))[:, None]


def gum_color(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """(N, 3) gums, tongue and the cavity of the mouth."""
    return _GUM * (1 + 0.15 * fractal_noise(points, 0.004, 2, seed=97))[:, None]


def hair_color(along: Float[Tensor, " n"], tone: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    """(N, 3) hair by the position along the strand (0 at the root) and the strand's random tone."""
    return _HAIR * ((0.65 + 0.75 * tone) * (0.7 + 0.5 * along))[:, None]
