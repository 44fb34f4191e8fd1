"""The terms of the energy that tracking lowers; published, but where a function says otherwise."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.networks.latent_table import AnchoredCode
from headfields.parts import Rendering
from headfields.records import Camera
from headfields.tracking.prior.landmarks import CHIN, EYELIDS, MOUTH, PosedLandmarks
from headfields.tracking.prior.observation import RayBatch
from headfields.tracking.prior.options import EnergyWeights
from headfields.tracking.prior.pose import world_points

__all__ = ["code_terms", "color_term", "landmark_term", "mask_term"]

SMOOTH = 5.0
"""Rays that the soft Jaccard index is smoothed by, and its factor."""
_EMPHASIZED = torch.tensor([*CHIN, *EYELIDS, *MOUTH])


def color_term(rendering: Rendering, batch: RayBatch) -> Float[Tensor, ""]:
    """The mean over rays that count of |Δ| per channel, in units of [-1, 1], over white."""
    alpha = batch.alpha[:, None]
    target = batch.rgb * alpha + 1 - alpha
    error = 2 * (rendering.rgb - target).abs().mean(dim=1)
    return (batch.color_weight * error).sum() / (batch.color_weight > 0).sum().clamp_min(1)


def mask_term(rendering: Rendering, batch: RayBatch) -> Float[Tensor, ""]:
    """5 (1 - (I + 5) / (U + 5)) of opacity and matte, each ray counting as `mask_weight` says."""
    opacity, alpha, weight = rendering.opacity, batch.alpha, batch.mask_weight
    common = (weight * opacity * alpha).sum()
    union = (weight * (opacity + alpha - opacity * alpha)).sum()
    return SMOOTH * (1 - (common + SMOOTH) / (union + SMOOTH))


def landmark_term(
    posed: PosedLandmarks,
    target: Float[Tensor, "l 2"],
    number: Tensor,
    camera: Camera,
    rotation: Float[Tensor, "3"],
    translation: Float[Tensor, "3"],
    emphasis: float,
) -> tuple[Float[Tensor, ""], Bool[Tensor, " l"]]:
    """The mean over landmarks that count of ‖e Δ‖², Δ in parts of the image's width and height.

    Args:
        posed: L landmarks in the space of the head.
        target: (L, 2) where they are seen, pixels; NaN where that is not known.
        number: (L,) their numbers: chin, mouth and eyelids count `emphasis` times Δ.
        camera: of the frame's world.
        rotation, translation: of the head.
        emphasis: e of those, 1 of others.

    Returns:
        The term, and which landmarks counted.
    """
    pixels, depth = camera.project(world_points(posed.points, rotation, translation))
    height, width = camera.size
    counts = posed.found & torch.isfinite(target).all(dim=1) & (depth > 0)
    difference = (pixels - torch.where(counts[:, None], target, 0.0)) / pixels.new_tensor([width, height])
    emphasized = torch.isin(number, _EMPHASIZED.to(number.device))
    factor = torch.where(emphasized, emphasis, 1.0)
    squared = (factor[:, None] * difference).square().sum(dim=1)
    return torch.where(counts, squared, 0.0).sum() / counts.sum().clamp_min(1), counts


def code_terms(
    geometry: tuple[Tensor, AnchoredCode | None] | None,
    appearance: tuple[Tensor, AnchoredCode | None] | None,
    expression: Tensor | None,
    weights: EnergyWeights,
    first: bool,
) -> Float[Tensor, ""]:
    """The regularizers of the codes, weighed: ‖·‖² of their parts, and what mirrored anchors' parts differ by.

    Args:
        geometry, appearance: what each code's numbers (W,) are off the mean, in the units of `Stage1.spread`, and its
            layout, or None if it is not fitted; a code without a layout is global as a whole.
        expression: (E,) likewise.
        weights: of the terms.
        first: whether the frame is the one that the identity is fitted to.
    """
    parts: list[Tensor] = []
    for name, item in (("geometry", geometry), ("appearance", appearance)):
        if item is None:
            continue
        code, layout = item
        shared, local = (code, None) if layout is None else layout.split(code)
        parts.append(getattr(weights, f"{name}_global") * shared.square().sum())
        if layout is not None and local is not None:
            parts.append(getattr(weights, f"{name}_local") * local.square().sum())
            parts.append(weights.symmetry * layout.asymmetry(code))
    if expression is not None:
        parts.append((weights.first_expression if first else weights.expression) * expression.square().sum())
    return torch.stack(parts).sum() if parts else torch.zeros(())
