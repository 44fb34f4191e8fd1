"""Running a tracker and reporting its result, as `headfields track` and `headfields track-template` do."""

import sys
from pathlib import Path
from typing import Any

from headfields.cli.errors import CommandError, Interrupted
from headfields.runs.folder import RunWriteError
from headfields.runs.lock import RunLockedError
from headfields.runs.progress import NanLossError


def check_frames(frames: int | None, every: int) -> None:
    """Refuses numbers of frames below 1."""
    if every < 1 or (frames is not None and frames < 1):
        raise CommandError(f"--frames is {frames} and --every {every}; both must be at least 1")


def run_tracker(tracker: Any, out: Path, count: int, resume: bool) -> Any:
    """The result of tracking `count` frames into the folder `out`.

    Raises:
        CommandError: the folder holds another run, is in use or cannot be written, every frame failed, or the joint
            fit diverged.
        Interrupted: Ctrl-C ended tracking.
    """
    try:
        result = tracker.run(resume=resume)
    except FileExistsError as error:
        raise CommandError(f"{out} holds a tracking run; --resume continues it") from error
    except (RunLockedError, RunWriteError, NanLossError) as error:
        raise CommandError(str(error)) from error
    if result.interrupted:
        raise Interrupted(
            f"interrupted with {len(result.stage1)} of {count} frames; the same command with --resume continues"
        )
    if not result.fits:
        reasons = ", ".join(sorted({failure.reason for failure in result.failed.values()}))
        raise CommandError(f"none of {count} frames could be tracked ({reasons}); {out}/errors.json has the reasons")
    return result


def print_errors(result: Any, count: int) -> None:
    """Prints mean errors over the tracked frames, and how many of `count` failed."""
    for name, unit in (("psnr", "dB"), ("iou", ""), ("landmarks_px", "pixels")):
        values = [fit.errors[name] for fit in result.fits.values() if name in fit.errors]
        if values:
            print(f"{name}: {sum(values) / len(values):.3f} {unit}".rstrip())
    if result.failed:
        print(f"{len(result.failed)} of {count} frames failed; errors.json says why", file=sys.stderr)
