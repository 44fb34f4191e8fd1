"""Trains in several processes, one scenario after the other, and saves each process's outcomes.

`python -m tests.training.processes OUT SCENARIO...`, run by `test_processes.py`. It is an ordinary script: Lightning
Fabric starts it again for the second process.
"""

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Static
from headfields.encoders import FrameCode, Frequency
from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss
from headfields.networks import LatentTable
from headfields.renderers import UniformSampler, VolumeRenderer
from headfields.runs.asynchronous import READ_EVERY
from headfields.training import Trainer
from tests.training.ball import BallCapture, ball_trainer
from tests.training.fakes import FakeAvatar, FakeCapture
from tests.training.gaussians import CONTROLS, make
from tests.training.late import late_steps

LATE_STEPS = 6
STEPS, CODES_STEPS, BALL_STEPS, BALL_RAYS = 16, 5, 56, 192  # the ball's grid culls from step 48 on
GAUSSIAN_STEPS = 9


class OneNumberARay(FakeAvatar):
    """Draws one random number a ray, as `OccupancySampler` does."""

    def forward(self, rays, state, background):
        jitter = 1e-3 * torch.rand(len(rays))[:, None] if self.training else 0.0
        was, self.training = self.training, False
        try:
            return super().forward(type(rays)(rays.origins, rays.directions + jitter, rays.frame), state, background)
        finally:
            self.training = was


def disc_trainer(seed: int = 0, losses=None, **options) -> Trainer:
    torch.manual_seed(seed)
    losses = [HuberColor(region_weight=1), OpacityLoss(0.1)] if losses is None else losses
    options = {"frames_per_step": 4, "learning_rate": 5e-3, "bar": False, "device": "cpu", **options}
    return Trainer(OneNumberARay(), FakeCapture(), losses, rays_per_step=255, seed=0, **options)


class Mischief(HuberColor):
    """Does something at step 5 (or from there on), on process 1 alone."""

    def __init__(self, what: str) -> None:
        super().__init__(region_weight=1)
        object.__setattr__(self, "what", what)

    def __call__(self, rendering, batch, step):
        value = super().__call__(rendering, batch, step)
        if os.environ.get("LOCAL_RANK", "0") == "1":
            if (self.what == "nans" and step >= 5) or (self.what == "nan" and step == 5):
                return value * math.nan
            if step != 5:
                return value
            if self.what == "error":
                raise ZeroDivisionError("on one process alone")
            if self.what == "interrupt":
                signal.raise_signal(signal.SIGINT)
        return value


class Stopping:
    """Stops the run after the third step of process 1 alone."""

    def on_launch(self, trainer, rendering, taken, step) -> None:
        if trainer.processes.rank == 1 and step == 2:
            trainer.stop("a test")


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    average = {} if trainer.ema is None else {f"ema/{name}": each for name, each in trainer.ema.average.items()}
    return {**{name: tensor.clone() for name, tensor in trainer.avatar.state_dict().items()}, **average}


def outcome(trainer: Trainer, **limits) -> dict[str, Any]:
    try:
        result = trainer.fit(**limits)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "step": trainer.progress.step}
    return {
        "step": result.step, "interrupted": result.interrupted, "psnr": result.psnr, "skipped": result.skipped,
        "state": tensors(trainer),
    }  # fmt: skip


def codes_trainer(**options) -> Trainer:
    """A ball with a learned code per frame, of which one is drawn in each step."""
    torch.manual_seed(0)
    capture = BallCapture()
    parts = Static(torch.tensor([[-0.15] * 3, [0.15] * 3])), Frequency(2), NeRFDecoder(8)
    codes = {"light": LatentTable(len(capture), 3)}
    avatar = Avatar(*parts, VolumeRenderer(UniformSampler(8)), FrameCode("light", 3), codes=codes)
    return ball_trainer(64, avatar, **{"frames_per_step": 1, "learning_rate": None, **options})


def gaussian_trainer(control: str, **options) -> Trainer:
    """Gaussians that come and go, of whole images; two of these are drawn in each step."""
    return make(CONTROLS[control](), frames_per_step=2, **options)


def scenario(name: str, out: Path, rank: int) -> dict[str, Any]:
    two = {"devices": 2, "strategy": "ddp"}
    match name:
        case "disc":  # seeded differently
            return outcome(disc_trainer(seed=rank, out=out / "disc", **two), steps=STEPS)
        case "again":
            return outcome(disc_trainer(out=out / "one", **two), steps=STEPS, resume=True)
        case "codes":
            return outcome(codes_trainer(**two), steps=CODES_STEPS)
        case "ball":
            trainer = ball_trainer(BALL_RAYS, out=out / "ball", checkpoint_seconds=0.0, **two)
            return outcome(trainer, steps=BALL_STEPS)
        case "late":  # as on GPUs, whose exchanges are in the graph of a step
            with late_steps(captured=True):
                trainer = ball_trainer(BALL_RAYS, out=out / "late", **two)
                found = outcome(trainer, steps=LATE_STEPS)
                return {**found, "reason": trainer.graph_reason, "losses": trainer.progress.extra["psnr"]}
        case "late interrupt":
            with late_steps(captured=True):
                trainer = ball_trainer(BALL_RAYS, callbacks=[Stopping()], **two)
                return {**outcome(trainer, steps=3 * READ_EVERY), "reason": trainer.graph_reason}
        case "late density":
            with late_steps(captured=True):
                return outcome(gaussian_trainer("density", **two), steps=GAUSSIAN_STEPS)
        case "density" | "mcmc":
            return outcome(gaussian_trainer(name, **two), steps=GAUSSIAN_STEPS)
        case "nodes":
            return outcome(disc_trainer(seed=rank, out=out / "nodes", devices=1, num_nodes=2), steps=STEPS)
        case "minutes":
            return outcome(disc_trainer(schedule="exponential", **two), minutes=0.1 / 60)
        case "full":
            trainer = disc_trainer(out=out / "full", checkpoint_seconds=0.0, **two)
            if trainer.processes.is_first:
                trainer._state.save = refuse
            return outcome(trainer, steps=STEPS)
    return outcome(disc_trainer(losses=[Mischief(name)], out=out / name, **two), steps=STEPS)


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", "0")) + int(os.environ.get("NODE_RANK", "0"))  # a process a machine
    torch.save({name: scenario(name, out, rank) for name in sys.argv[2:]}, out / f"rank{rank}.pt")


def refuse(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


if __name__ == "__main__":
    main()
