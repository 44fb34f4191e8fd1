"""A video or a folder of images as an untracked recording on disk: detections, framing, shots, faults of frames."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.detectors.protocol import Detector
from headfields.apps.capturing.framing import Framing, framing_of
from headfields.apps.capturing.recording_files import load_untracked, write_recording_file
from headfields.apps.capturing.shots import BLACK, cuts_between, thumbnail
from headfields.apps.capturing.video import SourceFrame, VideoSource
from headfields.data.errors import CaptureError
from headfields.data.ibug_landmarks import ibug_points
from headfields.data.untracked import UntrackedRecording
from headfields.files.arrays import save_arrays
from headfields.files.atomic import write_image

__all__ = ["DEFAULT_FOCAL", "check_given", "detected_landmarks", "nearest_face", "prepare_recording"]

DEFAULT_FOCAL = 1.2
"""Focal length where nothing determines it, in longer sides of the uncropped image: a phone's front camera has about
0.9, its portrait lens 1.6, a camera at a tripod 1.5 and more. Our own choice."""
_LEAST = 6
"""Known landmarks that make a face."""
_WITHIN = 0.6
"""Distance from the middle of a face, of its landmarks', within which it is in its matte."""
_NAMED = 6
"""Most frames without a face that are named."""


def prepare_recording(
    source: VideoSource,
    folder: str | Path,
    files: DetectionFiles | None = None,
    detectors: Sequence[Detector] = (),
    crop: Literal["auto", "none"] | tuple[int, int, int, int] = "auto",
    side: int | None = 512,
    focal: float | None = None,
    show: Callable[[str, int], None] = lambda what, frame: None,
    stop: Callable[[], bool] = lambda: False,
    calibration: tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "3 3"]] | None = None,
    lens: Float[np.ndarray, "3 3"] | None = None,
) -> UntrackedRecording | None:
    """Reads all frames twice (landmarks, then pixels), and writes the recording that trackers read.

    Files come before detectors, and an image's own alpha before a detector's matte. Of several faces, the one nearest
    to the frame before's is followed, from the largest of the first. Frames that cannot be used are in `failed`, each
    with a sentence: black ones, those that cannot be decoded, those without face and matte.

    Args:
        source: the video or folder.
        folder: of the recording; a whole one there is opened and not made again.
        files: detections of another program.
        detectors: asked in this order for what the files lack. Landmarks are detected in whole images, mattes and
            labels in cropped ones.
        crop: `"auto"` for a square around the face of all frames, `"none"` for whole images, or left, top, width and
            height in pixels.
        side: largest side of the written images, pixels; None for the crop's own.
        focal: focal length in pixels of the source, if known.
        show: called with what is done and the number of frames done.
        stop: asked between frames whether to stop.
        calibration: the camera's pose, from the world to it (OpenCV axes), and its intrinsics in pixels of the source,
            if it is one of several; the crop is then a square of `side` pixels, and frames need no face.
        lens: intrinsics in pixels of the source, if they are known and the camera's pose is not.

    Returns:
        The recording; None if stopped.

    Raises:
        CaptureError: there are no frames, no landmarks or no mattes at all, or mattes leave out the faces.
    """
    folder = Path(folder)
    if (folder / "recording.json").is_file():
        return load_untracked(folder)
    if calibration is None:
        check_given(source, files, detectors)
    record = _Frames()
    for count, frame in enumerate(source):
        if stop():
            return None
        record.add(frame, files, detectors)
        last = frame.index
        show("landmarks", count + 1)
    if not record.names:
        raise CaptureError(f"{source.path} has no frames")
    if line := source.line_if_cut_short(last):
        record.report.append(line)
    if len(record.faults) == len(record.names):
        raise CaptureError(
            f"{source.path}: none of {len(record.names)} frames can be used; {record.faults[0]}; record it again"
        )
    landmarks = np.stack(record.landmarks)
    if calibration is None and not (np.isfinite(landmarks).all(2).sum(1) >= _LEAST).any():
        raise CaptureError(
            f"{source.path}: no face in any of {len(record.names)} frames; pass landmarks of a detector (--landmarks), "
            "or a model (--face-landmarker, --landmark-onnx)"
        )
    box = crop if isinstance(crop, tuple) else None
    framing = framing_of(source.size, landmarks if crop == "auto" else None, side, box, calibration is not None)
    has_label, has_matte = False, False
    coverage: list[float] = []
    on_face: list[float] = []
    for row, frame in enumerate(source):
        if stop():
            return None
        matte, label = _maps(frame, framing, files, detectors, record.faults, row)
        if row in record.faults:
            continue
        has_matte |= matte is not None
        if matte is None or not (matte > 127).any():
            record.faults[row] = f"{frame.name}: nobody is in the matte" if matte is not None else (
                f"{frame.name} has no matte"
            )  # fmt: skip
            continue
        coverage.append(float((matte > 127).mean()))
        on_face.append(_share_of_face(matte, framing.points(landmarks[row])))
        write_image(folder / "images" / f"{row:05d}.png", np.dstack([framing.image(frame.rgb), matte]))
        if label is not None:
            write_image(folder / "labels" / f"{row:05d}.png", label)
            has_label = True
        show("pictures", row + 1)
    if not has_matte:
        reasons = [reason for reason in record.faults.values() if "has no matte" not in reason]
        raise CaptureError(reasons[0] if reasons else (
            f"{source.path}: no frame has a matte; pass images of a matting program (--mattes), or a model "
            "(--segmenter, --matte-onnx)"
        ))  # fmt: skip
    _check_mattes(source, record, coverage, on_face)
    recording = _recording(source, record, framing, focal)
    if calibration is not None:
        lens = calibration[1]
        recording = replace(recording, world_to_camera=np.repeat(calibration[0][None], len(recording), 0))
    if lens is not None:
        framed = lens.copy()
        framed[:2, 2] -= [framing.left, framing.top]
        framed[:2] *= np.array(framing.scale)[:, None]
        recording = replace(recording, intrinsics=framed[None])
    marks = framing.points(landmarks)
    counts = np.where(np.isfinite(marks).all(2).sum(1) >= _LEAST, marks.shape[1], 0)
    save_arrays(folder / "landmarks.npz", {"landmarks": marks, "counts": counts})
    write_recording_file(folder, recording, has_label)
    return load_untracked(folder)


