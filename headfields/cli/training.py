"""`headfields train`."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headfields.cli import runs
from headfields.cli.errors import CommandError, Interrupted
from headfields.training.run import RunFolder

FIXED = ("model", "arguments", "capture")
"""What a resumed run cannot change."""


@dataclass(frozen=True)
class Options:
    """The arguments of `headfields train`; see `headfields.cli.commands.train`."""

    model: str
    capture: Path
    out: Path
    minutes: float | int | None
    steps: int | None
    resume: bool
    seed: int
    rays: int
    frames: int
    learning_rate: float | int
    network_learning_rate: float | int
    schedule: str
    depth: float | int
    opacity: float | int
    overrides: list[str]
    memory: int
    device: str
    precision: str


def train(options: Options) -> None:
    """Trains, and leaves a run folder."""
    from headfields.losses import OpacityLoss, insta_losses
    from headfields.training.trainer import Trainer

    if options.minutes is None and options.steps is None:
        raise CommandError("say when to stop: --minutes 10 or --steps 20000")
    for name, weight in (("depth", options.depth), ("opacity", options.opacity)):
        if weight < 0:
            raise CommandError(f"--{name} is {weight}; expected 0 (none) or more")
    run = RunFolder(options.out)
    if run.checkpoint.exists() and not options.resume:
        raise CommandError(f"{run.path} holds a run already; --resume goes on with it, another --out starts a new one")
    device = runs.choose_device(options.device)
    capture = runs.open_capture(options.capture, options.memory)
    config = _config(options, capture)
    if options.resume and run.checkpoint.exists():
        _check_same_run(run, config)
    torch.manual_seed(options.seed)
    avatar = runs.build(options.model, config["arguments"], capture)
    losses = insta_losses(options.depth)
    if options.opacity:
        losses.append(OpacityLoss(weight=options.opacity))
    trainer = Trainer(
        avatar, capture, losses, rays_per_step=options.rays, frames_per_step=options.frames, schedule=options.schedule,
        seed=options.seed, out=options.out, device=device, precision=options.precision,
        learning_rate=options.learning_rate, network_learning_rate=options.network_learning_rate,
    )  # fmt: skip
    run.write_config(config)
    result = trainer.fit(steps=options.steps, minutes=options.minutes, resume=options.resume)
    _remember_view(avatar, capture)
    avatar.save(run.avatar)
    if result.interrupted:
        raise Interrupted(f"interrupted at step {result.step}; the same command with --resume goes on from there")
    psnr = "" if math.isnan(result.psnr) else f", {result.psnr:.2f} dB in training"
    print(f"{result.step} steps in {result.seconds / 60:.1f} minutes{psnr}: {run.avatar}", file=sys.stderr)


def _config(options: Options, capture: Any) -> dict[str, Any]:
    return {
        "model": options.model,
        "arguments": runs.model_arguments(options.model, options.overrides, capture),
        "capture": str(options.capture.resolve()),
        "seed": options.seed,
        "training": {
            "rays": options.rays,
            "frames": options.frames,
            "learning_rate": options.learning_rate,
            "network_learning_rate": options.network_learning_rate,
            "schedule": options.schedule,
            "depth": options.depth,
            "opacity": options.opacity,
            "precision": options.precision,
            "minutes": options.minutes,
            "steps": options.steps,
        },
    }


def _check_same_run(run: RunFolder, config: dict[str, Any]) -> None:
    before = run.config()
    for name in FIXED:
        if before.get(name) != config[name]:
            raise CommandError(
                f"--resume: {run.path} was trained with {name} {before.get(name)!r}, not {config[name]!r}; "
                "give what it was trained with, or another --out"
            )


def _remember_view(avatar: Any, capture: Any) -> None:
    """One camera and state go into the file with the avatar, so that it can be looked at without its capture."""
    frame = torch.as_tensor(capture.splits["train"])[:1]
    avatar.preview = (capture.camera(frame)[0], capture.state(frame))
