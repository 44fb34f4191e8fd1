"""The steps of `headfields capture` before frames are tracked, resumable: the recording, and the head's identity."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.detectors.protocol import Detector
from headfields.apps.capturing.posed import prepare_posed
from headfields.apps.capturing.posed_images import PosedFrames
from headfields.apps.capturing.prepare import prepare_recording
from headfields.apps.capturing.prepare_cameras import prepare_cameras
from headfields.apps.capturing.video import VideoSource
from headfields.apps.tracking.file_formats import CAPTURE_RUN
from headfields.apps.tracking.head.identity import HeadIdentity, fit_identity
from headfields.apps.tracking.head.options import HeadTrackingOptions
from headfields.apps.tracking.head.rig import HeadModel
from headfields.data.untracked import UntrackedRecording, is_untracked
from headfields.files.arrays import load_arrays
from headfields.files.reading import check_file, reading
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame.model import FlameHead
from headfields.heads.skinned import SkinnedHead
from headfields.heads.smplx import SmplxHead
from headfields.runs.folder import read_json_object, write_json
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock

__all__ = ["begun_afresh", "check_run", "fitted_identity", "opened_head", "prepared"]

_FOLDER = "tracking"
_SMPLX_JOINTS = 55


def opened_head(name: str) -> SkinnedHead | BlendshapeHead:
    """A head by file: FLAME's or SMPL-X's format, or blendshapes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else.
    """
    path = check_file(name)
    with reading(path, "a parametric head"):
        raw = load_arrays(path)
        if "template" in raw and "expression" in raw:
            return BlendshapeHead.from_file(path)
        tree = raw.get("kintree_table")
        joints = getattr(tree, "shape", (0, 0))[-1]
        return SmplxHead.from_file(path) if joints == _SMPLX_JOINTS else FlameHead.from_file(path)


def prepared(
    source: VideoSource | PosedFrames | Mapping[str, VideoSource], out: Path,
    files: DetectionFiles | Mapping[str, DetectionFiles],
    detectors: Sequence[Detector], crop: Any = "auto", side: int | None = 512, focal: float | None = None,
    bar: bool = True, calibration: Path | None = None, posed: Mapping[str, Any] | None = None,
) -> UntrackedRecording | None:  # fmt: skip
    """The recording of a run, made or opened; None after Ctrl-C. Arguments as `prepare_recording`, or, with a
    calibration and sources and files by camera, as `prepare_cameras`, or, of images with cameras, as `prepare_posed`,
    whose further ones are `posed`."""
    folder = out / _FOLDER / "recording"
    folder.mkdir(parents=True, exist_ok=True)
    bars: list[Any] = []

    def show(what: str, frame: int) -> None:
        if not bars:  # what cannot be prepared has none
            bars.append(stack.enter_context(tqdm(unit="frame", disable=not bar, file=sys.stderr)))
        bars[0].set_description(what, refresh=False)
        bars[0].update(frame - bars[0].n)

    with run_lock(out / _FOLDER), InterruptFlag() as interrupted, contextlib.ExitStack() as stack:
        if isinstance(source, Mapping):
            assert isinstance(files, Mapping) and calibration is not None
            recording = prepare_cameras(
                source, calibration, folder, files, detectors, crop, side, show, lambda: bool(interrupted)
            )
        elif isinstance(source, PosedFrames):
            assert isinstance(files, DetectionFiles)
            recording = prepare_posed(
                source, folder, files, detectors, crop, side, show=show, stop=lambda: bool(interrupted), **(posed or {})
            )
        else:
            assert isinstance(files, DetectionFiles)
            recording = prepare_recording(
                source, folder, files, detectors, crop, side, focal, show, lambda: bool(interrupted)
            )
        return None if interrupted else recording  # also when Ctrl-C came as the last file was written


def fitted_identity(
    model: HeadModel, recording: UntrackedRecording, out: Path, options: HeadTrackingOptions,
    free_labels: Sequence[int] = (), bar: bool = True,
) -> HeadIdentity | None:  # fmt: skip
    """The identity of a run, fitted or read; None after Ctrl-C. Arguments as `fit_identity`."""
    path = out / _FOLDER / "identity.safetensors"
    if path.is_file():
        return HeadIdentity.load(path)
    progress = tqdm(desc="identity", bar_format="{desc}: {elapsed} {postfix}", disable=not bar, file=sys.stderr)
    with run_lock(out / _FOLDER), InterruptFlag() as interrupted, progress:
        identity = fit_identity(
            model, recording, options, free_labels, None, progress.set_postfix_str, lambda: bool(interrupted)
        )
        if identity is not None:
            identity.save(path)
        return None if interrupted else identity


@contextlib.contextmanager
def begun_afresh(out: Path) -> Iterator[None]:
    """Takes away what a try has left that failed before its recording was whole, so that it refuses no other one.

    A run that was begun before, and what Ctrl-C leaves, stay.
    """
    before, had_folder = (out / _FOLDER).exists(), out.exists()
    try:
        yield
    except Exception:
        if not before and not is_untracked(out / _FOLDER / "recording"):
            shutil.rmtree(out / _FOLDER, ignore_errors=True)
            if not had_folder and out.is_dir() and not any(out.iterdir()):
                out.rmdir()
        raise


def check_run(out: Path, arguments: Mapping[str, Any], resume: bool) -> None:
    """Writes what a run was begun with into capture.json, or checks that it is continued with the same.

    Raises:
        FileExistsError: the folder holds a run or other files, and `resume` is False.
        FileVersionError: another version of the library began the run.
        ValueError: the run was begun with other arguments; the message names them.
    """
    path = out / _FOLDER / "capture.json"
    current = CAPTURE_RUN.stamp(json.loads(json.dumps(arguments, default=str)))
    if path.is_file():
        if not resume:
            raise FileExistsError(f"{out} holds a run of headfields capture; --resume continues it")
        before = read_json_object(path, "a run of headfields capture has one")
        CAPTURE_RUN.check(path, before)
        for name, value in current.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{out} was begun with --{name.replace('_', '-')} {before.get(name)}, not {value}; resume with the "
                    "same, or name another folder"
                )
        return
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty and holds no run of headfields capture; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, current)
