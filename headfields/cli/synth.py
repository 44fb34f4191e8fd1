"""`headfields synth`: write a synthetic capture."""

from pathlib import Path
from typing import Annotated

import tyro

from headfields.cli.argument_types import OptionalFolder, OptionalInt
from headfields.cli.errors import CommandError, without_function


def synth(
    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = None,
    /,
    out: OptionalFolder = None,
    frames: int = 120,
    size: int = 256,
    seed: int = 0,
    noise: float = 0.0,
    noise_seed: int = 0,
    identity: OptionalInt = None,
    cameras: int = 0,
    retargeted: OptionalInt = None,
) -> None:
    """Write a synthetic capture: a moving procedural head with images, mattes, labels, depth and meshes.

    It has INSTA's layout and is read like a real capture. No licensed model or data is needed.

    Args:
        folder: Folder to write, if --out does not name it; it must not exist, or be empty.
        out: Folder to write, as in the other commands.
        frames: Number of frames; the last of them are for testing.
        size: Side of the square images, in pixels.
        seed: Seed of the head's shape, texture and motion.
        noise: Tracking error of meshes, cameras and expressions: 0 for exact tracking, 1 for a usual monocular tracker
            (0.5 degrees, 1 mm, 3 mm in depth, 0.05 of an expression weight, 2 degrees of gaze, correlated over a
            quarter of a second; a tenth of the time 0.1 s late). Images stay exact, and truth.npz keeps the truth.
        noise_seed: Seed of these errors.
        identity: Seed of the identity; the mean head if not given.
        cameras: Also write OUT/cameras, a capture of test frames seen by so many cameras that training never sees, at
            yaws from -90 to 90 degrees around the head: the stratum "cameras" of headfields compare.
        retargeted: Also write OUT/retargeted, a capture of this person in the motion of the person with this seed, as
            retargeting makes it of that person's meshes: the stratum "retargeted" of headfields compare.
    """
    target = folder or out
    if target is None or (folder and out):
        raise CommandError("name one folder to write: headfields synth OUT, or --out OUT")
    if frames < 3 or size < 16:
        raise CommandError(f"--frames is {frames} and --size is {size}; at least 3 frames of 16 pixels are needed")
    if not 0 <= noise < float("inf"):
        raise CommandError(f"--noise is {noise}; expected 0 (exact tracking), 1 (a usual tracker) or another factor")
    if cameras < 0 or (cameras and frames < 6):
        raise CommandError(f"--cameras is {cameras} and --frames {frames}; expected 0 or more, of 6 frames or more")
    for option, given in (("--seed", seed), ("--noise-seed", noise_seed), ("--identity", identity)):
        if given is not None and given < 0:
            raise CommandError(f"{option} is {given}; expected 0 or more")
    if retargeted is not None and (retargeted < 0 or retargeted == identity or frames < 6):
        raise CommandError(
            f"--retargeted is {retargeted}, --identity {identity} and --frames {frames}; expected the seed of another "
            "identity, 0 or more, and 6 frames or more"
        )
    from headfields.data import load_capture
    from headfields.synthetic.captures import RETARGETED, write_head_capture
    from headfields.synthetic.tracking_error import tracking_error
    from headfields.synthetic.tracking_noise import TrackingNoise

    errors = TrackingNoise(seed=noise_seed).times(noise) if noise else None
    try:
        write_head_capture(
            target, frames=frames, size=size, seed=seed, noise=errors, identity=identity, cameras=cameras,
            retargeted=retargeted,
        )  # fmt: skip
    except FileExistsError as error:
        raise CommandError(without_function(error)) from error
    print(f"wrote {frames} frames of {size} x {size} pixels to {target}")
    if cameras:
        print(f"wrote test frames by {cameras} other cameras to {target / 'cameras'}")
    if retargeted is not None:
        error = tracking_error(load_capture(target / RETARGETED))
        print(f"wrote the motion of person {retargeted} to {target / RETARGETED}, retargeted with errors: {error}")
    if noise:
        print(f"tracking error, mean over frames: {tracking_error(load_capture(target))}")
    print(f"next: headfields train insta --capture {target} --out RUN --minutes 10")
