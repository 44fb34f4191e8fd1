"""`headfields render`."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from headfields.cli import motion, runs
from headfields.cli.errors import CommandError
from headfields.training import evaluation
from headfields.training.run import write_picture


@dataclass(frozen=True)
class Options:
    """The arguments of `headfields render`; see `headfields.cli.commands.render`."""

    mode: str
    drive: Path | None
    out: Path | None
    split: str
    limit: int | None
    compare: bool
    degrees: float | int
    seconds: float | int
    fps: int
    scale: float | int
    background: float | int


def render(path: Path, options: Options, capture_path: Path | None, memory: int, device_name: str) -> None:
    """Renders a run's avatar; prints where to."""
    _check(options)
    run, config = runs.open_run(path)
    device = runs.choose_device(device_name)
    avatar = runs.load_avatar(run, config, memory).to(device)
    capture = runs.open_capture(capture_path or Path(config["capture"]), memory)
    if options.mode == "frames":
        out = options.out or run.path / "renders" / options.split
        _render_frames(avatar, capture, options, out, device)
    else:
        out = options.out or run.path / "renders" / f"{options.mode}.mp4"
        _render_video(avatar, list(_shots(capture, options, memory)), options, out, device)
    print(out)


def _check(options: Options) -> None:
    if options.seconds <= 0 or options.fps < 1 or options.scale <= 0:
        raise CommandError(
            f"--seconds is {options.seconds}, --fps {options.fps} and --scale {options.scale}; all must be positive"
        )
    if not 0 <= options.background <= 1:
        raise CommandError(f"--background is {options.background}; expected a grey level in [0, 1]")
    if options.compare and options.mode != "frames":
        raise CommandError("--compare goes with --mode frames alone: the other modes have nothing to compare with")
    if options.mode != "frames" and options.out is not None and options.out.suffix not in (".mp4", ".gif"):
        raise CommandError(f"--out is {options.out}; a video's name ends in .mp4 or .gif")


def _render_frames(avatar: Any, capture: Any, options: Options, out: Path, device: torch.device) -> None:
    frames = runs.spread(evaluation.choose_frames(capture, options.split), options.limit)
    for frame in tqdm(frames, unit="frame", file=sys.stderr):
        if options.compare:
            image, _ = evaluation.picture(avatar, capture, frame, options.background, device)
        else:
            index = torch.tensor([frame])
            shot = motion.Shot(capture.camera(index)[0], capture.state(index))
            image = _image(avatar, shot, options, device)
        write_picture(out / f"{frame:05d}.png", image)


def _shots(capture: Any, options: Options, memory: int) -> Iterator[motion.Shot]:
    count = max(round(options.seconds * options.fps), 1)
    if options.mode == "turntable":
        return motion.turntable(capture, evaluation.choose_frames(capture, options.split)[0], count, options.degrees)
    if options.mode == "expressions":
        return motion.expressions(capture, count, options.limit or 4)
    driver = runs.open_capture(options.drive, memory)  # type: ignore[arg-type]
    frames = runs.spread(evaluation.choose_frames(driver, options.split), options.limit)
    return motion.drive(capture, driver, frames)


def _render_video(avatar: Any, shots: list[motion.Shot], options: Options, out: Path, device: torch.device) -> None:
    import imageio.v2 as imageio

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.stem}.part{out.suffix}")
    video = {"fps": options.fps, "macro_block_size": 1, "quality": 8}
    settings: dict[str, Any] = video if out.suffix == ".mp4" else {"duration": 1000 / options.fps, "loop": 0}
    try:
        writer: Any
        with imageio.get_writer(temporary, **settings) as writer:
            for shot in tqdm(shots, unit="frame", file=sys.stderr):
                image = (_image(avatar, shot, options, device).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
                height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2  # what the video format can hold
                writer.append_data(image[:height, :width])
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _image(avatar: Any, shot: motion.Shot, options: Options, device: torch.device) -> torch.Tensor:
    camera = shot.camera if options.scale == 1 else shot.camera.scaled(options.scale)
    return avatar.render(camera.to(device), shot.state.to(device), options.background).rgb
