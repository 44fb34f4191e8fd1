"""`headfields render`: images and videos of a trained avatar."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import OptionalFile, OptionalFolder, OptionalInt, Run
from headfields.cli.errors import CommandError
from headfields.cli.unused import refuse_unused
from headfields.cli.view import load_head

_MOST = 100_000
"""Frames of a video: over an hour."""
_UNUSED = {
    "frames": ("degrees", "seconds", "fps", "head", "arkit"),
    "turntable": ("frames", "limit", "head", "arkit"),
    "expressions": ("frames", "split", "degrees", "head", "arkit"),
    "motion": ("degrees", "seconds", "head", "arkit"),
    "face": ("degrees", "seconds", "split"),
    "nersemble": ("frames", "limit", "degrees", "seconds", "fps", "split", "arkit"),
}
"""Options that each mode does not read."""


def render(
    run: Run,
    /,
    mode: Literal["frames", "turntable", "expressions"] = "frames",
    motion: Annotated[Path | None, tyro.conf.arg(metavar="DIR|FACE")] = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    split: str = "test",
    frames: Annotated[str | None, tyro.conf.arg(metavar="START:STOP[:STEP]")] = None,
    limit: OptionalInt = None,
    compare: bool = False,
    degrees: float = 60.0,
    seconds: float = 4.0,
    fps: int = 25,
    scale: float = 1.0,
    background: float = 1.0,
    capture: OptionalFolder = None,
    nersemble: OptionalFolder = None,
    head: OptionalFile = None,
    arkit: OptionalFile = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Render images or a video of a trained avatar.

    frames: the frames of a split, one PNG each. turntable: a video around the head. expressions: a video from the
    most neutral frame to the strongest of each of the first expressions, and back. --motion DIR: a video of another
    capture's images next to the avatar, which that capture drives; the two may be different head models. --motion
    FILE.csv: a video of the avatar driven by a face (docs/driving.md).
    --nersemble DIR --head FLAME.npz: the results that NeRSemble's benchmark of avatars takes, for one person: a video
    of each sequence that it holds out from each of its cameras; videos that are there already are kept.

    Args:
        run: Folder of the run.
        mode: What to render, unless --motion is given.
        motion: Capture whose motion drives the avatar; or the motion of a face in ARKit's shapes, a CSV of Live Link
            Face or JSON lines (.csv, .jsonl).
        out: A folder for frames, an .mp4 or .gif file for a video; RUN/renders/... if not given.
        split: Frames to render, or frames of the driving capture.
        frames: Frames to render in place of a split, as 0:100:2.
        limit: At most this many frames, evenly spaced over the split; in expressions, at most this many expressions.
        compare: In frames: truth | rendering | error side by side.
        degrees: In turntable: the whole angle; 360 goes around, less swings from side to side.
        seconds: Length of a turntable, or of one expression.
        fps: Frames per second of videos.
        scale: Size of the images relative to the capture's.
        background: Gray behind the head, in [0, 1].
        capture: Another capture than the run was trained on, for its frames and cameras.
        nersemble: A person's folder of the benchmark, as mono_flame_avatar/393; --out is the folder of all results.
        head: The FLAME model of 2023, for --nersemble; for a face, the head model that the capture was tracked with.
        arkit: For a face, JSON of ARKit's 52 blendshapes by the head's own (headfields arkit writes it).
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    given = dict(locals())

    import torch
    from tqdm import tqdm

    from headfields.cli import motion as shots
    from headfields.cli import open_run
    from headfields.cli.faces import driven_face, is_face
    from headfields.runs.folder import write_picture
    from headfields.training import evaluation
    from headfields.training.frames import choose_frames
    from headfields.viz import write_video
    from headfields.viz.images import to_uint8

    kind: str = "nersemble" if nersemble is not None else mode if motion is None else "motion"
    kind = "face" if kind == "motion" and is_face(motion) else kind
    if seconds <= 0 or fps < 1 or scale <= 0:
        raise CommandError(f"--seconds is {seconds}, --fps {fps} and --scale {scale}; all must be positive")
    if seconds * fps > _MOST:
        raise CommandError(
            f"--seconds {seconds:g} at --fps {fps} is a video of {seconds * fps:.3g} frames; expected at most {_MOST:,}"
        )
    if limit is not None and limit < 1:
        raise CommandError(f"--limit is {limit}; expected at least 1")
    if scale > 64:
        raise CommandError(f"--scale is {scale}; expected at most 64 times the capture's size")
    if not 0 <= background <= 1:
        raise CommandError(f"--background is {background}; expected a gray level in [0, 1]")
    if nersemble is not None and (motion is not None or capture is not None or scale != 1):
        raise CommandError("--nersemble goes with neither --motion, --capture nor --scale: the benchmark has its own")
    if compare and kind != "frames":
        raise CommandError("--compare needs --mode frames; the other modes have no ground truth")
    if kind not in ("frames", "nersemble") and out is not None and out.suffix not in (".mp4", ".gif"):
        raise CommandError(f"--out is {out}; a video's name ends in .mp4 or .gif")
    refuse_unused(render, given, _UNUSED[kind], "with --nersemble" if nersemble else f"in --mode {kind}")
    folder, config = open_run.open_run(run)
    torch_device = open_run.choose_device(device)
    avatar = open_run.open_avatar(folder, config, memory).to(torch_device)
    open_run.warn_of_frame_codes(avatar, capture)

    def image_of(shot: shots.Shot) -> Any:
        camera = shot.camera if scale == 1 else shot.camera.scaled(scale)
        return avatar.render(camera.to(torch_device), shot.state.to(torch_device), background).rgb

    if nersemble is not None:
        from headfields.cli.nersemble import render_results

        out = out or folder.path / "renders" / "nersemble"
        count = render_results(image_of, config, nersemble, head, out, memory)
        print(f"wrote {count} videos", file=sys.stderr)
        print(out)
        return
    source = open_run.capture_of(config, capture, memory)
    if kind == "frames":
        out = out or folder.path / "renders" / split
        for frame in tqdm(open_run.select_frames(source, split, frames, limit), unit="frame", file=sys.stderr):
            if compare:
                image, _ = evaluation.picture(avatar, source, frame, background, torch_device)
            else:
                image = image_of(shots.recorded(source, frame))
            write_picture(out / f"{frame:05d}.png", image)
        print(out)
        return

    out = out or folder.path / "renders" / f"{kind}.mp4"
    count = max(round(seconds * fps), 1)
    if kind == "face":
        assert motion is not None
        face = driven_face(motion, fps, arkit, None if head is None else load_head(head), source)
        chosen = open_run.select_frames(face, "all", frames, limit)
        count, sequence = len(chosen), shots.driven(source, face, chosen)
    elif motion is not None:
        driver = open_run.open_driver(motion, memory, config.get("mouth", "close"))
        driving_frames = open_run.select_frames(driver, split, frames, limit)
        count = len(driving_frames)
        sequence = shots.retargeted(source, driver, driving_frames)
    elif mode == "turntable":
        sequence = shots.turntable(source, choose_frames(source, split)[0], count, degrees)
    else:
        expressions = list(shots.expressions(source, count, limit or 4))
        count = len(expressions)
        sequence = iter(expressions)

    def images() -> Iterator[Any]:
        for shot in tqdm(sequence, total=count, unit="frame", file=sys.stderr):
            image = image_of(shot).cpu()
            if shot.driver is not None:
                image = torch.cat([_driving_image(driver, shot.driver, background, len(image)), image], dim=1)
            yield to_uint8(image)

    print(write_video(out, images(), fps))


def _driving_image(driver: Any, frame: int, background: float | int, height: int) -> Any:
    """The driver's own image over the background, scaled to a height in pixels."""
    import torch

    image = driver.image(frame)
    alpha = image[..., 3:]
    picture = (image[..., :3] * alpha + background * (1 - alpha)).movedim(-1, 0)[None]
    size = (height, max(round(image.shape[1] * height / image.shape[0]), 1))
    scaled = torch.nn.functional.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)
    return scaled[0].movedim(0, -1)
