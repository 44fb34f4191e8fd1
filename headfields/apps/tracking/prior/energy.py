"""The energy of a frame: color, mask, landmark and pose terms, and regularizers of the codes.

Terms are the published ones (MonoNPHM, Giebenhain et al. 2024, released code) unless a function says otherwise.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.apps.tracking.clock import Clock
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.prior.head import IDENTITY, PER_FRAME, PriorHead
from headfields.apps.tracking.prior.landmarks import PosedLandmarks
from headfields.apps.tracking.prior.last_surface import SurfaceFollower
from headfields.apps.tracking.prior.observation import PriorObservation, RayBatch
from headfields.apps.tracking.prior.options import PUBLISHED_UNIT, EnergyWeights, PriorTrackingOptions
from headfields.apps.tracking.prior.pose import head_rays, world_points
from headfields.networks.anchors import AnchoredCode
from headfields.parts import Rendering
from headfields.records import Camera, Record

__all__ = [
    "EnergyDraw",
    "checked_energies",
    "code_terms",
    "color_term",
    "data_energy",
    "draw_energy",
    "energy_metrics",
    "landmark_term",
    "mask_term",
    "regularizers",
    "timed",
]

SMOOTH = 5.0
"""Smoothing of the soft Jaccard index, in rays; also its factor."""


@dataclass(frozen=True)
class EnergyDraw(Record):
    """What the energy of a frame is computed on: rays through random pixels, camera and landmarks.

    Attributes:
        batch: N rays with what their pixels show.
        camera: camera in the frame's world.
        target: (L, 2) the frame's landmarks, of those that the head has, pixels, NaN where unknown; None leaves the
            landmark term out.
        shift: (S, L, 3) from the canonical landmarks to the starts of S searches for each, meters; None: one root of
            each, searched from that of the step before.
    """

    batch: RayBatch
    camera: Camera
    target: Float[Tensor, "l 2"] | None
    shift: Float[Tensor, "s l 3"] | None


def draw_energy(
    head: PriorHead, observation: PriorObservation, options: PriorTrackingOptions, random: torch.Generator,
    landmarks: bool,
) -> EnergyDraw:  # fmt: skip
    """Draws the rays of a step and the starts of its searches for landmarks; the host waits for no GPU.

    Args:
        head: the model.
        observation: the frame.
        options: number and distribution of rays; number of searches.
        random: random number generator on the CPU.
        landmarks: whether there is a landmark term.
    """
    batch = observation.batch(options.rays, options.foreground, random)
    if not landmarks or head.landmarks is None:
        return EnergyDraw(batch, observation.camera, None, None)
    shift = head.root_shifts(options.roots, random) if options.roots else None
    return EnergyDraw(batch, observation.camera, observation.landmarks[head.landmarks.number], shift)


def color_term(rendering: Rendering, batch: RayBatch) -> Float[Tensor, ""]:
    """Sum of weight · |Δ| over rays and channels, divided by the number of rays N; colors in [-1, 1] over white."""
    alpha = batch.alpha[:, None]
    target = batch.rgb * alpha + 1 - alpha
    error = 2 * (rendering.rgb - target).abs().sum(dim=1)
    return (batch.color_weight * error).sum() / max(len(batch), 1)


def mask_term(rendering: Rendering, batch: RayBatch) -> Float[Tensor, ""]:
    """5 (1 - (I + 5) / (U + 5)) of opacity and matte, rays weighted by `mask_weight`."""
    opacity, alpha, weight = rendering.opacity, batch.alpha, batch.mask_weight
    intersection = (weight * opacity * alpha).sum()
    union = (weight * (opacity + alpha - opacity * alpha)).sum()
    return SMOOTH * (1 - (intersection + SMOOTH) / (union + SMOOTH))


def landmark_term(
    posed: PosedLandmarks,
    target: Float[Tensor, "l 2"],
    factor: Float[Tensor, " l"],
    camera: Camera,
    rotation: Float[Tensor, "3"],
    translation: Float[Tensor, "3"],
) -> tuple[Float[Tensor, ""], Bool[Tensor, " l"]]:
    """Mean of (e Δ)² over the landmarks that count and over x and y, Δ as a fraction of the image's width and height.

    A landmark with several roots is here several times, once for each.

    Args:
        posed: L landmarks in the space of the head.
        target: (L, 2) the frame's landmarks, pixels; NaN where unknown.
        factor: (L,) e of each.
        camera: camera in the frame's world.
        rotation, translation: pose of the head.

    Returns:
        The term, and which landmarks counted.
    """
    pixels, depth = camera.project(world_points(posed.points, rotation, translation))
    height, width = camera.size
    counts = posed.converged & torch.isfinite(target).all(dim=1) & (depth > 0)
    size = pixels.new_empty(2)  # filled on the device: nothing is sent
    size[0].fill_(width)
    size[1].fill_(height)
    difference = (pixels - torch.where(counts[:, None], target, 0.0)) / size
    squared = (factor[:, None] * difference).square().mean(dim=1)
    return torch.where(counts, squared, 0.0).sum() / counts.sum().clamp_min(1), counts


def code_terms(
    geometry: tuple[Tensor, AnchoredCode | None] | None,
    appearance: tuple[Tensor, AnchoredCode | None] | None,
    expression: Tensor | None,
    weights: EnergyWeights,
    first: bool,
) -> Float[Tensor, ""]:
    """Weighted regularizers of the codes: ‖·‖² of their global and local parts, and the asymmetry of local parts.

    Args:
        geometry, appearance: deviation of each code (W,) from the mean, in units of `Stage1.spread`, and its layout;
            None if it is not fitted. A code without a layout is all global.
        expression: (E,) likewise.
        weights: weights of the terms.
        first: whether the identity is fitted to this frame.
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