class _Frames:
    """What is known of the frames after the first reading."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.landmarks: list[np.ndarray] = []
        self.thumbnails: list[np.ndarray] = []
        self.faults: dict[int, str] = {}
        self.report: list[str] = []
        self._before: np.ndarray | None = None

    def add(self, frame: SourceFrame, files: DetectionFiles | None, detectors: Sequence[Detector]) -> None:
        row = len(self.names)
        small = thumbnail(frame.rgb)
        self.names.append(frame.name)
        self.thumbnails.append(small)
        points = np.full((68, 2), np.nan, np.float32)
        if frame.fault is not None:
            self.faults[row] = frame.fault
        elif float(small.mean()) < BLACK:
            self.faults[row] = f"{frame.name} is black; nothing can be made out in it"
        else:
            try:
                faces = detected_landmarks(frame, files, detectors)
            except CaptureError as error:
                faces, self.faults[row] = None, str(error)
            if faces is not None and len(faces):
                points = nearest_face(faces, self._before)
                self._before = points
                if len(faces) > 1:
                    self.report.append(
                        f"{frame.name} has {len(faces)} faces; the one nearest to the frame before's is followed"
                    )
        self.landmarks.append(points)


def check_given(source: VideoSource, files: DetectionFiles | None, detectors: Sequence[Detector]) -> None:
    """Refuses a recording without any source of landmarks or of mattes, before a frame is read.

    Raises:
        CaptureError: there are neither files nor detectors of landmarks, or neither of mattes and the source has none.
    """
    if detectors:
        return
    given = set() if files is None else files.given
    if "landmarks" not in given:
        raise CaptureError(
            f"{source.path}: no landmarks were given, and there is no detector; pass landmarks of a detector "
            "(--landmarks FOLDER), or a model (--face-landmarker face_landmarker.task, --landmark-onnx)"
        )
    if "mattes" not in given and not source.has_alpha:
        raise CaptureError(
            f"{source.path}: no mattes were given, {'the images have no alpha' if source.files else 'a video has none'}"
            ", and there is no detector; pass images of a matting program (--mattes FOLDER), or a model (--segmenter, "
            "--matte-onnx)"
        )


def detected_landmarks(
    frame: SourceFrame, files: DetectionFiles | None, detectors: Sequence[Detector]
) -> Float[np.ndarray, "k 68 2"] | None:
    """The faces of a frame (K, 68, 2), pixels, of files or else of the first detector that has any; None for none."""
    faces = None if files is None else files.landmarks_of(frame)
    for detector in detectors:
        if faces is not None:
            break
        points: Any = detector.landmarks(frame.rgb)
        if points is None:
            continue
        points = np.asarray(points)
        each = points[None] if points.ndim == 2 else points
        if len(each):
            faces = np.stack([ibug_points(face, f"{frame.name}: {type(detector).__name__}") for face in each])
    if faces is None:
        return None
    faces = faces[np.isfinite(faces).all(2).sum(1) >= _LEAST]
    return faces if len(faces) else None


def _maps(
    frame: SourceFrame, framing: Framing, files: DetectionFiles | None, detectors: Sequence[Detector],
    faults: dict[int, str], row: int,
) -> tuple[UInt8[np.ndarray, "h w"] | None, UInt8[np.ndarray, "h w"] | None]:  # fmt: skip
    """Matte and labels of a frame, framed; a fault is noted."""
    if row in faults:
        return None, None
    try:
        matte = None if files is None else files.matte_of(frame)
        label = None if files is None else files.labels_of(frame)
        matte = frame.alpha if matte is None else matte
        framed_matte = None if matte is None else framing.image(matte)
        framed_label = None if label is None else framing.image(label, nearest=True)
        if detectors and (framed_matte is None or framed_label is None):
            image = framing.image(frame.rgb)
            for detector in detectors:
                framed_matte = detector.matte(image) if framed_matte is None else framed_matte
                framed_label = detector.labels(image) if framed_label is None else framed_label
        for name, value in (("matte", framed_matte), ("labels", framed_label)):
            if value is not None and (value.shape != framing.size or value.dtype != np.uint8):
                raise CaptureError(
                    f"{frame.name}: {name} has shape {value.shape} and dtype {value.dtype}; expected {framing.size}, "
                    "uint8"
                )
    except CaptureError as error:
        faults[row] = str(error)
        return None, None
    return framed_matte, framed_label


def _share_of_face(matte: UInt8[np.ndarray, "h w"], points: Float[np.ndarray, "68 2"]) -> float:
    """Share of the landmarks, drawn in from the face's rim, that lie in the matte; NaN without a face."""
    known = points[np.isfinite(points).all(1)]
    if len(known) < _LEAST:
        return np.nan
    middle = known.mean(0)
    x, y = (middle + _WITHIN * (known - middle)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < matte.shape[1]) & (y < matte.shape[0])
    return float((matte[y[inside], x[inside]] > 127).mean()) if inside.any() else np.nan


