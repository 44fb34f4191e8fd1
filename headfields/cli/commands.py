"""The subcommands: their arguments and help texts. What they do is in the modules they import when they run."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

Capture = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OtherCapture = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
Number = tyro.conf.arg(metavar="N")
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def synth(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    /,
    frames: int = 120,
    size: int = 256,
    seed: int = 0,
) -> None:
    """Write a synthetic capture: a procedural head that moves, with images, mattes, labels, depth and meshes.

    It is in INSTA's layout, so it is read like a real one. No licensed model or data is needed.

    Args:
        out: Folder to write; it must not exist, or be empty.
        frames: Number of frames; the last of them are for testing.
        size: Side of the square images, in pixels.
        seed: Of the head's shape, texture and motion.
    """
    from headfields.cli import making

    making.synth(out, frames, size, seed)


def train(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    /,
    capture: Capture,
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    minutes: Annotated[float | None, Number] = None,
    steps: Annotated[int | None, Number] = None,
    resume: bool = False,
    seed: int = 0,
    rays: int = 2048,
    frames: int = 8,
    learning_rate: float = 0.02,
    network_learning_rate: float = 0.001,
    schedule: Literal["constant", "exponential"] = "exponential",
    depth: float = 1.25,
    opacity: float = 0.0,
    set: tuple[str, ...] = (),
    memory: int = 2048,
    device: str = "auto",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
) -> None:
    """Train a model on a capture: `headfields train insta --capture DIR --out RUN --minutes 10`.

    RUN receives config.json, log.jsonl, images/ (truth | rendering | error of a validation frame), checkpoint/ and at
    the end avatar.safetensors. Ctrl-C saves a checkpoint; the same command with --resume goes on from it. Say when
    to stop with --minutes or --steps; both count from the start of training, over resumptions.

    Args:
        model: A preset of headfields.models, e.g. insta.
        capture: Folder of the capture.
        out: Folder of the run.
        minutes: Stop after so many minutes of training in all.
        steps: Stop after so many optimiser steps in all.
        resume: Go on from the run's checkpoint, with the model and options of its config.json.
        seed: Of weights, frames and pixels.
        rays: Rays a step. More give a smoother gradient and take longer.
        frames: Frames a step that the rays come from.
        learning_rate: Adam's, of the tables. INSTA was released with 0.00175 for everything, constant over 33,000
            steps; a short run learns faster with more, falling.
        network_learning_rate: Adam's, of the networks, which bear less than the tables.
        schedule: constant (as INSTA was released) or exponential: to a tenth over the run, better for short ones.
        depth: Weight of the depth prior, INSTA's by default; 0 leaves it out.
        opacity: Weight of a loss on the matte, none by default (as INSTA); 0.1 clears the background sooner.
        set: Arguments of the preset as name=value, e.g. --set levels=8 log2_table_size=16.
        memory: Megabytes that decoded frames may take.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
        precision: 32-true, or bf16-mixed to run the networks in bfloat16.
    """
    from headfields.cli import training

    options = training.Options(
        model=model, capture=capture, out=out, minutes=minutes, steps=steps, resume=resume, seed=seed, rays=rays,
        frames=frames, learning_rate=learning_rate,
        network_learning_rate=network_learning_rate, schedule=schedule, depth=depth,
        opacity=opacity, overrides=list(set),
        memory=memory, device=device, precision=precision,
    )  # fmt: skip
    training.train(options)


def evaluate(
    run: Run,
    /,
    split: str = "test",
    capture: OtherCapture = None,
    background: float = 1.0,
    limit: Annotated[int | None, Number] = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Render frames that training has not seen and compare: PSNR and SSIM, whole and within the matte.

    The last line on stdout is one JSON object: psnr, ssim, psnr_masked, ssim_masked, frames, seconds_per_frame, and
    lpips where the lpips package is installed. RUN/metrics.json has the same for every frame. A run that is still
    training, or was cut off, is measured at its last checkpoint.

    Args:
        run: Folder of the run.
        split: Which frames: test, val, train or all.
        capture: Another capture than the run was trained on (same topology).
        background: Grey behind truth and rendering, in [0, 1]. Figures over different ones do not compare.
        limit: At most so many frames, spread evenly over the split.
        memory: Megabytes that decoded frames may take.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import measuring

    measuring.evaluate(run, split, capture, background, limit, memory, device)


def render(
    run: Run,
    /,
    mode: Literal["frames", "turntable", "expressions"] = "frames",
    motion: OtherCapture = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    split: str = "test",
    frames: Annotated[str | None, tyro.conf.arg(metavar="START:STOP[:STEP]")] = None,
    limit: Annotated[int | None, Number] = None,
    compare: bool = False,
    degrees: float = 60.0,
    seconds: float = 4.0,
    fps: int = 25,
    scale: float = 1.0,
    background: float = 1.0,
    capture: OtherCapture = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Render pictures or a video of a trained avatar.

    frames: the frames of a split, one PNG each. turntable: a video around the head. expressions: a video from the
    most neutral frame to the strongest of each of the first expressions, and back. --motion DIR: a video of another
    capture's images beside the avatar, which does what that head does; the two may be different head models.

    Args:
        run: Folder of the run.
        mode: What to render, unless --motion is given.
        motion: Capture whose motion drives the avatar.
        out: Where to: a folder for frames, an .mp4 or .gif else. RUN/renders/... if not given.
        split: Frames to render, or of the driving capture.
        frames: Which frames instead of a split, as 0:100:2.
        limit: At most so many frames, spread evenly over the split.
        compare: In frames: truth | rendering | error side by side.
        degrees: In turntable: how far around in all; 360 goes round, less swings from side to side.
        seconds: Length of a turntable, or of one expression.
        fps: Frames a second of videos.
        scale: Size of the pictures relative to the capture's.
        background: Grey behind the head, in [0, 1].
        capture: Another capture than the run was trained on, for its frames and cameras.
        memory: Megabytes that decoded frames may take.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import showing

    options = showing.Options(
        mode="motion" if motion is not None else mode, motion=motion, out=out, split=split, frames=frames,
        limit=limit, compare=compare, degrees=degrees, seconds=seconds, fps=fps, scale=scale, background=background,
    )  # fmt: skip
    showing.render(run, options, capture, memory, device)


def doctor() -> None:
    """Say what is installed and what runs where, and try every kernel against its reference.

    Exits with 1 if a kernel gives a wrong answer or cannot run.
    """
    from headfields.cli import examining

    examining.doctor()
