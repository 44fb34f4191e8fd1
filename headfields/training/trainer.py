"""The training loop: rays in, an avatar out."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headfields.losses import Loss
from headfields.training import checkpoint
from headfields.training.ema import ExponentialMovingAverage
from headfields.training.evaluation import picture
from headfields.training.interrupts import InterruptFlag
from headfields.training.monitor import Monitor
from headfields.training.randomness import RandomStream
from headfields.training.run import RunFolder, write_picture

OVERHEAD_SHARE = 0.1
"""Pictures come when they are due, but take no more than this share of the time; so do checkpoints."""


class NanLossError(RuntimeError):
    """A loss or a gradient is not finite; the message names the step, the term or parameters, the last checkpoint."""


@dataclass(frozen=True)
class FitResult:
    """What a call of `Trainer.fit` came to.

    Attributes:
        step: optimiser steps taken in all.
        seconds: wall time of training in all, over resumptions.
        psnr: training PSNR in dB, smoothed over the last steps; NaN if no step was left to take.
        rays_per_second: over this call.
        interrupted: True if Ctrl-C (or SIGTERM) ended it.
    """

    step: int
    seconds: float
    psnr: float
    rays_per_second: float
    interrupted: bool


class Trainer:
    """Trains an avatar on a capture with Adam.

    Each step draws `frames_per_step` random training frames, lets the avatar follow them (`avatar.update`: occupancy),
    renders `rays_per_step` random pixels of them and takes one optimiser step. The defaults are those of INSTA's
    released code (learning rate, betas, eps, L2, average) with fewer rays a step, for a CPU.

    Parameters called `table` or `*_table` (hash grids, latent codes) form one group of the optimiser and all else
    another; weight decay is for the latter alone. Adam is PyTorch's fused one: measured on 2 cores over INSTA's table
    of 33.6 million numbers it takes 28 ms a step, `foreach` 160 ms, and a step over the touched rows alone 275 ms with
    a quarter of them touched, so there is no sparse variant.

    Args:
        avatar: a `headfields.Avatar`, or any module with its `forward`, `update` and `render`; moved to `device`.
        capture: the `headfields.data.Capture` to learn from; its split "train" is used.
        losses: callables as in `headfields.losses`; their weighted sum is minimised.
        rays_per_step: rays rendered a step.
        frames_per_step: frames they come from (all training frames, if there are fewer).
        learning_rate: of the tables, and of the networks unless they have one of their own.
        network_learning_rate: of the networks. Tables bear, and want, a rate at which small networks lose units for
            good, so a tenth of `learning_rate` or less is worth a try.
        schedule: `"constant"` (INSTA) or `"exponential"`: falls to `final_rate` times the learning rate over the run.
        final_rate: see `schedule`.
        betas, eps: of Adam.
        weight_decay: L2 added to the gradient of the networks.
        ema: decay of the average of the weights per step; 0 turns it off.
        background: behind training pixels, as `Capture.sample_pixels` takes it; random, so that emptiness is learned.
        seed: of everything random. On CPU the same seed gives the same weights, if the end is given in steps.
        out: run folder for log, pictures and checkpoints; None leaves no trace.
        device: a torch device; "auto" is CUDA where there is one.
        precision: `"32-true"` or `"bf16-mixed"`, as Lightning Fabric names them.
        checkpoint_seconds, picture_seconds: how often.
        bar: show a progress bar on stderr.

    Attributes:
        avatar, capture, losses, optimizer, ema: what is trained, on what, with what.
        progress: steps, seconds and best PSNR of the watched validation frame.

    Raises:
        ValueError: an argument is out of range, or the capture has no training frames.
    """

    def __init__(
        self,
        avatar: nn.Module,
        capture: Any,
        losses: Sequence[Loss],
        *,
        rays_per_step: int = 2048,
        frames_per_step: int = 8,
        learning_rate: float | int = 1.75e-3,
        network_learning_rate: float | int | None = None,
        schedule: str = "constant",
        final_rate: float | int = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float | int = 1e-15,
        weight_decay: float | int = 1e-6,
        ema: float | int = 0.95,
        background: str = "random",
        seed: int = 0,
        out: Path | str | None = None,
        device: torch.device | str = "auto",
        precision: str = "32-true",
        checkpoint_seconds: float | int = 60.0,
        picture_seconds: float | int = 60.0,
        bar: bool = True,
    ) -> None:
        _check_positive(
            rays_per_step=rays_per_step,
            frames_per_step=frames_per_step,
            learning_rate=learning_rate,
            network_learning_rate=learning_rate if network_learning_rate is None else network_learning_rate,
            final_rate=final_rate,
        )
        if schedule not in ("constant", "exponential"):
            raise ValueError(f"Trainer: schedule is {schedule!r}; expected 'constant' or 'exponential'")
        _check_losses(losses)
        self._frames = torch.as_tensor(capture.splits.get("train", ()), dtype=torch.long)
        if not len(self._frames):
            raise ValueError(f"Trainer: capture {capture.name!r} has no training frames (split 'train')")
        from lightning_fabric import Fabric  # takes two seconds to import, so not for who only imports the package

        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        kind, index = torch.device(device).type, torch.device(device).index
        devices = 1 if index is None or kind == "cpu" else [index]
        self.fabric = Fabric(accelerator=kind, devices=devices, precision=precision)  # type: ignore[arg-type]
        self.device = self.fabric.device
        self.avatar: Any = avatar.to(self.device)
        self.capture, self.losses = capture, list(losses)
        self.rays_per_step, self.frames_per_step, self.background = rays_per_step, frames_per_step, background
        self.learning_rate, self.schedule, self.final_rate = learning_rate, schedule, final_rate
        network_rate = learning_rate if network_learning_rate is None else network_learning_rate
        self._rates = {"tables": learning_rate, "networks": network_rate}
        self.folder = RunFolder(out) if out is not None else None
        self.bar = bar
        groups = parameter_groups(avatar, weight_decay)
        self.optimizer = torch.optim.Adam(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
        self.ema = ExponentialMovingAverage(avatar, ema) if ema else None
        self.progress = checkpoint.Progress()
        self._random = RandomStream(seed, self.device)
        self._every = {"checkpoint": checkpoint_seconds, "picture": picture_seconds}
        self._cost: dict[str, float] = {}  # seconds that the last checkpoint and the last picture took
        self._pictured: int | None = None  # the step of the last picture
        self._averaged = False  # True between calls of fit: the avatar carries the average
        self._last_good: str = "there is no checkpoint (pass out= to Trainer)"

    def fit(self, steps: int | None = None, minutes: int | float | None = None, resume: bool = False) -> FitResult:
        """Trains until `steps` steps or `minutes` minutes are reached in all, whichever comes first.

        Both count from the start of training, over resumptions; `minutes` is wall time, with the pictures and
        checkpoints on the way. Afterwards the avatar is in evaluation mode and carries the averaged weights; a further
        call goes on from the unaveraged ones. Ctrl-C ends the step at hand, saves a checkpoint and returns; a second
        one raises.

        Args:
            steps: total number of steps.
            minutes: total minutes.
            resume: go on from the checkpoint in the run folder, if there is one.

        Raises:
            ValueError: neither limit is given, one is negative, or `resume` without `out`; or the checkpoint belongs
                to another model.
            NanLossError: a loss or gradient is not finite; the weights are those before that step.
        """
        if steps is None and minutes is None:
            raise ValueError("Trainer.fit: neither steps nor minutes is given; say when to stop")
        if (steps or 0) < 0 or (minutes or 0) < 0:
            raise ValueError(f"Trainer.fit: steps is {steps} and minutes is {minutes}; neither may be negative")
        if resume and self.folder is None:
            raise ValueError("Trainer.fit: resume=True needs the run folder; pass out= to Trainer")
        if self._averaged:
            self._exchange()
        if self.folder is not None:
            self.folder.create()
            if resume and self.folder.checkpoint.exists():
                self.load(self.folder.checkpoint)
        stop = InterruptFlag()
        with self._random.active(), stop, Monitor(self.progress, steps, minutes, self.folder, self.bar) as monitor:
            monitor.event("start")
            self._done = dict.fromkeys(self._every, time.perf_counter())
            self.avatar.train()
            while monitor.fraction < 1 and not stop:
                self._step(monitor)
                self._when_due("picture", monitor, self._take_picture)
                self._when_due("checkpoint", monitor, self._save_in_run)
            monitor.stop_clock()
            if not stop:
                self._take_picture(monitor)
            self._save_in_run(monitor)
            monitor.event("interrupted" if stop else "end")
        self.avatar.eval()
        self._exchange()
        return FitResult(self.progress.step, self.progress.seconds, monitor.psnr, monitor.rays_per_second, bool(stop))

    def save(self, path: Path | str) -> None:
        """Writes a checkpoint to `path`, atomically. The folder must exist."""
        with self._exchanged() if self._averaged else contextlib.nullcontext():
            checkpoint.save(path, self.avatar, self.optimizer, self.ema, self._random.states(), self.progress)
        self._last_good = f"the last good checkpoint is {path} (step {self.progress.step})"

    def load(self, path: Path | str) -> None:
        """Goes back (or on) to a checkpoint.

        Args:
            path: the file that `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not whole, or belongs to another model.
        """
        if self._averaged:
            self._exchange()
        self.progress, random = checkpoint.load(path, self.avatar, self.optimizer, self.ema)
        self._random.load(random)
        self._last_good = f"the last good checkpoint is {path} (step {self.progress.step})"

    def _step(self, monitor: Monitor) -> None:
        chosen = torch.randperm(len(self._frames), generator=self._random.generator)[: self.frames_per_step]
        batch, frames = self.capture.sample_pixels(
            self._frames[chosen], self.rays_per_step, self._random.generator, background=self.background
        )
        batch, state, step = batch.to(self.device), self.capture.state(frames).to(self.device), self.progress.step
        fall = self.final_rate**monitor.fraction if self.schedule == "exponential" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self._rates[group["name"]] * fall
        self.avatar.update(state, step)
        with self.fabric.autocast():
            rendering = self.avatar(batch.rays, state, batch.background)
            values = [(loss(rendering, batch, step) * loss.weight).float() for loss in self.losses]
            total = torch.stack(values).sum()
        self.optimizer.zero_grad(set_to_none=True)
        if total.requires_grad:  # not so if no sample was taken anywhere, say where every ray misses the head
            self.fabric.backward(total)
        gradients = {name: p.grad for name, p in self.avatar.named_parameters() if p.grad is not None}
        with torch.no_grad():
            squared_error = (rendering.rgb - batch.target).square().sum() / max(rendering.rgb.numel(), 1)
            # The 2-norm runs at memory speed, and one not representable is as good a reason to stop as a NaN.
            norms = torch._foreach_norm(list(gradients.values())) if gradients else ()
            found = [value.detach().double() for value in (*values, squared_error, *norms)]
            figures = torch.stack(found).tolist()  # the one time a step that the host waits for the device
        terms = dict(zip((loss.name for loss in self.losses), figures, strict=False))
        self._refuse_nan(monitor, "loss", terms)
        self._refuse_nan(monitor, "gradient of", dict(zip(gradients, figures[len(terms) + 1 :], strict=True)))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        self.progress.step += 1
        monitor.after_step(terms, figures[len(terms)], len(batch), self.learning_rate * fall)

    def _refuse_nan(self, monitor: Monitor, what: str, values: Mapping[str, float]) -> None:
        names = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        if names:
            monitor.event("nan", what=f"{what} {names}")
            raise NanLossError(
                f"step {self.progress.step}: {what} {names} is not finite; {self._last_good}. "
                "A lower learning rate often helps"
            )

    def _when_due(self, what: str, monitor: Monitor, action: Callable[[Monitor], None]) -> None:
        before = time.perf_counter()
        if self.folder is None or before - self._done[what] < self._every[what]:
            return
        if (
            what not in self._cost and what == "picture"
        ):  # a guess, until one has been taken: a third of a training step
            self._cost[what] = math.prod(self.capture.size) / max(monitor.rays_per_second, 1.0) / 3
        if before - self._done[what] >= self._cost.get(what, 0.0) * (1 / OVERHEAD_SHARE - 1):
            action(monitor)
            self._done[what] = time.perf_counter()
            self._cost[what] = self._done[what] - before

    def _take_picture(self, monitor: Monitor) -> None:
        if self.folder is None or self._pictured == self.progress.step:
            return
        frame = self._watched_frame()
        with self._random.untouched(), self._exchanged():  # looking must not change what is learned
            self.avatar.eval()
            image, psnr = picture(self.avatar, self.capture, frame, device=self.device)
            self.avatar.train()
        self._pictured = self.progress.step
        best = self.progress.best_psnr
        self.progress.best_psnr = psnr if best is None else max(best, psnr)
        write_picture(self.folder.images / f"step_{self.progress.step:06d}.png", image)
        monitor.clock()
        monitor.event("picture", frame=frame, psnr=round(psnr, 3))

    def _save_in_run(self, monitor: Monitor) -> None:
        if self.folder is not None:
            monitor.clock()
            self.save(self.folder.checkpoint)

    def _watched_frame(self) -> int:
        """The first validation frame, or the nearest thing to one."""
        splits = self.capture.splits
        return int(next((splits[name][0] for name in ("val", "test") if len(splits.get(name, ()))), self._frames[0]))

    def _exchange(self) -> None:
        if self.ema is not None:
            self.ema.swap()
            self._averaged = not self._averaged

    def _exchanged(self) -> contextlib.AbstractContextManager[None]:
        return self.ema.swapped() if self.ema is not None else contextlib.nullcontext()


def parameter_groups(module: nn.Module, weight_decay: float | int) -> list[dict[str, Any]]:
    """The optimiser's groups: tables (`table`, `*_table`; no decay) and networks (decay). Empty ones are left out.

    Args:
        module: its trainable parameters are grouped by name.
        weight_decay: L2 of the networks.

    Raises:
        ValueError: nothing is trainable.
    """
    tables: list[nn.Parameter] = []
    networks: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            (tables if last == "table" or last.endswith("_table") else networks).append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": "tables", "params": tables, "weight_decay": 0.0},
        {"name": "networks", "params": networks, "weight_decay": weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("Trainer: the avatar has no trainable parameters")
    return groups


def _check_positive(**values: int | float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"Trainer: {name} is {value}; expected more than 0")


def _check_losses(losses: Sequence[Loss]) -> None:
    if not losses:
        raise ValueError("Trainer: losses is empty; headfields.losses.insta_losses() is a start")
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise ValueError(f"Trainer: losses are called {names}; give each a name of its own, it is a column of the log")
