"""Several synchronized cameras as one untracked recording: calibration, units, and which camera comes first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.detectors.protocol import Detector
from headfields.apps.capturing.prepare import prepare_recording
from headfields.apps.capturing.recording_files import load_untracked, write_joined
from headfields.apps.capturing.video import VideoSource, open_video
from headfields.data.calibration import calibrated_names, read_calibration
from headfields.data.errors import CaptureError
from headfields.data.untracked import UntrackedRecording
from headfields.data.video_frames import VIDEO_SUFFIXES

__all__ = ["camera_sources", "prepare_cameras"]

_SIDE = 512
_CORNERS = (36, 45)
"""iBUG's outer corners of the eyes."""
_EYES = 0.09
"""Their distance in meters, about; FLAME's mean head has 0.091."""
_UNITS = {"meters": 1.0, "decimeters": 0.1, "centimeters": 0.01, "millimeters": 0.001}
_NEAR = 1.35
"""Factor to the expected distance within which a unit is taken."""
_APART = 0.03
"""Distance of landmarks to those of the triangulated points, of the image's side, above which cameras disagree."""
_FRAMES = 24
_SEEN = 6


def camera_sources(
    folder: Path, calibration: Path, every: int = 1, rate: float | None = None, limit: int | None = None
) -> dict[str, VideoSource]:
    """The videos or folders of images of a calibration's cameras, by name.

    A camera NAME is `FOLDER/NAME/`, `FOLDER/NAME.mp4` or another video, or one of these with `cam_` before its name;
    or in `FOLDER/images/`, as NeRSemble's are. Cameras of the calibration without any are left out.

    Raises:
        CaptureError: no camera has one, or one of them cannot be read.
    """
    sources: dict[str, VideoSource] = {}
    names = calibrated_names(calibration)
    for name in names:
        stems = [base / stem for base in (folder, folder / "images") for stem in (name, f"cam_{name}")]
        paths = [path for stem in stems for path in (stem, *(stem.with_name(stem.name + end) for end in VIDEO_SUFFIXES))
                 if path.is_dir() or (path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES)]  # fmt: skip
        if paths:
            sources[name] = open_video(paths[0], every, rate, limit)
    if not sources:
        raise CaptureError(
            f"{folder} has no folder or video of a camera of {calibration} ({', '.join(names[:6])}); name them for "
            "their cameras"
        )
    return sources


def prepare_cameras(
    sources: Mapping[str, VideoSource], calibration: Path, folder: str | Path,
    files: Mapping[str, DetectionFiles], detectors: Sequence[Detector] = (),
    crop: Literal["auto", "none"] | tuple[int, int, int, int] = "auto", side: int | None = _SIDE,
    show: Callable[[str, int], None] = lambda what, frame: None, stop: Callable[[], bool] = lambda: False,
    placed: tuple[Mapping[str, Float[np.ndarray, "4 4"]], Mapping[str, Float[np.ndarray, "3 3"]]] | None = None,
    scale: float | int | None = None, report: Sequence[str] = (),
) -> UntrackedRecording | None:  # fmt: skip
    """Each camera's recording, by `prepare_recording`, in one space.

    The camera with a face in most frames comes first. Landmarks that several cameras see are triangulated: they tell
    the unit of the calibration, and whether its cameras fit the images at all.

    Args:
        sources: by name of the camera, as `camera_sources` finds them.
        calibration: see `read_calibration`.
        folder: of the recording; each camera has a folder in it.
        files: detections of another program, by camera.
        detectors, crop, side, show, stop: as those of `prepare_recording`.
        placed: world to camera and intrinsics by camera, where they are known already; `calibration` is then the file
            that messages name.
        scale: meters per unit of the cameras' places; None: by the eyes' corners.
        report: lines to begin with.

    Returns:
        The recording; None if stopped.

    Raises:
        CaptureError: cameras have images of several sizes or different numbers of frames, there is no face, or
            calibration and landmarks do not fit together.
    """
    sizes = {name: source.size for name, source in sources.items()}
    views, lenses = read_calibration(calibration, sizes) if placed is None else placed
    recordings: dict[str, UntrackedRecording] = {}
    for name, source in sources.items():
        recording = prepare_recording(
            source, Path(folder) / name, files.get(name), detectors, crop, _SIDE if side is None else side, None,
            lambda what, frame, name=name: show(f"{what} of {name}", frame),
            stop, (views[name], lenses[name]),
        )  # fmt: skip
        if recording is None:
            return None
        before = recording.world_to_camera
        if before is None or not np.allclose(before, views[name], rtol=1e-9, atol=1e-12):
            raise CaptureError(
                f"{calibration}: world_2_cam of {name} is not what it was when the run was begun; continue with the "
                "calibration of then, or name another folder"
            )
        recordings[name] = replace(recording, name=name)
    sizes = {name: recording.size for name, recording in recordings.items()}
    odd = next((name for name, size in sizes.items() if size != next(iter(sizes.values()))), None)
    if odd is not None:
        raise CaptureError(
            f"{odd}: images are {sizes[odd][1]}x{sizes[odd][0]} pixels, and the first camera's others; crop them "
            "automatically, or to one size"
        )
    marks = {name: _landmarks(recording) for name, recording in recordings.items()}
    faces = {name: int((np.isfinite(own).all(2).sum(1) >= _SEEN).sum()) for name, own in marks.items()}
    first = max(faces, key=lambda name: faces[name])
    if not faces[first]:
        raise CaptureError(
            f"{calibration.parent}: no face in any frame of any camera; pass landmarks of a detector (--landmarks), or "
            "a model (--face-landmarker, --landmark-onnx)"
        )
    order = [first, *(name for name in recordings if name != first)]
    counts = {name: len(recording) for name, recording in recordings.items()}
    for name in order[1:]:
        if counts[name] != counts[first]:
            raise CaptureError(
                f"camera {name} has {counts[name]} frames and {first} {counts[first]}; the cameras of a recording are "
                "synchronized: cut their videos to the same moments"
            )
    found, line = _unit([recordings[name] for name in order], [marks[name] for name in order], calibration)
    if scale is not None:
        if not found / _NEAR < scale < found * _NEAR:
            amount = max(found / scale, scale / found)
            raise CaptureError(
                f"{calibration}: scale is {scale:g} meters per unit, and the eyes' outer corners are then "
                f"{100 * _EYES * scale / found:.3g} cm apart, {100 * _EYES:.0f} of most people. Either the scale is "
                f"wrong, and about {found:.3g}, or the focal length is: the projected landmarks are {amount:.1f} times "
                f"too {'wide' if scale < found else 'narrow'}"
            )
        found, line = float(scale), f"the cameras' places are scaled by {scale:g}, as given"
    lines = [*report]
    if placed is not None:
        lines.append(f"{sum(map(bool, faces.values()))} of {len(order)} cameras see a face; {first} is the first one")
    else:
        lines += [f"camera {row:02d} is {name}, with a face in {faces[name]} of {counts[name]} frames"
                  for row, name in enumerate(order)]  # fmt: skip
        lines += [
            f"camera {name} of the calibration has no video or folder of images, and is left out"
            for name in calibrated_names(calibration) if name not in sources
        ]  # fmt: skip
    lines += [
        f"camera {name} lacks {len(own.failed)} frames, as {next(iter(own.failed.values()))}"
        for name, own in recordings.items() if own.failed
    ]  # fmt: skip
    write_joined(Path(folder), order, found, [*lines, *([line] if line else [])])
    return load_untracked(folder)


