"""`headfields synth-template` and `headfields track-template`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from headfields.cli import runs
from headfields.cli.errors import CommandError, Interrupted
from headfields.runs.lock import RunLockedError


def synth_template(
    rig: Path, out: Path, kind: Literal["chair", "talk"], frames: int, size: int, seed: int, rate: float
) -> None:
    """Draws a capture of a rig."""
    from headfields.rigging import RiggedTemplate
    from headfields.synthetic.rig_captures import write_rig_capture

    try:
        write_rig_capture(RiggedTemplate.from_file(rig), out, kind, frames, size, seed, rate=rate)
    except FileExistsError as error:
        raise CommandError(str(error)) from error
    print(f"wrote {frames} frames of {size} x {size} pixels to {out}")
    print(f"next: headfields track-template --rig {rig} --capture {out} --out RUN")


def track_template(
    rig: Path, capture: Path, out: Path, frames: int | None, every: int, resume: bool, quick: bool, color: bool,
    joint: bool, memory: int,
) -> None:  # fmt: skip
    """Tracks a rig through a capture, and says how well it fits."""
    from headfields.rigging import RiggedTemplate
    from headfields.tracking.rig import TemplateTracker, TemplateTrackingOptions

    if every < 1 or (frames is not None and frames < 1):
        raise CommandError(f"--frames is {frames} and --every {every}; both must be at least 1")
    template = RiggedTemplate.from_file(rig)
    if template.texture is None and color:
        raise CommandError(f"{rig} has no texture to compare colors with; rig a textured scan, or give --no-color")
    source = runs.open_capture(capture, memory)
    options = TemplateTrackingOptions.quick() if quick else TemplateTrackingOptions()
    if not color:
        options = options.without_color()
    if not joint:
        options = replace(options, joint_steps=0)
    chosen = list(range(0, len(source), every))[:frames]
    tracker = TemplateTracker(template, source, out, options, chosen)
    try:
        found = tracker.run(resume=resume)
    except FileExistsError as error:
        raise CommandError(f"{out} holds a tracking run; --resume goes on with it") from error
    except RunLockedError as error:
        raise CommandError(str(error)) from error
    if found.interrupted:
        raise Interrupted(
            f"interrupted with {len(found.stage1)} of {len(chosen)} frames; the same command with --resume goes on"
        )
    if not found.fits:
        reasons = ", ".join(sorted({failure.reason for failure in found.failed.values()}))
        raise CommandError(f"none of {len(chosen)} frames could be tracked ({reasons}); {out}/errors.json says why")
    for name, unit in (("psnr", "dB"), ("iou", ""), ("landmarks_px", "pixels")):
        values = [fit.errors[name] for fit in found.fits.values() if name in fit.errors]
        if values:
            print(f"{name}: {sum(values) / len(values):.3f} {unit}".rstrip())
    if found.failed:
        print(f"{len(found.failed)} of {len(chosen)} frames failed; errors.json says why", file=sys.stderr)
    print(f"next: headfields train vp360 --capture {found.capture} --out AVATAR --minutes 10")
