"""`headfields demo`: a capture, an avatar trained on it, pictures and figures, in four minutes on two CPU cores."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headfields.cli.argument_types import Folder
from headfields.cli.errors import CommandError

FILES = {
    "contact_sheet.png": "what the capture has: images, mattes, labels, meshes, landmarks",
    "comparison.png": "frames that training did not see: truth, INSTA, an average texture",
    "expressions.mp4": "the avatar's strongest expressions",
    "turntable.mp4": "the avatar from both sides",
    "figures.json": "PSNR and SSIM of these frames",
}
_LATER = 0.2
"""Share of the time that is kept for pictures and figures."""
_LEAST = 0.25
"""Minutes that training gets at least, on a machine that is slow to draw the capture."""


def demo(
    out: Folder = Path("demo"),
    minutes: float = 4.0,
    frames: int = 48,
    size: int = 128,
    view: bool = False,
) -> None:
    """Draw a capture, train INSTA on it, and show what came out; offers the viewer at the end.

    Everything is kept in one folder. A second run resumes one that was cut off, and prints the results of one that was
    not; remove the folder, or name another, to start afresh.

    Args:
        out: Folder of the demo.
        minutes: Time for all of it; training gets what the capture and the pictures leave.
        frames: Number of frames of the capture; the last sixth are for testing.
        size: Side of the square images, in pixels.
        view: Open the viewer at the end without a question.
    """
    if not minutes > 0 or frames < 6 or size < 16:
        raise CommandError(
            f"--minutes is {minutes}, --frames {frames} and --size {size}; expected more than 0 minutes and at least 6 "
            "frames of 16 pixels"
        )
    import headfields as hf
    from headfields.cli.render import render
    from headfields.cli.train import train
    from headfields.files.atomic import write_text
    from headfields.models.baselines import AverageTexture

    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    folder, run = out / "capture", out / "insta"
    if not (out / "figures.json").exists():  # written last
        _say("1. a synthetic capture: a moving head with images, mattes, labels and tracked meshes")
        hf.synthetic.write_head_capture(folder, frames=frames, size=size)
        capture = hf.data.load_capture(folder)
        hf.viz.contact_sheet(capture, path=out / "contact_sheet.png")
        spent = (time.monotonic() - start) / 60
        training = max(minutes * (1 - _LATER) - spent, _LEAST)
        _say(f"2. INSTA, {training:.1f} minutes (the capture took {spent:.1f})")
        if not (run / "avatar.safetensors").exists():
            train(
                "insta",
                (folder,),
                run,
                minutes=round(_trained(run) + training, 2),
                resume=(run / "config.json").exists(),
            )
        _say("3. pictures and figures")
        avatars = {
            "INSTA": hf.load_avatar(run / "avatar.safetensors"),
            "average texture": AverageTexture(capture.template).fit(capture, capture.splits["train"]),
        }
        _compare(capture, avatars, out / "comparison.png")
        render(run, mode="expressions", out=out / "expressions.mp4", seconds=1.0, fps=8, limit=3)
        render(run, mode="turntable", out=out / "turntable.mp4", degrees=90.0, seconds=2.0, fps=8)
        figures = {name: hf.training.evaluate(avatar, capture, split="test") for name, avatar in avatars.items()}
        write_text(out / "figures.json", json.dumps(figures, indent=1) + "\n")
    figures = json.loads((out / "figures.json").read_text())
    print(f"in {(time.monotonic() - start) / 60:.1f} minutes, on frames that training did not see:")
    for name, result in figures.items():
        print(
            f"  {name:16s} PSNR {result['psnr']:5.2f} dB   SSIM {result['ssim']:.3f}   "
            f"in the head {result['psnr_head']:5.2f} dB"
        )
    print(f"made in {out}:")
    for name, meaning in {**FILES, "insta/avatar.safetensors": "the avatar; headfields.load_avatar opens it"}.items():
        print(f"  {name:26s} {meaning}")
    _offer(run, view)


def _say(text: str) -> None:
    """A line on stderr, where the progress bars are."""
    print(text, file=sys.stderr, flush=True)


def _trained(run: Path) -> float:
    """Minutes that a run which was cut off has been trained; 0 for a new one."""
    from headfields.runs.folder import RunFolder

    steps = [line for line in RunFolder(run).read_log() if "seconds" in line] if (run / "log.jsonl").exists() else []
    return steps[-1]["seconds"] / 60 if steps else 0.0


def _compare(capture: Any, avatars: Mapping[str, Any], path: Path) -> None:
    """Saves a picture of four test frames in rows: truth, then each avatar."""
    import torch

    from headfields.viz import save_image, side_by_side

    test = capture.splits["test"]
    rows = []
    for frame in test[:: max(len(test) // 4, 1)][:4].tolist():
        truth = capture.pixels(frame, background=1.0).target.view(*capture.size, 3)
        camera, state = capture.camera([frame])[0], capture.state([frame])
        rows.append([truth, *(avatar.render(camera, state).rgb.clamp(0, 1) for avatar in avatars.values())])
    columns = [torch.cat(images, dim=0) for images in zip(*rows, strict=True)]
    save_image(path, side_by_side(columns, ["truth", *avatars]))


def _offer(run: Path, view: bool) -> None:
    """Says how to look at the avatar; on a terminal, asks whether to."""
    import importlib.util

    command = f"headfields view {run}"
    if importlib.util.find_spec("viser") is None:
        print(f"move it in the browser: pip install 'headfields[viewer]', then {command}")
        return
    if not view and sys.stdin is not None and sys.stdin.isatty():
        try:
            view = input(f"move it in the browser now ({command})? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            view = False
        if not view:
            return
    elif not view:
        print(f"move it in the browser: {command}")
        return
    from headfields.cli.view import view as serve

    serve(run)
