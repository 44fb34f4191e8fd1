"""The loss of a prior: its terms, their weights, and all terms of a batch from one evaluation of the field.

Terms are in the units of the networks (four times meters, colors in [-1, 1]), for which the published weights are
meant; `prior_terms` converts. The mean over no points is 0 and keeps a gradient. Where some points do not count, a mask
says which do: to index by it, a GPU would wait for their number.
Source: released code of MonoNPHM (Giebenhain et al. 2024), unless a function says otherwise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.apps.priors.scans.batch import ScanBatch
from headfields.avatar.avatar import Avatar
from headfields.ops.vectors import safe_norm

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
"""Upper bound of a normal error on the back of the head (hair)."""
BACK_SHARE = 0.25
"""Weight of normal errors on the back, relative to the front."""
NEAR_SHARE = 0.2
"""Weight of color errors off the surface, relative to those on it."""
NEUTRAL_SHARE = 10.0
"""Weight of hyper-coordinates of neutral scans, relative to those of all scans."""
FADE = 10.0
"""Decay of the empty-space term with the distance, 1 / unit."""
CUBE = 1.25
"""Half the side of the cube in which offsets of the deformation are penalized, in the networks' units."""
CUBE_POINTS = 50
"""Points of that cube per scan and step."""


@dataclass(frozen=True)
class PriorWeights:
    """Weights of the terms of a prior's loss; the defaults are those of MonoNPHM's released configuration.

    Attributes:
        surface: `surface_error` at points on the scans.
        normals: `normal_error` at the same points.
        eikonal: `eikonal_error` of the gradient by posed points, at all points.
        empty: `empty_space` at points anywhere.
        color: `color_error` on and near the scans.
        correspondence: `correspondence_error` of canonical points.
        anchors: `anchor_error`.
        hyper: `hyper_size` of hyper-coordinates.
        still: `offset_size` of the deformation at random points of a cube.
        neutral: `offset_size` of the deformation of neutral scans.
        shape, appearance, expression: `code_size` of the codes.
        symmetry, appearance_symmetry: asymmetry of the codes' two sides.
        distance: `distance_error` near the scans. Not a published term, so 0 by default: meshes have signed distances,
            scans do not.
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
    """The mean |f| at points on scans.

    Args:
        front: signed distances at points on the front.
        back: values at points on the back.
    """
    return _mean(front.abs(), back.abs())


def normal_error(
    front: Float[Tensor, "*n 3"],
    front_normals: Float[Tensor, "*n 3"],
    back: Float[Tensor, "*k 3"],
    back_normals: Float[Tensor, "*k 3"],
    trusted: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """The mean of ‖∇f - n‖ on scans; on the back each error is clamped to `BACK_CLAMP` and weighted by a quarter.

    Args:
        front, back: gradients of the distance by posed points.
        front_normals, back_normals: unit normals of the scans.
        trusted: mask, of the leading axes of `back`, of what counts there; None: all.
    """
    hair = safe_norm(_zero_outside(trusted, back - back_normals)).clamp(max=BACK_CLAMP) * BACK_SHARE
    return _mean(safe_norm(front - front_normals), hair, masks=(None, trusted))


def eikonal_error(gradients: Float[Tensor, "*n 3"]) -> Float[Tensor, ""]:
    """The mean of |‖∇f‖ - 1| over `gradients` by posed points.

    >>> import torch
    >>> from headfields.apps.priors.losses import eikonal_error
    >>> eikonal_error(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])).item()
    2.0
    """
    return _mean((safe_norm(gradients) - 1).abs())


def empty_space(distances: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """The mean of exp(-10 |f|) over `distances` at points away from scans, where there should be no surface."""
    return _mean(torch.exp(-FADE * distances.abs()))


def color_error(
    on: Float[Tensor, "*n 3"],
    on_true: Float[Tensor, "*n 3"],
    near: Float[Tensor, "*m 3"],
    near_true: Float[Tensor, "*m 3"],
    trusted: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """The mean of |c - c'| per channel; off the surface it is weighted by a fifth.

    Args:
        on, on_true: predicted and true colors on the surface, in [-1, 1].
        near, near_true: off the surface, where the true color is that of the nearest surface point.
        trusted: mask, of the leading axes of `near`, of what counts there; None: all.
    """
    off = _zero_outside(trusted, near - near_true).abs() * NEAR_SHARE
    return _mean((on - on_true).abs(), off, masks=(None, trusted))


def correspondence_error(
    predicted: Float[Tensor, "*n 3"], true: Float[Tensor, "*n 3"], corresponds: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, ""]:
    """The mean squared difference, per coordinate, of `predicted` canonical points and `true` neutral ones.

    Args:
        corresponds: mask, of the leading axes, of the points that have a true one; None: all.
    """
    return _mean(_zero_outside(corresponds, predicted - true).square(), masks=(corresponds,))


def anchor_error(
    predicted: Float[Tensor, "b a 3"], true: Float[Tensor, "b a 3"], anchored: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, ""]:
    """The mean squared difference, per coordinate, of `predicted` anchors and `true` ones on neutral scans.

    Args:
        anchored: (B,) the scans that have true ones; None: all.
    """
    return _mean(_zero_outside(anchored, predicted - true).square(), masks=(anchored,))


def hyper_size(
    anywhere: Float[Tensor, "*n a"], neutral: Float[Tensor, "*m a"], is_neutral: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, ""]:
    """The mean of |h|, plus ten times that of neutral scans, which should stay in one slice of hyper-space.

    Args:
        anywhere: hyper-coordinates at points of all scans.
        neutral: values at points of neutral scans.
        is_neutral: mask, of the leading axes of `neutral`, of what is one; None: all.
    """
    of_neutral = _mean(_zero_outside(is_neutral, neutral).abs(), masks=(is_neutral,))
    return _mean(anywhere.abs()) + NEUTRAL_SHARE * of_neutral


def offset_size(offsets: Float[Tensor, "*n 3"], mask: Bool[Tensor, "..."] | None = None) -> Float[Tensor, ""]:
    """The mean square, per coordinate, of the deformation's `offsets`; of those in a `mask` of their leading axes."""
    return _mean(_zero_outside(mask, offsets).square(), masks=(mask,))


