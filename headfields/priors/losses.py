"""The terms that a prior is trained with, each a function of what a field says at a batch's points.

All are in the units of the networks (four times meters, colors in [-1, 1]), so that the published weights mean what
they meant; `headfields.priors.terms` converts. The mean over no points is 0 and keeps a gradient.
Source: released code of MonoNPHM (Giebenhain et al. 2024), but where a function says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.avatar import Avatar
from headfields.priors.codes import PriorCodes, anchors_of
from headfields.priors.scans import ScanBatch

__all__ = [
    "PriorWeights",
    "anchor_error",
    "code_size",
    "color_error",
    "correspondence_error",
    "distance_error",
    "eikonal_error",
    "empty_space",
    "hyper_size",
    "normal_error",
    "offset_size",
    "prior_terms",
    "surface_error",
]

BACK_CLAMP = 0.75
"""Beyond this, an error of a normal on the back of the head (hair) counts no more."""
BACK_SHARE = 0.25
"""What errors of normals on the back count, beside those in front."""
NEAR_SHARE = 0.2
"""What errors of the color off the surface count, beside those on it."""
NEUTRAL_SHARE = 10.0
"""What hyper-coordinates of neutral scans count, beside those of all."""
FADE = 10.0
"""How fast the term of empty space falls off with the distance, in 1 / unit."""
CUBE = 1.25
"""Half the side of the cube in which the deformation is held still, in the networks' units."""


@dataclass(frozen=True)
class PriorWeights:
    """What each term of a prior's loss counts; the defaults are those of MonoNPHM's released configuration.

    Attributes:
        surface: `surface_error` of points on the scans.
        normals: `normal_error` there.
        eikonal: `eikonal_error` of the gradient by posed points, everywhere.
        empty: `empty_space` of points anywhere.
        color: `color_error` on and near the scans.
        correspondence: `correspondence_error` of canonical points.
        anchors: `anchor_error`.
        hyper: `hyper_size` of hyper-coordinates.
        still: `offset_size` of the deformation anywhere in a cube.
        neutral: `offset_size` of the deformation of neutral scans.
        shape, appearance, expression: `code_size` of the codes.
        symmetry, appearance_symmetry: how much the two sides of the codes differ.
        distance: `distance_error` near the scans. Not among the published terms, so 0 by default: scans do not know it,
            meshes do.
    """

    surface: float | int = 1.0
    normals: float | int = 0.3
    eikonal: float | int = 0.15
    empty: float | int = 0.01
    color: float | int = 1.0
    correspondence: float | int = 1000.0
    anchors: float | int = 7.5
    hyper: float | int = 0.05
    still: float | int = 0.0025
    neutral: float | int = 0.001
    shape: float | int = 0.01
    appearance: float | int = 0.005
    expression: float | int = 0.05
    symmetry: float | int = 0.01
    appearance_symmetry: float | int = 1e-4
    distance: float | int = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not 0 <= getattr(self, item.name) < float("inf"):
                raise ValueError(
                    f"PriorWeights: {item.name} is {getattr(self, item.name)}; expected 0 (left out) or more"
                )

    def of(self, name: str) -> float:
        """The weight of a term by name."""
        return float(getattr(self, name))


def surface_error(front: Float[Tensor, "*n"], back: Float[Tensor, "*k"]) -> Float[Tensor, ""]:
    """The mean distance |f| of points on the front and the back of scans, where it should be 0.

    Args:
        front: signed distances of points on the front.
        back: of those on the back that are to be trusted.
    """
    return _mean(front.abs(), back.abs())


def normal_error(
    front: Float[Tensor, "*n 3"],
    front_normals: Float[Tensor, "*n 3"],
    back: Float[Tensor, "*k 3"],
    back_normals: Float[Tensor, "*k 3"],
) -> Float[Tensor, ""]:
    """The mean of ‖∇f - n‖ on scans; on the back no more than `BACK_CLAMP` each, and a quarter of that.

    Args:
        front, back: gradients of the distance by posed points.
        front_normals, back_normals: unit normals of the scans.
    """
    hair = _length(back - back_normals).clamp(max=BACK_CLAMP) * BACK_SHARE
    return _mean(_length(front - front_normals), hair)


def eikonal_error(gradients: Float[Tensor, "*n 3"]) -> Float[Tensor, ""]:
    """The mean of |‖∇f‖ - 1| of `gradients` by posed points: distances should grow as distances do."""
    return _mean((_length(gradients) - 1).abs())


