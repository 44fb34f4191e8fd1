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
from headfields.runs.folder import write_picture
from headfields.training import evaluation
from headfields.training.frames import choose_frames


@dataclass(frozen=True)
class Options:
    """The arguments of `headfields render`; see `headfields.cli.commands.render`."""

    mode: str
    motion: Path | None
    out: Path | None
    split: str
    frames: str | None
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
    capture = runs.capture_of(config, capture_path, memory)
    if options.mode == "frames":
        out = options.out or run.path / "renders" / options.split
        _render_frames(avatar, capture, options, out, device)
    else:
        out = options.out or run.path / "renders" / f"{options.mode}.mp4"
        driver = None
        if options.motion is not None:
            driver = runs.open_capture(options.motion, memory, mouth=config.get("mouth", "close"))
        _render_video(avatar, _shots(capture, driver, options), driver, options, out, device)
    print(out)


def _check(options: Options) -> None:
    if options.seconds <= 0 or options.fps < 1 or options.scale <= 0:
        raise CommandError(
            f"--seconds is {options.seconds}, --fps {options.fps} and --scale {options.scale}; all must be positive"
        )
    if not 0 <= options.background <= 1:
        raise CommandError(f"--background is {options.background}; expected a gray level in [0, 1]")
    if options.compare and options.mode != "frames":
        raise CommandError("--compare goes with --mode frames alone: the other modes have nothing to compare with")
    if options.mode != "frames" and options.out is not None and options.out.suffix not in (".mp4", ".gif"):
        raise CommandError(f"--out is {options.out}; a video's name ends in .mp4 or .gif")


def _render_frames(avatar: Any, capture: Any, options: Options, out: Path, device: torch.device) -> None:
    for frame in tqdm(_frames(capture, options), unit="frame", file=sys.stderr):
        if options.compare:
            image, _ = evaluation.picture(avatar, capture, frame, options.background, device)
        else:
            index = torch.tensor([frame])
            shot = motion.Shot(capture.camera(index)[0], capture.state(index))
            image = _image(avatar, shot, options, device)
        write_picture(out / f"{frame:05d}.png", image)


def _frames(capture: Any, options: Options) -> list[int]:
    """The frames that the options ask for: a slice of all, or a split."""
    if options.frames is None:
        return runs.spread(choose_frames(capture, options.split), options.limit)
    try:
        bounds = [int(part) if part else None for part in options.frames.split(":")]
        if not 2 <= len(bounds) <= 3:
            raise ValueError
        chosen = list(range(len(capture)))[slice(*bounds)]
    except ValueError as error:
        raise CommandError(f"--frames is {options.frames!r}; expected START:STOP[:STEP], as 0:100:2") from error
    if not chosen:
        raise CommandError(f"--frames {options.frames}: capture {capture.name!r} has none of them, of {len(capture)}")
    return runs.spread(chosen, options.limit)


def _shots(capture: Any, driver: Any, options: Options) -> tuple[Iterator[motion.Shot], int]:
    """The pictures to take, and how many they are."""
    if driver is not None:
        frames = _frames(driver, options)
        return motion.retargeted(capture, driver, frames), len(frames)
    count = max(round(options.seconds * options.fps), 1)
    if options.mode == "turntable":
        first = choose_frames(capture, options.split)[0]
        return motion.turntable(capture, first, count, options.degrees), count
    shots = list(motion.expressions(capture, count, options.limit or 4))
    return iter(shots), len(shots)


def _render_video(
    avatar: Any,
    shots: tuple[Iterator[motion.Shot], int],
    driver: Any,
    options: Options,
    out: Path,
    device: torch.device,
) -> None:
    import imageio.v2 as imageio

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.stem}.part{out.suffix}")
    video = {"fps": options.fps, "macro_block_size": 1, "quality": 8}
    settings: dict[str, Any] = video if out.suffix == ".mp4" else {"duration": 1000 / options.fps, "loop": 0}
    try:
        writer: Any
        with imageio.get_writer(temporary, **settings) as writer:
            for shot in tqdm(shots[0], total=shots[1], unit="frame", file=sys.stderr):
                picture = _image(avatar, shot, options, device).cpu()
                if shot.driver is not None:
                    picture = torch.cat([_driving(driver, shot.driver, len(picture), options), picture], dim=1)
                image = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
                height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2  # what the video format can hold
                writer.append_data(image[:height, :width])
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _driving(driver: Any, frame: int, height: int, options: Options) -> torch.Tensor:
    """The driver's own image over the background, at a height in pixels."""
    image = driver.image(frame)
    alpha = image[..., 3:]
    picture = (image[..., :3] * alpha + options.background * (1 - alpha)).movedim(-1, 0)[None]
    size = (height, max(round(image.shape[1] * height / image.shape[0]), 1))
    scaled = torch.nn.functional.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)
    return scaled[0].movedim(0, -1)


def _image(avatar: Any, shot: motion.Shot, options: Options, device: torch.device) -> torch.Tensor:
    camera = shot.camera if options.scale == 1 else shot.camera.scaled(options.scale)
    return avatar.render(camera.to(device), shot.state.to(device), options.background).rgb
