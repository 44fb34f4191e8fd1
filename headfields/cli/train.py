"""`headfields train`: train a preset of `headfields.models` on a capture."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli import presets
from headfields.cli.argument_types import Count, Folder, NewRun, OptionalFloat, OptionalFolder, OptionalInt
from headfields.cli.errors import CommandError, Interrupted
from headfields.cli.unused import refuse_unused
from headfields.data.camera_axes import Convention

_MODEL_HELP = f"""A preset of headfields.models. Each is listed with the arguments that --set takes, and their defaults:
{presets.listing()}"""


def train(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help=_MODEL_HELP)],
    /,
    capture: tyro.conf.UseAppendAction[tuple[Folder, ...]] = (),
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
    fine_tune: Literal["none", "rigid", "all"] | None = None,
    set: tuple[str, ...] = (),
    mouth: Literal["close", "interior", "none"] | None = None,
    convention: Convention | None = None,
    memory: int = 2048,
    device: str = "auto",
    devices: Count = 1,
    nodes: Count = 1,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None,
    logger: Literal["csv", "tensorboard", "wandb"] | None = None,
) -> None:
    """Train a model on a capture: `headfields train insta --capture DIR --out RUN --minutes 10`.

    RUN receives config.json, log.jsonl, images/ (truth | rendering | error of a validation frame), checkpoint/ and at
    the end avatar.safetensors. --minutes or --steps ends training; both count from its start, over resumptions. Ctrl-C
    saves a checkpoint, and the same command with --resume continues from it. With --resume, options that are not given
    keep the values of the run; a warning on stderr lists those that differ.

    Args:
        capture: Folder of the capture. Given several times, each is of another person on the same kind of mesh: they
            share the networks and have a code each, in a model with `people` among its arguments.
        out: Folder of the run.
        live: Folder of a capture that is still being written (or tracked), instead of --capture: frames join as they
            come, with a higher share at first. Waits for the first ones. The run resumes as any other, with --live or,
            once the capture is whole, --capture.
        view: Show the avatar in the browser while it trains; needs viser (pip install 'headfields[viewer]').
        port: Port of --view on this machine; the next free one if it is not free.
        minutes: Stop after this many minutes of training in total.
        steps: Stop after this many optimizer steps in total.
        resume: Continue from the run's checkpoint, with the model and options of its config.json. The capture may have
            moved since: name its new folder as --capture; one that holds something else is refused.
        seed: Seed of weights, frames and pixels; 0 if not given. A resumed run keeps its own.
        recipe: cpu: sizes and rates for minutes on a CPU. fast: the sizes of the paper or the released code, with rates
            for minutes on a GPU. released: the authors' own numbers; INSTA has them for 33000 steps, MonoAvatar for
            400000, GaussianAvatars for 600000, FlashAvatar for 150000, RGBAvatar for 5000. If not given: cpu on a CPU,
            fast on a GPU; a resumed run keeps its own. The options that follow replace single numbers of the recipe.
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
        fine_tune: Train the tracking of the training frames too: rigid, the pose of the head; all, also expression and
            joints, of captures that have a head's parameters (VHAP, metrical-tracker, Pixel3DMM). none if not given; of
            GaussianAvatars' recipe released all, where the capture has them. A resumed run keeps its own.
        set: Arguments of the preset as name=value, e.g. --set levels=8 log2_table_size=16.
        mouth: For a tracked mesh that ends at the lips: close puts faces across them; interior adds a cavity with
            teeth; none leaves it open. If not given, MonoAvatar's is interior where the mesh has an open mouth, and
            that of all others close. evaluate and render use the run's.
        convention: Axes and direction of the matrices in transforms*.json, if you know them: OpenCV (x right, y down, z
            forward) or OpenGL (x right, y up, z backward), camera-to-world unless it says otherwise. auto, the default,
            compares them with the images. evaluate and render use the run's.
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
        devices: Number of processes that train together, each on its own GPU (on the CPU they share its cores) and on
            its share of each step's rays. The command starts the others itself, unless torchrun does.
        nodes: Number of machines, each with --devices processes. The same command is started on each of them, with
            NODE_RANK, MASTER_ADDR and MASTER_PORT in the environment or by torchrun; all see the capture and RUN.
        precision: 32-true (the recipe cpu's), bf16-mixed or 16-mixed: the networks compute in 16 bits. For GPUs.
        logger: Also write the figures of log.jsonl to RUN/logs, for other programs: csv, tensorboard, or wandb (Weights
            & Biases); the last two have to be installed.
    """
    from headfields.cli import open_run
    from headfields.training.train_preset import train as train_preset

    model = model.replace("-", "_")
    folder = _one_folder(capture, live)
    arguments = presets.parse_overrides(model, list(set))  # before a large capture is read
    torch_device = open_run.choose_device(device)
    if live is not None and devices * nodes > 1:
        raise CommandError(
            f"--live with --devices {devices} --nodes {nodes}: frames would join at different steps; use one device"
        )
    if live is not None and convention is not None:
        raise CommandError("--convention is for --capture; frames that --live reads decide for themselves")
    callbacks: list[Any] = []
    if not view:
        refuse_unused(train, {"port": port}, ("port",), "without --view")
    else:
        from headfields.apps.viewer.listening import require_viser
        from headfields.apps.viewer.training_view import TrainingView

        require_viser()
        callbacks = [TrainingView(port=port)]
    source: Any = folder if live is None else _open_live(folder, memory, out, mouth, model, recipe, torch_device)
    with open_run.one_line_warnings(), open_run.one_line_errors():
        run = train_preset(
            model, source, out, minutes=minutes, steps=steps, resume=resume, seed=seed, recipe=recipe,
            arguments=arguments, mouth=mouth if live is None else None, convention=convention, memory_mb=memory,
            device=torch_device, devices=devices, num_nodes=nodes, callbacks=callbacks,
            loggers=[] if logger is None else [logger],
            rays=rays, samples=samples, frames=frames, learning_rate=learning_rate,
            network_learning_rate=network_learning_rate, learning_rates=_part_rates(learning_rates), schedule=schedule,
            depth=depth, depth_start=depth_start, opacity=opacity, precision=precision,
            fine_tune=fine_tune,
        )  # fmt: skip
    result = run.result
    if result is None:
        return  # a process beside the first, which reports
    if result.interrupted:
        raise Interrupted(f"interrupted at step {result.step}; the same command with --resume continues from there")
    psnr = "" if math.isnan(result.psnr) else f", {result.psnr:.2f} dB in training"
    print(f"{result.step} steps in {result.seconds / 60:.1f} minutes{psnr}: {run.folder.avatar}", file=sys.stderr)


def _one_folder(capture: tuple[Path, ...], live: Path | None) -> Any:
    """The folder of the capture, or those of several, which one of the two options names."""
    folder: Any = live if not capture else capture[0] if len(capture) == 1 else list(capture)
    if folder is None or (live is not None and capture):
        raise CommandError("name one capture: --capture DIR, or --live DIR for one that is still being written")
    return folder


def _open_live(folder: Path, memory: int, out: Path, mouth: Any, model: str, recipe: Any, device: Any) -> Any:
    """A capture that is being written, once it has frames, with the options of the run that goes on, if one does."""
    from headfields.cli import open_run
    from headfields.data.live import LEAST, LiveCapture, wait_for_frames
    from headfields.runs.folder import RunFolder
    from headfields.training.recipes import recipe_of

    config = out / "config.json"
    before = RunFolder(out).config() if config.exists() else {}
    treatment = mouth or before.get("mouth", recipe_of(model, recipe, device).mouth)
    print(f"waiting for {LEAST} frames in {folder} ...", file=sys.stderr)
    wait_for_frames(folder, LEAST)
    source = LiveCapture(
        folder, memory, head_frame=open_run.head_frame(before) if before else "auto",
        mouth="close" if treatment == "auto" else treatment,
    )  # fmt: skip
    for line in source.warnings:
        print(f"warning: {line}", file=sys.stderr)
    return source


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
