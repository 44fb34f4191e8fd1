"""`headfields drive`: sends a face to a stream or to pages, from a recording of a phone, a video or another stream."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro

from headfields.cli.argument_types import OptionalFile
from headfields.cli.errors import CommandError


def drive(
    to: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="ADDRESS")] = None,
    /,
    motion: OptionalFile = None,
    video: OptionalFile = None,
    face_landmarker: OptionalFile = None,
    live: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None,
    page: bool = False,
    speed: float = 1.0,
    loop: bool = False,
    out: OptionalFile = None,
) -> None:
    """Drive a head without a phone: `headfields drive --motion take.csv`, beside `headfields view RUN --live udp:`.

    Sends a recorded motion in real time, or what MediaPipe's face landmarker sees in a video, at the speed that it
    reaches: frames that it is too slow for are left out. With --page, pages that `headfields export` wrote are served
    in place of a stream: paste the address that it prints into the page, under Live.

    Args:
        to: Where to: udp://HOST:PORT or ws://HOST:PORT; udp://127.0.0.1:11111 if not given. With --page, where it
            listens: ws://HOST:PORT, ws://127.0.0.1:8765 if not given.
        motion: A motion in ARKit's shapes: a CSV of Live Link Face, or JSON lines (.csv, .jsonl).
        video: A video, or a folder of images, of one face.
        face_landmarker: For a video: MediaPipe's face_landmarker.task (pip install headfields[capture]); it is not
            downloaded for you.
        live: For --page: a stream that is passed on, as udp://0.0.0.0:11111 for a phone's, until Ctrl-C.
        page: Serve pages.
        speed: Of a motion: 2 is twice as fast as it was recorded.
        loop: Of a motion: begin anew at its end, until Ctrl-C.
        out: Of a video: a .jsonl file with every frame of it in place of the stream, however long that takes.
    """
    if (motion is not None) + (video is not None) + (live is not None) != 1:
        raise CommandError("name what drives the head: either --motion FILE or --video FILE, or --live ADDRESS")
    if live is not None and not page:
        raise CommandError(
            "--live passes a stream on to pages; give --page, or name the stream to headfields view --live"
        )
    if page and out is not None:
        raise CommandError("--out writes a file, and --page serves pages; leave one out")
    if speed <= 0:
        raise CommandError(f"--speed is {speed}; expected a positive number")
    if motion is not None and (face_landmarker is not None or out is not None):
        raise CommandError("--face-landmarker and --out are for a --video; leave them out")
    if live is not None and (face_landmarker is not None or out is not None):
        raise CommandError("--face-landmarker and --out are for a --video; leave them out")
    if motion is None and (speed != 1 or loop):
        raise CommandError("--speed and --loop are for a --motion; leave them out")
    if video is not None and face_landmarker is None:
        raise CommandError(
            "--video needs --face-landmarker face_landmarker.task, which is published with MediaPipe's models "
            "(ai.google.dev/edge/mediapipe) and is not downloaded for you"
        )
    to = to or ("ws:" if page else "udp:")
    if live is not None:
        _pass_on(live, to)
        return
    if motion is not None:
        from headfields.apps.driving.sender import play
        from headfields.apps.faces.files import read_face_motion
        from headfields.runs.interrupts import InterruptFlag

        face = read_face_motion(motion)
        with _receiver(to, page) as sender, InterruptFlag() as interrupt:
            print(f"{motion}: {len(face)} frames of {face.seconds:.1f} s to {sender.address}", file=sys.stderr)
            play(sender, face, speed, loop, lambda: interrupt)
        unheard = f"; {sender.unheard} of them while nobody listened" if sender.unheard else ""
        print(f"{sender.sent + (0 if page else sender.unheard)} frames sent{unheard}")
        return
    assert video is not None and face_landmarker is not None
    _drive_video(to, video, face_landmarker, out, page)


def _receiver(to: str, page: bool) -> Any:
    """What takes the frames: a stream, or the server of pages."""
    from headfields.apps.driving.page_server import PageServer
    from headfields.apps.driving.sender import FaceSender

    try:
        made = PageServer(to) if page else FaceSender(to)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from error
    if page:
        print(f"paste into the page, under Live: {made.address}", file=sys.stderr)
    return made


def _pass_on(live: str, to: str) -> None:
    """Serves pages what comes in at a stream, until Ctrl-C."""
    from headfields.apps.driving.stream import FaceStream
    from headfields.runs.interrupts import InterruptFlag

    with _receiver(to, True) as server, InterruptFlag() as interrupt:
        try:
            stream = FaceStream(live)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise CommandError(str(error)) from error
        with stream:
            print(f"listening on {stream.address}", file=sys.stderr)
            stream.on_frame = lambda: server.send_frame(stream.latest)
            while not interrupt:
                time.sleep(0.1)
            print(f"{stream.counts}; {server.unheard} while no page was there")


def _drive_video(to: str, video: Path, model: Path, out: Path | None, page: bool) -> None:
    """Sends what the landmarker sees, in real time; or writes all of it."""
    from headfields.apps.capturing.detectors.mediapipe import MediaPipeFaceShapes
    from headfields.apps.capturing.video import open_video
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
    sender = None if out is not None else _receiver(to, page)
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
        print(f"{sender.sent + (0 if page else sender.unheard)} frames sent")
    elif lines and out is not None:
        print(write_text(out, "".join(lines)))
    else:
        raise CommandError(f"{video}: there is no frame with a face; {out} was not written")
