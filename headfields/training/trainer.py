"""The training loop: rays in, an avatar out."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from headfields.losses.base import Loss
from headfields.runs import checkpoint
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.folder import RunFolder, RunWriteError, write_picture, writing
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.randomness import RandomStream, deterministic
from headfields.training import options, resuming
from headfields.training.evaluation import picture
from headfields.training.frames import watched_frame
from headfields.training.launch import launch
from headfields.training.monitor import Monitor
from headfields.training.ranks import Ranks
from headfields.training.step import NotFiniteError, Stepper

OVERHEAD_SHARE = 0.1
"""Pictures come when they are due, but take no more than this share of the time; so do checkpoints."""


class NanLossError(RuntimeError):
    """A loss or a gradient is not finite; the message names the step, the term or parameters, the last checkpoint."""


@dataclass(frozen=True)
class FitResult:
    """What a call of `Trainer.fit` came to.

    Attributes:
        step: optimizer steps taken in all.
        seconds: wall time of training in all, over resumptions.
        psnr: training PSNR in dB, smoothed over the last steps; NaN before the first.
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
    renders `rays_per_step` random pixels of them and takes one optimizer step. The defaults are those of INSTA's
    released code (learning rate, betas, eps, L2, average) with fewer rays a step, for a CPU.

    Parameters called `table` or `*_table` (hash grids, latent codes) form one group of the optimizer and all else
    another; weight decay is for the latter alone. Adam is PyTorch's fused one: measured on 2 cores over INSTA's table
    of 33.6 million numbers it takes 28 ms a step, `foreach` 160 ms, and a step over the touched rows alone 275 ms with
    a quarter of them touched, so there is no sparse variant.

    Args:
        avatar: a `headfields.Avatar`, or any module with its `forward`, `update` and `render`; moved to `device`.
        capture: the `headfields.data.Capture` to learn from; its split "train" is used.
        losses: callables as in `headfields.losses`; their weighted sum is minimized.
        rays_per_step: rays rendered a step.
        samples_per_step: if given, so many samples that are composited are aimed at in each step, and `rays_per_step`
            is where the number of rays starts: few while all of space is asked, more as emptiness is learned, between
            an eighth and four times that number (INSTA's released code: 2^18 samples from 4096 rays on).
        frames_per_step: frames they come from (all training frames, if there are fewer).
        frame_weights: (F,) how often each frame of the capture is drawn, evenly if None; see
            `headfields.data.yaw_balanced_weights`.
        pixel_weights: how often pixels of a label or region are drawn, as `Capture.sample_pixels` takes them.
        learning_rate: of the tables, and of the networks unless they have one of their own.
        network_learning_rate: of the networks. Tables bear, and want, a rate at which small networks lose units for
            good, so a tenth of `learning_rate` or less is worth a try.
        learning_rates: of parts with a `rate_group` of their own, by its name: `{"warp": 1e-4}` for an `ErrorWarp` and
            its codes. A group that is not named has the networks' rate.
        schedule: `"constant"` (INSTA) or `"exponential"`: falls to `final_rate` times the learning rate over the run.
        final_rate: see `schedule`.
        betas, eps: of Adam.
        weight_decay: L2 added to the gradient of the networks.
        ema: decay of the average of the weights per step; 0 turns it off.
        background: behind training pixels, as `Capture.sample_pixels` takes it; random, so that emptiness is learned.
        seed: of everything random. On CPU the same seed gives the same weights, if the end is given in steps.
        out: run folder for log, pictures and checkpoints; None leaves no trace.
        device: a torch device; "auto" is CUDA where there is one.
        devices: how many processes train together, each on a device of its own (on the CPU: sharing its cores); on
            CUDA also a list of device numbers. `rays_per_step` stays the number of rays of all together. The script
            is started again for each further process; under torchrun, which starts them itself, it is not.
        strategy: `"ddp"` or `"auto"`, which is the same as soon as there are several devices.
        precision: `"32-true"`, `"bf16-mixed"` or `"16-mixed"` (with a gradient scaler), as Lightning Fabric names
            them. Mixed is what the networks compute in; geometry, compositing and all that is kept is float32. Few
            CPUs gain from either, and none from float16.
        checkpoint_seconds, picture_seconds: how often.
        bar: show a progress bar on stderr.

    Attributes:
        capture, losses, optimizer, ema: what the avatar (`trainer.avatar`) is trained on, and with what.
        progress: steps, seconds and best PSNR of the watched validation frame.
        last_good: which checkpoint there is to go on from, in words.
        ranks: this process among those that train together; only `ranks.first` writes files and shows the bar.

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
        samples_per_step: int | None = None,
        frames_per_step: int = 8,
        frame_weights: Any = None,
        pixel_weights: Mapping[int | str, float | int] | None = None,
        learning_rate: float | int = 1.75e-3,
        network_learning_rate: float | int | None = None,
        learning_rates: Mapping[str, float | int] = MappingProxyType({}),
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
        devices: int | Sequence[int] = 1,
        strategy: str = "auto",
        precision: str = "32-true",
        checkpoint_seconds: float | int = 60.0,
        picture_seconds: float | int = 60.0,
        bar: bool = True,
    ) -> None:
        network_rate = learning_rate if network_learning_rate is None else network_learning_rate
        options.check_positive(
            rays_per_step=rays_per_step, frames_per_step=frames_per_step, learning_rate=learning_rate,
            network_learning_rate=network_rate, final_rate=final_rate,
        )  # fmt: skip
        if samples_per_step is not None:
            options.check_positive(samples_per_step=samples_per_step)
        if schedule not in ("constant", "exponential"):
            raise ValueError(f"Trainer: schedule is {schedule!r}; expected 'constant' or 'exponential'")
        options.check_losses(losses)
        self.frames = torch.as_tensor(capture.splits.get("train", ()), dtype=torch.long)
        if not len(self.frames):
            raise ValueError(f"Trainer: capture {capture.name!r} has no training frames (split 'train')")
        self.frame_weights = options.frame_weights(frame_weights, capture, self.frames)
        self.pixel_weights = dict(pixel_weights) if pixel_weights else None
        groups = options.parameter_groups(avatar, weight_decay)
        self.fabric, self.scaler = launch(device, devices, strategy, precision)
        self.device = self.fabric.device
        self.ranks = Ranks(self.fabric.global_rank, self.fabric.world_size, self.device)
        self.avatar: Any = avatar.to(self.device)
        self.ranks.spread([*self.avatar.parameters(), *self.avatar.buffers()])  # seeded or not, all start from these
        self.capture, self.losses = capture, list(losses)
        self.samples_per_step = samples_per_step
        self.rays_per_step, self.frames_per_step, self.background = rays_per_step, frames_per_step, background
        self.learning_rate, self.schedule, self.final_rate = learning_rate, schedule, final_rate
        self.rates = options.rates_of(groups, learning_rates, tables=learning_rate, networks=network_rate)
        self.folder = RunFolder(out) if out is not None else None
        self.bar = bar
        self.optimizer = torch.optim.Adam(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
        self.ema = ExponentialMovingAverage(avatar, ema) if ema else None
        self.progress = checkpoint.Progress()
        self.random = RandomStream(seed, self.device)
        self._options = options.recorded(
            losses, rays_per_step=rays_per_step, samples_per_step=samples_per_step, frames_per_step=frames_per_step,
            learning_rate=learning_rate, network_learning_rate=network_rate, learning_rates=dict(learning_rates),
            schedule=schedule, final_rate=final_rate, betas=betas, eps=eps, weight_decay=weight_decay, ema=ema,
            background=background, seed=seed, precision=precision, capture=str(capture.name),
            frame_weights=options.digest(self.frame_weights), pixel_weights=self.pixel_weights,
        )  # fmt: skip
        self._stepper = Stepper(self)
        self._every = {"picture": picture_seconds, "checkpoint": checkpoint_seconds}
        self._cost: dict[str, float] = {}  # seconds that the last checkpoint and the last picture took
        self._pictured: int | None = None  # the step of the last picture
        self._averaged = False  # True between calls of fit: the avatar carries the average
        self._began = False  # whether the run in the folder is this trainer's
        self.last_good = "there is no checkpoint" + (" (pass out= to Trainer)" if out is None else " yet")

    def fit(self, steps: int | None = None, minutes: int | float | None = None, resume: bool = False) -> FitResult:
        """Trains until `steps` steps or `minutes` minutes are reached in all, whichever comes first.

        Both count from the start of training, over resumptions; `minutes` is wall time, with the pictures and
        checkpoints on the way. Afterwards the avatar is in evaluation mode and carries the averaged weights; a further
        call goes on from the unaveraged ones. Ctrl-C ends the step at hand, saves a checkpoint and returns; a second
        one raises.

        Args:
            steps: total number of steps.
            minutes: total minutes.
            resume: go on from the checkpoint in the run folder, if there is one: the last, or the one before if the
                last cannot be read. What this trainer was given counts; what the run was trained with is compared
                with it, and a difference is warned of.

        Raises:
            ValueError: neither limit is given, one is negative, or `resume` without `out`; or the checkpoint belongs
                to another model.
            NanLossError: a loss or gradient is not finite; the weights are those before that step.
            RunLockedError: something else trains into the run folder.
            RunWriteError: the run folder cannot be written to, or its disk is full. The last checkpoint is whole.
            PeerError: another process of this training failed.
        """
        options.check_limits(steps, minutes)
        if resume and self.folder is None:
            raise ValueError("Trainer.fit: resume=True needs the run folder; pass out= to Trainer")
        with contextlib.ExitStack() as stack:
            if self._averaged:
                self._exchange()
            if self.folder is not None:
                self._open(self.folder, stack, resume)
            self._compare_limits(steps, minutes)
            stack.enter_context(self.random.active())
            stack.enter_context(deterministic(self.device))
            asked = stack.enter_context(InterruptFlag())
            folder, bar = (self.folder, self.bar) if self.ranks.first else (None, False)
            monitor = stack.enter_context(Monitor(self.progress, steps, minutes, folder, bar, self.ranks))
            try:
                stopped = self._train(monitor, asked)
            except RunWriteError as error:
                raise RunWriteError(
                    f"step {self.progress.step}: {error}; training stops, and {self.last_good}. "
                    "Mend that, and resume=True (--resume) goes on from there"
                ) from error
        self.avatar.eval()
        self._exchange()
        return FitResult(self.progress.step, self.progress.seconds, monitor.psnr, monitor.rays_per_second, stopped)

    @property
    def rays_now(self) -> int:
        """How many rays the next step renders."""
        if self.samples_per_step is None:
            return self.rays_per_step
        return int(self.progress.extra.get("rays", self.rays_per_step))

    def aim_rays(self, rays: int, samples: float) -> None:
        """Takes in that `rays` gave so many samples: a fifth of the way to the number that would give the wanted ones.

        Part of the checkpoint, so that a resumed run takes the steps that an unbroken one would.
        """
        if self.samples_per_step is None or not rays or not samples:
            return
        wanted = 0.8 * rays + 0.2 * rays * self.samples_per_step / samples
        self.progress.extra["rays"] = int(min(max(wanted, self.rays_per_step / 8, 1), 4 * self.rays_per_step))

    def _train(self, monitor: Monitor, asked: InterruptFlag) -> bool:
        """Steps until the end or an interrupt; whether it was one."""
        self.ranks.first_does(lambda: monitor.event("resume" if self.progress.step else "start"))
        self._done = dict.fromkeys(self._every, time.perf_counter())
        self.avatar.train()
        stop = bool(asked) and not self.ranks.several
        while monitor.fraction < 1 and not stop:
            stop = self._step(monitor, asked)
        monitor.stop_clock()

        def finish() -> None:
            if not stop:
                self._take_picture(monitor)
            self._save_in_run(monitor)
            monitor.event("interrupted" if stop else "end")

        self.ranks.first_does(finish)
        return stop

    def _open(self, folder: RunFolder, stack: contextlib.ExitStack, resume: bool) -> None:
        """Takes the run folder, and goes to its checkpoint or makes way for a new run."""

        def prepare() -> None:
            folder.create()
            with writing(folder.path):
                stack.enter_context(run_lock(folder.path))
            folder.sweep()
            folder.check_space(checkpoint.size(self.avatar, self.ema is not None))

        self.ranks.first_does(prepare)
        if resume and folder.checkpoints:
            resuming.go_on(self, folder, self._options)
        elif not self._began:
            self.ranks.first_does(lambda: resuming.make_way(folder))
        self._began = True

    def _compare_limits(self, steps: int | None, minutes: int | float | None) -> None:
        limits = {"steps": steps, "minutes": minutes}
        changed = options.differences(self.progress.extra.get("limits", {}), limits)
        if changed and self.schedule == "exponential" and self.progress.step and self.ranks.first:
            options.warn(
                f"Trainer: the learning rate falls over the whole run, whose end was at {changed}: it jumps to where a "
                "run of that length would have it"
            )
        self.progress.extra |= {"limits": limits, "options": self._options}

    def save(self, path: Path | str) -> None:
        """Writes a checkpoint to `path`, atomically; process 0 alone. The folder must exist.

        Raises:
            RunWriteError: it cannot be written; what stands at `path` is as it was.
        """
        self._save(Path(path), None)

    def _save(self, path: Path, previous: Path | None) -> None:
        if not self.ranks.first:
            return
        if self.scaler is not None:
            self.progress.extra["scaler"] = self.scaler.state_dict()
        with self._exchanged() if self._averaged else contextlib.nullcontext(), writing(path):
            states = self.random.states()
            checkpoint.save(path, self.avatar, self.optimizer, self.ema, states, self.progress, previous)
        self.last_good = f"the last good checkpoint is {path} (step {self.progress.step})"

    def load(self, path: Path | str) -> None:
        """Goes back (or on) to a checkpoint; every process calls it.

        Args:
            path: the file that `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not whole, or belongs to another model.
        """
        if self._averaged:
            self._exchange()
        self.progress, random = checkpoint.load(path, self.avatar, self.optimizer, self.ema)
        self.random.load(random)
        if self.scaler is not None and "scaler" in self.progress.extra:
            self.scaler.load_state_dict(self.progress.extra["scaler"])
        self.last_good = f"the last good checkpoint is {path} (step {self.progress.step})"

    def _step(self, monitor: Monitor, asked: InterruptFlag) -> bool:
        """One step; whether it was the last because of an interrupt."""
        fall = self.final_rate**monitor.fraction if self.schedule == "exponential" else 1.0
        monitor.clock()
        try:
            taken = self._stepper.take(fall, self.progress.seconds, asked.__bool__, lambda: self._do_chores(monitor))
        except NotFiniteError as error:
            monitor.event("nan", what=str(error))
            raise NanLossError(
                f"step {self.progress.step}: {error} is not finite; {self.last_good}. A lower learning rate often helps"
            ) from error
        self.progress.step += 1
        monitor.agree(taken.seconds)
        monitor.after_step(taken.terms, taken.mean_squared_error, taken.rays, self.learning_rate * fall)
        return taken.stop if self.ranks.several else bool(asked)

    def _do_chores(self, monitor: Monitor) -> None:
        """Pictures and checkpoints that are due, between two steps."""
        if monitor.folder is not None and monitor.stepped:
            self._when_due("picture", monitor, self._take_picture)
            self._when_due("checkpoint", monitor, self._save_in_run)

    def _when_due(self, what: str, monitor: Monitor, action: Callable[[Monitor], None]) -> None:
        before = time.perf_counter()
        if before - self._done[what] < self._every[what]:
            return
        if what not in self._cost and what == "picture":
            # A guess, until one has been taken: a ray takes a third of its time in a training step.
            self._cost[what] = math.prod(self.capture.size) / max(monitor.rays_per_second, 1.0) / 3
        if before - self._done[what] >= self._cost.get(what, 0.0) * (1 / OVERHEAD_SHARE - 1):
            action(monitor)
            self._done[what] = time.perf_counter()
            self._cost[what] = self._done[what] - before

    def _take_picture(self, monitor: Monitor) -> None:
        if self.folder is None or self._pictured == self.progress.step:
            return
        frame = watched_frame(self.capture, self.frames)
        with self.random.untouched(), self._exchanged():  # looking must not change what is learned
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
            self._save(self.folder.checkpoint, self.folder.previous_checkpoint)

    def _exchange(self) -> None:
        if self.ema is not None:
            self.ema.swap()
            self._averaged = not self._averaged

    def _exchanged(self) -> contextlib.AbstractContextManager[None]:
        return self.ema.swapped() if self.ema is not None else contextlib.nullcontext()
