"""Eyelid transfer: lids close as far as the source's, by the target's own blink and by sliding on the eyeball."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.apps.retargeting.expression_fit import ExpressionFit
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.lids import LidAperture
from headfields.ops.smoothstep import smoothstep

__all__ = ["LidFollower"]

_ZONE = (1.7, 2.6)  # eyeball radii: nearer, skin follows the expression basis; farther, the transferred mesh
_COUNT = 5.0  # weight of the lid distance in the fit of the basis, relative to all skin around the eye
_RIDGE = 1e-3  # ridge of that fit: it has few vertices, and a lid must not move the jaw
_UPPER = 0.8  # fraction of the sliding by the upper lid, as in a blink
_FADE = 0.8  # radians from a lid's edge to skin that does not slide
_CORNER = 0.2  # fraction of the eye's width over which sliding fades out beyond the corners
_NEAR = (1.6, 2.2)  # eyeball radii over which sliding fades out
_SHUT, _AJAR = 0.12, 0.35  # coarse meshes never shut fully: openness below _SHUT counts as 0, above _AJAR as it is
_ROUNDS = 3  # iterations of sliding, as vertices lie between the places where the distance is measured


def _fade(value: Tensor, start: float, end: float) -> Tensor:
    """1 up to the start, 0 from the end on, smooth between."""
    return 1 - smoothstep(value, start, end)


class LidFollower(nn.Module):
    """Closes the lids of one eye of a target head as far as those of a source head.

    Deformation transfer moves a lid by the source lid's path. If the target's eye is twice as high, its lid stops half
    way. The openness of an eye (lid distance relative to rest) carries over between eyes of any shape, so it is matched
    in two steps. First, if the target has an expression basis, the skin around the eye is fitted with the target's own
    expressions (each within its bounds) at that lid distance. A blink of the source then becomes the blink of the
    target that an avatar was trained on. Second, the lids rotate about the axis through the corners of the eye, so that
    they slide on the eyeball, until the remaining distance is made up.

    Args:
        source, target: the lids of one eye of each head.
        surface: the target's surface.
        expressions: the fit of the target's expression coefficients; None: lids only slide.

    Our own choice.
    """

    zone: Tensor
    share: Tensor
    neutral: Tensor
    basis: Tensor
    sliding: Tensor
    turns: Tensor

    def __init__(
        self,
        source: LidAperture,
        target: LidAperture,
        surface: HeadSurface,
        expressions: ExpressionFit | None = None,
    ) -> None:
        super().__init__()
        self.source, self.target = source, target
        skin = surface.faces[surface.skin].flatten().unique()
        offset = surface.neutral[skin].double() - target.eye.center.double()
        away = offset.norm(dim=-1) / target.eye.radius
        turns = _turns(target, offset, away)
        slides = (turns != 0).any(dim=1)
        zone = skin[away < _ZONE[1]]
        buffers = {
            "zone": zone, "share": _fade(away[away < _ZONE[1]], *_ZONE)[:, None],
            "sliding": skin[slides], "turns": turns[slides],
            "neutral": torch.zeros(0, 3).double(), "basis": torch.zeros(0, 0, 3).double(),
        }  # fmt: skip
        self.fit: ExpressionFit | None = None
        if expressions is not None and len(expressions.basis) and len(zone):
            neutral, basis = expressions.neutral.double().cpu(), expressions.basis.double().cpu()
            buffers["neutral"], buffers["basis"] = neutral[zone], basis[:, zone]
            weights = buffers["share"][:, 0]
            gaps = torch.full((len(target.rest),), float(_COUNT * weights.sum() / len(target.rest))).double()
            self.fit = ExpressionFit(
                torch.cat([neutral[zone], _as_points(target.distance(neutral))]),
                torch.cat([basis[:, zone], _as_points(target.distance(basis))], dim=1),
                expressions.low.double().cpu(), expressions.high.double().cpu(),
                torch.cat([weights, gaps]), _RIDGE,
            )  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(
        self, placed: Float[Tensor, "b v 3"], moved: Float[Tensor, "b w 3"], center: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b w 3"]:
        """The target's vertices (B, W, 3), with the openness of the source's eye.

        Args:
            placed: (B, V, 3) the source's vertices, in the space where its `LidAperture` was found.
            moved: (B, W, 3) the target's transferred vertices.
            center: (B, 3) of the target's eyeball.
        """
        openness = self.source.openness(placed)
        slit = (openness - _SHUT).clamp_min(0) * (_AJAR / (_AJAR - _SHUT))
        gap = self.target.distance_at(torch.where(openness < _AJAR, slit, openness))
        if self.fit is not None:
            observed = torch.cat([moved[:, self.zone], _as_points(gap)], dim=1)
            own = self.neutral + torch.einsum("be,evc->bvc", self.fit(observed), self.basis)
            moved = moved.index_copy(1, self.zone, torch.lerp(moved[:, self.zone], own, self.share))
        lever = self.target.edges(moved)[:, 0, :, 1:] - center[:, None, 1:]
        lever = lever.norm(dim=-1).clamp_min(0.3 * self.target.eye.radius)
        opening = smoothstep(openness, _SHUT, _AJAR)  # shut lids may overlap further: places at the corners differ
        for _ in range(_ROUNDS):
            missing = (self.target.distance(moved) - gap) / lever
            missing = torch.where(missing < 0, missing * opening, missing)
            angle = missing @ self.turns.transpose(0, 1)
            x, y, z = (moved[:, self.sliding] - center[:, None]).unbind(-1)
            cos, sin = angle.cos(), angle.sin()
            turned = torch.stack([x, y * cos - z * sin, y * sin + z * cos], dim=-1) + center[:, None]
            moved = moved.index_copy(1, self.sliding, turned)
        return moved


def _as_points(values: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k 3"]:
    return torch.nn.functional.pad(values[..., None], (0, 2))


def _turns(lids: LidAperture, offset: Float[Tensor, "n 3"], away: Float[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """Rotation (N, K) of each vertex, down if positive, per unit of missing closure at each place along the lids."""
    azimuth = torch.atan2(offset[:, 0], offset[:, 2])
    elevation = torch.asin((offset[:, 1] / offset.norm(dim=-1).clamp_min(1e-12)).clamp(-1, 1))
    first, last = lids.azimuth[0], lids.azimuth[-1]
    place = (azimuth - first) / (last - first)
    beyond = torch.maximum(-place, place - 1).clamp_min(0)
    steps = (place.clamp(0, 1) * (len(lids.azimuth) - 1))[:, None]
    near = (1 - (steps - torch.arange(len(lids.azimuth))).abs()).clamp_min(0)  # linear interpolation
    upper, lower = (near @ edge for edge in lids.elevation.to(near))
    above = elevation > 0.5 * (upper + lower)
    from_edge = torch.where(above, elevation - upper, lower - elevation)
    amount = torch.where(above, _UPPER, _UPPER - 1)
    amount = amount * _fade(from_edge, 0.0, _FADE) * _fade(beyond, 0.0, _CORNER) * _fade(away, *_NEAR)
    return amount[:, None] * near