def _check_mattes(source: VideoSource, record: _Frames, coverage: Sequence[float], on_face: Sequence[float]) -> None:
    """Refuses mattes that no head can be fitted to: empty, white throughout, or beside the faces."""
    count = len(record.names)
    if not coverage:
        raise CaptureError(
            f"{source.path}: none of {count} frames can be used; {next(iter(record.faults.values()))}. Mattes are "
            "white on the person and black elsewhere"
        )
    if min(coverage) == 1.0:
        raise CaptureError(
            f"{source.path}: the mattes cover whole images, as if nobody was cut out; pass mattes that are white on "
            "the person and black elsewhere"
        )
    known = [share for share in on_face if share == share]
    if known and float(np.median(known)) < 0.5:
        beside = sum(share < 0.5 for share in known)
        raise CaptureError(
            f"{source.path}: the mattes leave out the face in {beside} of {len(known)} frames with landmarks; they are "
            "white on the person and black elsewhere: invert them, or check that mattes and landmarks are of these "
            "images"
        )


def _recording(source: VideoSource, record: _Frames, framing: Framing, focal: float | None) -> UntrackedRecording:
    height, width = source.size
    cuts = cuts_between(np.stack(record.thumbnails))
    scale = framing.scale
    center = ((width / 2 - framing.left) * scale[0], (height / 2 - framing.top) * scale[1])
    names = record.names
    report = [f"crop: left {framing.left}, top {framing.top}, {framing.width}x{framing.height} of {width}x{height} "
              f"pixels, written at {framing.size[1]}x{framing.size[0]}"]  # fmt: skip
    faceless = [
        name for row, (name, points) in enumerate(zip(names, record.landmarks, strict=True))
        if row not in record.faults and int(np.isfinite(points).all(1).sum()) < _LEAST
    ]  # fmt: skip
    if faceless:
        more = f" and {len(faceless) - _NAMED} more" if len(faceless) > _NAMED else ""
        report.append(f"no face in {', '.join(faceless[:_NAMED])}{more}: fitted by colors and outlines")
    report += [
        f"a cut: another scene begins with {names[cut]}; it is fitted from its own landmarks, and motion is not "
        "smoothed across the cut" for cut in cuts
    ]  # fmt: skip
    recording = UntrackedRecording(
        source.path.stem, framing.size, names, lambda frame: np.zeros((*framing.size, 4), np.uint8),
        lambda frame: None, lambda frame: None, center=center,
        default_focal=DEFAULT_FOCAL * max(width, height) * (scale[0] + scale[1]) / 2, failed=record.faults,
        cuts=tuple(cuts), report=(*report, *record.report),
    )  # fmt: skip
    return recording if focal is None else replace(recording.with_focal(focal * (scale[0] + scale[1]) / 2))


def nearest_face(
    faces: Float[np.ndarray, "k 68 2"], before: Float[np.ndarray, "68 2"] | None
) -> Float[np.ndarray, "68 2"]:
    """The face nearest to the one of an earlier frame; without one, the largest.

    Args:
        faces: (K, 68, 2) pixels, K at least 1.
        before: (68, 2) of the earlier frame, or None.
    """
    if before is not None and np.isfinite(before).all(1).any():
        distance = [_distance(face, before) for face in faces]
        if np.isfinite(distance).any():
            return faces[int(np.nanargmin(distance))]
    sizes = [_size(face) for face in faces]
    return faces[int(np.argmax(sizes))]


def _distance(face: np.ndarray, before: np.ndarray) -> float:
    apart = np.linalg.norm(face - before, axis=1)
    return float(np.nanmean(apart)) if np.isfinite(apart).any() else np.nan


def _size(face: np.ndarray) -> float:
    known = face[np.isfinite(face).all(1)]
    return float(np.ptp(known, axis=0).prod()) if len(known) else 0.0
