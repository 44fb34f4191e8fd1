"""`headfields drive`: sends a face to a stream, from a recording of a phone or a video."""

import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from headfields.cli.argument_types import OptionalFile
from headfields.cli.errors import CommandError


def drive(
    to: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADDRESS")] = "udp://127.0.0.1:11111",
    /,
    motion: OptionalFile = None,
    video: OptionalFile = None,
    face_landmarker: OptionalFile = None,
    speed: float = 1.0,
    loop: bool = False,
    out: OptionalFile = None,
) -> None:
    """Drive a head without a phone: `headfields drive --motion take.csv`, beside `headfields view RUN --live udp:`.

    Sends a recorded motion in real time, or what MediaPipe's face landmarker sees in a video, at the speed that it
    reaches: frames that it is too slow for are left out.

    Args:
        to: Where to: udp://HOST:PORT or ws://HOST:PORT.
        motion: A motion in ARKit's shapes: a CSV of Live Link Face, or JSON lines (.csv, .jsonl).
        video: A video, or a folder of images, of one face.
        face_landmarker: For a video: MediaPipe's face_landmarker.task (pip install headfields[capture]); it is not
            downloaded for you.
        speed: Of a motion: 2 is twice as fast as it was recorded.
        loop: Of a motion: begin anew at its end, until Ctrl-C.
        out: Of a video: a .jsonl file with every frame of it in place of the stream, however long that takes.
    """
    if (motion is None) == (video is None):
        raise CommandError("name what drives the head: either --motion FILE or --video FILE")
    if speed <= 0:
        raise CommandError(f"--speed is {speed}; expected a positive number")
    if motion is not None and (face_landmarker is not None or out is not None):
        raise CommandError("--face-landmarker and --out are for a --video; leave them out")
    if video is not None and (speed != 1 or loop):
        raise CommandError("--speed and --loop are for a --motion; leave them out")
    if video is not None and face_landmarker is None:
        raise CommandError(
            "--video needs --face-landmarker face_landmarker.task, which is published with MediaPipe's models "
            "(ai.google.dev/edge/mediapipe) and is not downloaded for you"
        )
    from headfields.apps.driving.sender import FaceSender, play
    from headfields.runs.interrupts import InterruptFlag

    if motion is not None:
        from headfields.apps.faces.files import read_face_motion

        face = read_face_motion(motion)
        try:
            sender = FaceSender(to)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise CommandError(str(error)) from error
        with sender, InterruptFlag() as interrupt:
            print(f"{motion}: {len(face)} frames of {face.seconds:.1f} s to {to}", file=sys.stderr)
            play(sender, face, speed, loop, lambda: interrupt)
        unheard = f"; {sender.unheard} of them while nobody listened" if sender.unheard else ""
        print(f"{sender.sent + sender.unheard} frames sent{unheard}")
        return
    assert video is not None and face_landmarker is not None
    _drive_video(to, video, face_landmarker, out)


def _drive_video(to: str, video: Path, model: Path, out: Path | None) -> None:
    """Sends what the landmarker sees, in real time; or writes all of it."""
    from headfields.apps.capturing.detectors.mediapipe import MediaPipeFaceShapes
    from headfields.apps.capturing.video import open_video
    from headfields.apps.driving.sender import FaceSender
    from headfields.apps.faces.lines import message_of_motion
    from headfields.files.atomic import write_text
    from headfields.runs.interrupts import InterruptFlag

    if out is not None and out.suffix.lower() not in (".jsonl", ".ndjson"):
        raise CommandError(f"--out is {out}; expected a file that ends in .jsonl")
    source = open_video(video)
    detector = MediaPipeFaceShapes(model)
    rate = source.rate or 25.0
    lines: list[str] = []
    seen = faces = 0
    try:
        sender = None if out is not None else FaceSender(to)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from error
    start = time.monotonic()
    with InterruptFlag() as interrupt:
        for frame in source:
            if interrupt:
                break
            due = frame.index / rate
            late = time.monotonic() - start - due
            if sender is not None and late > 1 / rate:
                continue  # the next one is due already
            if sender is not None and late < 0:
                time.sleep(-late)
            seen += 1
            face = detector.face(frame.rgb, due)
            if face is None:
                continue
            faces += 1
            if sender is None:
                lines.append(message_of_motion(face) + "\n")
            else:
                sender.send_frame(face)
    took = max(time.monotonic() - start, 1e-9)
    print(f"{video}: a face in {faces} of {seen} frames, {seen / took:.1f} frames a second", file=sys.stderr)
    if sender is not None:
        sender.close()
        print(f"{sender.sent + sender.unheard} frames sent")
    elif lines and out is not None:
        print(write_text(out, "".join(lines)))
    else:
        raise CommandError(f"{video}: there is no frame with a face; {out} was not written")