def regularizers(
    head: PriorHead, codes: Mapping[str, Tensor], fitted: list[str], weights: EnergyWeights, first: bool
) -> Float[Tensor, ""]:
    """Weighted regularizers of the codes that are fitted: `code_terms`, and likelihood along principal directions.

    Args:
        head: the model.
        codes: each (K,), in the units they are fitted in.
        fitted: names of the codes that are fitted.
        weights: weights of the terms.
        first: whether the identity is fitted to this frame.
    """
    shape, paint = ((head.in_spreads(n, codes[n]), head.layout(n)) if n in fitted else None for n in IDENTITY)
    total = code_terms(shape, paint, codes.get(PER_FRAME), weights, first)
    for name in IDENTITY:
        if name in fitted:
            total = total + weights.likely * codes[name].square().sum()
    return total


def data_energy(
    head: PriorHead,
    draw: EnergyDraw,
    codes: Mapping[str, Tensor],
    rotation: Float[Tensor, "3"],
    translation: Float[Tensor, "3"],
    weights: EnergyWeights,
    landmark_weight: float | Float[Tensor, ""],
    clock: Clock | None = None,
    guess: Float[Tensor, "l 3"] | None = None,
    nearby: SurfaceFollower | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor], Float[Tensor, "l 3"] | None]:
    """The weighted sum of the color, mask, landmark and pose terms of one frame on random rays.

    Args:
        head: the model.
        draw: rays and landmarks of the frame.
        codes: each (K,), in the units they are fitted in.
        rotation, translation: (3,) of the head, radians and meters.
        weights: weights of the terms.
        landmark_weight: current weight of the landmark term.
        clock: takes the time of the parts, for which a GPU is waited for; None takes none.
        guess: (L, 3) initial guess of the landmarks in posed space, if `draw.shift` is None.
        nearby: knows the last surface of the frame, near which rays are sampled; None: whole rays.

    Returns:
        The sum; the terms by name; the landmarks in posed space, as the next guess.
    """
    batch = draw.batch
    with timed(clock, "rays"):
        field = head.avatar.field(head.state(codes))
        rays = head_rays(batch.rays, rotation, translation)
    with timed(clock, "surface"):
        surface = None if nearby is None else nearby(field)
    with timed(clock, "rendering"):
        rendering = head.render(rays, field, surface)
        terms = {"color": color_term(rendering, batch), "mask": mask_term(rendering, batch)}
    total = weights.color * terms["color"] + weights.mask * terms["mask"]
    if head.landmarks is not None and draw.target is not None:
        with timed(clock, "landmarks"):
            if draw.shift is not None:
                posed = head.landmark_roots(field, draw.shift)
            else:
                posed = head.posed_landmarks(field, guess)
                guess = torch.where(posed.converged[:, None], posed.points, head.landmarks.base).detach()
            roots = 1 if draw.shift is None else len(draw.shift)
            factor = torch.where(head.emphasized, weights.emphasis, 1.0).to(posed.points)
            term, counts = landmark_term(
                posed, draw.target.repeat(roots, 1), factor.repeat(roots), draw.camera, rotation, translation
            )
            reached = counts.view(-1, len(head.landmarks)).any(dim=0)
            known = torch.isfinite(draw.target).all(dim=1)
            terms["landmarks"] = term
            terms["reached"] = (reached.sum() / known.sum().clamp_min(1)).to(term)
            total = total + landmark_weight * term
    if weights.pose:
        terms["pose"] = rotation.square().sum() + 10 * (PUBLISHED_UNIT * translation).square().sum()
        total = total + weights.pose * terms["pose"]
    return total, terms, guess


def timed(clock: Clock | None, name: str) -> contextlib.AbstractContextManager[None]:
    """A part of a clock, if there is one."""
    return contextlib.nullcontext() if clock is None else clock.part(name)


def energy_metrics(total: Tensor, terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> Float[Tensor, " m"]:
    """The total, the terms, and for each parameter whether it is finite, in float64."""
    metrics = [value.detach().double().reshape(()) for value in (total, *terms.values())]
    metrics += [torch.isfinite(parameter).all().double() for parameter in parameters]
    return torch.stack(metrics)


def checked_energies(numbers: Sequence[float], names: Sequence[str], step: int, steps: int) -> dict[str, float]:
    """The total (as `"energy"`) and the terms by name, of `energy_metrics` as the host has read them.

    Args:
        numbers: the metrics.
        names: names of the terms.
        step, steps: current and total steps, for the message.

    Raises:
        FrameFailure: an energy or a parameter is not finite.
    """
    energies = dict(zip(("energy", *names), numbers, strict=False))
    if not all(map(math.isfinite, energies.values())) or not all(numbers[len(energies) :]):
        values = ", ".join(f"{name} {value:g}" for name, value in energies.items())
        raise FrameFailure("diverged", f"at step {step} of {steps} an energy or a parameter is not finite ({values})")
    return energies
