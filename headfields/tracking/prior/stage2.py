"""Stage 2 of tracking with a prior: all frames together, one random frame per step, with smooth motion."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.runs.clock import Clock
from headfields.runs.disk_names import from_disk, to_disk
from headfields.runs.nonfinite import SkippedSteps, finite_gradients
from headfields.runs.progress import NanLossError
from headfields.tracking.failures import FrameFailure
from headfields.tracking.prior.energy import checked_energies, data_energy, regularizers
from headfields.tracking.prior.fit import PriorFit
from headfields.tracking.prior.head import IDENTITY, PER_FRAME, PriorHead
from headfields.tracking.prior.last_surface import SurfaceFollower
from headfields.tracking.prior.observation import PriorObservation
from headfields.tracking.prior.options import PUBLISHED_UNIT, PriorTrackingOptions
from headfields.tracking.prior.stage1 import finished_fit, mixed_seed
from headfields.transfer import send_numbers

__all__ = ["JointFit"]

_KEY = "headfields.joint_fit"
SURFACES = 256
"""Frames whose surfaces are held in memory: some 50 MB."""


class JointFit:
    """The joint fit of all frames of a recording.

    Identity codes and light are shared by all frames; expression code and pose are rows of tables. A step moves the
    rows of its frame and of the tracked frames before and after (`torch.optim.SparseAdam`). The random numbers of a
    step depend on its number only, so a resumed fit ends as an unbroken one.

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
        self._shared = torch.optim.Adam([{"params": [parameter]} for parameter in shared], lr=0.0)
        self._rows = torch.optim.SparseAdam([{"params": [table], "lr": 1.0} for table in self.tables.values()])
        self.step = 0
        self.skipped = SkippedSteps("frame")
        self.errors: dict[int, dict[str, float]] = {}
        self._guesses: dict[int, Tensor] = {}
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
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            while self.step < self.steps and not stop():
                frame, errors = self._take_step(observation, clock)
                if errors:
                    self.errors[frame] = errors
                self.step += 1
                if progress is not None and errors:
                    progress(self.step - 1, self.steps, errors)
                if checkpoint is not None and self.step % self.options.checkpoint_every == 0:
                    self._save(checkpoint)
                    saved = self.step
        if checkpoint is not None and saved < self.step:
            self._save(checkpoint)
        return self.step >= self.steps

    def result(self, observation: Callable[[int], PriorObservation]) -> dict[int, PriorFit]:
        """The current fits of all frames; `observation` reads a frame."""
        return {
            frame: finished_fit(
                self.head, observation(frame), frame, self._codes(row, dense=True), self.tables["rotation"][row],
                self.tables["translation"][row] / PUBLISHED_UNIT, {**self.errors.get(frame, {}), "steps": self.steps},
            )
            for frame, row in self.row.items()
        }  # fmt: skip

    def _codes(self, row: int, dense: bool = False) -> dict[str, Tensor]:
        expression = self.tables["expression"][row] if dense else self._row("expression", row)
        return {**self.identity, PER_FRAME: expression}

    def _row(self, name: str, row: int) -> Float[Tensor, " w"]:
        """A row of a table, whose gradient is sparse."""
        index = send_numbers([row], torch.long, self.tables[name].device)
        return torch.nn.functional.embedding(index, self.tables[name], sparse=True)[0]

    def _take_step(self, observation: Callable[[int], PriorObservation], clock: Clock) -> tuple[int, dict[str, float]]:
        """The frame of a step and its energies, empty if the step was skipped."""
        number = mixed_seed(self.options.seed, 3, self.step)
        random = torch.Generator().manual_seed(number)
        torch.manual_seed(number)
        row = int(torch.randint(len(self.frames), (1,), generator=random))
        frame = self.frames[row]
        fraction = self.step / self.steps
        decay = 0.5 ** ((fraction >= 0.5) + (fraction >= 0.75))
        stage, head = self.stage, self.head
        rates = [*(getattr(stage, name) for name in self.identity), stage.light]
        for group, rate in zip(self._shared.param_groups, rates, strict=True):
            group["lr"] = decay * rate
        for group, name in zip(self._rows.param_groups, self.tables, strict=True):
            group["lr"] = decay * getattr(stage, name)
        head.sharpen(stage.sharpness)
        codes = self._codes(row)
        rotation, shift = self._row("rotation", row), self._row("translation", row)
        total, terms, guess = data_energy(
            head, observation(frame), codes, rotation, shift / PUBLISHED_UNIT, stage.weights, self.options, random,
            stage.weights.landmarks.at(self.step), clock, self._guesses.get(frame), self._nearby(frame),
        )  # fmt: skip
        total = total + regularizers(head, codes, list(head.names), stage.weights, first=False)
        total = total + (0.5 if fraction >= 0.5 else 1.0) * self._smoothness(frame, codes, rotation, shift)
        with clock.part("backward"):
            self._shared.zero_grad()
            self._rows.zero_grad()
            total.backward()
        if not finite_gradients(total, [*self.identity.values(), head.light.coefficients, *self.tables.values()]):
            self.skipped.skip(
                self.step, "stage 2: the energy or a gradient", [frame],
                "the fits of stage 1 are whole; track with lower rates, or without stage 2",
            )  # fmt: skip
            return frame, {}
        self.skipped.accept()
        if guess is not None:
            self._guesses[frame] = guess
        with clock.part("step"):
            if self.options.stage1.clip:
                for code in self.identity.values():
                    torch.nn.utils.clip_grad_norm_([code], self.options.stage1.clip)
            self._shared.step()
            self._rows.step()
        parameters = [*self.identity.values(), *self.tables.values()]
        try:
            return frame, checked_energies(total, terms, parameters, self.step, self.steps)
        except FrameFailure as failure:
            raise NanLossError(f"stage 2, with frame {frame}: {failure}") from failure

    def _nearby(self, frame: int) -> SurfaceFollower:
        """The surface of a frame as stage 1 fitted it, extracted once for each of the last `SURFACES` frames."""
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

    def _smoothness(
        self, frame: int, codes: Mapping[str, Tensor], rotation: Tensor, shift: Tensor
    ) -> Float[Tensor, ""]:
        """Weighted squared differences to the tracked frames before and after, each divided by the number of frames
        between the two; the mean over those there are."""
        row = self.row[frame]
        neighbors = [other for other in (row - 1, row + 1) if 0 <= other < len(self.frames)]
        parts = [rotation.new_zeros(())]
        for neighbor in neighbors:
            frames = abs(frame - self.frames[neighbor])
            change = codes[PER_FRAME] - self._row("expression", neighbor)
            parts.append(self.stage.smooth_expression * change.square().sum() / frames)
            turn = (rotation - self._row("rotation", neighbor)).square().sum()
            move = (shift - self._row("translation", neighbor)).square().sum()
            parts.append(self.stage.smooth_pose * (turn + 10 * move) / frames)
        return torch.stack(parts).sum() / max(len(neighbors), 1)

    def _save(self, path: Path) -> None:
        tensors = {f"identity.{name}": value for name, value in self.identity.items()}
        tensors |= {f"tables.{name}": value for name, value in self.tables.items()}
        tensors |= {f"guess.{frame}": value for frame, value in self._guesses.items()}
        tensors["light"] = self.head.light.coefficients
        for name, optimizer in (("shared", self._shared), ("rows", self._rows)):
            for number, entry in optimizer.state_dict()["state"].items():
                for key, value in entry.items():
                    tensors[f"{name}.{number}.{key}"] = torch.as_tensor(value)
        header = {"step": self.step, "steps": self.steps, "frames": self.frames, "errors": to_disk(self.errors)}
        header["skipped"] = self.skipped.state()
        path.parent.mkdir(parents=True, exist_ok=True)
        owned = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        write_safetensors(path, owned, {_KEY: json.dumps(header)})

    def _load(self, path: Path) -> None:
        with reading(path, "a checkpoint of stage 2"):
            self._restore(*read_safetensors(path, _KEY))

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        if header["frames"] != self.frames or header["steps"] != self.steps:
            return  # another set of frames: stage 1 has fitted more since
        self.step = int(header["step"])
        self.skipped.load(header.get("skipped", {}))
        self.errors = {int(frame): errors for frame, errors in from_disk(header["errors"]).items()}
        device = self.head.center.device
        with torch.no_grad():
            for prefix, group in (("identity", self.identity), ("tables", self.tables)):
                for name, value in group.items():
                    value.copy_(tensors[f"{prefix}.{name}"])
            self.head.light.coefficients.copy_(tensors["light"])
        self._guesses = {
            int(name[len("guess.") :]): value.to(device) for name, value in tensors.items() if name.startswith("guess.")
        }
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
