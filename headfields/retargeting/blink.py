"""Lids that come as near to each other as another head's do: by the head's own blink, and by sliding on the eyeball."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.retargeting.codes import ExpressionFit
from headfields.retargeting.lids import LidAperture
from headfields.retargeting.surface import HeadSurface

__all__ = ["LidFollower"]

_ZONE = (1.7, 2.6)  # radii: up to here skin moves as its own basis lets it, from here on as it was transferred
_COUNT = 5.0  # how much the lids' distance counts in the fit of the basis, against all the skin about the eye
_RIDGE = 1e-3  # of that fit: it sees few vertices, and must not move a jaw for a lid
_UPPER = 0.8  # of what is left to slide; the upper lid does most of the way in a blink
_FADE = 0.8  # radians from a lid's edge to where its skin stays
_CORNER = 0.2  # of the eye's width: beyond its corners nothing slides
_NEAR = (1.6, 2.2)  # radii: up to here skin slides, from here on it stays
_SHUT, _AJAR = 0.12, 0.35  # openness up to which lids touch, but for how coarse a mesh is; from here on it is as it is
_ROUNDS = 3  # of sliding: vertices lie between the places at which the distance is looked at


def _fade(value: Tensor, start: float, end: float) -> Tensor:
    """1 up to the start, 0 from the end on, smooth between."""
    t = ((value - start) / (end - start)).clamp(0, 1)
    return 1 - t * t * (3 - 2 * t)


class LidFollower(nn.Module):
    """Brings the lids of one eye of a target head as far together as those of a source head.

    What transfer of triangles does to lids depends on the two eyes' shapes: a lid that has twice the way to go would
    stop half way, or pass into the eyeball. How far an eye is open, over how far at rest, does not. First, if the
    target's expression basis is given, the skin about the eye becomes that of its own expressions (each within its
    bounds) that is nearest to the transferred skin with its lids so far apart: a blink of the source is then the blink
    of the target, as a network has seen it. Then what is still missing, or all of it if there is no basis, is made up
    by turning the lids about the axis from one corner of the eye to the other, so that they slide on the eyeball.

    Args:
        source, target: one eye of each head.
        surface: of the target.
        expressions: of the target, or None.

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
        """The target's vertices with its lids as far apart, for its rest, as the source's are.

        Args:
            placed: (B, V, 3) the source's, where its `LidAperture` was found.
            moved: (B, W, 3) the target's, transferred.
            center: (B, 3) of the target's eyeball.
        """
        openness = self.source.openness(placed)
        slit = (openness - _SHUT).clamp_min(0) * (_AJAR / (_AJAR - _SHUT))
        wanted = self.target.wanted(torch.where(openness < _AJAR, slit, openness))
        if self.fit is not None:
            seen = torch.cat([moved[:, self.zone], _as_points(wanted)], dim=1)
            own = self.neutral + torch.einsum("be,evc->bvc", self.fit(seen), self.basis)
            moved = moved.index_copy(1, self.zone, torch.lerp(moved[:, self.zone], own, self.share))
        lever = self.target.edges(moved)[:, 0, :, 1:] - center[:, None, 1:]
        lever = lever.norm(dim=-1).clamp_min(0.3 * self.target.eye.radius)
        for _ in range(_ROUNDS):
            missing = (self.target.distance(moved) - wanted) / lever
            angle = missing @ self.turns.transpose(0, 1)
            x, y, z = (moved[:, self.sliding] - center[:, None]).unbind(-1)
            cos, sin = angle.cos(), angle.sin()
            turned = torch.stack([x, y * cos - z * sin, y * sin + z * cos], dim=-1) + center[:, None]
            moved = moved.index_copy(1, self.sliding, turned)
        return moved


def _as_points(values: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k 3"]:
    return torch.nn.functional.pad(values[..., None], (0, 2))


def _turns(lids: LidAperture, offset: Float[Tensor, "n 3"], away: Float[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """How much each vertex turns, down if positive, for what is missing at each place between the lids' edges."""
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
