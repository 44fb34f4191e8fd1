"""The training loop of avatars: random rays of random frames, or whole images, one step of the optimizer at a time.

What the loop is made of: what is trained and saved (`state`), the run folder (`run`), pictures and checkpoints
(`outputs`), and the step (`synchronous_steps`; on a GPU `asynchronous_steps`).
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from headfields.data.head_frame import motion_in_vertices
from headfields.data.live import LiveCapture
from headfields.encoders.vertex_source import VertexSource
from headfields.losses.base import Loss, check_positive
from headfields.losses.function import as_losses
from headfields.losses.surface import DepthPrior
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.folder import RunFolder, RunWriteError
from headfields.runs.functions import identity
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.nonfinite import BufferBackup
from headfields.runs.progress import Progress
from headfields.runs.randomness import RandomStream, deterministic
from headfields.training.batches import BatchSource
from headfields.training.callbacks import Hooks, callback_names, check_callbacks
from headfields.training.default_options import RELEASED_RATE, defaults_for
from headfields.training.divergence import divergence, single_color_psnr
from headfields.training.fine_tuning import FineTuning, beside
from headfields.training.frames import check_avatar_and_capture, check_latent_rows, training_frame_weights
from headfields.training.idle_options import idle_rates, refuse_idle
from headfields.training.loggers import Loggers, check_loggers
from headfields.training.monitor import TrainingMonitor
from headfields.training.objective import Objective
from headfields.training.optimizers import OptimizerFactory, RateSchedule, build_optimizer, own_groups
from headfields.training.option_kinds import check_kinds
from headfields.training.outputs import RunOutputs
from headfields.training.parameter_groups import group_rates
from headfields.training.parameter_groups import parameter_groups as default_groups
from headfields.training.processes import Processes, start_processes
from headfields.training.ray_count import RayCount
from headfields.training.results import FitResult
from headfields.training.run import TrainingRun, differences, recorded_options, weights_digest
from headfields.training.run_config import run_config
from headfields.training.state import TrainingState
from headfields.training.step_kinds import kind_of_steps
from headfields.training.warn import warn


class Trainer:
    """Trains an avatar on a capture, with Adam or an optimizer of your own.

    Each step draws `frames_per_step` random training frames, updates the avatar with them (`avatar.update`: occupancy),
    renders `rays_per_step` random pixels of them and takes one optimizer step.

    Where no rate, schedule, optimizer or parameter group is given, the avatar is trained as `headfields train` trains
    its kind on a CPU: a field of rays with the rates of `recipe_of("insta", "cpu")`, Gaussians with those of
    `recipe_of("gaussian_avatars", "cpu")`. They fall over the run. Give one of them, and the others are those of
    INSTA's released code: 1.75e-3 for everything, constant.

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
        rays_per_step: rays rendered a step; 2,048 if None, see `samples_per_step`.
        samples_per_step: target number of composited samples per step; `rays_per_step` is then where the number of
            rays starts: few while space is unexplored, more as emptiness is learned, between an eighth and four times
            `rays_per_step` (INSTA's released code: 2^18 samples, from 4096 rays on). None keeps `rays_per_step`, or is
            14,000 where that is None too and no patches are drawn.
        most_rays: largest number of rays that `samples_per_step` leads to, in place of four times `rays_per_step`
            (instant-ngp, and so INSTA's released code: 2^18).
        frames_per_step: frames they come from (all training frames, if there are fewer); 8 if None, or 1 for an avatar
            that renders whole images.
        fine_tuning: a `headfields.training.fine_tuning.FineTuning`: expression, joints and pose of each training frame
            are trained too, from the tracked ones on; None: the tracking stays. See docs/training.md.
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
        final_rate: final factor of the learning rates in an exponential schedule; a tenth if None.
        schedules: schedules of single groups in place of `schedule`, by their names, functions as there or
            `"constant"`: `{"position": lambda fraction: 0.01**fraction}`.
        betas, eps: parameters of Adam; (0.9, 0.99) for fields, (0.9, 0.999) for Gaussians, and 1e-15 if None. An
            `optimizer` of your own has its own.
        weight_decay: L2 added to the gradient of the networks, if None 1e-6 for fields, 0 for Gaussians. With an
            `optimizer` of your own it is part of the networks' group if it is given.
        optimizer: function from the parameter groups to an optimizer, instead of Adam: `torch.optim.AdamW`, or
            `lambda groups: torch.optim.SGD(groups, momentum=0.9)`. A group is a dict with `params`, `name` and `lr`,
            its rate as above; a rate that the function writes into a group replaces it.
        parameter_groups: dicts with `params`, and optionally `name`, `lr` and other arguments of the optimizer, instead
            of tables and networks; each trainable parameter is in one. A group without `lr` has the rate of its name in
            `learning_rates`, else that of the networks.
        ema: decay of the average of the weights per step, if None 0.95 for fields and 0 for Gaussians; 0 turns it off.
        background: behind training pixels; see `Capture.sample_pixels`. Random, so that emptiness is learned.
        patch: side in pixels of square patches, for losses on images: `headfields.losses.SSIMLoss`, `LPIPSLoss` or a
            function that reads `rendering.rgb[batch.patches]`. None draws single rays alone. See
            `Capture.sample_patches`.
        patches_per_step: number of patches of a step, 1 if None; their rays are part of `rays_per_step`, and the others
            are drawn one by one.
        seed: seed of all random numbers. On the CPU the same seed gives the same weights, if the end is given in steps.
        out: run folder for log, pictures and checkpoints; None writes nothing.
        device: a torch device; "auto" is CUDA where there is one.
        devices: number of processes that train together, each on a device of its own (on the CPU: sharing its cores);
            on CUDA also a list of device numbers. `rays_per_step` is the number of rays of all together. The script is
            started again for each further process, unless torchrun has started them.
        num_nodes: number of machines that train together, each with `devices` processes. On each the script is started
            once, by torchrun or with `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT` in the environment, as for Lightning
            Fabric; `out` is a folder that all see.
        strategy: `"ddp"` or `"auto"`, which is `"ddp"` with several devices or machines.
        precision: `"32-true"`, `"bf16-mixed"` or `"16-mixed"` (with a gradient scaler), as Lightning Fabric names
            them. Networks compute in 16 bits; geometry, compositing and parameters stay in float32. Few CPUs gain
            from bfloat16, and none from float16.
        asynchronous: whether steps on CUDA are launched without waiting for the losses of the one before, which are
            read every 32 steps. False is the plain loop, a step at a time, as on the CPU: to debug a loss. "auto":
            where it can be; True is an error where it cannot.
        graph: whether an asynchronous step is captured once and replayed (a CUDA graph). "auto": where it can be; why
            it is not, says the log and `trainer.graph_reason`. True is an error where it cannot be.
        checkpoint_seconds, picture_seconds: seconds between checkpoints and between pictures.
        callbacks: objects with some of the methods of `headfields.training.Callback`, which the trainer calls.
        loggers: further logs of the metrics: loggers of Lightning Fabric, or `"csv"`, `"tensorboard"` or `"wandb"`,
            which write to RUN/logs.
        bar: show a progress bar on stderr.

    Attributes:
        capture, losses, optimizer, ema: what the avatar (`trainer.avatar`) is trained on, and with what.
        corrections: of the tracking, with `fine_tuning`, else None.
        graph_reason: why steps are not captured as a CUDA graph; empty where they are.
        config: what config.json in the run folder says; add entries of your own before `fit`.
        progress: steps, seconds and best PSNR of the watched validation frame.
        fraction: share of the run that was done when the present or last step began, in [0, 1], by steps or minutes.
        processes: this process among those that train together; only `processes.is_first` writes files and shows the
            bar.

    Raises:
        TypeError: `avatar` or `capture` is something else, as swapped ones, or a path; or an option is of another kind,
            as a text for a number.
        ValueError: an argument is out of range, or the capture has no training frames.
    """

    def __init__(
        self,
        avatar: nn.Module,
        capture: Any,
        losses: Sequence[Loss | Callable[..., Tensor]] | Callable[..., Tensor],
        *,
        rays_per_step: int | None = None,
        samples_per_step: int | None = None,
        most_rays: int | None = None,
        frames_per_step: int | None = None,
        fine_tuning: FineTuning | None = None,
        frame_weights: Any = None,
        pixel_weights: Mapping[int | str, float | int] | None = None,
        learning_rate: float | int | None = None,
        network_learning_rate: float | int | None = None,
        learning_rates: Mapping[str, float | int] = MappingProxyType({}),
        schedule: str | Callable[..., float] | None = None,
        final_rate: float | int | None = None,
        schedules: Mapping[str, str | Callable[..., float]] = MappingProxyType({}),
        betas: tuple[float, float] | None = None,
        eps: float | int | None = None,
        weight_decay: float | int | None = None,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: Sequence[Mapping[str, Any]] | None = None,
        ema: float | int | None = None,
        background: str = "random",
        patch: int | None = None,
        patches_per_step: int | None = None,
        seed: int = 0,
        out: Path | str | None = None,
        device: torch.device | str = "auto",
        devices: int | Sequence[int] = 1,
        num_nodes: int = 1,
        strategy: str = "auto",
        precision: str = "32-true",
        asynchronous: bool | str = "auto",
        graph: bool | str = "auto",
        checkpoint_seconds: float | int = 60.0,
        picture_seconds: float | int = 60.0,
        callbacks: Sequence[Any] = (),
        loggers: Sequence[Any] = (),
        bar: bool = True,
    ) -> None:
        check_avatar_and_capture("Trainer", avatar, capture)
        check_kinds(
            "Trainer", ("learning_rates", "schedules", "seed", "devices", "num_nodes", "checkpoint_seconds",
                        "picture_seconds", "callbacks", "loggers", "bar"),
            rays_per_step=rays_per_step, samples_per_step=samples_per_step, most_rays=most_rays,
            frames_per_step=frames_per_step, pixel_weights=pixel_weights, learning_rate=learning_rate,
            network_learning_rate=network_learning_rate, learning_rates=learning_rates, final_rate=final_rate,
            schedules=schedules, betas=betas, eps=eps, weight_decay=weight_decay, parameter_groups=parameter_groups,
            ema=ema, patch=patch, patches_per_step=patches_per_step, seed=seed, out=out, devices=devices,
            num_nodes=num_nodes, checkpoint_seconds=checkpoint_seconds, picture_seconds=picture_seconds,
            callbacks=callbacks, loggers=loggers, bar=bar,
        )  # fmt: skip
        defaults = defaults_for(avatar)
        if optimizer is not None and not (betas is None and eps is None):
            raise ValueError(
                "Trainer: betas and eps are those of the trainer's Adam; give them to the optimizer of your own: "
                "optimizer=lambda groups: torch.optim.AdamW(groups, betas=..., eps=...)"
            )
        requested = {"learning_rate": learning_rate, "network_learning_rate": network_learning_rate}
        own_rates = (learning_rate, network_learning_rate, schedule, optimizer, parameter_groups)
        if all(value is None for value in own_rates) and not learning_rates:
            learning_rate, network_rate = defaults.learning_rate, defaults.network_learning_rate
            learning_rates, schedule = defaults.rates_of(avatar), defaults.schedule
        else:
            learning_rate = RELEASED_RATE if learning_rate is None else learning_rate
            network_rate = learning_rate if network_learning_rate is None else network_learning_rate
            schedule = "constant" if schedule is None else schedule
        betas, eps = defaults.betas if betas is None else betas, defaults.eps if eps is None else eps
        ema = defaults.ema if ema is None else ema
        whole_images = bool(getattr(avatar, "whole_images", False))
        if frames_per_step is None:
            frames_per_step = 1 if whole_images else 8
        rays_alone = {
            "rays_per_step": rays_per_step, "samples_per_step": samples_per_step, "most_rays": most_rays,
            "patch": patch, "pixel_weights": pixel_weights,
        }  # fmt: skip
        if rays_per_step is None and samples_per_step is None and patch is None and not whole_images:
            samples_per_step = defaults.samples
        rays_per_step = defaults.rays if rays_per_step is None else rays_per_step
        if final_rate is not None and schedule != "exponential":
            raise ValueError(
                f"Trainer: final_rate={final_rate!r} would change nothing: schedule is {schedule!r}, and "
                "'exponential' alone falls to it"
            )
        final_rate = 0.1 if final_rate is None else final_rate
        if patches_per_step is not None and patch is None:
            raise ValueError(
                f"Trainer: patches_per_step={patches_per_step!r} would change nothing without patch=, the side of a "
                "patch in pixels"
            )
        patches_per_step = 1 if patches_per_step is None else patches_per_step
        check_positive(
            "Trainer", rays_per_step=rays_per_step, frames_per_step=frames_per_step, learning_rate=learning_rate,
            network_learning_rate=network_rate, final_rate=final_rate,
        )  # fmt: skip
        if samples_per_step is not None:
            check_positive("Trainer", samples_per_step=samples_per_step)
        if most_rays is not None and (samples_per_step is None or most_rays < rays_per_step):
            raise ValueError(
                f"Trainer: most_rays is {most_rays}, with rays_per_step={rays_per_step} and samples_per_step="
                f"{samples_per_step}; it bounds the rays that samples_per_step leads to, and is no less than "
                "rays_per_step"
            )
        self._schedule = RateSchedule(schedule, final_rate)
        self._schedules = {name: RateSchedule(own, final_rate) for name, own in schedules.items()}
        requested["weight_decay"] = weight_decay or None
        if weight_decay is None and optimizer is None:
            weight_decay = defaults.weight_decay
        losses = as_losses(losses)
        frames = torch.as_tensor(capture.splits.get("train", ()), dtype=torch.long)
        if not len(frames):
            raise ValueError(f"Trainer: capture {capture.name!r} has no training frames (split 'train')")
        check_latent_rows(avatar, capture, frames)
        self.frame_weights = training_frame_weights(frame_weights, capture, frames)
        self.pixel_weights = dict(pixel_weights) if pixel_weights else None
        groups = (
            default_groups(avatar, weight_decay) if parameter_groups is None else own_groups(parameter_groups, avatar)
        )
        if fine_tuning is not None and not isinstance(fine_tuning, FineTuning):
            raise TypeError(
                f"Trainer: fine_tuning is a {type(fine_tuning).__name__}; expected a "
                "headfields.training.fine_tuning.FineTuning(...)"
            )
        self.corrections = None if fine_tuning is None else fine_tuning.corrections(capture)
        self.folder = RunFolder(out) if out is not None else None
        check_callbacks(callbacks)
        check_loggers(loggers, self.folder)
        self.callbacks = list(callbacks)
        named = [logger for logger in loggers if isinstance(logger, str)]
        objects = [logger for logger in loggers if not isinstance(logger, str)]
        self.fabric, self.scaler = start_processes(
            device, devices, strategy, precision, self.callbacks, objects, num_nodes
        )
        self._loggers = Loggers(self.fabric, named, self.folder)
        self.device = self.fabric.device
        self.processes = Processes(self.fabric.global_rank, self.fabric.world_size, self.device)
        if whole_images and any(rays_alone.values()):
            given = ", ".join(name for name, value in rays_alone.items() if value)
            raise ValueError(
                f"Trainer: {given} is about rays, and {type(avatar).__name__} renders whole images; leave it out"
            )
        self._batches = BatchSource(
            capture, self.processes, frames, self.frame_weights, frames_per_step, background, self.pixel_weights,
            patch, patches_per_step, whole_images,
        )  # fmt: skip
        if self._batches.patch_rays > rays_per_step:
            raise ValueError(
                f"Trainer: {patches_per_step} patches of {patch} x {patch} rays are {self._batches.patch_rays} rays, "
                f"and rays_per_step is {rays_per_step}; raise it, or pass smaller or fewer patches"
            )
        self.avatar: Any = avatar.to(self.device)
        self.processes.broadcast([*self.avatar.parameters(), *self.avatar.buffers()])  # all start from these
        trained: nn.Module = self.avatar
        if fine_tuning is not None and self.corrections is not None:
            trained = beside(self.avatar, self.corrections.to(self.device))
        self.capture, self.losses, self.background, self.bar = capture, losses, background, bar
        self._warn_without_labels()
        self._warn_of_motion(frames)
        idle = idle_rates(groups, learning_rates, networks_differ=network_learning_rate is not None)
        if not any(group.get("weight_decay") for group in groups):
            idle["weight_decay"] = "no part is a network, and tables have none"
        refuse_idle("Trainer", requested, idle)
        self.rates = group_rates(groups, learning_rates, tables=learning_rate, networks=network_rate)
        groups = [{"lr": self.rates[group["name"]], **group} for group in groups]
        absent = sorted(self._schedules.keys() - {group["name"] for group in groups})
        if absent:
            raise ValueError(
                f"Trainer: schedules has {absent[0]!r}; the groups of this avatar are "
                f"{sorted({group['name'] for group in groups})}"
            )
        if fine_tuning is not None and self.corrections is not None:
            groups += self.corrections.groups(fine_tuning.rates)
            self.rates |= {group["name"]: group["lr"] for group in groups}
        if optimizer is None:
            on_cuda = self.device.type == "cuda"
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                groups, betas=betas, eps=eps, fused=True, capturable=on_cuda
            )
        else:
            self.optimizer = build_optimizer(optimizer, groups, trained)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # as PyTorch's schedulers name it
        self.ema = ExponentialMovingAverage(trained, ema) if ema else None
        self.fraction = 0.0
        self.random = RandomStream(seed, self.device)
        self._options = recorded_options(
            losses, rays_per_step=rays_per_step, samples_per_step=samples_per_step, most_rays=most_rays,
            frames_per_step=frames_per_step,
            learning_rate=None if "learning_rate" in idle else learning_rate,
            network_learning_rate=None if "network_learning_rate" in idle else network_rate,
            learning_rates=dict(learning_rates),
            schedule=self._schedule.name, schedules={name: own.name for name, own in self._schedules.items()},
            final_rate=final_rate, betas=betas, eps=eps, weight_decay=weight_decay,
            optimizer=None if optimizer is None else identity(optimizer),
            parameter_groups=parameter_groups and [group["name"] for group in groups],
            ema=ema, background=background, seed=seed, precision=precision, capture=str(capture.name),
            frames=None if isinstance(capture, LiveCapture) else weights_digest(frames),  # they change while it runs
            frame_weights=weights_digest(self.frame_weights), pixel_weights=self.pixel_weights,
            callbacks=callback_names(callbacks), patch=patch, patches_per_step=patches_per_step,
            fine_tuning=None if fine_tuning is None else fine_tuning.recorded(),
            frozen=[name for name, parameter in avatar.named_parameters() if not parameter.requires_grad],
        )  # fmt: skip
        self.config = run_config(avatar, capture, self._options)
        self._state = TrainingState(
            self.avatar, self.optimizer, self.ema, self.random, self.scaler, self.callbacks, self.folder, trained
        )
        self._hooks = Hooks(self, self.callbacks, self.fabric, self.random, self.processes)
        self._outputs = RunOutputs(
            self._state, capture, self._batches, self.folder, self._hooks, self._loggers, self.device,
            picture_seconds, checkpoint_seconds,
        )  # fmt: skip
        self._rays = RayCount(self._state, rays_per_step, samples_per_step, most_rays)
        self._objective = Objective(losses, avatar)
        kind, reason = kind_of_steps(
            asynchronous, graph, self.avatar, losses, self.device, self.processes, self.scaler, self.optimizer,
            self.callbacks, fine_tuning is not None,
        )  # fmt: skip
        self._steps = kind(
            self._state, capture, self._batches, self._rays, self._objective, self.fabric, self.processes,
            self._outputs, self._hooks, learning_rate, reason,
        )  # fmt: skip
        if fine_tuning is not None and self.corrections is not None:
            self._steps.fine_tuning = self.corrections.from_step(fine_tuning.start)
        self._paused: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self._run: TrainingRun | None = None
        if self.folder is not None:
            self._run = TrainingRun(self.folder, self._state, capture, self._batches, self.processes, self._options)

    def fit(
        self,
        steps: int | None = None,
        minutes: int | float | None = None,
        resume: bool = False,
        *,
        rays: int | None = None,
        processor_minutes: int | float | None = None,
    ) -> FitResult:
        """Trains until one of the limits is reached: steps, minutes, rays or processor minutes, whichever comes first.

        All count from the start of training, over resumptions; `minutes` is wall time, including pictures and
        checkpoints. A falling learning rate ends with the limit that is nearest. Afterwards the avatar is in evaluation
        mode and carries the averaged weights; a further call continues from the unaveraged ones. Ctrl-C ends the
        current step, saves a checkpoint and returns; a second one raises.

        Args:
            steps: total number of steps.
            minutes: total minutes.
            rays: total number of rays, or of pixels of whole images.
            processor_minutes: total processor time of this process in minutes, over all its threads. One process alone.
            resume: continue from the checkpoint in the run folder, if there is one: the last, or the one before if the
                last cannot be read. The arguments of this trainer apply; a warning names those that differ from the
                ones the run was trained with.

        Raises:
            ValueError: no limit is given, one is negative, `resume` without `out`, or processor minutes of several
                processes; or the checkpoint belongs to another model.
            NanLossError: no step of the last ten had a finite loss and gradient. Such a step is skipped and counted:
                weights, average and buffers stay those of the last step that was taken.
            RunLockedError: another training writes to the run folder.
            RunWriteError: the run folder cannot be written to, or its disk is full. The last checkpoint is intact.
            PeerError: another process of this training failed.
        """
        _check_limits(steps, minutes, rays, processor_minutes)
        if processor_minutes is not None and self.processes.several:
            raise ValueError("Trainer.fit: processor_minutes counts one process, and several train; pass minutes")
        if resume and self.folder is None:
            raise ValueError("Trainer.fit: resume=True needs the run folder; pass out= to Trainer")
        self._hooks.stop_reason, self._hooks.error = None, None
        state, hooks = self._state, self._hooks
        with contextlib.ExitStack() as stack:
            if state.has_average:
                state.swap_average()
            if self._run is not None:
                self._open(self._run, stack, resume)
            self._record_limits({"steps": steps, "minutes": minutes}, rays=rays, processor_minutes=processor_minutes)
            if self._run is not None:
                self.processes.on_first(self._run.save_first)
            stack.enter_context(self.random.active())
            stack.enter_context(deterministic(self.device))
            interrupt = stack.enter_context(InterruptFlag())
            folder, bar = (self.folder, self.bar) if self.processes.is_first else (None, False)
            if self.processes.is_first:
                stack.push(lambda kind, error, trace: self._loggers.close(error is None))
                self._loggers.open(self.progress)
            monitor = TrainingMonitor(
                self.progress, steps, minutes, folder, bar, self.processes, self._loggers, rays, processor_minutes
            )
            stack.enter_context(monitor)
            self._paused = monitor.paused
            state.backup, skipped_before = BufferBackup(self.avatar), state.skipped.total
            hooks.call_together("on_start")
            try:
                interrupted = self._train(monitor, interrupt)
                self.avatar.eval()
                state.swap_average()
                if self._run is not None:
                    self.processes.on_first(self._run.save_last)
            except RunWriteError as error:
                raise RunWriteError(
                    f"step {self.progress.step}: {error}; training stops, and {state.last_good}. "
                    "Remedy that, and resume=True (--resume) continues from there"
                ) from error
            if state.skipped.total > skipped_before and self.processes.is_first:
                warn(f"Trainer: {state.skipped.summary()}")
            frames = {int(name): count for name, count in state.skipped.drawn.items()}
            result = FitResult(
                self.progress.step, self.progress.seconds, monitor.psnr, monitor.rays_per_second, interrupted,
                state.skipped.total, frames, hooks.stop_reason, self._divergence(monitor),
            )  # fmt: skip
            hooks.call_together("on_end", result=result)
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
        self._hooks.stop_reason = str(reason)

    def resized(self) -> None:
        """Takes note of parameters and buffers of other sizes; a callback that changes them calls it afterwards.

        The optimizer is the callback's to keep in step, as `headfields.networks.Gaussians.take` does. Averages of
        parameters that are new start at their values.
        """
        self._state.resized()
        self._steps.resized()

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
        self._batches.take_frames(frames, weights)

    def averaged(self) -> contextlib.AbstractContextManager[Any]:
        """Within the `with` block the avatar carries the averaged weights, in evaluation mode: for callbacks that look
        at it. Random numbers that are drawn in the block do not change the training."""
        return self._state.averaged()

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """What a callback does within the `with` block takes no time of the run's: validation, say."""
        return self._paused()

    @property
    def frames(self) -> Int64[Tensor, " f"]:
        """(F,) the frames that steps draw from."""
        return self._batches.frames

    @property
    def progress(self) -> Progress:
        """Steps, seconds and best PSNR of the watched validation frame."""
        return self._state.progress

    @property
    def rays_now(self) -> int:
        """The number of rays that the next step renders."""
        return self._rays.now

    @property
    def graph_reason(self) -> str:
        """Why steps are not captured as a CUDA graph; empty where they are."""
        return self._steps.graph_reason

    def save(self, path: Path | str) -> None:
        """Writes a checkpoint to `path`, atomically, on process 0 alone. The folder must exist.

        Raises:
            RunWriteError: it cannot be written; a file at `path` stays as it was.
            NanLossError: a weight is not finite.
        """
        if self.processes.is_first:
            self._state.save(Path(path), None)

    def load(self, path: Path | str) -> None:
        """Restores the state of a checkpoint; every process calls it.

        Args:
            path: a file that `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is cut short, or belongs to another model.
        """
        self._state.load(path)
        self._steps.resized()

    def _open(self, run: TrainingRun, stack: contextlib.ExitStack, resume: bool) -> None:
        """Opens the run folder, and loads its checkpoint if the run is resumed."""
        run.open(stack, resume)
        self._steps.resized()
        self.processes.on_first(lambda: run.describe(self.config))

    def _warn_without_labels(self) -> None:
        label = getattr(self.capture, "label", None)
        if label is None or not any(isinstance(loss, DepthPrior) and loss.weight for loss in self.losses):
            return
        if label(int(self.frames[0])) is None:
            warn(
                f"Trainer: the depth prior is zero, because capture {self.capture.name!r} has no segmentation labels "
                "that say where the mesh is the surface; add labels, or leave the loss out"
            )

    def _warn_of_motion(self, frames: Tensor) -> None:
        """A part that does not follow the head learns each of its poses as another head."""
        parts = [getattr(self.avatar, "deformer", None)]
        parts += [part for part in self.avatar.modules() if isinstance(part, VertexSource)]
        still = [type(part).__name__ for part in parts if part is not None and not part.follows_head]
        if not still or getattr(self.capture, "head_frame", None) is not None:
            return
        motion = motion_in_vertices(self.capture, frames.tolist())
        if not motion.is_still:
            names = f"{' and '.join(still)} {'does' if len(still) == 1 else 'do'} not follow it"
            warn(
                f"Trainer: the head moves by {motion} in the vertices of capture {self.capture.name!r}, and {names}: "
                "load_capture(..., head_frame='normalize') moves the head's motion into the cameras"
            )

    def _record_limits(self, limits: Mapping[str, Any], **further: Any) -> None:
        """Notes limits and options for the next checkpoint; warns if a falling learning rate jumps."""
        limits = {**limits, **{name: limit for name, limit in further.items() if limit is not None}}
        changes = differences(self.progress.extra.get("limits", {}), limits)
        if changes and self._schedule.follows_the_end and self.progress.step and self.processes.is_first:
            warn(
                f"Trainer: the learning rate falls over the whole run, whose end was at {changes}: it jumps to where a "
                "run of that length would have it"
            )
        self.progress.extra |= {"limits": limits, "options": self._options}

    def _train(self, monitor: TrainingMonitor, interrupt: InterruptFlag) -> bool:
        """Steps until the end or an interrupt; whether it was an interrupt."""
        hooks, several = self._hooks, self.processes.several
        entry = {"device": str(self.device), **{name: self.config[name] for name in ("recipe",) if name in self.config}}
        self.processes.on_first(lambda: monitor.event("resume" if self.progress.step else "start", **entry))
        self._outputs.start_clock()
        self.avatar.train()
        interrupted, stopped = bool(interrupt) and not several, hooks.stop_reason is not None and not several
        with self._steps.active(monitor):
            while monitor.fraction < 1 and not interrupted and not stopped:
                self.fraction = monitor.fraction
                decay = self._schedule(self.fraction, self.progress.step)
                self._steps.factors = {
                    name: own(self.fraction, self.progress.step) for name, own in self._schedules.items()
                }
                monitor.tick()
                outcome = self._steps.step(decay, monitor, interrupt)
                self.progress.count_rays(outcome.rays)
                interrupted = outcome.interrupted if several else bool(interrupt)
                stopped = outcome.stopped if several else hooks.stop_reason is not None
        if several:
            self.processes.raise_on_all(hooks.error)
        if stopped and hooks.stop_reason is None:
            hooks.stop_reason = "a callback of another process"
        monitor.stop_clock()

        def finish() -> None:
            if not interrupted:
                self._outputs.take_picture(monitor)
            if hooks.stop_reason is not None:
                monitor.event("stopped", reason=hooks.stop_reason)
            self._outputs.save(monitor)
            monitor.event("interrupted" if interrupted else "end")

        self.processes.on_first(finish)
        return interrupted


def _check_limits(
    steps: int | None, minutes: int | float | None, rays: int | None, processor_minutes: int | float | None
) -> None:
    """Raises ValueError unless at least one limit is given and each is a number that is not negative."""
    if steps is minutes is rays is processor_minutes is None:
        raise ValueError(
            "Trainer.fit: neither steps nor minutes is given; pass one or both, or rays or processor_minutes"
        )
    for name, count in (("steps", steps), ("rays", rays)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 0):
            raise ValueError(f"Trainer.fit: {name} is {count!r}; expected an integer, 0 or more")
    for name, duration in (("minutes", minutes), ("processor_minutes", processor_minutes)):
        if duration is not None:
            is_number = isinstance(duration, Real) and not isinstance(duration, bool)
            if not is_number or not math.isfinite(duration) or duration < 0:
                raise ValueError(f"Trainer.fit: {name} is {duration!r}; expected a finite number, 0 or more")
