"""Stage 1 of tracking with a prior: one frame is fitted by Adam, from the fit of the frame before."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headfields.apps.tracking.clock import Clock
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.prior.asynchronous_fit import AsynchronousFit, Differentiated, StepNumbers
from headfields.apps.tracking.prior.energy import (
    EnergyDraw,
    checked_energies,
    data_energy,
    draw_energy,
    energy_metrics,
    regularizers,
    timed,
)
from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.head import IDENTITY, PER_FRAME, PriorHead
from headfields.apps.tracking.prior.initial_expression import initial_expression
from headfields.apps.tracking.prior.last_surface import SurfaceFollower
from headfields.apps.tracking.prior.observation import PriorObservation
from headfields.apps.tracking.prior.options import PUBLISHED_UNIT, PriorTrackingOptions, Stage1, SteppedRate
from headfields.runs.nonfinite import SkippedSteps, finite_gradients
from headfields.runs.progress import NanLossError

__all__ = ["finished_fit", "fit_frame", "mixed_seed", "pace_of"]

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with the number of a step, the number of steps, and the energies."""


def pace_of(stage: Stage1, motion: float, mean: float) -> float:
    """The number of steps of a frame, as a fraction of the first frame's.

    Args:
        stage: options with the three possible fractions, `pace`.
        motion: motion of the landmarks since the previous frame; NaN if unknown.
        mean: mean motion over the recording.

    >>> from headfields.apps.tracking.prior.options import Stage1
    >>> from headfields.apps.tracking.prior.stage1 import pace_of
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
    progress: Progress | None = None,
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
    on_device = device.type == "cuda"
    optimizer = torch.optim.Adam(
        [{"params": [parameter]} for parameter in parameters], lr=0.0, fused=on_device or None, capturable=on_device
    )
    fit = _FrameSteps(head, observation, codes, rotation, shift, groups, optimizer, options, first, pace)
    random = torch.Generator().manual_seed(mixed_seed(options.seed, 1, frame))
    steps = max(round(stage.steps * pace), 1)
    take = fit.asynchronous_steps if on_device else fit.synchronous_steps
    with torch.random.fork_rng(devices=[device] if on_device else []):
        torch.manual_seed(mixed_seed(options.seed, 2, frame))
        energies = take(steps, random, clock, progress)
    if not energies:
        raise FrameFailure("diverged", f"the energy or a gradient is not finite in each of {steps} steps")
    if fit.skipped.total:
        energies["skipped_steps"] = float(fit.skipped.total)
    if energies.get("reached", 1.0) < options.landmark_share:
        raise FrameFailure(
            "inverse",
            f"the deformation could be inverted at only {energies['reached']:.0%} of the landmarks; at least "
            f"{options.landmark_share:.0%} are needed",
        )
    translation = shift / PUBLISHED_UNIT
    return finished_fit(head, observation, frame, codes, rotation, translation, {**energies, "steps": steps})


class _FrameSteps:
    """The steps of a frame.

    Args:
        head, observation: as for `fit_frame`.
        codes, rotation, shift: what the frame starts from, fitted in place; the translation in published units.
        groups: what is fitted, with its rate and a factor, in the order of the optimizer's groups.
        optimizer: of all that is fitted.
        options: as for `fit_frame`.
        first: whether the identity is fitted to this frame.
        pace: as for `fit_frame`.

    Attributes:
        skipped: steps whose energy or gradient was not finite.
    """

    def __init__(
        self,
        head: PriorHead,
        observation: PriorObservation,
        codes: Mapping[str, Tensor],
        rotation: Tensor,
        shift: Tensor,
        groups: list[tuple[Tensor, SteppedRate, float]],
        optimizer: torch.optim.Optimizer,
        options: PriorTrackingOptions,
        first: bool,
        pace: float,
    ) -> None:
        self.head, self.observation, self.options, self.first, self.pace = head, observation, options, first, pace
        self.codes, self.rotation, self.shift = codes, rotation, shift
        self.groups, self.optimizer = groups, optimizer
        self.parameters = [parameter for parameter, _, _ in groups]
        self.fitted = [name for name in head.names if codes[name].requires_grad]
        self.skipped = SkippedSteps()
        self.guess: Tensor | None = None
        self.nearby = SurfaceFollower(head, options.band)

    def synchronous_steps(
        self, steps: int, random: torch.Generator, clock: Clock, progress: Progress | None
    ) -> dict[str, float]:
        """Takes all steps, waiting for each; the energies of the last, empty if none was finite."""
        energies: dict[str, float] = {}
        for step in range(steps):
            rates, landmark_weight = self._schedule(step)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            with clock.part("rays"):
                draw = draw_energy(self.head, self.observation, self.options, random, landmark_weight > 0)
            total, terms, guess = self._differentiate(draw, landmark_weight, clock)
            if not finite_gradients(total, self.parameters):
                self._skip(step)
                continue
            self.skipped.accept()
            self.guess = guess
            with clock.part("step"):
                self._clip()
                self.optimizer.step()
            numbers = energy_metrics(total, terms, self.parameters).tolist()
            energies = checked_energies(numbers, tuple(terms), step, steps)
            if progress is not None:
                progress(step, steps, energies)
        return energies

    def asynchronous_steps(
        self, steps: int, random: torch.Generator, clock: Clock, progress: Progress | None
    ) -> dict[str, float]:
        """As `synchronous_steps`, on a GPU, which the host does not wait for; it reads energies many at a time."""
        energies: dict[str, float] = {}

        def differentiate(draw: EnergyDraw, numbers: StepNumbers) -> Differentiated:
            return self._differentiate(draw, numbers.landmarks)

        def update(is_taken: Tensor, numbers: StepNumbers, guess: Tensor | None) -> None:
            if guess is not None and self.guess is None:
                self.guess = guess.clone()
            elif guess is not None and self.guess is not None:
                self.guess.copy_(torch.where(is_taken, guess, self.guess))

        fit = AsynchronousFit(
            self.head, self.parameters, self.optimizer, differentiate, self._clip, update, self.options
        )
        with clock.part("steps"), fit.active():
            for step in range(steps):
                rates, landmark_weight = self._schedule(step)
                draw = draw_energy(self.head, self.observation, self.options, random, landmark_weight > 0)
                fit.launch(draw, StepNumbers.sent(rates, landmark_weight, self.head.center.device), step)
                if not fit.is_due(step + 1) and step + 1 < steps:
                    continue
                for metrics in fit.read():
                    if not metrics.is_taken:
                        self._skip(metrics.step)
                        continue
                    self.skipped.accept()
                    energies = checked_energies(metrics.numbers, metrics.names, metrics.step, steps)
                    if progress is not None:
                        progress(metrics.step, steps, energies)
        return energies

    def _schedule(self, step: int) -> tuple[list[float], float]:
        """Sets the sharpness; the rates, and the weight of landmarks."""
        stage, place = self.options.stage1, step / self.pace  # on the schedules of the first frame
        start, growth, end = stage.sharpness if self.first else stage.sharpness_later
        every = stage.sharpen_every if self.first else stage.sharpen_every_later
        self.head.sharpen(min(start + growth * math.floor(place / every), end))
        return [factor * rate.at(place) for _, rate, factor in self.groups], stage.weights.landmarks.at(place)

    def _differentiate(
        self, draw: EnergyDraw, landmark_weight: float | Tensor, clock: Clock | None = None
    ) -> Differentiated:
        """Energy and gradients of a step."""
        weights = self.options.stage1.weights
        total, terms, guess = data_energy(
            self.head, draw, self.codes, self.rotation, self.shift / PUBLISHED_UNIT, weights, landmark_weight, clock,
            self.guess, self.nearby,
        )  # fmt: skip
        total = total + regularizers(self.head, self.codes, self.fitted, weights, self.first)
        with timed(clock, "backward"):
            self.optimizer.zero_grad()
            total.backward(inputs=[p for group in self.optimizer.param_groups for p in group["params"]])
        return total, terms, guess

    def _clip(self) -> None:
        for name in self.fitted:
            if name in IDENTITY and self.options.stage1.clip:
                torch.nn.utils.clip_grad_norm_([self.codes[name]], self.options.stage1.clip)

    def _skip(self, step: int) -> None:
        try:
            self.skipped.skip(step, "the energy or a gradient")
        except NanLossError as error:
            raise FrameFailure("diverged", str(error)) from error


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
