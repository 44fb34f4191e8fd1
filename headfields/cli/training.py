"""`headfields train`."""

import contextlib
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headfields.cli import runs
from headfields.cli.errors import CommandError, Interrupted
from headfields.runs.folder import RunFolder, RunWriteError, writing
from headfields.runs.lock import RunLockedError, run_lock
from headfields.training.ranks import PeerError
from headfields.training.trainer import NanLossError, Trainer

FIXED = ("model", "arguments", "capture", "mouth", "seed")
"""What a resumed run cannot change."""

LIMITS = ("minutes", "steps")


@dataclass(frozen=True)
class Options:
    """The arguments of `headfields train`; see `headfields.cli.commands.train`. None where not given."""

    model: str
    capture: Path
    out: Path
    minutes: float | int | None
    steps: int | None
    resume: bool
    seed: int | None
    rays: int | None
    samples: int | None
    frames: int | None
    learning_rate: float | int | None
    network_learning_rate: float | int | None
    schedule: str | None
    depth: float | int | None
    opacity: float | int | None
    overrides: list[str]
    mouth: str | None
    memory: int
    device: str
    devices: int
    precision: str | None


def train(options: Options) -> None:
    """Trains, and leaves a run folder."""
    from headfields.training.recipes import recipe_of

    run = RunFolder(options.out)
    there = bool(run.checkpoints)
    if there and not options.resume:
        raise CommandError(f"{run.path} holds a run already; --resume goes on with it, another --out starts a new one")
    before = run.config() if there else {}
    recipe = recipe_of(options.model)
    chosen = _training_options(options, before.get("training", {}), recipe.options)
    run.check_writable()
    device = runs.choose_device(options.device)
    mouth: Any = options.mouth or before.get("mouth", "close")
    head_frame = runs.head_frame(before) if before else "auto"
    capture = runs.open_capture(options.capture, options.memory, head_frame, mouth)
    config: dict[str, Any] = {
        "model": options.model,
        "arguments": _arguments(options, before, capture, device),
        "capture": str(options.capture.resolve()),
        "head_frame": "keep" if getattr(capture, "head_frame", None) is None else "normalize",
        "mouth": mouth,
        "seed": before.get("seed", 0) if options.seed is None else options.seed,
        "training": chosen,
    }
    _check_same_run(run, before, config)
    torch.manual_seed(config["seed"])
    avatar = runs.build(options.model, config["arguments"], capture)
    with _plain_reasons(), contextlib.ExitStack() as stack:
        trainer = Trainer(
            avatar, capture, recipe.losses_for(chosen, avatar), rays_per_step=chosen["rays"],
            samples_per_step=chosen["samples"] or None, frames_per_step=chosen["frames"],
            schedule=chosen["schedule"], seed=config["seed"], out=options.out, device=device, devices=options.devices,
            precision=chosen["precision"], learning_rate=chosen["learning_rate"],
            network_learning_rate=chosen["network_learning_rate"], **recipe.trainer, **recipe.sampling(capture),
        )  # fmt: skip

        def begin() -> None:
            run.create()
            stack.enter_context(run_lock(run.path))
            run.write_config(config)

        def end() -> None:
            _remember_view(avatar, capture)
            with writing(run.avatar):
                avatar.save(run.avatar)

        try:
            trainer.ranks.first_does(begin)
            result = trainer.fit(steps=chosen["steps"], minutes=chosen["minutes"], resume=options.resume)
            trainer.ranks.first_does(end)
        except (PeerError, NanLossError):
            if trainer.ranks.first:
                raise
            return  # process 0 tells; an exit status of ours would have it killed before it can
        if not trainer.ranks.first:
            return
    if result.interrupted:
        raise Interrupted(f"interrupted at step {result.step}; the same command with --resume goes on from there")
    psnr = "" if math.isnan(result.psnr) else f", {result.psnr:.2f} dB in training"
    print(f"{result.step} steps in {result.seconds / 60:.1f} minutes{psnr}: {run.avatar}", file=sys.stderr)


def _training_options(options: Options, before: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, else what the run was trained with, else the default of the model."""
    given = {name: getattr(options, name) for name in (*defaults, *LIMITS)}
    chosen = {name: before.get(name, defaults[name]) if given[name] is None else given[name] for name in defaults}
    limits = {name: given[name] for name in LIMITS}
    if all(limit is None for limit in limits.values()):
        limits = {name: before.get(name) for name in LIMITS}
    if all(limit is None for limit in limits.values()):
        raise CommandError("say when to stop: --minutes 10 or --steps 20000")
    for name in ("depth", "opacity", "samples"):
        if not chosen[name] >= 0:
            raise CommandError(f"--{name} is {chosen[name]}; expected 0 (none) or more")
    return chosen | limits


def _arguments(options: Options, before: dict[str, Any], capture: Any, device: torch.device) -> dict[str, Any]:
    """The preset's; without --set those of the run that is gone on with, if it is one of this preset."""
    chosen = runs.model_arguments(options.model, options.overrides, capture, device)
    return before["arguments"] if before.get("model") == options.model and not options.overrides else chosen


def _check_same_run(run: RunFolder, before: dict[str, Any], config: dict[str, Any]) -> None:
    for name in FIXED:
        if name in before and before[name] != config[name]:
            raise CommandError(
                f"--resume: {run.path} was trained with {name} {before[name]!r}, not {config[name]!r}; "
                "give what it was trained with, or another --out"
            )


@contextlib.contextmanager
def _plain_reasons() -> Iterator[None]:
    """Warnings, and errors that are no mistake in the program, as lines without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: print(f"headfields: warning: {message}", file=sys.stderr)
        try:
            yield
        except (NanLossError, PeerError, RunLockedError, RunWriteError) as error:
            raise CommandError(str(error)) from error


def _remember_view(avatar: Any, capture: Any) -> None:
    """One camera and state go into the file with the avatar, so that it can be looked at without its capture."""
    frame = torch.as_tensor(capture.splits["train"])[:1]
    avatar.preview = (capture.camera(frame)[0], capture.state(frame))
