"""Stage 1 of tracking with a prior: one frame is fitted by Adam, from the fit of the frame before."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headfields.runs.clock import Clock
from headfields.runs.nonfinite import SkippedSteps, finite_gradients
from headfields.runs.progress import NanLossError
from headfields.tracking.failures import FrameFailure
from headfields.tracking.prior.energy import checked_energies, data_energy, regularizers
from headfields.tracking.prior.fit import PriorFit
from headfields.tracking.prior.head import IDENTITY, PER_FRAME, PriorHead
from headfields.tracking.prior.initial_expression import initial_expression
from headfields.tracking.prior.last_surface import SurfaceFollower
from headfields.tracking.prior.observation import PriorObservation
from headfields.tracking.prior.options import PUBLISHED_UNIT, PriorTrackingOptions, Stage1

__all__ = ["finished_fit", "fit_frame", "mixed_seed", "pace_of"]


def pace_of(stage: Stage1, motion: float, mean: float) -> float:
    """The number of steps of a frame, as a fraction of the first frame's.

    Args:
        stage: options with the three possible fractions, `pace`.
        motion: motion of the landmarks since the previous frame; NaN if unknown.
        mean: mean motion over the recording.

    >>> from headfields.tracking import Stage1
    >>> from headfields.tracking.prior.stage1 import pace_of
    >>> [pace_of(Stage1(), motion, mean=1.0) for motion in (3.0, 1.0, 0.2)]
    [0.5, 0.25, 0.1]
    """
    if not motion >= 0:
        return stage.pace[0]
    return stage.pace[0] if motion > 2 * mean else stage.pace[1] if motion > 0.5 * mean else stage.pace[2]


def fit_frame(
    head: PriorHead,
    observation: PriorObservation,
    frame: int,
    options: PriorTrackingOptions,
    previous: PriorFit | None = None,
    pace: float = 1.0,
    clock: Clock | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> PriorFit:
    """Fits one frame. The same arguments give the same result on one machine.

    Args:
        head: the model; its light and affine are set to those of the fit.
        observation: the frame.
        frame: its index; with `options.seed` it seeds the rays.
        options: weights, rates, sizes.
        previous: the fit to start from. If None the fit starts from the mean codes, and identity, light and affine are
            fitted too.
        pace: number of steps, as a fraction of `options.stage1.steps`.
        clock: takes the time of the parts.
        progress: called each step with its number, the number of steps, and the energies.

    Raises:
        FrameFailure: ten steps in a row had an energy or a gradient that is not finite (such a step is skipped and
            counted in the errors), or the deformation cannot be inverted at the landmarks.
    """
    stage, first, clock = options.stage1, previous is None, clock or Clock()
    device = head.center.device
    zero = torch.zeros(3, device=device)
    if previous is None:
        codes = {name: torch.zeros(head.width(name), device=device) for name in head.names}
        rotation, shift = zero.clone(), zero.clone()
    else:
        previous = previous.to(device)
        codes = {name: value.clone() for name, value in previous.free.items()}
        rotation, shift = previous.rotation.clone(), previous.translation * PUBLISHED_UNIT
    with clock.part("start"):
        codes[PER_FRAME] = initial_expression(head, observation, codes, stage.starts)
    fitted = [name for name in head.names if first or name == PER_FRAME]
    slower = 1.0 if first else stage.pose_later
    groups = [(codes[name], getattr(stage, "expression" if name == PER_FRAME else name), 1.0) for name in fitted]
    groups += [(rotation, stage.rotation, slower), (shift, stage.translation, slower)]
    light, affine = head.light.coefficients, [head.affine.matrix, head.affine.offset]
    with torch.no_grad():
        if previous is None:
            initial_light, initial_affine = type(head.light)(), type(head.affine)()
            light.copy_(initial_light.coefficients)
            affine[0].copy_(initial_affine.matrix)
            affine[1].copy_(initial_affine.offset)
        else:
            light.copy_(previous.light)
            affine[0].copy_(previous.matrix)
            affine[1].copy_(previous.offset)
    if first:
        groups += [(light, stage.light, 1.0), *((parameter, stage.affine, 1.0) for parameter in affine)]
    parameters = [parameter for parameter, _, _ in groups]
    for parameter in (light, *affine):
        parameter.requires_grad_(first)
    for tensor in parameters:
        tensor.requires_grad_()
    optimizer = torch.optim.Adam([{"params": [parameter]} for parameter in parameters], lr=0.0)
    steps = max(round(stage.steps * pace), 1)
    start, growth, end = stage.sharpness if first else stage.sharpness_later
    every = stage.sharpen_every if first else stage.sharpen_every_later
    random = torch.Generator().manual_seed(mixed_seed(options.seed, 1, frame))
    skipped = SkippedSteps()
    energies: dict[str, float] = {}
    guess: Tensor | None = None
    nearby = SurfaceFollower(head, options.band)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(mixed_seed(options.seed, 2, frame))
        for step in range(steps):
            place = step / pace  # on the schedules of the first frame
            head.sharpen(min(start + growth * math.floor(place / every), end))
            for group, (_, rate, factor) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = factor * rate.at(place)
            total, terms, next_guess = data_energy(
                head, observation, codes, rotation, shift / PUBLISHED_UNIT, stage.weights, options, random,
                stage.weights.landmarks.at(place), clock, guess, nearby,
            )  # fmt: skip
            total = total + regularizers(head, codes, fitted, stage.weights, first)
            with clock.part("backward"):
                optimizer.zero_grad()
                total.backward()
            if not finite_gradients(total, parameters):
                try:
                    skipped.skip(step, "the energy or a gradient")
                except NanLossError as error:
                    raise FrameFailure("diverged", str(error)) from error
                continue
            skipped.accept()
            guess = next_guess
            with clock.part("step"):
                for name in fitted:
                    if name in IDENTITY and stage.clip:
                        torch.nn.utils.clip_grad_norm_([codes[name]], stage.clip)
                optimizer.step()
            energies = checked_energies(total, terms, parameters, step, steps)
            if progress is not None:
                progress(step, steps, energies)
    if not energies:
        raise FrameFailure("diverged", f"the energy or a gradient is not finite in each of {steps} steps")
    if skipped.total:
        energies["skipped_steps"] = float(skipped.total)
    if energies.get("reached", 1.0) < options.landmark_share:
        raise FrameFailure(
            "inverse",
            f"the deformation could be inverted at only {energies['reached']:.0%} of the landmarks; at least "
            f"{options.landmark_share:.0%} are needed",
        )
    translation = shift / PUBLISHED_UNIT
    return finished_fit(head, observation, frame, codes, rotation, translation, {**energies, "steps": steps})


def finished_fit(
    head: PriorHead,
    observation: PriorObservation,
    frame: int,
    codes: Mapping[str, Tensor],
    rotation: Tensor,
    translation: Tensor,
    errors: Mapping[str, float],
) -> PriorFit:
    """The fit of a frame from its parameters, detached and on the CPU."""
    free = {name: value.detach().clone() for name, value in codes.items()}
    state = head.state(free)
    fit = PriorFit(
        frame=frame, codes={name: value[0] for name, value in state.codes.items()}, free=free,
        rotation=rotation.detach().clone(), translation=translation.detach().clone(), camera=observation.camera,
        to_capture=observation.to_capture, light=head.light.coefficients.detach().clone(),
        matrix=head.affine.matrix.detach().clone(), offset=head.affine.offset.detach().clone(), errors=dict(errors),
    )  # fmt: skip
    return fit.to(torch.device("cpu"))


def mixed_seed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 0x100000001B3 ^ number + 0x9E3779B97F4A7C15) & 0x7FFFFFFFFFFFFFFF
    return mixed
