"""All terms of a prior's loss for one batch of scans, from one evaluation of the field."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.avatar import Avatar
from headfields.networks import Anchors
from headfields.priors import losses
from headfields.priors.losses import PriorWeights
from headfields.priors.scans import ScanBatch
from headfields.records import HeadState

__all__ = ["PriorCodes", "anchors_of", "prior_terms"]

CUBE = 1.25
"""Half the side of the cube in which the deformation is held still, in the networks' units."""


@dataclass(frozen=True)
class PriorCodes:
    """The codes of B scans.

    Attributes:
        geometry, appearance: (B, C) of each scan's person.
        expression: (B, E) of each scan.
    """

    geometry: Float[Tensor, "b g"]
    appearance: Float[Tensor, "b a"]
    expression: Float[Tensor, "b e"]

    def state(self) -> HeadState:
        """The B frames that these codes are, without vertices."""
        codes = {"geometry": self.geometry, "appearance": self.appearance, "expression_code": self.expression}
        return HeadState(vertices=self.geometry.new_zeros(len(self.geometry), 0, 3), codes=codes)


def anchors_of(avatar: Avatar) -> Anchors:
    """The anchors that an avatar's decoder stands on; they say what units its networks compute in.

    Raises:
        TypeError: its decoder has none.
    """
    anchors = getattr(avatar.decoder, "anchors", None)
    if not isinstance(anchors, Anchors):
        raise TypeError(
            f"a prior needs a decoder with anchors, and this avatar has {type(avatar.decoder).__name__}; "
            "build it with headfields.models.mononphm"
        )
    return anchors


def prior_terms(
    avatar: Avatar,
    batch: ScanBatch,
    codes: PriorCodes,
    weights: PriorWeights,
    random: torch.Generator,
    cube: int = 50,
) -> dict[str, Float[Tensor, ""]]:
    """The terms by name, not yet weighted; those without weight are left out.

    Units are the networks': `Anchors.normalized` points, colors in [-1, 1].

    Args:
        avatar: a model with anchors and a decoder of distances, as `headfields.models.mononphm` makes.
        batch: points of B scans.
        codes: of those scans.
        weights: says which terms are wanted.
        random: draws the points where the deformation is held still.
        cube: how many of these a scan.
    """
    anchors = anchors_of(avatar)
    scale = anchors.scale
    field = avatar.field(codes.state())
    count, device = len(batch), batch.front_points.device
    groups = [batch.front_points, batch.back_points, batch.near_points, batch.far_points]
    sizes = [group.shape[1] for group in groups]
    points = torch.cat(groups, 1)
    frame = torch.arange(count, device=device).repeat_interleave(points.shape[1])
    canonical, values = field.signed_distance(points.flatten(0, 1), frame, create_graph=True)
    distance, gradient = values.distance, values.gradient
    assert distance is not None and gradient is not None

    def split(flat: Tensor) -> tuple[Tensor, ...]:
        return flat.unflatten(0, (count, sum(sizes))).split(sizes, 1)

    front, back, near, far = split(distance * scale)
    slope_front, slope_back, _, _ = split(gradient)
    offsets = split((canonical.points - canonical.posed_points) * scale)
    trusted, neutral = batch.trusted_back, batch.neutral
    terms: dict[str, Callable[[], Tensor]] = {
        "surface": lambda: losses.surface_error(front, back[trusted]),
        "normals": lambda: losses.normal_error(
            slope_front, batch.front_normals, slope_back[trusted], batch.back_normals[trusted]
        ),
        "eikonal": lambda: losses.eikonal_error(gradient),
        "empty": lambda: losses.empty_space(far),
        "distance": lambda: losses.distance_error(near, batch.near_distance * scale, batch.near_known),
        "neutral": lambda: losses.offset_size(torch.cat(offsets[:3], 1)[neutral]),
        "shape": lambda: losses.code_size(codes.geometry),
        "appearance": lambda: losses.code_size(codes.appearance),
        "expression": lambda: losses.code_size(codes.expression),
        "symmetry": lambda: anchors.layout.asymmetry(codes.geometry).mean(),
        "appearance_symmetry": lambda: anchors.layout.asymmetry(codes.appearance).mean(),
    }

    def color() -> Tensor:
        rgb = field.color(values, canonical).rgb
        assert rgb is not None
        seen = split(2 * rgb - 1)
        true = [2 * value - 1 for value in (batch.front_rgb, batch.back_rgb[trusted], batch.near_rgb[trusted])]
        on = torch.cat([seen[0].flatten(0, 1), seen[1][trusted].flatten(0, 1)])
        return losses.color_error(
            on, torch.cat([true[0].flatten(0, 1), true[1].flatten(0, 1)]), seen[2][trusted], true[2]
        )

    terms["color"] = color

    def at(somewhere: Tensor) -> tuple[Tensor, Tensor]:
        """Canonical places and hyper-coordinates of (B, N, 3) further points."""
        row = torch.arange(count, device=device).repeat_interleave(somewhere.shape[1])
        flat = somewhere.flatten(0, 1)
        found = field.canonicalize(flat, torch.zeros_like(flat), row)
        ambient = found.points[:, :0] if found.ambient is None else found.ambient
        size = (count, somewhere.shape[1])
        return found.points.unflatten(0, size), ambient.unflatten(0, size)

    drawn = torch.rand(count, cube, 3, generator=random).to(device)
    anywhere = anchors.center + (2 * drawn - 1) * (CUBE / scale)
    if weights.still or weights.hyper:
        still, ambient = at(anywhere)
        terms["still"] = lambda: losses.offset_size((still - anywhere) * scale)
        if canonical.ambient is not None:
            hyper = split(canonical.ambient)
            terms["hyper"] = lambda: losses.hyper_size(
                torch.cat([hyper[0], hyper[3], ambient], 1), torch.cat(hyper[:3], 1)[neutral]
            )
    if weights.correspondence and bool(batch.corresponds.any()):
        known = batch.corresponds
        terms["correspondence"] = lambda: losses.correspondence_error(
            at(batch.posed_points)[0][known] * scale, batch.neutral_points[known] * scale
        )
    if weights.anchors and bool(batch.anchored.any()):
        terms["anchors"] = lambda: losses.anchor_error(
            anchors(codes.geometry)[batch.anchored] * scale, batch.anchors[batch.anchored] * scale
        )
    return {name: term() for name, term in terms.items() if weights.of(name) > 0}
