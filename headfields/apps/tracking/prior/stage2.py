"""Stage 2 of tracking with a prior: all frames together, one random frame per step, with smooth motion."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.tracking.clock import Clock
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.file_formats import JOINT_FIT
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
from headfields.apps.tracking.prior.last_surface import SurfaceFollower
from headfields.apps.tracking.prior.observation import PriorObservation
from headfields.apps.tracking.prior.options import PUBLISHED_UNIT, PriorTrackingOptions
from headfields.apps.tracking.prior.row_adam import RowAdam
from headfields.apps.tracking.prior.stage1 import finished_fit, mixed_seed
from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.records.device_copy import send_numbers
from headfields.runs.nonfinite import SkippedSteps, finite_gradients
from headfields.runs.progress import NanLossError

__all__ = ["JointFit"]

SURFACES = 256
"""Frames whose surfaces are held in memory: some 50 MB."""


@dataclass(frozen=True)
class JointNumbers(StepNumbers):
    """What the host decides in a step, with (K,) rows of the tables, the frame's and its neighbors', and (K - 1,)
    weights of the differences to these."""

    rows: Int[Tensor, " k"]
    weights: Float[Tensor, " n"]


@dataclass(frozen=True)
class _Plan:
    """The same on the host, with the frame and the random numbers of the step."""

    frame: int
    random: torch.Generator
    rates: list[float]
    landmarks: float
    rows: list[int]
    weights: list[float]


class JointFit:
    """The joint fit of all frames of a recording.

    Identity codes and light are shared by all frames; expression code and pose are rows of tables. A step moves the
    rows of its frame and of the tracked frames before and after (`torch.optim.SparseAdam`; on a GPU `RowAdam`, where
    the host does not wait for a step: see `AsynchronousFit`). Smoothness is the mean, over the one or two neighbors, of
    the weighted squared differences divided by the number of frames between. The random numbers of a step depend on its
    number only, so a resumed fit ends as an unbroken one.

    Args:
        head: the model.
        fits: results of stage 1, by frame; identity and light start from the first.
        options: options with a `stage2`.

    Attributes:
        step, steps: number of steps done, and in all.
        skipped: steps, of those done, whose energy or gradient was not finite.
    """

    def __init__(self, head: PriorHead, fits: Mapping[int, PriorFit], options: PriorTrackingOptions) -> None:
        assert options.stage2 is not None
        self.head, self.options, self.stage = head, options, options.stage2
        self.frames = sorted(fits)
        self.row = {frame: row for row, frame in enumerate(self.frames)}
        device = head.center.device
        first = fits[self.frames[0]].to(device)
        self.identity = {name: first.free[name].clone().requires_grad_() for name in head.names if name in IDENTITY}
        self.tables = {
            "expression": torch.stack([fits[frame].free[PER_FRAME] for frame in self.frames]).to(device),
            "rotation": torch.stack([fits[frame].rotation for frame in self.frames]).to(device),
            "translation": PUBLISHED_UNIT * torch.stack([fits[frame].translation for frame in self.frames]).to(device),
        }
        for table in self.tables.values():
            table.requires_grad_()
        with torch.no_grad():
            head.light.coefficients.copy_(first.light)
            head.affine.matrix.copy_(first.matrix)
            head.affine.offset.copy_(first.offset)
        head.light.coefficients.requires_grad_()
        for parameter in (head.affine.matrix, head.affine.offset):
            parameter.requires_grad_(False)
        shared = [*self.identity.values(), head.light.coefficients]
        self._on_device = device.type == "cuda"
        groups = [{"params": [parameter]} for parameter in shared]
        self._rows: torch.optim.SparseAdam | RowAdam
        if self._on_device:
            self._shared = torch.optim.Adam(groups, lr=0.0, fused=True, capturable=True)
            self._rows = RowAdam(list(self.tables.values()))
        else:
            self._shared = torch.optim.Adam(groups, lr=0.0)
            self._rows = torch.optim.SparseAdam([{"params": [table], "lr": 1.0} for table in self.tables.values()])
        self._parameters = [*self.identity.values(), head.light.coefficients, *self.tables.values()]
        self.step = 0
        self.skipped = SkippedSteps("frame")
        self.errors: dict[int, dict[str, float]] = {}
        landmarks = 0 if head.landmarks is None else len(head.landmarks)
        self._guesses = torch.full((len(self.frames), landmarks, 3), torch.nan, device=device)
        self._starts = {frame: fit.free[PER_FRAME] for frame, fit in fits.items()}
        self._start_identity = {name: value.detach().clone() for name, value in self.identity.items()}
        self._surfaces: OrderedDict[int, SurfaceFollower] = OrderedDict()
        self.steps = max(round(self.stage.steps_a_frame * len(self.frames)), 1)

    def fit(
        self,
        observation: Callable[[int], PriorObservation],
        checkpoint: Path | None = None,
        clock: Clock | None = None,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Takes the remaining steps.

        Args:
            observation: reads a frame.
            checkpoint: file where the state is saved regularly, and continued from if it exists; None saves nothing.
            clock: takes the time of the parts.
            progress: called each step with its number, the number of steps, and the energies.
            stop: asked before each step whether to stop.

        Returns:
            Whether all steps are done.

        Raises:
            NanLossError: ten steps in a row had an energy or a gradient that is not finite; such a step is skipped.
        """
        clock = clock or Clock()
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)
        device = self.head.center.device
        saved = self.step
        asynchronous = self._asynchronous_fit() if self._on_device else None

        def note(done: list[tuple[int, int, dict[str, float]]]) -> None:
            for step, frame, errors in done:
                if errors:
                    self.errors[frame] = errors
                if progress is not None and errors:
                    progress(step, self.steps, errors)

        with (
            torch.random.fork_rng(devices=[device] if self._on_device else []),
            timed(None if asynchronous is None else clock, "steps"),
            contextlib.nullcontext() if asynchronous is None else asynchronous.active(),
        ):
            while self.step < self.steps and not stop():
                plan = self._plan()
                if asynchronous is None:
                    note([(self.step, plan.frame, self._take_step(plan, observation, clock))])
                else:
                    self._launch(asynchronous, plan, observation)
                self.step += 1
                saves = checkpoint is not None and self.step % self.options.checkpoint_every == 0
                if asynchronous is not None and (saves or asynchronous.is_due(self.step)):
                    note(self._read(asynchronous))
                if checkpoint is not None and saves:
                    self._save(checkpoint)
                    saved = self.step
            note([] if asynchronous is None else self._read(asynchronous))
        if checkpoint is not None and saved < self.step:
            self._save(checkpoint)
        return self.step >= self.steps

    def result(self, observation: Callable[[int], PriorObservation]) -> dict[int, PriorFit]:
        """The current fits of all frames; `observation` reads a frame."""
        return {
            frame: finished_fit(
                self.head, observation(frame), frame, self._codes(row), self.tables["rotation"][row],
                self.tables["translation"][row] / PUBLISHED_UNIT, {**self.errors.get(frame, {}), "steps": self.steps},
            )
            for frame, row in self.row.items()
        }  # fmt: skip

    def _codes(self, row: int) -> dict[str, Tensor]:
        return {**self.identity, PER_FRAME: self.tables["expression"][row]}

    def _plan(self) -> "_Plan":
        """What the host decides in the next step."""
        number = mixed_seed(self.options.seed, 3, self.step)
        random = torch.Generator().manual_seed(number)
        torch.manual_seed(number)
        row = int(torch.randint(len(self.frames), (1,), generator=random))
        frame, fraction, stage = self.frames[row], self.step / self.steps, self.stage
        decay = 0.5 ** ((fraction >= 0.5) + (fraction >= 0.75))
        rates = [*(getattr(stage, name) for name in self.identity), stage.light]
        rates += [getattr(stage, name) for name in self.tables]
        neighbors = [other for other in (row - 1, row + 1) if 0 <= other < len(self.frames)]
        weights = [1 / abs(frame - self.frames[other]) / len(neighbors) for other in neighbors]
        smooth = 0.5 if fraction >= 0.5 else 1.0
        return _Plan(
            frame, random, [decay * rate for rate in rates], stage.weights.landmarks.at(self.step),
            [row, *neighbors], [smooth * weight for weight in weights],
        )  # fmt: skip

    def _take_step(
        self, plan: "_Plan", observation: Callable[[int], PriorObservation], clock: Clock
    ) -> dict[str, float]:
        """The energies of a step, empty if it was skipped."""
        for group, rate in zip([*self._shared.param_groups, *self._rows.param_groups], plan.rates, strict=True):
            group["lr"] = rate
        with clock.part("rays"):
            draw = self._draw(plan, observation)
        rows, weights = torch.tensor(plan.rows), torch.tensor(plan.weights)
        total, terms, guess = self._differentiate(draw, rows, weights, plan.landmarks, clock, self._nearby(plan.frame))
        if not finite_gradients(total, self._parameters):
            self._skip(self.step, plan.frame)
            return {}
        self.skipped.accept()
        if guess is not None:
            self._guesses[plan.rows[0]] = guess
        with clock.part("step"):
            self._clip()
            self._shared.step()
            self._rows.step()
        return self._checked(
            energy_metrics(total, terms, self._parameters).tolist(), tuple(terms), self.step, plan.frame
        )

    def _asynchronous_fit(self) -> AsynchronousFit:
        """The steps of a GPU."""
        self._follower: SurfaceFollower | None = None

        def differentiate(draw: EnergyDraw, numbers: JointNumbers) -> Differentiated:
            return self._differentiate(
                draw, numbers.rows, numbers.weights, numbers.landmarks, None, self._follower
            )  # fmt: skip

        def update(is_taken: Tensor, numbers: JointNumbers, guess: Tensor | None) -> None:
            assert isinstance(self._rows, RowAdam)
            self._rows.step_rows(numbers.rows, numbers.rates[-len(self.tables) :], is_taken)
            if guess is not None:
                own = numbers.rows[:1]
                before = self._guesses.index_select(0, own)
                self._guesses.index_copy_(0, own, torch.where(is_taken, guess, before))

        return AsynchronousFit(
            self.head, self._parameters, self._shared, differentiate, self._clip, update, self.options
        )

    def _launch(
        self, asynchronous: AsynchronousFit, plan: "_Plan", observation: Callable[[int], PriorObservation]
    ) -> None:
        """Launches a step on a GPU."""
        missing = 3 - len(plan.rows)  # neighbors; in their place the frame itself, with weight 0
        rows = send_numbers([*plan.rows, *[plan.rows[0]] * missing], torch.long, self.head.center.device)
        sent = send_numbers(
            [*plan.rates, plan.landmarks, *plan.weights, *[0.0] * missing], torch.float32, self.head.center.device
        )
        rates, landmarks, weights = sent.split([len(plan.rates), 1, 2])
        self._follower = self._nearby(plan.frame)
        numbers = JointNumbers(rates, landmarks[0], rows, weights)
        asynchronous.launch(self._draw(plan, observation), numbers, self.step, plan.frame)

    def _read(self, asynchronous: AsynchronousFit) -> list[tuple[int, int, dict[str, float]]]:
        """The number, frame and energies of the steps launched since the last call; the host waits for them."""
        done = []
        for metrics in asynchronous.read():
            step, frame = metrics.step, metrics.frame
            if not metrics.is_taken:
                self._skip(step, frame)
                continue
            self.skipped.accept()
            done.append((step, frame, self._checked(metrics.numbers, metrics.names, step, frame)))
        return done

    def _draw(self, plan: "_Plan", observation: Callable[[int], PriorObservation]) -> EnergyDraw:
        self.head.sharpen(self.stage.sharpness)
        return draw_energy(self.head, observation(plan.frame), self.options, plan.random, plan.landmarks > 0)

    def _differentiate(
        self,
        draw: EnergyDraw,
        rows: Int[Tensor, " k"],
        weights: Float[Tensor, " n"],
        landmark_weight: float | Float[Tensor, ""],
        clock: Clock | None,
        nearby: SurfaceFollower | None,
    ) -> Differentiated:
        """Energy and gradients of a step.

        Args:
            draw: rays and landmarks of its frame.
            rows: (K,) of the tables: the frame's, and those of its neighbors.
            weights: (K - 1,) of the differences to the neighbors.
            landmark_weight: weight of the landmark term.
            clock: takes the time of the parts.
            nearby: knows the surface of the frame.
        """
        stage, head = self.stage, self.head
        expression, rotation, shift = (self._table_rows(name, rows) for name in self.tables)
        codes = {**self.identity, PER_FRAME: expression[0]}
        guess = None if self.options.roots else self._guesses.index_select(0, rows[:1])[0]
        total, terms, guess = data_energy(
            head, draw, codes, rotation[0], shift[0] / PUBLISHED_UNIT, stage.weights, landmark_weight, clock, guess,
            nearby,
        )  # fmt: skip
        total = total + regularizers(head, codes, list(head.names), stage.weights, first=False)
        total = total + self._smoothness(expression, rotation, shift, weights)
        with timed(clock, "backward"):
            self._shared.zero_grad()
            self._rows.zero_grad()
            groups = [*self._shared.param_groups, *self._rows.param_groups]
            total.backward(inputs=[parameter for group in groups for parameter in group["params"]])
        return total, terms, guess

    def _table_rows(self, name: str, rows: Int[Tensor, " k"]) -> Float[Tensor, "k w"]:
        """Rows of a table; on a CPU their gradient is sparse."""
        if self._on_device:
            return self.tables[name].index_select(0, rows)
        return torch.nn.functional.embedding(rows, self.tables[name], sparse=True)

    def _smoothness(
        self,
        expression: Float[Tensor, "k e"],
        rotation: Float[Tensor, "k 3"],
        shift: Float[Tensor, "k 3"],
        weights: Float[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """Weighted squared differences of the first row to the others."""
        change, turn, move = ((each[:1] - each[1:]).square().sum(dim=1) for each in (expression, rotation, shift))
        parts = self.stage.smooth_expression * change + self.stage.smooth_pose * (turn + 10 * move)
        return (weights * parts).sum()

    def _clip(self) -> None:
        if self.options.stage1.clip:
            for code in self.identity.values():
                torch.nn.utils.clip_grad_norm_([code], self.options.stage1.clip)

    def _skip(self, step: int, frame: int) -> None:
        self.skipped.skip(
            step, "stage 2: the energy or a gradient", [frame],
            "the fits of stage 1 are whole; track with lower rates, or without stage 2",
        )  # fmt: skip

    def _checked(self, numbers: Sequence[float], names: Sequence[str], step: int, frame: int) -> dict[str, float]:
        try:
            return checked_energies(numbers, names, step, self.steps)
        except FrameFailure as failure:
            raise NanLossError(f"stage 2, with frame {frame}: {failure}") from failure

    def _nearby(self, frame: int) -> SurfaceFollower | None:
        """The surface of a frame as stage 1 fitted it, extracted once for each of the last `SURFACES` frames; None
        where rays are sampled whole."""
        if not self.options.band:
            return None
        surfaces = self._surfaces
        if frame not in surfaces:
            device = self.head.center.device
            codes = {**self._start_identity, PER_FRAME: self._starts[frame].to(device)}
            source = self.head.avatar.field(self.head.state(codes))
            surfaces[frame] = SurfaceFollower(self.head, self.options.band, source)
            if len(surfaces) > SURFACES:
                surfaces.popitem(last=False)
        surfaces.move_to_end(frame)
        return surfaces[frame]

    def _save(self, path: Path) -> None:
        tensors = {f"identity.{name}": value for name, value in self.identity.items()}
        tensors |= {f"tables.{name}": value for name, value in self.tables.items()}
        guesses = dict(zip(self.frames, self._guesses.cpu(), strict=True))
        known = {frame: guess for frame, guess in guesses.items() if guess.numel() and bool(guess.isfinite().all())}
        tensors |= {f"guess.{frame}": guess for frame, guess in known.items()}
        tensors["light"] = self.head.light.coefficients
        for name, optimizer in (("shared", self._shared), ("rows", self._rows)):
            for number, entry in optimizer.state_dict()["state"].items():
                for key, value in entry.items():
                    tensors[f"{name}.{number}.{key}"] = torch.as_tensor(value)
        header = {"step": self.step, "steps": self.steps, "frames": self.frames, "errors": self.errors,
                  "skipped": self.skipped.state()}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        owned = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        write_safetensors(path, owned, {JOINT_FIT: header})

    def _load(self, path: Path) -> None:
        with reading(path, "a checkpoint of stage 2"):
            self._restore(*read_safetensors(path, JOINT_FIT))

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        if header["frames"] != self.frames or header["steps"] != self.steps:
            return  # another set of frames: stage 1 has fitted more since
        self.step = int(header["step"])
        self.skipped.load(header["skipped"])
        self.errors = {int(frame): errors for frame, errors in header["errors"].items()}
        device = self.head.center.device
        with torch.no_grad():
            for prefix, group in (("identity", self.identity), ("tables", self.tables)):
                for name, value in group.items():
                    value.copy_(tensors[f"{prefix}.{name}"])
            self.head.light.coefficients.copy_(tensors["light"])
        self._guesses.fill_(torch.nan)
        for name, value in tensors.items():
            if name.startswith("guess."):
                self._guesses[self.row[int(name[len("guess.") :])]] = value.to(device)
        for name, optimizer in (("shared", self._shared), ("rows", self._rows)):
            state: dict[int, dict[str, Tensor | int]] = {}
            for full, value in tensors.items():
                head, _, local_name = full.partition(".")
                if head == name:
                    number, _, key = local_name.partition(".")
                    # SparseAdam counts steps in an integer
                    scalar = name == "rows" and key == "step"
                    state.setdefault(int(number), {})[key] = int(value) if scalar else value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
