"""The training loop of avatars: random rays of random frames, one Adam step at a time.

With several processes a step is: the same batch drawn by all; a share of it rendered and differentiated by each;
figures, gradients and buffers combined; the same update made by all. A process that fails still takes part in the
exchange, so that none waits for it, and the step ends with an error on all.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from headfields.data.live import LiveCapture
from headfields.losses.base import Loss, check_positive
from headfields.losses.function import as_losses
from headfields.losses.surface import DepthPrior
from headfields.renderers.padded import Buffers, PaddedSamples
from headfields.runs import checkpoint
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.folder import RunFolder, RunWriteError, last_good, write_picture, writing
from headfields.runs.functions import identity
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.nonfinite import BufferBackup, SkippedSteps, check_weights
from headfields.runs.progress import NanLossError, Progress
from headfields.runs.randomness import RandomStream, deterministic
from headfields.training.batches import BatchSource
from headfields.training.callbacks import (
    Callback,
    callback_names,
    callback_states,
    check_callbacks,
    load_callback_states,
)
from headfields.training.divergence import divergence, single_color_psnr
from headfields.training.evaluation import picture
from headfields.training.frames import check_rows, training_frame_weights, watched_frame
from headfields.training.late_steps import READ_EVERY, LateStep, LateSteps, StepFigures
from headfields.training.loggers import Loggers, check_loggers
from headfields.training.monitor import TrainingMonitor
from headfields.training.objective import Objective
from headfields.training.optimizers import (
    Hyperparameters,
    OptimizerFactory,
    RateSchedule,
    build_optimizer,
    own_groups,
)
from headfields.training.outcomes import FitResult, StepOutcome
from headfields.training.parameter_groups import group_rates
from headfields.training.parameter_groups import parameter_groups as default_groups
from headfields.training.processes import Processes, SharedBuffers, launch
from headfields.training.run_config import run_config
from headfields.training.step_graph import HostState, StepGraph
from headfields.training.warn import warn
from headfields.transfer import send_numbers

OVERHEAD_SHARE = 0.1
"""The largest share of the time that pictures may take, and that checkpoints may take."""

MOST_SKIPPED = 25
"""At most this many steps in a row may have gradients that overflow float16; each halves the scale."""


@dataclass(frozen=True)
class _Drawn:
    """This process's share of a step: B frames, and what rays or images of them should show and show."""

    frames: Tensor
    state: Any
    batch: Any
    rendering: Any

    def suspects(self) -> Float[Tensor, " b"]:
        """1 for frames with a state, target or color that is not finite, else 0."""
        rgb = self.rendering.rgb.detach()
        suspects = rgb.new_zeros(len(self.frames))
        colors = torch.cat([rgb, self.batch.target.to(rgb)], dim=-1)
        suspects[self.batch.frame[~colors.isfinite().all(dim=-1)]] = 1.0
        for name in ("vertices", "expression", "pose"):
            values = getattr(self.state, name, None)
            if values is not None:
                suspects[~values.flatten(1).isfinite().all(dim=1)] = 1.0
        return suspects

    def seen(self, count: int) -> Float[Tensor, " b"]:
        """1 for rows of the state, of at most `count`, with a rendered color that is not finite; no wait."""
        rgb = self.rendering.rgb.detach()
        bad = (~rgb.isfinite().all(dim=-1)).to(rgb).flatten()
        return bad.new_zeros(count).scatter_reduce_(0, self.batch.frame.long().flatten(), bad, "amax")


