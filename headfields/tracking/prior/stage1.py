"""Stage 1: one frame after another, each from where the one before ended."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headfields.runs.clock import Clock
from headfields.tracking.failures import FrameFailure
from headfields.tracking.prior.energy import code_terms, color_term, landmark_term, mask_term
from headfields.tracking.prior.fit import PriorFit
from headfields.tracking.prior.head import IDENTITY, PER_FRAME, PriorHead
from headfields.tracking.prior.initial_expression import best_start
from headfields.tracking.prior.observation import PriorObservation
from headfields.tracking.prior.options import EnergyWeights, PriorTrackingOptions, Stage1
from headfields.tracking.prior.pose import head_rays

__all__ = ["UNIT", "checked", "energy", "finished", "fit_frame", "mix", "pace_of", "regularizers"]

UNIT = 4.0
"""Published units of length in a meter."""


def pace_of(stage: Stage1, motion: float, mean: float) -> float:
    """What part of the first frame's steps a frame takes.

    Args:
        stage: whose `pace` says the parts.
        motion: how far landmarks moved since the frame before; NaN if that is not known.
        mean: of that over the recording.
    """
    if not motion >= 0:
        return stage.pace[0]
    return stage.pace[0] if motion > 2 * mean else stage.pace[1] if motion > 0.5 * mean else stage.pace[2]


def energy(
    head: PriorHead,
    data: PriorObservation,
    codes: Mapping[str, Tensor],
    rotation: Tensor,
    translation: Tensor,
    weights: EnergyWeights,
    options: PriorTrackingOptions,
    random: torch.Generator,
    landmark_weight: float,
    clock: Clock,
    guess: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """What the data say of one frame: the weighed sum of color, mask, landmarks and pose, and each for the record.

    Args:
        head: the model.
        data: the frame.
        codes: each (K,), in the units they are fitted in.
        rotation, translation: (3,) of the head, radians and meters.
        weights, options: of the energy, and of the rays.
        random: draws the rays, on the CPU.
        landmark_weight: what landmarks count now; 0 leaves them out.
        clock: is told what takes how long.
        guess: (L, 3) where to look for the landmarks in posed space.

    Returns:
        The sum; the terms; and where the landmarks were found, to look there first the next time.
    """
    with clock.part("rays"):
        batch = data.batch(options.rays, options.foreground, random)
        field = head.avatar.field(head.state(codes))
        rays = head_rays(batch.rays, rotation, translation)
    with clock.part("rendering"):
        rendering = head.render(rays, field)
        terms = {"color": color_term(rendering, batch), "mask": mask_term(rendering, batch)}
    total = weights.color * terms["color"] + weights.mask * terms["mask"]
    if head.landmarks is not None and landmark_weight > 0:
        with clock.part("landmarks"):
            marks = head.landmarks
            target = data.landmarks[marks.number]
            posed = head.posed_landmarks(field, guess)
            guess = torch.where(posed.found[:, None], posed.points, head.landmarks.base).detach()
            term, counted = landmark_term(
                posed, target, marks.number, data.camera, rotation, translation, weights.emphasis
            )
            wanted = torch.isfinite(target).all(dim=1)
            terms["landmarks"] = term
            terms["found"] = (counted.sum() / wanted.sum().clamp_min(1)).to(term)
            total = total + landmark_weight * term
    if weights.pose:
        terms["pose"] = rotation.square().sum() + 10 * (UNIT * translation).square().sum()
        total = total + weights.pose * terms["pose"]
    return total, terms, guess


def fit_frame(
    head: PriorHead,
    data: PriorObservation,
    frame: int,
    options: PriorTrackingOptions,
    before: PriorFit | None = None,
    pace: float = 1.0,
    clock: Clock | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> PriorFit:
    """Fits one frame. The same arguments give the same result on one machine.

    Args:
        head: the model; its light and affine are set to what is found.
        data: the frame, as it is seen.
        frame: its index, which chooses the rays with `options.seed`.
        options: all the rest.
        before: the fit it starts from. If None it starts from the mean, and identity, light and affine are fitted too.
        pace: what part of the steps it takes.
        clock: is told what takes how long.
        progress: told each step: number, total, energies.

    Raises:
        FrameFailure: the energy is not finite, or the deformation cannot be inverted at the landmarks.
    """
    stage, first, clock = options.stage1, before is None, clock or Clock()
    device = head.center.device
    zero = torch.zeros(3, device=device)
    if before is None:
        codes = {name: torch.zeros(head.width(name), device=device) for name in head.names}
        rotation, shift = zero.clone(), zero.clone()
    else:
        before = before.to(device)
        codes = {name: value.clone() for name, value in before.free.items()}
        rotation, shift = before.rotation.clone(), before.translation * UNIT
    with clock.part("start"):
        codes[PER_FRAME] = best_start(head, data, codes, stage.starts)
    fitted = [name for name in head.names if first or name == PER_FRAME]
    slower = 1.0 if first else stage.pose_later
    groups = [(codes[name], getattr(stage, "expression" if name == PER_FRAME else name), 1.0) for name in fitted]
    groups += [(rotation, stage.rotation, slower), (shift, stage.translation, slower)]
    light, affine = head.light.coefficients, [head.affine.matrix, head.affine.offset]
    with torch.no_grad():
        if before is None:
            fresh = type(head.light)(), type(head.affine)()
            light.copy_(fresh[0].coefficients)
            affine[0].copy_(fresh[1].matrix)
            affine[1].copy_(fresh[1].offset)
        else:
            light.copy_(before.light)
            affine[0].copy_(before.matrix)
            affine[1].copy_(before.offset)
    if first:
        groups += [(light, stage.light, 1.0), *((parameter, stage.affine, 1.0) for parameter in affine)]
    free = [parameter for parameter, _, _ in groups]
    for parameter in (light, *affine):
        parameter.requires_grad_(first)
    for tensor in free:
        tensor.requires_grad_()
    optimizer = torch.optim.Adam([{"params": [parameter]} for parameter in free], lr=0.0)
    steps = max(round(stage.steps * pace), 1)
    start, growth, end = stage.sharpness if first else stage.sharpness_later
    every = stage.sharpen_every if first else stage.sharpen_every_later
    random = torch.Generator().manual_seed(mix(options.seed, 1, frame))
    last: dict[str, float] = {}
    guess: Tensor | None = None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(mix(options.seed, 2, frame))
        for step in range(steps):
            place = step / pace
            head.sharpen(min(start + growth * math.floor(place / every), end))
            for group, (_, rate, factor) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = factor * rate.at(place)
            total, terms, guess = energy(
                head, data, codes, rotation, shift / UNIT, stage.weights, options, random,
                stage.weights.landmarks.at(place), clock, guess,
            )  # fmt: skip
            total = total + regularizers(head, codes, fitted, stage.weights, first)
            with clock.part("backward"):
                optimizer.zero_grad()
                total.backward()
            with clock.part("step"):
                for name in fitted:
                    if name in IDENTITY and stage.clip:
                        torch.nn.utils.clip_grad_norm_([codes[name]], stage.clip)
                optimizer.step()
            last = checked(total, terms, free, step, steps)
            if progress is not None:
                progress(step, steps, last)
    if last.get("found", 1.0) < options.landmark_share:
        raise FrameFailure(
            "inverse",
            f"the deformation could be inverted at {last['found']:.0%} of the landmarks alone; at least "
            f"{options.landmark_share:.0%} are needed",
        )
    return finished(head, data, frame, codes, rotation, shift / UNIT, {**last, "steps": steps})


def regularizers(
    head: PriorHead, codes: Mapping[str, Tensor], fitted: list[str], weights: EnergyWeights, first: bool
) -> Tensor:
    """The weighed regularizers of the codes that are fitted."""
    shape, paint = ((head.in_spreads(n, codes[n]), head.layout(n)) if n in fitted else None for n in IDENTITY)
    total = code_terms(shape, paint, codes.get(PER_FRAME), weights, first)
    for name in IDENTITY:
        if name in fitted:
            total = total + weights.likely * codes[name].square().sum()
    return total


def finished(
    head: PriorHead,
    data: PriorObservation,
    frame: int,
    codes: Mapping[str, Tensor],
    rotation: Tensor,
    translation: Tensor,
    errors: Mapping[str, float],
) -> PriorFit:
    """The fit of a frame, without a graph, on the CPU."""
    kept = {name: value.detach().clone() for name, value in codes.items()}
    state = head.state(kept)
    fit = PriorFit(
        frame=frame, codes={name: value[0] for name, value in state.codes.items()}, free=kept,
        rotation=rotation.detach().clone(), translation=translation.detach().clone(), camera=data.camera,
        to_capture=data.to_capture, light=head.light.coefficients.detach().clone(),
        matrix=head.affine.matrix.detach().clone(), offset=head.affine.offset.detach().clone(), errors=dict(errors),
    )  # fmt: skip
    return fit.to(torch.device("cpu"))


def checked(total: Tensor, terms: Mapping[str, Tensor], free: list[Tensor], step: int, steps: int) -> dict[str, float]:
    """The energies as numbers.

    Args:
        total: all of them.
        terms: by name.
        free: what is fitted.
        step, steps: for the message.

    Raises:
        FrameFailure: something is not finite.
    """
    found = {"energy": float(total.detach()), **{name: float(value.detach()) for name, value in terms.items()}}
    if not all(math.isfinite(value) for value in found.values()) or not all(
        bool(torch.isfinite(parameter).all()) for parameter in free
    ):
        bad = ", ".join(f"{name} {value:g}" for name, value in found.items())
        raise FrameFailure("diverged", f"at step {step} of {steps} something is not finite ({bad})")
    return found


def mix(*numbers: int) -> int:
    """A seed that the given numbers choose."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 0x100000001B3 ^ number + 0x9E3779B97F4A7C15) & 0x7FFFFFFFFFFFFFFF
    return mixed
