"""`headfields track`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from headfields.cli import runs
from headfields.cli.errors import CommandError, Interrupted
from headfields.runs.lock import RunLockedError


@dataclass(frozen=True)
class Options:
    """The arguments of `headfields track`; see `headfields.cli.prior_commands.track`."""

    capture: Path
    prior: Path
    out: Path
    frames: int | None
    every: int
    resume: bool
    quick: bool
    hold_pose: bool
    image: bool
    joint: bool
    landmarks: Path | None
    hair: bool | None
    mesh: int | None
    seed: int | None
    memory: int
    device: str


def track(options: Options) -> None:
    """Fits a prior's head to a capture, and leaves a run folder; prints how well it fits."""
    from headfields.tracking import Stage1, Tracker, TrackingOptions, open_prior

    if options.every < 1 or (options.frames is not None and options.frames < 1):
        raise CommandError(f"--frames is {options.frames} and --every {options.every}; both must be at least 1")
    device = runs.choose_device(options.device)
    capture = runs.open_capture(options.capture, options.memory)
    prior = open_prior(options.prior, options.landmarks, options.hair)
    chosen = TrackingOptions.quick() if options.quick else TrackingOptions()
    if options.image:
        chosen = replace(chosen, stage1=Stage1.single_image(), stage2=None)
    if not options.joint:
        chosen = replace(chosen, stage2=None)
    if options.hold_pose:
        chosen = chosen.holding_pose()
    if options.mesh is not None:
        chosen = replace(chosen, mesh_resolution=options.mesh)
    if options.seed is not None:
        chosen = replace(chosen, seed=options.seed)
    frames = list(range(0, len(capture), options.every))[: 1 if options.image else options.frames]
    tracker = Tracker(prior, capture, options.out, chosen, frames, device=device)
    try:
        found = tracker.run(resume=options.resume)
    except FileExistsError as error:
        raise CommandError(f"{options.out} holds a tracking run; --resume goes on with it") from error
    except RunLockedError as error:
        raise CommandError(str(error)) from error
    if found.interrupted:
        raise Interrupted(
            f"interrupted with {len(found.stage1)} of {len(frames)} frames; the same command with --resume goes on"
        )
    if not found.fits:
        reasons = ", ".join(sorted({failure.reason for failure in found.failed.values()}))
        raise CommandError(
            f"none of {len(frames)} frames could be tracked ({reasons}); {options.out}/errors.json says why"
        )
    names = (("psnr", "dB"), ("iou", ""), ("landmarks_px", "pixels"))
    for name, unit in names:
        values = [fit.errors[name] for fit in found.fits.values() if name in fit.errors]
        if values:
            print(f"{name}: {sum(values) / len(values):.3f} {unit}".rstrip())
    if found.failed:
        print(f"{len(found.failed)} of {len(frames)} frames failed; errors.json says why", file=sys.stderr)
    print(options.out)