class Trainer:
    """Trains an avatar on a capture, with Adam or an optimizer of your own.

    Each step draws `frames_per_step` random training frames, updates the avatar with them (`avatar.update`: occupancy),
    renders `rays_per_step` random pixels of them and takes one optimizer step. The defaults are those of INSTA's
    released code (learning rate, betas, eps, L2, average) with fewer rays per step, for a CPU.

    Parameters named `table` or `*_table` (hash grids) form one group of the optimizer and all others
    another; weight decay applies to the latter alone. Adam is PyTorch's fused one: measured on 2 cores over INSTA's
    table of 33.6 million numbers it takes 28 ms per step, `foreach` 160 ms, and a step over the touched rows alone
    275 ms with a quarter of them touched, so there is no sparse variant.

    Args:
        avatar: a `headfields.Avatar` or `headfields.SplatAvatar`, or any module with the `forward`, `update` and
            `render` of one; moved to `device`. With `whole_images = True` (avatars of Gaussians) a step renders its
            frames whole: the arguments on rays and patches do not apply.
        capture: the `headfields.data.Capture` to learn from; its split "train" is used.
        losses: their weighted sum is minimized: losses as in `headfields.losses`, and functions of `(rendering, batch)`
            or `(rendering, batch, step)` that return a scalar tensor (see `headfields.losses.FunctionLoss`).
        rays_per_step: rays rendered a step.
        samples_per_step: target number of composited samples per step; `rays_per_step` is then where the number of
            rays starts: few while space is unexplored, more as emptiness is learned, between an eighth and four times
            `rays_per_step` (INSTA's released code: 2^18 samples, from 4096 rays on). None keeps `rays_per_step`.
        frames_per_step: frames they come from (all training frames, if there are fewer); 8 if None, or 1 for an avatar
            that renders whole images.
        frame_weights: (F,) how often each frame of the capture is drawn, uniformly if None; see
            `headfields.data.yaw_balanced_weights`.
        pixel_weights: sampling weights of pixels by label or region; see `Capture.sample_pixels`.
        learning_rate: learning rate of the tables, and of the networks unless `network_learning_rate` is given.
        network_learning_rate: learning rate of the networks. At rates that suit tables, small networks lose units for
            good, so a tenth of `learning_rate` or less is worth a try.
        learning_rates: learning rates of parts with a `rate_group`, by its name: `{"warp": 1e-4}` for an `ErrorWarp`
            and its codes, `{"codes": 1e-3}` for the latent tables of the avatar. Groups without an entry have the
            networks' rate.
        schedule: `"constant"` (INSTA); `"exponential"`: falls to `final_rate` times the learning rate over the run; or
            a function of the fraction of the run that is done, or of `(fraction, step)`, to the factor on all rates.
        final_rate: final factor of the learning rates; see `schedule`.
        betas, eps: parameters of Adam; an `optimizer` of your own has its own.
        weight_decay: L2 added to the gradient of the networks, 1e-6 if None. With an `optimizer` of your own it is part
            of the networks' group if it is given.
        optimizer: function from the parameter groups to an optimizer, instead of Adam: `torch.optim.AdamW`, or
            `lambda groups: torch.optim.SGD(groups, momentum=0.9)`. A group is a dict with `params`, `name` and `lr`,
            its rate as above; a rate that the function writes into a group replaces it.
        parameter_groups: dicts with `params`, and optionally `name`, `lr` and other arguments of the optimizer, instead
            of tables and networks; each trainable parameter is in one. A group without `lr` has the rate of its name in
            `learning_rates`, else that of the networks.
        ema: decay of the average of the weights per step; 0 turns it off.
        background: behind training pixels; see `Capture.sample_pixels`. Random, so that emptiness is learned.
        patch: side in pixels of square patches, for losses on images: `headfields.losses.SSIMLoss`, `LPIPSLoss` or a
            function that reads `rendering.rgb[batch.patches]`. None draws single rays alone. See
            `Capture.sample_patches`.
        patches_per_step: number of patches of a step; their rays are part of `rays_per_step`, and the others are drawn
            one by one.
        seed: seed of all random numbers. On the CPU the same seed gives the same weights, if the end is given in steps.
        out: run folder for log, pictures and checkpoints; None writes nothing.
        device: a torch device; "auto" is CUDA where there is one.
        devices: number of processes that train together, each on a device of its own (on the CPU: sharing its cores);
            on CUDA also a list of device numbers. `rays_per_step` is the number of rays of all together. The script is
            started again for each further process, unless torchrun has started them.
        strategy: `"ddp"` or `"auto"`, which is `"ddp"` with several devices.
        precision: `"32-true"`, `"bf16-mixed"` or `"16-mixed"` (with a gradient scaler), as Lightning Fabric names
            them. Networks compute in 16 bits; geometry, compositing and parameters stay in float32. Few CPUs gain
            from bfloat16, and none from float16.
        graph: whether a step on CUDA is captured once and replayed (a CUDA graph). "auto": where it can be; why it is
            not, says the log and `trainer.graph_reason`. True is an error where it cannot be.
        checkpoint_seconds, picture_seconds: seconds between checkpoints and between pictures.
        callbacks: objects with some of the methods of `headfields.training.Callback`, which the trainer calls.
        loggers: further logs of the figures: loggers of Lightning Fabric, or `"csv"`, `"tensorboard"` or `"wandb"`,
            which write to RUN/logs.
        bar: show a progress bar on stderr.

    Attributes:
        capture, losses, optimizer, ema: what the avatar (`trainer.avatar`) is trained on, and with what.
        graph_reason: why steps are not captured as a CUDA graph; empty where they are.
        config: what config.json in the run folder says; add entries of your own before `fit`.
        progress: steps, seconds and best PSNR of the watched validation frame.
        processes: this process among those that train together; only `processes.is_first` writes files and shows the
            bar.

    Raises:
        ValueError: an argument is out of range, or the capture has no training frames.
    """

    def __init__(
        self,
        avatar: nn.Module,
        capture: Any,
        losses: Sequence[Loss | Callable[..., Tensor]] | Callable[..., Tensor],
        *,
        rays_per_step: int = 2048,
        samples_per_step: int | None = None,
        frames_per_step: int | None = None,
        frame_weights: Any = None,
        pixel_weights: Mapping[int | str, float | int] | None = None,
        learning_rate: float | int = 1.75e-3,
        network_learning_rate: float | int | None = None,
        learning_rates: Mapping[str, float | int] = MappingProxyType({}),
        schedule: str | Callable[..., float] = "constant",
        final_rate: float | int = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float | int = 1e-15,
        weight_decay: float | int | None = None,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: Sequence[Mapping[str, Any]] | None = None,
        ema: float | int = 0.95,
        background: str = "random",
        patch: int | None = None,
        patches_per_step: int = 1,
        seed: int = 0,
        out: Path | str | None = None,
        device: torch.device | str = "auto",
        devices: int | Sequence[int] = 1,
        strategy: str = "auto",
        precision: str = "32-true",
        graph: bool | str = "auto",
        checkpoint_seconds: float | int = 60.0,
        picture_seconds: float | int = 60.0,
        callbacks: Sequence[Any] = (),
        loggers: Sequence[Any] = (),
        bar: bool = True,
    ) -> None:
        network_rate = learning_rate if network_learning_rate is None else network_learning_rate
        whole_images = bool(getattr(avatar, "whole_images", False))
        if frames_per_step is None:
            frames_per_step = 1 if whole_images else 8
        check_positive(
            "Trainer", rays_per_step=rays_per_step, frames_per_step=frames_per_step, learning_rate=learning_rate,
            network_learning_rate=network_rate, final_rate=final_rate,
        )  # fmt: skip
        if samples_per_step is not None:
            check_positive("Trainer", samples_per_step=samples_per_step)
        self._schedule = RateSchedule(schedule, final_rate)
        if optimizer is not None and ((tuple(betas), eps) != ((0.9, 0.99), 1e-15)):
            raise ValueError(
                "Trainer: betas and eps are those of the trainer's Adam; give them to the optimizer of your own: "
                "optimizer=lambda groups: torch.optim.AdamW(groups, betas=..., eps=...)"
            )
        if weight_decay is None and optimizer is None:
            weight_decay = 1e-6
        losses = as_losses(losses)
        self.frames = torch.as_tensor(capture.splits.get("train", ()), dtype=torch.long)
        if not len(self.frames):
            raise ValueError(f"Trainer: capture {capture.name!r} has no training frames (split 'train')")
        check_rows(avatar, capture, self.frames)
        self.frame_weights = training_frame_weights(frame_weights, capture, self.frames)
        self.pixel_weights = dict(pixel_weights) if pixel_weights else None
        groups = (
            default_groups(avatar, weight_decay) if parameter_groups is None else own_groups(parameter_groups, avatar)
        )
        self.folder = RunFolder(out) if out is not None else None
        check_callbacks(callbacks)
        check_loggers(loggers, self.folder)
        self.callbacks = list(callbacks)
        named = [logger for logger in loggers if isinstance(logger, str)]
        objects = [logger for logger in loggers if not isinstance(logger, str)]
        self.fabric, self.scaler = launch(device, devices, strategy, precision, self.callbacks, objects)
        self._loggers = Loggers(self.fabric, named, self.folder)
        self.device = self.fabric.device
        self.processes = Processes(self.fabric.global_rank, self.fabric.world_size, self.device)
        rays_alone = {"samples_per_step": samples_per_step, "patch": patch, "pixel_weights": self.pixel_weights}
        if whole_images and any(rays_alone.values()):
            given = ", ".join(name for name, value in rays_alone.items() if value)
            raise ValueError(
                f"Trainer: {given} is about rays, and {type(avatar).__name__} renders whole images; leave it out"
            )
        self._batches = BatchSource(
            capture, self.processes, self.frames, self.frame_weights, frames_per_step, background, self.pixel_weights,
            patch, patches_per_step, whole_images,
        )  # fmt: skip
        if self._batches.patch_rays > rays_per_step:
            raise ValueError(
                f"Trainer: {patches_per_step} patches of {patch} x {patch} rays are {self._batches.patch_rays} rays, "
                f"and rays_per_step is {rays_per_step}; raise it, or pass smaller or fewer patches"
            )
        self.avatar: Any = avatar.to(self.device)
        self.processes.broadcast([*self.avatar.parameters(), *self.avatar.buffers()])  # all start from these
        self.capture, self.losses = capture, losses
        self._objective = Objective(losses, avatar)
        self._warn_without_labels()
        self.samples_per_step = samples_per_step
        self.rays_per_step, self.frames_per_step, self.background = rays_per_step, frames_per_step, background
        self.learning_rate, self.schedule, self.final_rate = learning_rate, schedule, final_rate
        self.rates = group_rates(groups, learning_rates, tables=learning_rate, networks=network_rate)
        groups = [{"lr": self.rates[group["name"]], **group} for group in groups]
        self.bar = bar
        if optimizer is None:
            on_cuda = self.device.type == "cuda"
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                groups, betas=betas, eps=eps, fused=True, capturable=on_cuda
            )
        else:
            self.optimizer = build_optimizer(optimizer, groups, avatar)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # as PyTorch's schedulers name it
        self._hyperparameters = Hyperparameters(self.optimizer)
        self.ema = ExponentialMovingAverage(avatar, ema) if ema else None
        self.progress = Progress()
        self.random = RandomStream(seed, self.device)
        self._options = _recorded_options(
            losses, rays_per_step=rays_per_step, samples_per_step=samples_per_step, frames_per_step=frames_per_step,
            learning_rate=learning_rate, network_learning_rate=network_rate, learning_rates=dict(learning_rates),
            schedule=self._schedule.name, final_rate=final_rate, betas=betas, eps=eps, weight_decay=weight_decay,
            optimizer=None if optimizer is None else identity(optimizer),
            parameter_groups=parameter_groups and [group["name"] for group in groups],
            ema=ema, background=background, seed=seed, precision=precision, capture=str(capture.name),
            frames=None if isinstance(capture, LiveCapture) else _digest(self.frames),  # they change while it runs
            frame_weights=_digest(self.frame_weights), pixel_weights=self.pixel_weights,
            callbacks=callback_names(callbacks), patch=patch, patches_per_step=patches_per_step,
            frozen=[name for name, parameter in avatar.named_parameters() if not parameter.requires_grad],
        )  # fmt: skip
        self.config = run_config(avatar, capture, self._options)
        self._buffers = SharedBuffers(self.processes, self.avatar)
        self._trained = {name: p for name, p in self.avatar.named_parameters() if p.requires_grad}
        self._prompt_reason = self._why_prompt()  # why the host reads the figures of each step
        self._late: LateSteps | None = None
        self._graph: StepGraph | None = None
        if graph not in (True, False, "auto"):
            raise ValueError(f"Trainer: graph is {graph!r}; expected True, False or 'auto'")
        self.graph_reason = "graph is False" if graph is False else self._why_no_graph()
        if graph is True and self.graph_reason:
            raise ValueError(f"Trainer: graph is True, and steps cannot be captured: {self.graph_reason}")
        self._overflows = 0  # steps in a row whose gradients overflowed float16
        self._skipped = SkippedSteps("frame")
        self._drawn: _Drawn | None = None  # the present step's, to name the frames of one that is not finite
        self._intervals = {"picture": picture_seconds, "checkpoint": checkpoint_seconds}
        self._cost: dict[str, float] = {}  # duration of the last checkpoint and the last picture, seconds
        self._stop: str | None = None  # the reason to stop that a callback has given
        self._callback_error: Exception | None = None
        self._pictured: int | None = None  # the step of the last picture
        self._averaged = False  # True between calls of fit: the avatar carries the average
        self._written_config: dict[str, Any] | None = None
        self._owns_folder = False  # whether the run in the folder is this trainer's
        self._saved: tuple[Path, int] | None = None  # the checkpoint written or read last, and its step

    def fit(self, steps: int | None = None, minutes: int | float | None = None, resume: bool = False) -> FitResult:
        """Trains until `steps` steps or `minutes` minutes are reached in all, whichever comes first.

        Both count from the start of training, over resumptions; `minutes` is wall time, including pictures and
        checkpoints. Afterwards the avatar is in evaluation mode and carries the averaged weights; a further call
        continues from the unaveraged ones. Ctrl-C ends the current step, saves a checkpoint and returns; a second one
        raises.

        Args:
            steps: total number of steps.
            minutes: total minutes.
            resume: continue from the checkpoint in the run folder, if there is one: the last, or the one before if the
                last cannot be read. The arguments of this trainer apply; a warning names those that differ from the
                ones the run was trained with.

        Raises:
            ValueError: neither limit is given, one is negative, or `resume` without `out`; or the checkpoint belongs
                to another model.
            NanLossError: no step of the last ten had a finite loss and gradient. Such a step is skipped and counted:
                weights, average and buffers stay those of the last step that was taken.
            RunLockedError: another training writes to the run folder.
            RunWriteError: the run folder cannot be written to, or its disk is full. The last checkpoint is intact.
            PeerError: another process of this training failed.
        """
        _check_limits(steps, minutes)
        if resume and self.folder is None:
            raise ValueError("Trainer.fit: resume=True needs the run folder; pass out= to Trainer")
        self._stop, self._callback_error = None, None
        with contextlib.ExitStack() as stack:
            if self._averaged:
                self._swap_average()
            if self.folder is not None:
                self._open(self.folder, stack, resume)
            self._record_limits(steps, minutes)
            self.processes.on_first(self._save_first)
            stack.enter_context(self.random.active())
            stack.enter_context(deterministic(self.device))
            interrupt = stack.enter_context(InterruptFlag())
            folder, bar = (self.folder, self.bar) if self.processes.is_first else (None, False)
            if self.processes.is_first:
                stack.push(lambda kind, error, trace: self._loggers.close(error is None))
                self._loggers.open(self.progress)
            monitor = TrainingMonitor(self.progress, steps, minutes, folder, bar, self.processes, self._loggers)
            stack.enter_context(monitor)
            self._backup, skipped_before = BufferBackup(self.avatar), self._skipped.total
            self._call_together("on_start")
            try:
                with self._late_steps():
                    interrupted = self._train(monitor, interrupt)
                self.avatar.eval()
                self._swap_average()
                if self.folder is not None:
                    path = self.folder.avatar
                    self.processes.on_first(lambda: self._save_avatar(path))
            except RunWriteError as error:
                raise RunWriteError(
                    f"step {self.progress.step}: {error}; training stops, and {self._last_good}. "
                    "Remedy that, and resume=True (--resume) continues from there"
                ) from error
            if self._skipped.total > skipped_before and self.processes.is_first:
                warn(f"Trainer: {self._skipped.summary()}")
            frames = {int(name): count for name, count in self._skipped.drawn.items()}
            result = FitResult(
                self.progress.step, self.progress.seconds, monitor.psnr, monitor.rays_per_second, interrupted,
                self._skipped.total, frames, self._stop, self._divergence(monitor),
            )  # fmt: skip
            self._call_together("on_end", result=result)
        return result

    def _divergence(self, monitor: TrainingMonitor) -> str | None:
        """What shows that training has diverged, which the log and a warning say too; else None."""
        extra = self.progress.extra
        start, best = extra.get("first_psnr", math.nan), extra.get("best_training_psnr", math.nan)
        reason = divergence(
            self.progress.step, start, best, monitor.psnr,
            lambda: single_color_psnr(self.capture, self.frames, self.background),
        )  # fmt: skip
        if reason is not None and self.processes.is_first:
            monitor.event("diverged", what=reason)
            warn(f"Trainer: training diverged: {reason}. A lower learning rate often helps")
        return reason

    def stop(self, reason: str) -> None:
        """Ends the running call of `fit` after the present step (with several processes, the next), for a callback.

        The log and `FitResult.stopped` have the reason. The run is saved as at its end, and can be resumed.
        """
        self._stop = str(reason)

    def resized(self) -> None:
        """Takes note of parameters and buffers of other sizes; a callback that changes them calls it afterwards.

        The optimizer is the callback's to keep in step, as `headfields.networks.Gaussians.take` does. Averages of
        parameters that are new start at their values.
        """
        self._trained = {name: p for name, p in self.avatar.named_parameters() if p.requires_grad}
        self._backup = BufferBackup(self.avatar)
        self._buffers = SharedBuffers(self.processes, self.avatar)
        if self.ema is not None:
            self.ema.resized(self.avatar)
        if self._late is not None:
            self._late.resized(self._trained, self._backup)
        if self._graph is not None:
            self._graph.forget()

    def take_frames(self, frames: Int64[Tensor, " f"], weights: Float[Tensor, " f"] | None = None) -> None:
        """Draws from other frames from the next step on, for a callback, as one that follows a live capture.

        With several processes, each has to be given the same.

        Args:
            frames: (F,) indices of the capture, in place of its training frames.
            weights: (F,) how often each of them is drawn, uniformly if None; positive.

        Raises:
            ValueError: there are no frames, or not one positive weight for each.
        """
        if not len(frames):
            raise ValueError("Trainer.take_frames: frames is empty; pass at least one")
        if weights is not None and (weights.shape != frames.shape or not bool((weights > 0).all())):
            raise ValueError(
                f"Trainer.take_frames: weights has shape {tuple(weights.shape)} for {len(frames)} frames; expected a "
                "positive number for each"
            )
        self.frames = frames
        self._batches.take_frames(frames, weights)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Any]:
        """Within the `with` block the avatar carries the averaged weights, in evaluation mode: for callbacks that look
        at it. Random numbers that are drawn in the block do not change the training."""
        training, swap = self.avatar.training, not self._averaged
        with self.random.preserved():
            if swap:
                self._swap_average()
            self.avatar.eval()
            try:
                yield self.avatar
            finally:
                self.avatar.train(training)
                if swap:
                    self._swap_average()

    def _warn_without_labels(self) -> None:
        label = getattr(self.capture, "label", None)
        if label is None or not any(isinstance(loss, DepthPrior) and loss.weight for loss in self.losses):
            return
        if label(int(self.frames[0])) is None:
            warn(
                f"Trainer: the depth prior is zero, because capture {self.capture.name!r} has no segmentation labels "
                "that say where the mesh is the surface; add labels, or leave the loss out"
            )

    @property
    def _last_good(self) -> str:
        """A clause about the newest checkpoint that exists, for messages."""
        return last_good(self._saved, self.folder)

    @property
    def rays_now(self) -> int:
        """The number of rays that the next step renders."""
        if self.samples_per_step is None:
            return self.rays_per_step
        return int(self.progress.extra.get("rays", self.rays_per_step))

    def save(self, path: Path | str) -> None:
        """Writes a checkpoint to `path`, atomically, on process 0 alone. The folder must exist.

        Raises:
            RunWriteError: it cannot be written; a file at `path` stays as it was.
            NanLossError: a weight is not finite.
        """
        self._save(Path(path), None)

    def load(self, path: Path | str) -> None:
        """Restores the state of a checkpoint; every process calls it.

        Args:
            path: a file that `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is cut short, or belongs to another model.
        """
        if self._averaged:
            self._swap_average()
        self.progress, random = checkpoint.load(path, self.avatar, self.optimizer, self.ema)
        self.resized()
        self.random.load(random)
        if self.scaler is not None and "scaler" in self.progress.extra:
            self.scaler.load_state_dict(self.progress.extra["scaler"])
        self._hyperparameters.load(self.progress.extra.get("hyperparameters", []))
        load_callback_states(self.callbacks, self.progress.extra.get("callbacks", {}))
        self._skipped.load(self.progress.extra.get("skipped", {}))
        self._saved = Path(path), self.progress.step

    def _open(self, folder: RunFolder, stack: contextlib.ExitStack, resume: bool) -> None:
        """Locks the run folder until the stack closes; loads its checkpoint or clears the folder for a new run."""

        def prepare() -> None:
            folder.create()
            with writing(folder.path):
                stack.enter_context(run_lock(folder.path))
            folder.remove_leftovers()
            folder.check_space(checkpoint.size(self.avatar, self.ema is not None))

        self.processes.on_first(prepare)
        if resume and folder.checkpoints:
            self._resume(folder)
        elif not self._owns_folder:
            self.processes.on_first(lambda: _replace_run(folder, resume))
        self._owns_folder = True
        self.processes.on_first(lambda: self._describe(folder))

    def _describe(self, folder: RunFolder) -> None:
        """Writes config.json, and the avatar's parts if the commands could not build them from it."""
        if self._written_config == self.config:
            return
        folder.write_config(self.config)
        self._written_config = dict(self.config)
        if self.config["model"] is not None and self.config["capture"] is not None:
            folder.parts.unlink(missing_ok=True)
        elif not folder.parts.exists() or not self.progress.step:
            self._save_avatar(folder.parts)

    def _save_avatar(self, path: Path) -> None:
        """Writes the avatar's file with a camera and a state, so that it can be looked at without its capture."""
        if not hasattr(self.avatar, "save"):
            return
        if getattr(self.avatar, "preview", self) is None:
            frame = self.frames[:1]
            self.avatar.preview = self.capture.camera(frame)[0], self.capture.state(frame)
        try:
            with writing(path):
                self.avatar.save(path)
        except TypeError as error:
            warn(f"Trainer: {path} is not written: {error}; checkpoints are, and trainer.avatar is trained")

    def _resume(self, folder: RunFolder) -> None:
        """Loads the newest checkpoint that can be read, on every process.

        Process 0 renames those that cannot, warns of them and of options that differ, and drops log lines after the
        checkpoint: those steps will be taken again.
        """
        error: Exception | None = None
        broken: list[tuple[Path, str]] = []
        try:
            _, broken = checkpoint.load_newest(folder.checkpoints, self.load)
        except Exception as raised:
            error = raised
        self.processes.raise_on_all(error)

        def tidy() -> None:
            for path, reason in broken:
                aside = path.with_suffix(".broken")
                with writing(aside):
                    os.replace(path, aside)
                warn(f"Trainer: {reason}; it is now {aside.name}, and {self._last_good}")
            changes = _differences(self.progress.extra.get("options", {}), self._options)
            if changes:
                warn(f"Trainer: {folder.path} continues with other options than before: {changes}")
            folder.rewind_log(self.progress.step)

        self.processes.on_first(tidy)

    def _record_limits(self, steps: int | None, minutes: int | float | None) -> None:
        """Notes limits and options for the next checkpoint; warns if a falling learning rate jumps."""
        limits = {"steps": steps, "minutes": minutes}
        changes = _differences(self.progress.extra.get("limits", {}), limits)
        if changes and self._schedule.follows_the_end and self.progress.step and self.processes.is_first:
            warn(
                f"Trainer: the learning rate falls over the whole run, whose end was at {changes}: it jumps to where a "
                "run of that length would have it"
            )
        self.progress.extra |= {"limits": limits, "options": self._options}

    def _save(self, path: Path, previous: Path | None) -> None:
        if not self.processes.is_first:
            return
        check_weights(self.avatar, f"{self._last_good}. Resume from there with a lower learning rate")
        if self.scaler is not None:
            self.progress.extra["scaler"] = self.scaler.state_dict()
        if any(self._hyperparameters.state()):
            self.progress.extra["hyperparameters"] = self._hyperparameters.state()
        if self.callbacks:
            self.progress.extra["callbacks"] = callback_states(self.callbacks)
        with self._average_swapped() if self._averaged else contextlib.nullcontext(), writing(path):
            states = self.random.states()
            checkpoint.save(path, self.avatar, self.optimizer, self.ema, states, self.progress, previous)
        self._saved = Path(path), self.progress.step

    def _save_first(self) -> None:
        """A checkpoint of the start, so that a run that is killed before the next one is resumed as the run it was."""
        if self.folder is not None and not self.folder.checkpoints:
            self._save(self.folder.checkpoint, None)

    def _train(self, monitor: TrainingMonitor, interrupt: InterruptFlag) -> bool:
        """Steps until the end or an interrupt; whether it was an interrupt."""
        entry = {"device": str(self.device), **{name: self.config[name] for name in ("recipe",) if name in self.config}}
        self.processes.on_first(lambda: monitor.event("resume" if self.progress.step else "start", **entry))
        self._last_done = dict.fromkeys(self._intervals, time.perf_counter())
        self.avatar.train()
        interrupted, stopped = bool(interrupt) and not self.processes.several, False
        if not self.processes.several:
            stopped = self._stop is not None
        while monitor.fraction < 1 and not interrupted and not stopped:
            outcome = self._step(monitor, interrupt)
            interrupted = outcome.interrupted if self.processes.several else bool(interrupt)
            stopped = outcome.stopped if self.processes.several else self._stop is not None
        if self._late is not None:
            self._read_figures(monitor)
        if self.processes.several:
            self.processes.raise_on_all(self._callback_error)
        if stopped and self._stop is None:
            self._stop = "a callback of another process"
        monitor.stop_clock()

        def finish() -> None:
            if not interrupted:
                self._take_picture(monitor)
            if self._stop is not None:
                monitor.event("stopped", reason=self._stop)
            self._save_in_run(monitor)
            monitor.event("interrupted" if interrupted else "end")

        self.processes.on_first(finish)
        return interrupted

    def _call(self, hook: str, **arguments: Any) -> None:
        """Calls a hook of the callbacks; random numbers that they draw do not change the training.

        Nor does `avatar.eval()` in one that looks at the avatar: the parts' modes come back.
        """
        if self.callbacks:
            modes = [(part, part.training) for part in self.avatar.modules()]
            training = self.avatar.training
            with self.random.preserved():
                self.fabric.call(hook, trainer=self, **arguments)
            if self.avatar.training != training:
                for part, mode in modes:
                    part.training = mode

    def _call_together(self, hook: str, **arguments: Any) -> None:
        """Calls a hook on all processes; the error of one is raised on all."""
        error: Exception | None = None
        try:
            self._call(hook, **arguments)
        except Exception as raised:
            error = raised
        if self.callbacks:
            self.processes.raise_on_all(error)

    def _step(self, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """One step."""
        decay = self._schedule(monitor.fraction, self.progress.step)
        monitor.tick()
        if not self._prompt_reason:
            return self._step_late(decay, monitor)
        outcome = self._optimize(decay, monitor, interrupt)
        if outcome.not_finite:
            self._skip(outcome.not_finite, monitor)
        elif self._drawn is not None:
            outcome = dataclasses.replace(outcome, rendering=self._drawn.rendering)
            taken = torch.ones((), dtype=torch.bool, device=self.device)
            self._call_launched(outcome.rendering, taken, self.progress.step)
        self._drawn = None
        self.progress.step += 1
        monitor.share_seconds(outcome.seconds)
        if outcome.not_finite:
            monitor.after_skipped_step(outcome.rays)
        else:
            self._skipped.accept()
            monitor.after_step(outcome.terms, outcome.mean_squared_error, outcome.rays, self.learning_rate * decay)
        try:
            self._call("on_step", outcome=outcome)
        except Exception as error:
            if not self.processes.several:
                raise
            self._callback_error = error  # raised in the next exchange, so that no process waits for this one
        return outcome

    def _why_prompt(self) -> str:
        """Why the host waits for the figures of each step; empty where the device may decide by them."""
        if self.device.type != "cuda":
            return "the device is no GPU"
        if self.processes.several:
            return "several processes train together"
        if self.scaler is not None:
            return "precision is '16-mixed', whose scale of the loss is read; 'bf16-mixed' has none"
        optimizer: Any = self.optimizer
        fused = all(group.get("fused") for group in optimizer.param_groups)
        if not (getattr(optimizer, "_step_supports_amp_scaling", False) and fused):
            return f"{type(optimizer).__name__} takes no step that the device may refuse; build it with fused=True"
        for name, callback in zip(callback_names(self.callbacks), self.callbacks, strict=True):
            method = getattr(callback, "on_step", None)
            reads = method is not None and getattr(method, "__func__", None) is not Callback.on_step
            if reads and not _has_launch_hook(callback):
                return f"the callback {name} has on_step, which reads the figures of each step"
        return ""

    def _why_no_graph(self) -> str:
        """Why steps are not captured as a CUDA graph; empty where they may be."""
        if self._prompt_reason:
            return self._prompt_reason
        if not getattr(getattr(self.avatar, "renderer", None), "takes_buffers", False):
            kind = type(getattr(self.avatar, "renderer", self.avatar)).__name__
            return f"the number of samples of {kind} differs from step to step, without a form of a fixed size"
        for group in self.optimizer.param_groups:
            if not group.get("capturable"):
                return f"{type(self.optimizer).__name__} is not capturable; build it with capturable=True"
        return ""

    @contextlib.contextmanager
    def _late_steps(self) -> Iterator[None]:
        """Within the block, steps that the host does not wait for have what they need, where they are to be taken."""
        if self._prompt_reason:
            yield
            return
        renderer = getattr(self.avatar, "renderer", None)
        takes_buffers = getattr(renderer, "takes_buffers", False)
        buffers = Buffers(self.device, renderer.buffer_names) if takes_buffers else None  # type: ignore[union-attr]
        if buffers is not None:
            renderer.sample_buffers = buffers  # type: ignore[union-attr]
            buffers.resize(self.progress.extra.get("sample_rows", {}))
        self._late = LateSteps(
            self._trained, self.optimizer, self.ema, self._backup, buffers, len(self.losses), self.frames_per_step,
            takes_buffers and not getattr(self.avatar, "whole_images", False), self.device,
        )  # fmt: skip
        rates = [group["lr"] for group in self.optimizer.param_groups]
        stream: Any = None
        context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if not self.graph_reason:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = torch.full((), rate, device=self.device)
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            context = torch.cuda.stream(stream)
            sizes = (lambda: {}) if buffers is None else (lambda: buffers.rows)
            self._graph = StepGraph(self._launch, HostState([self.avatar], self.losses), sizes, stream)
        try:
            with context:
                yield
        finally:
            if stream is not None:
                torch.cuda.current_stream(self.device).wait_stream(stream)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            self._late = self._graph = self._drawn = None
            if buffers is not None:
                renderer.sample_buffers = None  # type: ignore[union-attr]

    def _step_late(self, decay: float, monitor: TrainingMonitor) -> StepOutcome:
        """One step, whose figures are read when `READ_EVERY` steps have been launched, or before a checkpoint.

        Which steps those are follows from their numbers alone: a resumed run takes the steps of an unbroken one.
        """
        assert self._late is not None
        self._do_due(monitor)
        batch, frames, _, rays = self._batches.draw(self.rays_now, self.random.generator)
        own_state = self.capture.state(frames)
        sent, state = batch.to(self.device), own_state.to(self.device)
        self._prepare(state, decay)
        seconds, rate = self.progress.seconds, self.learning_rate * decay
        pixels = max(batch.alpha[:1].numel(), 1)  # of an image, or one of a ray
        step = LateStep(self.progress.step, frames, own_state, batch, rays * pixels, seconds, rate)
        if self._graph is None:
            self._launch(sent, state, self.progress.step)
        else:
            self._graph.run(sent, state, self.progress.step)
            self._report_graph(monitor)
        self._late.pending.append(step)
        self.progress.step += 1
        if self.progress.step == 1 and self.folder is not None:
            checkpoint.check_optimizer_state(self.avatar, self.optimizer)  # now, and not after a minute
        if self.progress.step % READ_EVERY == 0:
            self._read_figures(monitor)
            self._adapt_sizes()
        outcome = StepOutcome({}, math.nan, rays * pixels, seconds, False)
        if any(hasattr(callback, "on_step") for callback in self.callbacks):
            self._call("on_step", outcome=outcome)
        return outcome

    def _launch(self, batch: Any, state: Any, step: Any) -> None:
        """The device's part of a step."""
        assert self._late is not None
        figures = self._gradients(batch, state, state.frame_id, step, 1.0)
        assert self._drawn is not None
        with torch.no_grad():
            self._late.take(figures, self._drawn.seen(self.frames_per_step))
        self._call_launched(self._drawn.rendering, self._late.taken, step)
        self._drawn = None

    def _call_launched(self, rendering: Any, taken: Tensor, step: Any) -> None:
        """Calls the callbacks' part in what is launched: no random number, nothing that the host reads."""
        for callback in self.callbacks:
            if _has_launch_hook(callback):
                callback.on_launch(trainer=self, rendering=rendering, taken=taken, step=step)

    def _report_graph(self, monitor: TrainingMonitor) -> None:
        """Writes to the log that steps are not captured any more, and why."""
        assert self._graph is not None
        if self._graph.reason and not self.graph_reason:
            self.graph_reason = self._graph.reason
            monitor.event("graph", captured=False, reason=self.graph_reason)

    def _read_figures(self, monitor: TrainingMonitor) -> None:
        """Reads the figures of the steps that were launched since the last time, and does what they ask for.

        Raises:
            NanLossError: ten of them in a row were not finite; none of these has changed a weight.
        """
        assert self._late is not None
        names, extra = [loss.name for loss in self.losses], self.progress.extra
        for step, figures in self._late.read():
            terms = dict(zip(names, figures.losses, strict=True))
            bad = [f"loss {name}" for name, value in terms.items() if not math.isfinite(value)]
            norms = zip(self._trained, figures.norms, strict=True)
            bad = bad or [f"gradient of {name}" for name, value in norms if not math.isfinite(value)]
            if figures.overflow:
                extra["overflowed"] = extra.get("overflowed", 0) + 1
                monitor.event("overflow", step=step.step, samples=figures.needed, rows=self._sample_rows)
            most = extra.setdefault("needed", {})
            most |= {name: max(needed, most.get(name, 0)) for name, needed in figures.needed.items()}
            if bad:
                self._count_skipped(step, figures, ", ".join(bad), monitor)
                monitor.after_skipped_step(step.rays)
                continue
            self._skipped.accept()
            extra["samples"] = extra.get("samples", 0.0) + figures.samples
            extra["sampled_rays"] = extra.get("sampled_rays", 0) + step.rays
            monitor.after_step(terms, figures.squared_error, step.rays, step.rate, step.step + 1)

    def _count_skipped(self, step: LateStep, figures: StepFigures, what: str, monitor: TrainingMonitor) -> None:
        """Counts a step that the device has not taken, as `_skip` does one that the host undoes."""
        suspects = step.suspects(figures.seen[: len(step.frames)])
        frames = (step.frames[suspects] if bool(suspects.any()) else step.frames).tolist()
        monitor.event("skipped", step=step.step, what=what, frames=frames)
        try:
            self._skipped.skip(step.step, what, frames, f"{self._last_good}. A lower learning rate often helps")
        except NanLossError as error:
            monitor.event("nan", what=str(error))
            raise
        finally:
            self.progress.extra["skipped"] = self._skipped.state()

    @property
    def _sample_rows(self) -> dict[str, int]:
        """The sizes of the samples' buffers."""
        buffers = getattr(getattr(self.avatar, "renderer", None), "sample_buffers", None)
        return {} if buffers is None else dict(buffers.rows)

    def _adapt_sizes(self) -> None:
        """Fits the number of rays and the sizes of buffers to the samples of the steps that were read.

        Each change makes a step of other sizes, so the number of rays moves at once, and only by more than a tenth.
        """
        extra, buffers = self.progress.extra, getattr(getattr(self.avatar, "renderer", None), "sample_buffers", None)
        samples, rays = extra.pop("samples", 0.0), extra.pop("sampled_rays", 0)
        needed = extra.pop("needed", {})
        if self.samples_per_step is not None and samples:
            target = rays / samples * self.samples_per_step
            target = int(min(max(target, self.rays_per_step / 8, 1), 4 * self.rays_per_step))
            if abs(target - self.rays_now) > 0.1 * self.rays_now:
                scale, extra["rays"] = target / self.rays_now, target
                needed = {name: math.ceil(count * scale) for name, count in needed.items()}
        if buffers is not None:
            buffers.fit(needed)
            extra["sample_rows"] = dict(buffers.rows)

    def _skip(self, what: str, monitor: TrainingMonitor) -> None:
        """Undoes and counts a step that is not finite; all processes call it together.

        Raises:
            NanLossError: it is one too many in a row.
        """
        self._backup.restore()
        self.optimizer.zero_grad(set_to_none=True)
        assert self._drawn is not None
        suspects = self.processes.maximum(self._drawn.suspects())
        frames = self._drawn.frames[(suspects > 0).cpu()] if bool(suspects.any()) else self._drawn.frames
        monitor.event("skipped", what=what, frames=frames.tolist())
        try:
            self._skipped.skip(
                self.progress.step, what, frames.tolist(), f"{self._last_good}. A lower learning rate often helps"
            )
        except NanLossError as error:
            monitor.event("nan", what=str(error))
            raise
        finally:
            self.progress.extra["skipped"] = self._skipped.state()

    def _optimize(self, decay: float, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """Due pictures and checkpoints, then one optimizer step of all processes.

        Args:
            decay: factor on the learning rates.

        Raises:
            NanLossError: float16 overflows at any scale.
            PeerError: another process failed.
        """
        names, seconds = [loss.name for loss in self.losses], self.progress.seconds
        failure: Exception | None = None
        self._drawn = None
        try:
            if self._callback_error is not None:
                raise self._callback_error
            self._do_due(monitor)
            figures, rays = self._differentiate(decay)
        except Exception as error:
            if not self.processes.several:
                raise
            failure, rays = error, 0
            figures = torch.zeros(len(names) + 2, dtype=torch.double, device=self.device)
            self.optimizer.zero_grad(set_to_none=True)
            self._buffers.snapshot()
        has_gradient = [p.grad is not None for p in self._trained.values()]
        status = [seconds, bool(interrupt), failure is not None, self._stop is not None, *has_gradient]
        row = torch.cat([figures, send_numbers(status, torch.double, self.device)])
        table = self.processes.gather(row)
        self.processes.sum_gradients(list(self._trained.values()))
        self._buffers.merge()
        gradients = {name: p.grad for name, p in self._trained.items() if p.grad is not None}
        if self.scaler is not None and gradients:
            self.scaler.unscale_(self.optimizer)
        # The 2-norm runs at memory speed; a norm that overflows is as good a reason to skip as a NaN.
        norms = [n.double() for n in torch._foreach_norm(list(gradients.values()))] if gradients else []
        numbers = torch.cat([table.flatten(), *(norm[None] for norm in norms)]).tolist()  # the one wait for the device
        width = table.shape[1]
        rows = [numbers[rank * width : (rank + 1) * width] for rank in range(self.processes.count)]
        norms_by_name = dict(zip(gradients, numbers[table.numel() :], strict=True))
        return self._apply(names, rows, norms_by_name, rays, failure, monitor)

    def _differentiate(self, decay: float) -> tuple[Float[Tensor, " l"], int]:
        """Renders this process's share of a batch and computes its gradients.

        Returns:
            The weighted losses and the squared error, scaled by the share's fraction of all rays, then the number of
            samples of the share; and the number of rays of all processes.
        """
        step, several = self.progress.step, self.processes.several
        batch, frames, first, rays = self._batches.draw(self.rays_now, self.random.generator)
        batch, state = batch.to(self.device), self.capture.state(frames).to(self.device)
        self._prepare(state, decay)
        own_numbers = self.random.share(first, rays) if several else contextlib.nullcontext()
        with own_numbers:
            figures = self._gradients(batch, state, frames, step, len(batch) / max(rays, 1))
        pixels = batch.alpha[:1].numel()  # of an image, or one of a ray
        return figures, rays * max(pixels, 1)

    def _prepare(self, state: Any, decay: float) -> None:
        """What a step does before it renders: learning rates, schedules of parts, occupancy."""
        for group in self.optimizer.param_groups:
            rate = group["initial_lr"] * decay
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._backup.keep()
        self.avatar.update(state, self.progress.step)
        self._buffers.snapshot()

    def _gradients(self, batch: Any, state: Any, frames: Tensor, step: Any, fraction: float) -> Float[Tensor, " l"]:
        """Renders a share of a batch, `fraction` of its rays, and computes its gradients: figures of `_differentiate`.

        The device's part of a step: it does not wait for the device where the parts do not.
        """
        with self.fabric.autocast():
            rendering = self.avatar(batch.view, state, batch.background)
            values = self._objective(rendering, batch, step)
            total = values.sum()
        self.optimizer.zero_grad(set_to_none=True)
        if total.requires_grad:  # false if there are no samples, as when every ray misses the head
            self.fabric.backward(total * fraction if self.processes.several else total)
        with torch.no_grad():
            squared_error = (rendering.rgb - batch.target).square().sum() / max(rendering.rgb.numel(), 1)
            scaled = torch.stack([value.detach().double() for value in (*values, squared_error)]) * fraction
            samples = torch.full_like(scaled[0], 0.0 if rendering.samples is None else float(len(rendering.samples)))
            if isinstance(rendering.samples, PaddedSamples):
                samples = rendering.samples.count.to(scaled)
            self._drawn = _Drawn(frames, state, batch, rendering)
            return torch.cat([scaled, samples[None]])

    def _apply(
        self,
        names: list[str],
        rows: list[list[float]],
        norms: Mapping[str, float],
        rays: int,
        failure: Exception | None,
        monitor: TrainingMonitor,
    ) -> StepOutcome:
        """Checks the step of all processes and updates the parameters.

        Args:
            names: names of the L losses.
            rows: one per process: L weighted losses, squared error, samples; seconds, whether interrupted, failed,
                stopped; and for each trained parameter whether it has a gradient.
            norms: gradient norms, by parameter.
            rays: number of rays of all processes.
            failure: this process's error.
            monitor: writes the log.
        """
        count = len(names) + 2
        figures = [math.fsum(row[i] for row in rows) for i in range(count)]
        seconds, interrupted = rows[0][count], any(row[count + 1] for row in rows)
        if any(row[count + 2] for row in rows):
            self.processes.raise_on_all(failure)
        for i, parameter in enumerate(self._trained.values()):
            if not any(row[count + 4 + i] for row in rows):
                parameter.grad = None  # unused on every process, so the optimizer skips it
        terms = dict(zip(names, figures, strict=False))
        stopped = any(row[count + 3] for row in rows)
        outcome = StepOutcome(terms, figures[len(terms)], rays, seconds, interrupted, stopped=stopped)
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        place = _processes_not_finite(rows, [names.index(name) for name in bad])
        not_finite = f"loss {', '.join(bad)}{place}" if bad else ""
        bad = [name for name, value in norms.items() if not math.isfinite(value)]
        if bad and not not_finite and self.scaler is None:
            not_finite = f"gradient of {', '.join(bad)}"
        if not_finite:
            if self.scaler is not None and norms:
                self.scaler.update()  # a NaN lowers the scale as an overflow does
            return dataclasses.replace(outcome, not_finite=not_finite)
        self._overflows = self._overflows + 1 if bad else 0
        if self._overflows > MOST_SKIPPED:
            what = f"gradient of {', '.join(bad)}"
            monitor.event("nan", what=what)
            raise NanLossError(
                f"step {self.progress.step}: {what} overflows float16 at any scale; {self._last_good}. Train with "
                "precision='bf16-mixed' or '32-true', or a lower learning rate"
            )
        if self.scaler is None:
            self.optimizer.step()
            if not self.progress.step and self.folder is not None:
                checkpoint.check_optimizer_state(self.avatar, self.optimizer)  # now, and not after a minute
        elif norms:
            self.scaler.step(self.optimizer)  # does nothing where float16 overflowed
            self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        self._adapt_rays(rays, figures[len(terms) + 1])
        return outcome

    def _adapt_rays(self, rays: int, samples: float) -> None:
        """Moves the number of rays a fifth of the way to the one that would give `samples_per_step`.

        The number is part of the checkpoint, so that a resumed run takes the steps of an unbroken one.
        """
        if self.samples_per_step is None or not rays or not samples:
            return
        target = 0.8 * rays + 0.2 * rays * self.samples_per_step / samples
        self.progress.extra["rays"] = int(min(max(target, self.rays_per_step / 8, 1), 4 * self.rays_per_step))

    def _do_due(self, monitor: TrainingMonitor) -> None:
        """Takes a picture and saves a checkpoint if they are due; called between two steps."""
        if monitor.folder is not None and monitor.stepped:
            self._when_due("picture", monitor, self._take_picture)
            self._when_due("checkpoint", monitor, self._save_in_run)

    def _when_due(self, name: str, monitor: TrainingMonitor, action: Callable[[TrainingMonitor], None]) -> None:
        now = time.perf_counter()
        if now - self._last_done[name] < self._intervals[name]:
            return
        if name not in self._cost and name == "picture":
            # An estimate for the first one: rendering a ray takes a third of its time in a training step.
            self._cost[name] = math.prod(self.capture.size) / max(monitor.rays_per_second, 1.0) / 3
        if now - self._last_done[name] >= self._cost.get(name, 0.0) * (1 / OVERHEAD_SHARE - 1):
            if self._late is not None:
                self._read_figures(monitor)
            action(monitor)
            self._last_done[name] = time.perf_counter()
            self._cost[name] = self._last_done[name] - now

    def _take_picture(self, monitor: TrainingMonitor) -> None:
        if self.folder is None or self._pictured == self.progress.step:
            return
        frame = watched_frame(self.capture, self.frames)
        with self.averaged() as avatar:
            image, psnr = picture(avatar, self.capture, frame, device=self.device)
        self._pictured = self.progress.step
        best = self.progress.best_psnr
        self.progress.best_psnr = psnr if best is None else max(best, psnr)
        write_picture(self.folder.images / f"step_{self.progress.step:06d}.png", image)
        monitor.tick()
        monitor.event("picture", frame=frame, psnr=round(psnr, 3))
        self._loggers.picture(self.progress.step, image, psnr)
        self._call("on_picture", image=image, psnr=psnr)

    def _save_in_run(self, monitor: TrainingMonitor) -> None:
        if self.folder is not None:
            monitor.tick()
            self._save(self.folder.checkpoint, self.folder.previous_checkpoint)
            self._loggers.save()
            self._call("on_checkpoint", path=self.folder.checkpoint)

    def _swap_average(self) -> None:
        if self.ema is not None:
            self.ema.swap()
            self._averaged = not self._averaged

    def _average_swapped(self) -> contextlib.AbstractContextManager[None]:
        return self.ema.swapped() if self.ema is not None else contextlib.nullcontext()


def _has_launch_hook(callback: Any) -> bool:
    method = getattr(callback, "on_launch", None)
    return method is not None and getattr(method, "__func__", None) is not Callback.on_launch


def _check_limits(steps: int | None, minutes: int | float | None) -> None:
    """Raises ValueError unless at least one limit is given and each is a number that is not negative."""
    if steps is None and minutes is None:
        raise ValueError("Trainer.fit: neither steps nor minutes is given; pass one or both")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 0):
        raise ValueError(f"Trainer.fit: steps is {steps!r}; expected an integer, 0 or more")
    if minutes is not None:
        is_number = isinstance(minutes, Real) and not isinstance(minutes, bool)
        if not is_number or not math.isfinite(minutes) or minutes < 0:
            raise ValueError(f"Trainer.fit: minutes is {minutes!r}; expected a finite number, 0 or more")


def _processes_not_finite(rows: list[list[float]], columns: list[int]) -> str:
    """The processes with a number that is not finite in one of the columns, for a message."""
    if len(rows) == 1 or not columns:
        return ""
    ranks = [str(rank) for rank, row in enumerate(rows) if any(not math.isfinite(row[i]) for i in columns)]
    return f" (on process {', '.join(ranks)})"


def _replace_run(folder: RunFolder, resume: bool) -> None:
    """Renames the checkpoint of another run in the folder and starts the log anew."""
    if resume and folder.read_log():
        warn(f"Trainer: {folder.path} has no checkpoint to resume from; its run starts anew, at step 0")
    aside = folder.set_aside()
    if aside is not None:
        warn(
            f"Trainer: {folder.path} held another run, which this one replaces; its checkpoint is now {aside.name}. "
            "resume=True would have continued it"
        )
    folder.rewind_log(-1)


def _recorded_options(losses: Sequence[Loss], **options: Any) -> dict[str, Any]:
    """The trainer's arguments as a checkpoint records them, after a round trip through JSON."""
    texts = [
        identity(loss)
        if dataclasses.is_dataclass(loss)
        else f"{type(loss).__name__}({loss.name!r}, weight={loss.weight})"
        for loss in losses
    ]
    weights = {loss.name: loss.weight for loss in losses}
    return json.loads(json.dumps({**options, "losses": texts, "loss_weights": weights}))


def _digest(weights: Tensor | None) -> str | None:
    """A short hash that distinguishes sets of weights."""
    return None if weights is None else hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`name=old (now new), ...` for all entries of both that differ; empty if none do."""
    changed = [name for name in now if name in before and before[name] != now[name]]
    return ", ".join(f"{name}={before[name]!r} (now {now[name]!r})" for name in changed)
