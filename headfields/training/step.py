"""One optimizer step, by one process or several."""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headfields.training.frames import draw_frames
from headfields.training.ranks import SharedBuffers

MOST_SKIPPED = 25
"""So many steps in a row may have gradients that overflow float16; the scale falls by half with each."""


class NotFiniteError(RuntimeError):
    """A loss, or the gradient of a parameter, is not finite; the message names it."""


@dataclass(frozen=True)
class Taken:
    """What a step came to, over the rays of all processes: the same on each.

    Attributes:
        terms: weighted losses by name.
        mean_squared_error: of the color.
        rays: how many.
        seconds: the clock of process 0.
        stop: whether any process was asked to stop.
    """

    terms: dict[str, float]
    mean_squared_error: float
    rays: int
    seconds: float
    stop: bool


class Stepper:
    """Takes the steps of a `Trainer`.

    With several processes a step is: the same batch drawn by all; a share of it rendered and differentiated by each;
    figures, gradients and buffers put together; the same update made by all. An error on one process goes through
    all of that with the others, so that none waits for it, and ends the step on all.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._ranks = trainer.ranks
        self._buffers = SharedBuffers(trainer.ranks, trainer.avatar)
        self._named = {name: p for name, p in trainer.avatar.named_parameters() if p.requires_grad}
        self._skipped = 0

    def take(self, fall: float, seconds: float, asked: Callable[[], bool], chores: Callable[[], None]) -> Taken:
        """One step.

        Args:
            fall: what the learning rates are multiplied with.
            seconds: this process's clock.
            asked: whether it has been asked to stop, by the end of its part of the step.
            chores: done first; an error in them is one of the step.

        Raises:
            NotFiniteError: a loss or a gradient is not finite; the weights are those before the step.
            PeerError: another process failed.
        """
        trainer, names = self._trainer, [loss.name for loss in self._trainer.losses]
        failure: Exception | None = None
        try:
            chores()
            figures, rays = self._differentiate(fall)
        except Exception as error:
            if not self._ranks.several:
                raise
            failure, rays = error, 0
            figures = torch.zeros(len(names) + 2, dtype=torch.double, device=trainer.device)
            trainer.optimizer.zero_grad(set_to_none=True)
            self._buffers.remember()
        present = [p.grad is not None for p in self._named.values()]
        told = [seconds, asked(), failure is not None, *present]
        row = torch.cat([figures, torch.tensor(told, dtype=torch.double, device=trainer.device)])
        table = self._ranks.table(row)
        self._ranks.add_gradients(list(self._named.values()))
        self._buffers.merge()
        gradients = {name: p.grad for name, p in self._named.items() if p.grad is not None}
        if trainer.scaler is not None and gradients:
            trainer.scaler.unscale_(trainer.optimizer)
        # The 2-norm runs at memory speed, and one not representable is as good a reason to stop as a NaN.
        norms = [n.double() for n in torch._foreach_norm(list(gradients.values()))] if gradients else []
        found = torch.cat([table.flatten(), *(norm[None] for norm in norms)]).tolist()  # the one wait for the device
        width = table.shape[1]
        rows = [found[rank * width : (rank + 1) * width] for rank in range(self._ranks.count)]
        return self._apply(names, rows, dict(zip(gradients, found[table.numel() :], strict=True)), rays, failure)

    def _differentiate(self, fall: float) -> tuple[Tensor, int]:
        """The weighted terms and the squared error, scaled to this process's part of all rays, and its samples; and how
        many rays there are on all."""
        trainer, step = self._trainer, self._trainer.progress.step
        random = trainer.random.generator
        chosen = draw_frames(trainer.frames, trainer.frame_weights, trainer.frames_per_step, random)
        by_label = {} if trainer.pixel_weights is None else {"weights": trainer.pixel_weights}
        batch, frames = trainer.capture.sample_pixels(
            chosen, trainer.rays_now, random, background=trainer.background, **by_label
        )
        rays, share = len(batch), self._ranks.share(len(batch))
        part = (share.stop - share.start) / max(rays, 1)
        if self._ranks.several:
            batch = batch[share]
        batch, state = batch.to(trainer.device), trainer.capture.state(frames).to(trainer.device)
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.rates[group["name"]] * fall
        trainer.avatar.update(state, step)
        self._buffers.remember()
        apart = trainer.random.part(share.start, rays) if self._ranks.several else contextlib.nullcontext()
        with apart, trainer.fabric.autocast():
            rendering = trainer.avatar(batch.rays, state, batch.background)
            values = [(loss(rendering, batch, step) * loss.weight).float() for loss in trainer.losses]
            total = torch.stack(values).sum()
        trainer.optimizer.zero_grad(set_to_none=True)
        if total.requires_grad:  # not so if no sample was taken anywhere, say where every ray misses the head
            trainer.fabric.backward(total * part if self._ranks.several else total)
        with torch.no_grad():
            squared_error = (rendering.rgb - batch.target).square().sum() / max(rendering.rgb.numel(), 1)
            parts = torch.stack([value.detach().double() for value in (*values, squared_error)]) * part
            samples = 0 if rendering.samples is None else len(rendering.samples)
            return torch.cat([parts, parts.new_tensor([float(samples)])]), rays

    def _apply(
        self,
        names: list[str],
        rows: list[list[float]],
        norms: Mapping[str, float],
        rays: int,
        failure: Exception | None,
    ) -> Taken:
        trainer = self._trainer
        count = len(names) + 2
        figures = [math.fsum(row[i] for row in rows) for i in range(count)]
        seconds, stop = rows[0][count], any(row[count + 1] for row in rows)
        if any(row[count + 2] for row in rows):
            self._ranks.all_or_none(failure)
        for i, parameter in enumerate(self._named.values()):
            if not any(row[count + 3 + i] for row in rows):
                parameter.grad = None  # it took no part on any process, so the optimizer leaves it alone
        terms = dict(zip(names, figures, strict=False))
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        if bad:
            raise NotFiniteError(f"loss {', '.join(bad)}{self._where(rows, [names.index(name) for name in bad])}")
        bad = [name for name, value in norms.items() if not math.isfinite(value)]
        self._skipped = self._skipped + 1 if bad else 0
        if bad and (trainer.scaler is None or self._skipped > MOST_SKIPPED):
            raise NotFiniteError(f"gradient of {', '.join(bad)}")
        if trainer.scaler is None:
            trainer.optimizer.step()
        elif norms:
            trainer.scaler.step(trainer.optimizer)  # does nothing where float16 overflowed
            trainer.scaler.update()
        if trainer.ema is not None:
            trainer.ema.update()
        trainer.aim_rays(rays, figures[len(terms) + 1])
        return Taken(terms, figures[len(terms)], rays, seconds, stop)

    def _where(self, rows: list[list[float]], columns: list[int]) -> str:
        if not self._ranks.several:
            return ""
        ranks = [str(rank) for rank, row in enumerate(rows) if any(not math.isfinite(row[i]) for i in columns)]
        return f" (on process {', '.join(ranks)})"
