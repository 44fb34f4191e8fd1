"""`headfields train`: train a preset of `headfields.models` on a capture."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli import presets
from headfields.cli.argument_types import Count, NewRun, OptionalFloat, OptionalFolder, OptionalInt
from headfields.cli.errors import CommandError, Interrupted

FIXED = ("model", "arguments", "capture", "mouth", "seed", "recipe")
"""Entries of config.json that a resumed run cannot change."""

_SIZES = {
    "cpu": "sizes for minutes on a CPU; --recipe fast has the paper's or the released",
    "fast": "the paper's or the released sizes; --recipe cpu has smaller ones",
    "released": "the authors' sizes and rates; --recipe fast has rates for minutes",
}
"""What a new run says of its recipe."""

_MODEL_HELP = f"""A preset of headfields.models. Each is listed with the arguments that --set takes, and their defaults:
{presets.listing()}"""


def train(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help=_MODEL_HELP)],
    /,
    capture: OptionalFolder = None,
    out: NewRun = tyro.MISSING,  # required, behind an option that is not
    live: OptionalFolder = None,
    view: bool = False,
    port: int = 8080,
    minutes: OptionalFloat = None,
    steps: OptionalInt = None,
    resume: bool = False,
    seed: OptionalInt = None,
    recipe: Literal["cpu", "fast", "released"] | None = None,
    rays: OptionalInt = None,
    samples: OptionalInt = None,
    frames: OptionalInt = None,
    learning_rate: OptionalFloat = None,
    network_learning_rate: OptionalFloat = None,
    learning_rates: tuple[str, ...] = (),
    schedule: Literal["constant", "exponential"] | None = None,
    depth: OptionalFloat = None,
    depth_start: OptionalInt = None,
    opacity: OptionalFloat = None,
    set: tuple[str, ...] = (),
    mouth: Literal["close", "interior", "none"] | None = None,
    memory: int = 2048,
    device: str = "auto",
    devices: Count = 1,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None,
    logger: Literal["csv", "tensorboard", "wandb"] | None = None,
) -> None:
    """Train a model on a capture: `headfields train insta --capture DIR --out RUN --minutes 10`.

    RUN receives config.json, log.jsonl, images/ (truth | rendering | error of a validation frame), checkpoint/ and at
    the end avatar.safetensors. --minutes or --steps ends training; both count from its start, over resumptions. Ctrl-C
    saves a checkpoint, and the same command with --resume continues from it. With --resume, options that are not given
    keep the values of the run; a warning on stderr lists those that differ.

    Args:
        capture: Folder of the capture.
        out: Folder of the run.
        live: Folder of a capture that is still being written (or tracked), instead of --capture: frames join as they
            come, with a higher share at first. Waits for the first ones. The run resumes as any other, with --live or,
            once the capture is whole, --capture.
        view: Show the avatar in the browser while it trains; needs viser (pip install 'headfields[viewer]').
        port: Port of --view on this machine; the next free one if it is not free.
        minutes: Stop after this many minutes of training in total.
        steps: Stop after this many optimizer steps in total.
        resume: Continue from the run's checkpoint, with the model and options of its config.json.
        seed: Seed of weights, frames and pixels; 0 if not given. A resumed run keeps its own.
        recipe: cpu: sizes and rates for minutes on a CPU. fast: the sizes of the paper or the released code, with rates
            for minutes on a GPU. released: the authors' own numbers; INSTA has them for 33000 steps, MonoAvatar for
            400000. If not given: cpu on a CPU, fast on a GPU; a resumed run keeps its own. The options that follow
            replace single numbers of the recipe.
        rays: Rays of the first step. The defaults of this and the following options are the recipe's; INSTA's on a CPU:
            2048. More rays give a smoother gradient and take longer.
        samples: Samples of a step; as empty space is learned, the number of rays adapts to it. INSTA: 14000. 0 keeps
            the number of rays.
        frames: Frames of a step that the rays come from; INSTA: 8.
        learning_rate: Adam's rate for the tables; INSTA: 0.02. INSTA was released with 0.00175 for everything,
            constant over 33,000 steps; a short run learns faster with a higher rate that falls.
        network_learning_rate: Adam's rate for the networks, which tolerate less than the tables; INSTA: 0.001.
        learning_rates: Rates of parts with one of their own as group=rate, e.g. --learning-rates warp=0.0001, which is
            MonoAvatar's published one (0.0004 if not given).
        schedule: constant (as INSTA was released) or exponential (to a tenth over the run, better for short ones; the
            default).
        depth: Weight of the depth prior; INSTA: 0.1; 0 leaves it out. The published 1.25 costs quality in a short run.
        depth_start: First step of the depth prior; INSTA: 500, where the released code has 0.
        opacity: Weight of a loss on the matte, 0 if not given (as INSTA); 0.1 clears the background sooner.
        set: Arguments of the preset as name=value, e.g. --set levels=8 log2_table_size=16.
        mouth: For a tracked mesh that ends at the lips: close puts faces across them; interior adds a cavity with
            teeth; none leaves it open. If not given, MonoAvatar's is interior where the mesh has an open mouth, and
            that of all others close. evaluate and render use the run's.
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
        devices: Number of processes that train together, each on its own GPU (on the CPU they share its cores) and on
            its share of each step's rays. The command starts the others itself, unless torchrun does.
        precision: 32-true (the recipe cpu's), bf16-mixed or 16-mixed: the networks compute in 16 bits. For GPUs.
        logger: Also write the figures of log.jsonl to RUN/logs, for other programs: csv, tensorboard, or wandb (Weights
            & Biases); the last two have to be installed.
    """
    import torch

    from headfields.apps.viewer.listening import require_viser
    from headfields.apps.viewer.training_view import TrainingView
    from headfields.cli import open_run
    from headfields.runs.progress import NanLossError
    from headfields.training.live import LiveFrames
    from headfields.training.processes import PeerError
    from headfields.training.recipes import recipe_of
    from headfields.training.trainer import Trainer

    model = model.replace("-", "_")
    folder = _one_folder(capture, live)
    presets.parse_overrides(model, list(set))  # before a large capture is read
    run, before = open_run.start_or_resume(out, resume, "train", "model")
    torch_device = open_run.choose_device(device)
    chosen = recipe_of(model, recipe or before.get("recipe", "cpu" if before else None), torch_device)
    requested = {
        "rays": rays, "samples": samples, "frames": frames, "learning_rate": learning_rate,
        "network_learning_rate": network_learning_rate, "schedule": schedule, "depth": depth,
        "depth_start": depth_start, "opacity": opacity, "precision": precision,
    }  # fmt: skip
    options = _training_options(requested, open_run.training_before(before), chosen.options)
    options["learning_rates"] = {
        **chosen.trainer.get("learning_rates", {}),
        **open_run.training_before(before).get("learning_rates", {}),
        **_part_rates(learning_rates),
    }
    options |= _limits({"minutes": minutes, "steps": steps}, before.get("training", {}), chosen.steps)
    for name in ("depth", "depth_start", "opacity", "samples"):
        if not options[name] >= 0:
            raise CommandError(f"--{name} is {options[name]}; expected 0 (none) or more")
    run.check_writable()
    treatment = mouth or before.get("mouth", "close" if before else chosen.mouth)
    head_frame = open_run.head_frame(before) if before else "auto"
    if live is not None and devices > 1:
        raise CommandError(f"--live with --devices {devices}: frames would join at different steps; use one device")
    source = (
        open_run.open_capture(folder, memory, head_frame, treatment)
        if live is None
        else _open_live(folder, memory, head_frame, treatment)
    )
    arguments = presets.arguments_for(model, list(set), source, chosen)
    if before.get("model") == model and not set:
        arguments = before["arguments"]
    config: dict[str, Any] = {
        "model": model,
        "arguments": arguments,
        "capture": str(folder.resolve()),
        "head_frame": "keep" if getattr(source, "head_frame", None) is None else "normalize",
        "mouth": getattr(source, "mouth", treatment),
        "seed": before.get("seed", 0) if seed is None else seed,
        "recipe": chosen.name,
        "training": options,
    }
    open_run.check_unchanged(run, before, config, FIXED)
    torch.manual_seed(config["seed"])
    avatar = presets.build(model, arguments, source)
    if not before:
        chosen.start(avatar, source)
    with open_run.one_line_warnings(), open_run.one_line_errors():
        own = chosen.trainer_arguments(avatar, source, **{name: options[name] for name in requested})
        own |= {"learning_rates": options["learning_rates"]}
        if live is not None:
            own["callbacks"] = [*own.get("callbacks", ()), LiveFrames()]
        if view:
            require_viser()
            own["callbacks"] = [*own.get("callbacks", ()), TrainingView(port=port)]
        trainer = Trainer(
            avatar, source, seed=config["seed"], out=out, device=torch_device, devices=devices,
            loggers=[] if logger is None else [logger], **own,
        )  # fmt: skip
        trainer.config = {**config, "trainer": trainer.config["trainer"]}
        open_run.check_options(run, before, trainer.config)
        if trainer.processes.is_first:
            open_run.say_if_new(run, resume, before)
            if not before:
                print(f"{model}: recipe {chosen.name}, on {torch_device} ({_SIZES[chosen.name]})", file=sys.stderr)
        try:
            result = trainer.fit(steps=options["steps"], minutes=options["minutes"], resume=resume)
        except (PeerError, NanLossError):
            if trainer.processes.is_first:
                raise
            return  # process 0 reports the error; it would be killed first if this process exited with 1
        if not trainer.processes.is_first:
            return
    if result.interrupted:
        raise Interrupted(f"interrupted at step {result.step}; the same command with --resume continues from there")
    psnr = "" if math.isnan(result.psnr) else f", {result.psnr:.2f} dB in training"
    print(f"{result.step} steps in {result.seconds / 60:.1f} minutes{psnr}: {run.avatar}", file=sys.stderr)


def _one_folder(capture: Path | None, live: Path | None) -> Path:
    """The folder of the capture, which one of the two options names."""
    folder = live if capture is None else capture
    if folder is None or (live is not None and capture is not None):
        raise CommandError("name one capture: --capture DIR, or --live DIR for one that is still being written")
    return folder


def _open_live(folder: Path, memory: int, head_frame: Any, mouth: Any) -> Any:
    """A capture that is being written, once it has frames."""
    from headfields.data.live import LEAST, LiveCapture, wait_for_frames

    print(f"waiting for {LEAST} frames in {folder} ...", file=sys.stderr)
    wait_for_frames(folder, LEAST)
    source = LiveCapture(folder, memory, head_frame=head_frame, mouth="close" if mouth == "auto" else mouth)
    for line in source.warnings:
        print(f"warning: {line}", file=sys.stderr)
    return source


def _training_options(
    requested: Mapping[str, Any], before: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Each option from the command line, else from the run, else the model's default."""
    return {
        name: before.get(name, default) if requested[name] is None else requested[name]
        for name, default in defaults.items()
    }


def _part_rates(texts: Sequence[str]) -> dict[str, float]:
    """The rates of `group=rate` texts; the trainer knows which groups there are."""
    rates: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            rates[name] = float(value)
        except ValueError:
            raise CommandError(f"--learning-rates got {text!r}; expected group=rate, as warp=0.0001") from None
        if not (name and 0 < rates[name] < math.inf):
            raise CommandError(f"--learning-rates got {text!r}; expected the name of a group and a positive rate")
    return rates


def _limits(requested: Mapping[str, Any], before: Mapping[str, Any], made_for: int | None) -> dict[str, Any]:
    """The limits of training from the command line, else from the run."""
    limits = dict(requested)
    if all(limit is None for limit in limits.values()):
        limits = {name: before.get(name) for name in limits}
    if all(limit is None for limit in limits.values()):
        raise CommandError(f"pass a limit: --minutes 10 or --steps {made_for or 20000}")
    return limits
