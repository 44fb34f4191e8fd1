"""The training loop: rays in, an avatar out; anything that can go wrong in the night is provided for."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from headfields.losses import Loss
from headfields.training import checkpoint
from headfields.training.ema import ExponentialMovingAverage
from headfields.training.evaluation import picture
from headfields.training.interrupts import InterruptFlag
from headfields.training.run import RunFolder, write_picture

LOG_SECONDS = 1.0
OVERHEAD_SHARE = 0.1
"""Pictures and checkpoints come when due, but together with their like take no more than this share of the time."""


class NanLossError(RuntimeError):
    """A loss or a gradient is not finite. The message names the step, the term or parameter, and the last checkpoint."""


@dataclass(frozen=True)
class FitResult:
    """What a call of `Trainer.fit` came to.

    Attributes:
        step: optimiser steps taken in all.
        seconds: wall time of training in all, over resumptions.
        psnr: training PSNR, in dB, smoothed over the last steps.
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
    renders `rays_per_step` random pixels of them and takes one step. The defaults are those of INSTA's released code
    (learning rate, betas, eps, L2, average) with fewer rays a step, for a CPU.

    Parameters called `table` or `*_table` (hash grids, latent codes) form one group of the optimiser and all else
    another; weight decay is for the latter alone. Adam is PyTorch's fused one: measured on 2 cores over INSTA's table
    of 33.6 million numbers it takes 28 ms a step, `foreach` 160 ms, and a step over the touched rows alone 275 ms with
    a quarter of them touched, so there is no sparse variant.

    Args:
        avatar: the `headfields.Avatar` (or any module with its `forward` and `update`).
        capture: the `headfields.data.Capture` to learn from; its split "train" is used.
        losses: callables as in `headfields.losses`; their weighted sum is minimised.
        rays_per_step: rays rendered a step.
        frames_per_step: frames they come from.
        learning_rate: of both groups.
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
        schedule: str = "constant",
        final_rate: float | int = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-15,
        weight_decay: float | int = 1e-6,
        ema: float | int = 0.95,
        background: str | float | int = "random",
        seed: int = 0,
        out: Path | str | None = None,
        device: torch.device | str = "auto",
        precision: str = "32-true",
        checkpoint_seconds: float | int = 60.0,
        picture_seconds: float | int = 60.0,
        bar: bool = True,
    ) -> None:
        _positive(
            rays_per_step=rays_per_step,
            frames_per_step=frames_per_step,
            learning_rate=learning_rate,
            final_rate=final_rate,
        )
        if schedule not in ("constant", "exponential"):
            raise ValueError(f"Trainer: schedule is {schedule!r}; expected 'constant' or 'exponential'")
        if not losses:
            raise ValueError("Trainer: losses is empty; headfields.losses.insta_losses() is a start")
        names = [loss.name for loss in losses]
        if len(set(names)) < len(names):
            raise ValueError(
                f"Trainer: losses are called {names}; give each a name of its own, they are columns of the log"
            )
        self._train_frames = torch.as_tensor(capture.splits.get("train", ()), dtype=torch.long)
        if not len(self._train_frames):
            raise ValueError(
                f"Trainer: capture {capture.name!r} has no training frames; its splits are {sorted(capture.splits)}"
            )
        from lightning_fabric import Fabric  # half a second of import, so not for those who only import the package

        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        accelerator, index = torch.device(device).type, torch.device(device).index
        self.fabric = Fabric(
            accelerator=accelerator,
            devices=1 if index is None or accelerator == "cpu" else [index],
            precision=precision,
        )
        self.device = self.fabric.device
        self.avatar = avatar.to(self.device)
        self.capture, self.losses = capture, list(losses)
        self.rays_per_step, self.frames_per_step = rays_per_step, frames_per_step
        self.learning_rate, self.schedule, self.final_rate = learning_rate, schedule, final_rate
        self.background, self.seed = background, seed
        self.checkpoint_seconds, self.picture_seconds, self.bar = checkpoint_seconds, picture_seconds, bar
        self.folder = RunFolder(out) if out is not None else None
        self.optimizer = torch.optim.Adam(
            parameter_groups(avatar, weight_decay), lr=learning_rate, betas=betas, eps=eps,
            fused=all(p.is_floating_point() for p in avatar.parameters()),
        )  # fmt: skip
        self.ema = ExponentialMovingAverage(avatar, ema) if ema else None
        self.progress = checkpoint.Progress()
        self._generator = torch.Generator().manual_seed(seed)
        self._random: dict[str, Tensor] | None = None  # states of the global generators between calls of fit
        self._averaged = False  # True between calls of fit: the avatar carries the average
        self._saved_at: tuple[int, Path] | None = None

    def fit(self, steps: int | None = None, minutes: int | float | None = None, resume: bool = False) -> FitResult:
        """Trains until `steps` steps or `minutes` minutes are reached in all, whichever comes first.

        Both count from the start of training, over resumptions; `minutes` is wall time with pictures and checkpoints.
        Afterwards the avatar carries the averaged weights; a further call goes on from the unaveraged ones.
        Ctrl-C ends the step at hand, saves a checkpoint and returns.

        Args:
            steps: total number of steps.
            minutes: total minutes.
            resume: go on from the checkpoint in the run folder, if there is one.

        Raises:
            ValueError: neither limit is given, or `resume` without `out`.
            NanLossError: a loss or gradient is not finite; weights are those before that step.
        """
        if steps is None and minutes is None:
            raise ValueError("Trainer.fit: neither steps nor minutes is given; say when to stop")
        if resume and self.folder is None:
            raise ValueError("Trainer.fit: resume=True needs the run folder; pass out= to Trainer")
        if self.folder is not None:
            self.folder.create()
        if self._averaged:
            self._exchange()
        if resume and self.folder is not None and self.folder.checkpoint.exists():
            self._load(self.folder.checkpoint)
        self._begin(steps, minutes)
        interrupted = False
        with self._own_randomness(), InterruptFlag() as stop, self._progress_bar(steps, minutes) as bar:
            self.avatar.train()
            while self._fraction() < 1:
                terms, squared_error, count = self._step()
                self._after_step(terms, squared_error, count, bar)
                if stop:
                    interrupted = True
                    break
            self._random = self._random_states()
            self._end(interrupted)
        return FitResult(self.progress.step, self.progress.seconds, self._psnr, self._rate(), interrupted)

    def save(self, path: Path | str) -> None:
        """Writes a checkpoint to `path`, atomically."""
        if self._averaged:
            self._exchange()
            try:
                return self.save(path)
            finally:
                self._exchange()
        random = self._random_states() if self._random is None or self._inside else self._random
        checkpoint.save(path, self.avatar, self.optimizer, self.ema, random, self.progress)
        self._saved_at = (self.progress.step, Path(path))

    _inside = False

    # One step

    def _step(self) -> tuple[dict[str, float], float, int]:
        chosen = torch.randperm(len(self._train_frames), generator=self._generator)[: self.frames_per_step]
        batch, frames = self.capture.sample_pixels(
            self._train_frames[chosen], self.rays_per_step, self._generator, background=self.background
        )
        batch, state = batch.to(self.device), self.capture.state(frames).to(self.device)
        step = self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.current_rate()
        self.avatar.update(state, step)
        with self.fabric.autocast():
            rendering = self.avatar(batch.rays, state, batch.background)
            values = [loss(rendering, batch, step) * loss.weight for loss in self.losses]
            total = torch.stack([value.float() for value in values]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        if total.requires_grad:
            self.fabric.backward(total)
        gradients = {name: p.grad for name, p in self.avatar.named_parameters() if p.grad is not None}
        with torch.no_grad():
            squared_error = (rendering.rgb - batch.target).square().sum()
            # one trip to the host a step for all that is looked at there
            norms = torch._foreach_norm(list(gradients.values()), math.inf) if gradients else []
            looked_at = torch.stack(
                [*(v.detach().double() for v in values), squared_error.double(), *(n.double() for n in norms)]
            ).tolist()
        terms = dict(zip([loss.name for loss in self.losses], looked_at, strict=False))
        self._refuse_nan("loss", terms)
        self._refuse_nan("gradient of", dict(zip(gradients, looked_at[len(values) + 1 :], strict=True)))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        self.progress.step += 1
        return terms, looked_at[len(values)], len(batch)

    def current_rate(self) -> float:
        """The learning rate at this point of the run."""
        return self.learning_rate * (self.final_rate ** self._fraction() if self.schedule == "exponential" else 1.0)

    def _refuse_nan(self, what: str, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            last = (
                f"the last good checkpoint is {self._saved_at[1]} (step {self._saved_at[0]})"
                if self._saved_at
                else "there is no checkpoint (pass out= to Trainer)"
            )
            if self.folder is not None:
                self.folder.log(event="nan", step=self.progress.step, what=f"{what} {', '.join(bad)}")
            raise NanLossError(
                f"step {self.progress.step}: {what} {', '.join(bad)} is not finite; {last}. A lower learning rate often helps"
            )

    # Around the steps

    def _begin(self, steps: int | None, minutes: float | None) -> None:
        self._limits = (steps, minutes)
        self._started = time.perf_counter() - self.progress.seconds
        self._call_started, self._call_rays = time.perf_counter(), 0
        self._psnr = math.nan
        self._log_due = time.perf_counter()
        self._spent = {"checkpoint": 0.0, "picture": 0.0}
        self._due = {"checkpoint": time.perf_counter() + self.checkpoint_seconds, "picture": time.perf_counter()}

    def _fraction(self) -> float:
        """How much of the run is over, in [0, 1]: by steps or by time, whichever is further."""
        steps, minutes = self._limits
        by_steps = self.progress.step / steps if steps else (0.0 if steps is None else 1.0)
        by_time = self.progress.seconds / (60 * minutes) if minutes else (0.0 if minutes is None else 1.0)
        return min(max(by_steps, by_time), 1.0)

    def _rate(self) -> float:
        return self._call_rays / max(time.perf_counter() - self._call_started, 1e-9)

    def _after_step(self, terms: dict[str, float], squared_error: float, count: int, bar: tqdm) -> None:
        self.progress.seconds = time.perf_counter() - self._started
        self._call_rays += count
        psnr = -10 * math.log10(max(squared_error / max(3 * count, 1), 1e-12))
        self._psnr = psnr if math.isnan(self._psnr) else 0.95 * self._psnr + 0.05 * psnr
        self._advance(bar)
        now = time.perf_counter()
        if now >= self._log_due or self._fraction() >= 1:
            self._log_due = now + LOG_SECONDS
            bar.set_postfix_str(
                f"loss {sum(terms.values()):.4f}, {self._psnr:.2f} dB, {self._rate() / 1000:.1f}k rays/s", refresh=False
            )
            if self.folder is not None:
                self.folder.log(
                    step=self.progress.step, seconds=round(self.progress.seconds, 2), loss=sum(terms.values()), terms=terms,
                    psnr=round(self._psnr, 3), rays_per_second=round(self._rate()), learning_rate=self.current_rate(),
                )  # fmt: skip
        if self.folder is not None:
            self._when_due("picture", self.picture_seconds, self._take_picture)
            self._when_due("checkpoint", self.checkpoint_seconds, lambda: self.save(self.folder.checkpoint))

    def _when_due(self, what: str, every: float, action: Any) -> None:
        before = time.perf_counter()
        if before < self._due[what]:
            return
        action()
        took = time.perf_counter() - before
        self._due[what] = time.perf_counter() + max(every, took * (1 / OVERHEAD_SHARE - 1))

    def _take_picture(self) -> None:
        splits = self.capture.splits
        frame = int(
            next((splits[name][0] for name in ("val", "test") if len(splits.get(name, ()))), self._train_frames[0])
        )
        training = self.avatar.training
        random = self._random_states()
        with self._with_average():
            self.avatar.eval()
            image, psnr = picture(self.avatar, self.capture, frame, device=self.device)
        self.avatar.train(training)
        self._set_random(random)  # looking must not change what is learned
        best = self.progress.best_psnr
        self.progress.best_psnr = psnr if best is None else max(best, psnr)
        write_picture(self.folder.images / f"step_{self.progress.step:06d}.png", image)
        self.folder.log(event="picture", step=self.progress.step, frame=frame, psnr=round(psnr, 3))

    def _end(self, interrupted: bool) -> None:
        if self.folder is not None:
            if not interrupted:
                self._take_picture()
            self.progress.seconds = time.perf_counter() - self._started
            self.save(self.folder.checkpoint)
            self.folder.log(
                event="interrupted" if interrupted else "end",
                step=self.progress.step,
                seconds=round(self.progress.seconds, 2),
            )
        self.avatar.eval()
        self._exchange()

    def _load(self, path: Path) -> None:
        self.progress, random = checkpoint.load(path, self.avatar, self.optimizer, self.ema)
        self._generator.set_state(random.pop("trainer"))
        self._random = random
        self._saved_at = (self.progress.step, path)
        self.folder.log(event="resumed", step=self.progress.step)

    # The average and the random generators

    def _exchange(self) -> None:
        if self.ema is not None:
            self.ema.swap()
            self._averaged = not self._averaged

    def _with_average(self) -> contextlib.AbstractContextManager[None]:
        return self.ema.swapped() if self.ema is not None else contextlib.nullcontext()

    def _random_states(self) -> dict[str, Tensor]:
        states = {"trainer": self._generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_random(self, states: dict[str, Tensor]) -> None:
        if "torch" in states:
            torch.set_rng_state(states["torch"])
        if "cuda" in states and self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.device)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """The run's own stream of torch's global generators; the caller's is as it was afterwards."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            if self._random is None:
                torch.manual_seed(self.seed)
            else:
                self._set_random(self._random)
            self._inside = True
            try:
                yield
            finally:
                self._inside = False

    # The bar

    def _progress_bar(self, steps: int | None, minutes: float | None) -> tqdm:
        if steps is not None:
            return tqdm(total=steps, initial=self.progress.step, unit="step", disable=not self.bar, dynamic_ncols=True)
        form = "{percentage:3.0f}%|{bar}| {elapsed} ({remaining} left) {postfix}"
        return tqdm(
            total=60 * minutes, initial=self.progress.seconds, bar_format=form, disable=not self.bar, dynamic_ncols=True
        )

    def _advance(self, bar: tqdm) -> None:
        steps, minutes = self._limits
        to = self.progress.step if steps is not None else min(self.progress.seconds, 60 * minutes)
        bar.update(to - bar.n)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for the optimiser: tables (`table`, `*_table`; no decay) and networks (decay). Empty ones are left out."""
    tables, networks = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            (tables if last == "table" or last.endswith("_table") else networks).append(parameter)
    groups = [
        {"name": "tables", "params": tables, "weight_decay": 0.0},
        {"name": "networks", "params": networks, "weight_decay": weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("Trainer: the avatar has no trainable parameters")
    return groups


def _positive(**values: int | float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"Trainer: {name} is {value}; expected more than 0")
