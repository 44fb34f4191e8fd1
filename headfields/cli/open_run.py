"""Run folders, captures and devices, as the commands open them."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from headfields.cli.errors import CommandError
from headfields.data.camera_axes import Convention
from headfields.data.template import Mouth
from headfields.runs.folder import RunFolder, RunWriteError
from headfields.runs.lock import RunLockedError

HeadFrame = Literal["auto", "keep", "normalize"]


def choose_device(name: str) -> torch.device:
    """A torch device by name; "auto" is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CommandError(f"--device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CommandError(f"--device is {name!r}, but torch sees no CUDA device; headfields doctor tells more")
    return device


def open_capture(
    path: Path, memory: int, head_frame: HeadFrame = "auto", mouth: Mouth | Literal["auto"] = "close",
    convention: Convention = "auto",
) -> Any:  # fmt: skip
    """The capture in a folder; `head_frame`, `mouth` and `convention` as in `headfields.data.load_capture`."""
    from headfields.data import load_capture

    stated: dict[str, Any] = {} if convention == "auto" else {"convention": convention}
    capture = load_capture(path, memory_budget_mb=memory, head_frame=head_frame, mouth=mouth, **stated)
    for line in capture.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in getattr(capture, "report", []):
        if line.startswith("head pose: taken out"):
            print(line, file=sys.stderr)
    return capture


def open_driver(path: Path, memory: int, mouth: Mouth) -> Any:
    """The capture in a folder whose motion drives an avatar. Its mouth is treated as that of the avatar's capture where
    that can be done, and stays as it is otherwise: a mesh with an inside of the mouth needs no other."""
    from headfields.data.errors import NoOpenMouthError

    driver = open_capture(path, memory, mouth=mouth)
    if mouth == "interior":
        try:
            _ = driver.template
        except NoOpenMouthError:
            return open_capture(path, memory, mouth="none")
    return driver


def open_frames(path: Path, memory: int, convention: Convention = "auto") -> Any:
    """The recording in a folder, for tracking: a capture, the input of MonoNPHM's tracker, NeRFace's data set, or one
    without meshes, with the focal length that `headfields capture` has fitted to it. `convention` is of captures."""
    from headfields.apps.capturing.recording_files import load_untracked
    from headfields.apps.tracking.head.identity import HeadIdentity
    from headfields.data import load_mononphm, load_nerface
    from headfields.data.formats.mononphm import is_mononphm
    from headfields.data.formats.nerface import is_nerface
    from headfields.data.untracked import is_untracked

    own = "the recording of headfields capture" if is_untracked(path) else ""
    own = own or ("MonoNPHM's input" if is_mononphm(path) else "NeRFace's data set" if is_nerface(path) else "")
    if own and convention != "auto":
        raise CommandError(
            f"--convention is {convention!r}, and {path} is {own}, which has one of its own; leave it out"
        )
    if is_untracked(path):
        recording = load_untracked(path)
        identity = path.parent / "identity.safetensors"
        if recording.intrinsics is None and identity.is_file():
            fitted = HeadIdentity.load(identity)
            print(f"{path}: the focal length of headfields capture, {fitted.focal:.0f} pixels", file=sys.stderr)
            return recording.with_focal(fitted.focal)
        if recording.intrinsics is None and recording.default_focal is not None:
            print(
                f"warning: {path}: the focal length is unknown; {recording.default_focal:.0f} pixels are taken",
                file=sys.stderr,
            )
            recording = recording.with_focal(recording.default_focal)
        return recording
    if is_mononphm(path):
        return load_mononphm(path)
    return load_nerface(path) if is_nerface(path) else open_capture(path, memory, convention=convention)


def head_frame(config: dict[str, Any]) -> HeadFrame:
    """The `head_frame` with which a run opened its capture; "keep" if its config.json has none."""
    return "normalize" if config.get("head_frame") == "normalize" else "keep"


def capture_of(config: dict[str, Any], other: Path | None, memory: int) -> Any:
    """A run's own capture, opened as for training, or another one, with the same mouth."""
    mouth = config.get("mouth", "close")
    if other is not None:
        return open_capture(other, memory, mouth=mouth)
    if config.get("capture") is None:
        raise CommandError(
            f"the run was trained on a capture that has no folder, {config.get('capture_name')!r}; name one with "
            "--capture"
        )
    if isinstance(config["capture"], list):
        from headfields.training.opened_run import open_joined

        return open_joined(config["capture"], memory, config)
    return open_capture(Path(config["capture"]), memory, head_frame(config), mouth, config.get("convention", "auto"))


def warn_of_frame_codes(avatar: Any, other: Path | None) -> None:
    """Says on stderr that codes are looked up by frame as in the avatar's own capture, if `other` is passed."""
    names = [name for name, table in getattr(avatar, "codes", {}).items() if table.by == "frame"]
    if other is not None and names:
        print(
            f"warning: --capture {other}: frame i has the avatar's code of frame i ({', '.join(names)}), which is its "
            "own only in the recording that the avatar was trained on",
            file=sys.stderr,
        )


def write_config(run: RunFolder, config: dict[str, Any], resume: bool, before: dict[str, Any]) -> None:
    """Writes config.json; says so if there was no run to resume."""
    say_if_new(run, resume, before)
    run.write_config(config)


def say_if_new(run: RunFolder, resume: bool, before: dict[str, Any]) -> None:
    """Says so if there was no run to resume."""
    if resume and not before:
        print(f"headfields: {run.path} holds no run to resume; a new one starts", file=sys.stderr)


def open_run(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run folder and its config.json."""
    from headfields.training.run_config import check_config

    run = RunFolder(path)
    config = run.config()
    check_config(run.path, config)
    return run, config


def open_avatar(run: RunFolder, config: dict[str, Any], memory: int) -> Any:
    """The trained avatar of a run; see `headfields.training.opened_run.avatar_of_run`."""
    from headfields.training.opened_run import avatar_of_run

    return avatar_of_run(run, config, lambda: capture_of(config, None, memory))


def at_most(frames: list[int], limit: int | None) -> list[int]:
    """At most `limit` of the frames, evenly spaced."""
    if limit is None or limit >= len(frames):
        return frames
    if limit < 1:
        raise CommandError(f"--limit is {limit}; expected at least 1")
    return [frames[i * len(frames) // limit] for i in range(limit)]


def select_frames(capture: Any, split: str, frames: str | None, limit: int | None) -> list[int]:
    """The frames of a slice, START:STOP[:STEP], or of a split, `limit` of them.

    Raises:
        CommandError: the text is no slice, or selects nothing.
    """
    from headfields.training.frames import choose_frames

    if frames is None:
        return at_most(choose_frames(capture, split), limit)
    try:
        bounds = [int(part) if part else None for part in frames.split(":")]
        if not 2 <= len(bounds) <= 3:
            raise ValueError
        selected = list(range(len(capture)))[slice(*bounds)]
    except ValueError as error:
        raise CommandError(f"--frames is {frames!r}; expected START:STOP[:STEP], as 0:100:2") from error
    if not selected:
        raise CommandError(f"--frames {frames}: capture {capture.name!r} has none of them, of {len(capture)}")
    return at_most(selected, limit)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns errors of training that are no mistake in the program into a `CommandError`."""
    from headfields.runs.progress import NanLossError
    from headfields.training.processes import PeerError

    try:
        yield
    except (NanLossError, PeerError, RunLockedError, RunWriteError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from error


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Shows warnings as one line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"headfields: warning: {message}", file=sys.stderr)
        yield