def empty_space(distances: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """The mean of exp(-10 |f|) of `distances` at points anywhere: away from scans there should be no surface."""
    return _mean(torch.exp(-FADE * distances.abs()))


def color_error(
    on: Float[Tensor, "*n 3"],
    on_true: Float[Tensor, "*n 3"],
    near: Float[Tensor, "*m 3"],
    near_true: Float[Tensor, "*m 3"],
) -> Float[Tensor, ""]:
    """The mean difference |c - c'| per channel, of points near the surface a fifth of it.

    Args:
        on, on_true: colors on the surface, in [-1, 1].
        near, near_true: off the surface; true is the color of the nearest point on it.
    """
    return _mean((on - on_true).abs(), (near - near_true).abs() * NEAR_SHARE)


def correspondence_error(found: Float[Tensor, "*n 3"], true: Float[Tensor, "*n 3"]) -> Float[Tensor, ""]:
    """The mean square, per coordinate, of what `found` canonical points are off the `true` ones of the neutral scan."""
    return _mean((found - true).square())


def anchor_error(found: Float[Tensor, "b a 3"], true: Float[Tensor, "b a 3"]) -> Float[Tensor, ""]:
    """The mean square, per coordinate, of what `found` anchors are off the `true` ones on neutral scans."""
    return _mean((found - true).square())


def hyper_size(anywhere: Float[Tensor, "*n a"], neutral: Float[Tensor, "*m a"]) -> Float[Tensor, ""]:
    """The mean of |h|, and ten times that of neutral scans, which should need no other slice of the hyper-space.

    Args:
        anywhere: hyper-coordinates of points of all scans.
        neutral: of points of neutral scans.
    """
    return _mean(anywhere.abs()) + NEUTRAL_SHARE * _mean(neutral.abs())


def offset_size(offsets: Float[Tensor, "*n 3"]) -> Float[Tensor, ""]:
    """The mean square, per coordinate, of `offsets` of the deformation."""
    return _mean(offsets.square())


def code_size(codes: Float[Tensor, "b width"]) -> Float[Tensor, ""]:
    """The mean of ‖z‖² of B `codes`: a normal prior."""
    return _mean(codes.square().sum(-1))


def distance_error(
    found: Float[Tensor, "*n"], true: Float[Tensor, "*n"], known: Bool[Tensor, "*n"], reach: float | int = 0.1
) -> Float[Tensor, ""]:
    """The mean of |f - d| near surfaces, where d is known; beyond `reach`, of how much f falls short of it.

    Our own choice, as DeepSDF's loss (Park et al. 2019, equation 9) but for points that are far and on the wrong side,
    which its clamp leaves without a gradient. It tells inside from outside from the first step on, which eikonal term
    and normals alone do slowly.

    Args:
        found, true: signed distances f and d.
        known: whether the true one is.
        reach: how far from the surface the distance itself matters.
    """
    error = torch.where(true.abs() < reach, (found - true).abs(), (reach - found * true.sign()).clamp_min(0))
    return (error * known).sum() / max(int(known.sum()), 1)


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
        "surface": lambda: surface_error(front, back[trusted]),
        "normals": lambda: normal_error(
            slope_front, batch.front_normals, slope_back[trusted], batch.back_normals[trusted]
        ),
        "eikonal": lambda: eikonal_error(gradient),
        "empty": lambda: empty_space(far),
        "distance": lambda: distance_error(near, batch.near_distance * scale, batch.near_known),
        "neutral": lambda: offset_size(torch.cat(offsets[:3], 1)[neutral]),
        "shape": lambda: code_size(codes.geometry),
        "appearance": lambda: code_size(codes.appearance),
        "expression": lambda: code_size(codes.expression),
        "symmetry": lambda: anchors.layout.asymmetry(codes.geometry).mean(),
        "appearance_symmetry": lambda: anchors.layout.asymmetry(codes.appearance).mean(),
    }

    def color() -> Tensor:
        rgb = field.color(values, canonical).rgb
        assert rgb is not None
        seen = split(2 * rgb - 1)
        true = [2 * value - 1 for value in (batch.front_rgb, batch.back_rgb[trusted], batch.near_rgb[trusted])]
        on = torch.cat([seen[0].flatten(0, 1), seen[1][trusted].flatten(0, 1)])
        return color_error(on, torch.cat([true[0].flatten(0, 1), true[1].flatten(0, 1)]), seen[2][trusted], true[2])

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
        terms["still"] = lambda: offset_size((still - anywhere) * scale)
        if canonical.ambient is not None:
            hyper = split(canonical.ambient)
            terms["hyper"] = lambda: hyper_size(
                torch.cat([hyper[0], hyper[3], ambient], 1), torch.cat(hyper[:3], 1)[neutral]
            )
    if weights.correspondence and bool(batch.corresponds.any()):
        known = batch.corresponds
        terms["correspondence"] = lambda: correspondence_error(
            at(batch.posed_points)[0][known] * scale, batch.neutral_points[known] * scale
        )
    if weights.anchors and bool(batch.anchored.any()):
        terms["anchors"] = lambda: anchor_error(
            anchors(codes.geometry)[batch.anchored] * scale, batch.anchors[batch.anchored] * scale
        )
    return {name: term() for name, term in terms.items() if weights.of(name) > 0}


def _mean(*parts: Tensor) -> Tensor:
    """The mean over all values of the parts together."""
    flat = torch.cat([part.reshape(-1) for part in parts])
    return flat.sum() / max(flat.numel(), 1)


def _length(vectors: Tensor) -> Tensor:
    """‖v‖ along the last axis; at 0 its derivatives are 0, of any order, where those of a root are not finite."""
    squared = vectors.square().sum(-1)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())