def _landmarks(recording: UntrackedRecording) -> Float[np.ndarray, "f 68 2"]:
    out = np.full((len(recording), 68, 2), np.nan)
    for frame in range(len(recording)):
        points = None if frame in recording.failed else recording.landmarks(frame)
        if points is not None:
            out[frame] = points.numpy()
    return out


def _unit(
    recordings: Sequence[UntrackedRecording], marks: Sequence[np.ndarray], calibration: Path
) -> tuple[float, str | None]:
    """Meters per unit of the calibration, and a line on it where it is not meters."""
    cameras = [recording.intrinsics[0] @ recording.world_to_camera[0, :3] for recording in recordings  # type: ignore[index]
               ]  # fmt: skip
    lengths, errors = [], []
    for frame in np.unique(np.linspace(0, len(recordings[0]) - 1, _FRAMES).round().astype(int)):
        known = [row for row, own in enumerate(marks) if np.isfinite(own[frame, list(_CORNERS)]).all()]
        if len(known) < 2:
            continue
        ends = []
        for corner in _CORNERS:
            point, error = _triangulated([cameras[row] for row in known], [marks[row][frame, corner] for row in known])
            ends.append(point)
            errors.append(error)
        lengths.append(float(np.linalg.norm(ends[0] - ends[1])))
    if not lengths:
        return 1.0, "no moment has the eyes' corners in two cameras; the calibration is taken to be in meters"
    apart, length = float(np.median(errors)), float(np.median(lengths))
    if not apart <= _APART * max(recordings[0].size) or not length > 0:
        raise CaptureError(
            f"{calibration}: the eyes' corners of the cameras do not meet, by {apart:.0f} pixels; world_2_cam are "
            "rigid transforms from the world to each camera, with OpenCV's axes (x right, y down, z forward), "
            "intrinsics are in pixels of the videos, and the videos synchronized"
        )
    for unit, scale in _UNITS.items():
        if _EYES / _NEAR < length * scale < _EYES * _NEAR:
            return scale, None if scale == 1 else f"the calibration is in {unit}; the capture is in meters"
    return _EYES / length, (
        f"the calibration is in no metric unit (the eyes' outer corners are {length:.3g} apart); the capture is scaled "
        f"so that they are {100 * _EYES:.0f} cm apart"
    )


def _triangulated(
    cameras: Sequence[Float[np.ndarray, "3 4"]], pixels: Sequence[Float[np.ndarray, "2"]]
) -> tuple[Float[np.ndarray, "3"], float]:
    """The point that projects to given pixels, by the direct linear transform, and its mean distance to them."""
    rows = [row for camera, (x, y) in zip(cameras, pixels, strict=True)
            for row in (x * camera[2] - camera[0], y * camera[2] - camera[1])]  # fmt: skip
    matrix = np.stack([row / np.linalg.norm(row[:3]) for row in rows])
    solved = np.linalg.svd(matrix)[2][-1]
    if abs(solved[3]) < 1e-12:
        return np.zeros(3), np.inf
    point = solved[:3] / solved[3]
    seen = [camera @ [*point, 1.0] for camera in cameras]
    if any(depth <= 0 for *_, depth in seen):
        return point, np.inf
    apart = [np.linalg.norm(own[:2] / own[2] - own_pixels) for own, own_pixels in zip(seen, pixels, strict=True)]
    return point, float(np.mean(apart))
