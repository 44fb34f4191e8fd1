"""`headfields synth-template`: write a synthetic capture of a rigged scan."""

from typing import Literal

from headfields.cli.argument_types import Folder, Rig
from headfields.cli.errors import CommandError, without_function


def synth_template(
    rig: Rig,
    out: Folder,
    kind: Literal["chair", "talk"] = "talk",
    frames: int = 96,
    size: int = 224,
    seed: int = 0,
    rate: float = 10.0,
    cameras: int = 0,
) -> None:
    """Render a capture of a rigged scan on a turning chair: `headfields synth-template --rig RIG.npz --out DIR`.

    It has INSTA's layout, the exact meshes, and truth.npz. Light is fixed in the room, the surface has small relief and
    folds that the meshes lack, and landmarks are given where they are visible.

    Args:
        rig: The file of `headfields rig`.
        out: Folder to write; it must not exist, or be empty.
        kind: chair: one turn with a still face, four stretches of it for testing. talk: talking and grimacing with
            all-round motion of head and torso while the chair turns, a sixth of it for testing, with expressions that
            occur nowhere else.
        frames: Number of frames.
        size: Side of the square images, in pixels.
        seed: Seed of the motion, relief and folds.
        rate: Frames per second of talking.
        cameras: Also write OUT/cameras, an exact capture of test frames seen by so many cameras all around the body, 20
            degrees above the recording one, that training never sees: the stratum "cameras" of headfields compare.
    """
    from headfields.apps.rigging import RiggedTemplate
    from headfields.synthetic.captures import CAMERAS
    from headfields.synthetic.rig_captures import write_rig_capture

    try:
        write_rig_capture(RiggedTemplate.from_file(rig), out, kind, frames, size, seed, rate=rate, cameras=cameras)
    except FileExistsError as error:
        raise CommandError(without_function(error)) from error
    print(f"wrote {frames} frames of {size} x {size} pixels to {out}")
    if cameras:
        print(f"wrote test frames by {cameras} other cameras to {out / CAMERAS}")
    print(f"next: headfields track-template --rig {rig} --capture {out} --out RUN")
