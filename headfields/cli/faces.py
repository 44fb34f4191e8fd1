"""Motions of faces (ARKit's 52 shapes, from a file or a stream) as the commands open them."""

import sys
from pathlib import Path
from typing import Any

from headfields.cli.errors import CommandError

__all__ = ["driven_face", "face_driver", "is_face", "refuse_faceless"]


def is_face(motion: Path | None) -> bool:
    """Whether a --motion is the motion of a face, not a capture."""
    from headfields.apps.faces.files import ENDINGS

    return motion is not None and motion.suffix.lower() in ENDINGS and not motion.is_dir()


def face_driver(articulation: Any, rest: Any, arkit: Path | None) -> Any:
    """What drives a head by a face; says on stderr what of the 52 does nothing.

    Args:
        articulation: what moves the head.
        rest: one frame of it with a neutral face.
        arkit: JSON of ARKit's shapes by the head's own, or None.

    Raises:
        CommandError: the head has nothing that a face moves.
    """
    from headfields.apps.driving.face_driver import FaceDriver
    from headfields.apps.export.arkit import read_mapping

    mapping = None if arkit is None else read_mapping(arkit)
    try:
        driver = FaceDriver(articulation, rest, mapping)
    except ValueError as error:
        raise CommandError(str(error).removeprefix("FaceDriver: ")) from error
    if driver.missing:
        print(f"{len(driver.missing)} of ARKit's 52 do nothing: {', '.join(driver.missing)}", file=sys.stderr)
    return driver


def driven_face(path: Path, fps: int, arkit: Path | None, head: Any = None, capture: Any = None) -> Any:
    """The motion of a face on a head at a steady rate, with states by frame as a capture has them.

    Args:
        path: the motion.
        fps: frames per second.
        arkit: JSON of ARKit's shapes by the head's own, or None.
        head: head model; of the capture, if there is one.
        capture: whose head is driven; None: the model's.
    """
    import torch

    from headfields.apps.driving.face_driver import DrivenFace
    from headfields.apps.faces.files import read_face_motion
    from headfields.apps.viewer.articulation import HeadArticulation
    from headfields.apps.viewer.motion import neutral_frame
    from headfields.apps.viewer.subjects import capture_articulation

    motion = read_face_motion(path).resampled(fps)
    if capture is None:
        with torch.no_grad():
            return DrivenFace(face_driver(HeadArticulation(head), head(), arkit), motion)
    rest = capture.state([neutral_frame(capture)])
    return DrivenFace(face_driver(capture_articulation(capture, head), rest, arkit), motion)


def refuse_faceless(arkit: Path | None, faces: bool) -> None:
    """Refuses a mapping of ARKit's shapes where no face drives the head.

    Raises:
        CommandError: there is a mapping, and no face.
    """
    if arkit is not None and not faces:
        raise CommandError(f"--arkit {arkit} does nothing without the motion of a face")