def code_size(codes: Float[Tensor, "b width"]) -> Float[Tensor, ""]:
    """The mean of ‖z‖² over B `codes`: a Gaussian prior."""
    return _mean(codes.square().sum(-1))


def distance_error(
    predicted: Float[Tensor, "*n"], true: Float[Tensor, "*n"], known: Bool[Tensor, "*n"], reach: float | int = 0.1
) -> Float[Tensor, ""]:
    """The mean of |f - d| where d is known; where |d| exceeds `reach`, the amount by which f falls short of `reach`.

    DeepSDF's loss (Park et al. 2019, equation 9), except that distant points on the wrong side keep a gradient, which
    its clamp removes. Our own choice: it separates inside from outside from the first step on, which the eikonal and
    normal terms alone do slowly.

    Args:
        predicted, true: signed distances f and d.
        known: mask of the points whose d is known.
        reach: distance from the surface up to which values are compared.
    """
    error = torch.where(true.abs() < reach, (predicted - true).abs(), (reach - predicted * true.sign()).clamp_min(0))
    return (error * known).sum() / known.sum().clamp_min(1)


def prior_terms(
    avatar: Avatar,
    batch: ScanBatch,
    codes: PriorCodes,
    weights: PriorWeights,
    random: torch.Generator | Float[Tensor, "b n 3"],
    cube: int = CUBE_POINTS,
) -> dict[str, Float[Tensor, ""]]:
    """The unweighted terms by name; terms of weight 0 are left out. The host does not wait for a GPU.

    Correspondences and anchors are left out too where no scan of the batch has any; on a GPU they are 0 then.

    Args:
        avatar: a model with anchors and a decoder of distances, as `headfields.models.mononphm` makes.
        batch: points of B scans.
        codes: codes of those scans.
        weights: weights of the loss terms; only whether they are positive matters.
        random: draws the points of the cube; or what it has drawn, uniform in [0, 1), on the device of the batch.
        cube: number of points per scan for the terms `still` and `hyper`, if they are drawn here.
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
        "surface": lambda: surface_error(front, back),
        "normals": lambda: normal_error(slope_front, batch.front_normals, slope_back, batch.back_normals, trusted),
        "eikonal": lambda: eikonal_error(gradient),
        "empty": lambda: empty_space(far),
        "distance": lambda: distance_error(near, batch.near_distance * scale, batch.near_known),
        "neutral": lambda: offset_size(torch.cat(offsets[:3], 1), neutral),
        "shape": lambda: code_size(codes.geometry),
        "appearance": lambda: code_size(codes.appearance),
        "expression": lambda: code_size(codes.expression),
        "symmetry": lambda: anchors.layout.asymmetry(codes.geometry).mean(),
        "appearance_symmetry": lambda: anchors.layout.asymmetry(codes.appearance).mean(),
    }

    def color() -> Tensor:
        rgb = field.color(values, canonical).rgb
        assert rgb is not None
        predicted = split(2 * rgb - 1)
        true = [2 * value - 1 for value in (batch.front_rgb, batch.back_rgb, batch.near_rgb)]
        on, on_true = (torch.cat([part.flatten(0, 1) for part in parts[:2]]) for parts in (predicted, true))
        return color_error(on, on_true, predicted[2], true[2], trusted)

    terms["color"] = color

    def canonical_at(further: Tensor) -> tuple[Tensor, Tensor]:
        """Canonical points and hyper-coordinates of (B, N, 3) further posed points."""
        row = torch.arange(count, device=device).repeat_interleave(further.shape[1])
        flat = further.flatten(0, 1)
        mapped = field.canonicalize(flat, torch.zeros_like(flat), row)
        ambient = mapped.points[:, :0] if mapped.ambient is None else mapped.ambient
        size = (count, further.shape[1])
        return mapped.points.unflatten(0, size), ambient.unflatten(0, size)

    drawn = random if isinstance(random, Tensor) else torch.rand(count, cube, 3, generator=random).to(device)
    anywhere = anchors.center + (2 * drawn - 1) * (CUBE / scale)
    if weights.still or weights.hyper:
        still, ambient = canonical_at(anywhere)
        terms["still"] = lambda: offset_size((still - anywhere) * scale)
        if canonical.ambient is not None:
            hyper = split(canonical.ambient)
            terms["hyper"] = lambda: hyper_size(
                torch.cat([hyper[0], hyper[3], ambient], 1), torch.cat(hyper[:3], 1), neutral
            )
    if weights.correspondence and _may_hold(batch.corresponds):
        terms["correspondence"] = lambda: correspondence_error(
            canonical_at(batch.posed_points)[0] * scale, batch.neutral_points * scale, batch.corresponds
        )
    if weights.anchors and batch.anchors.shape[1] and _may_hold(batch.anchored):
        terms["anchors"] = lambda: anchor_error(anchors(codes.geometry) * scale, batch.anchors * scale, batch.anchored)
    return {name: term() for name, term in terms.items() if weights.of(name) > 0}


def _mean(*parts: Tensor, masks: tuple[Tensor | None, ...] = ()) -> Tensor:
    """The mean over the values of all parts; with a mask of a part's leading axes, whose other values are 0, over those
    in it."""
    total = torch.cat([part.reshape(-1) for part in parts]).sum()
    masked = {i: mask for i, mask in enumerate(masks) if mask is not None}
    certain = sum(part.numel() for i, part in enumerate(parts) if i not in masked)
    if not masked:
        return total / max(certain, 1)
    counts = [mask.sum() * math.prod(parts[i].shape[mask.ndim :]) for i, mask in masked.items()]
    return total / (torch.stack(counts).sum() + certain).clamp_min(1)


def _zero_outside(mask: Tensor | None, values: Tensor) -> Tensor:
    """Values, with 0 where a mask of their leading axes is false: also in place of NaN, in gradients too."""
    if mask is None:
        return values
    return values.masked_fill(~mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim)), 0.0)


def _may_hold(mask: Tensor) -> bool:
    """Whether a mask holds anywhere; on a GPU, which the host does not ask, it may."""
    return not mask.is_cpu or bool(mask.any())
