"""Images with cameras of another program (nerfstudio, instant-ngp, COLMAP's converters) as an untracked recording.

Of a head that was held still the images are one moment from many cameras, which are fitted together; the head's own
size gives the cameras meters. A head that moves between the images has a pose of its own in each, which the cameras say
nothing of: their lenses are used, and their places are not. Which of the two it is, whether the convention is right and
whether the focal length is, is seen from the landmarks: the rays through those of a still head meet.

A focal length that is wrong by a factor is no more than another distance where all cameras look at the head's middle
from afar: the head and the cameras' places are scaled, and everything fits. So it is only seen in cameras that look
past the head or are near it, or with a known scale.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.detectors.protocol import Detector
from headfields.apps.capturing.posed_images import PosedFrames
from headfields.apps.capturing.prepare import check_given, detected_landmarks, prepare_recording
from headfields.apps.capturing.prepare_cameras import prepare_cameras
from headfields.apps.capturing.recording_files import load_untracked, write_recording_file
from headfields.apps.capturing.video import SourceFrame, VideoSource
from headfields.data.camera_axes import CONVENTIONS, Convention, convention_word, named_convention
from headfields.data.errors import CaptureError
from headfields.data.image_files import decode_image, natural_key
from headfields.data.undistortion import Undistortion
from headfields.data.untracked import UntrackedRecording, is_untracked

__all__ = ["Motion", "PosedSource", "prepare_posed"]

Motion = Literal["auto", "still", "moving"]
"""Whether the head was held still while the camera moved."""
_USUAL = "camera-to-world, OpenGL axes"
_STILL = 0.04
"""Distance of landmarks to where their rays meet, of the face's diagonal in the image, up to which a head is still; a
detector's noise is about 0.01 to 0.02. Of each of `_PARTS` the median, and the largest of these: a mouth that talks
moves alone."""
_PARTS = (slice(0, 10), slice(10, 19), slice(19, 31), slice(31, 51))
"""Brows, nose, eyes and mouth among the inner points."""
_FACTORS = np.geomspace(0.2, 5.0, 41)
_WRONG_FOCAL = 1.25
_INNER = slice(17, 68)
"""iBUG's points without the jaw's, which slide along it as the view changes."""
_SEEN = 20
"""Known inner landmarks that count as a face."""
_FEWEST = 3


@dataclass(frozen=True)
class _PosedFrame(SourceFrame):
    """A frame of one pinhole lens, and the image file that it was made of."""

    original: SourceFrame | None = None
    undistortion: Undistortion | None = None
    lens: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))
    common: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))

    def image(self, pixels: UInt8[np.ndarray, "h w *c"], nearest: bool = False) -> UInt8[np.ndarray, "i j *c"]:
        """An image of the original's size, without distortion and through the common lens."""
        if self.undistortion is not None:
            blank = np.full((*pixels.shape[:2], 4), 255, np.uint8)
            if pixels.ndim == 3:
                blank[..., :3] = pixels
                pixels = self.undistortion.image(0, (blank, None, None))[0][..., :3]
            elif nearest:
                moved = self.undistortion.image(0, (blank, pixels, None))[1]
                assert moved is not None
                pixels = moved
            else:
                blank[..., 3] = pixels
                pixels = self.undistortion.image(0, (blank, None, None))[0][..., 3]
        height, width = self.rgb.shape[:2]
        if np.array_equal(self.lens, self.common) and pixels.shape[:2] == (height, width):
            return np.ascontiguousarray(pixels)
        scale = self.lens.diagonal()[:2] / self.common.diagonal()[:2]
        shift = self.lens[:2, 2] - scale * self.common[:2, 2]
        method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        affine = (scale[0], 0.0, shift[0], 0.0, scale[1], shift[1])
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).transform(
                (width, height), Image.Transform.AFFINE, affine, method
            )
        )

    def points(self, points: Float[np.ndarray, "l 2"]) -> Float[np.ndarray, "l 2"]:
        """Pixels of the original as those of this frame."""
        if self.undistortion is not None:
            moved = self.undistortion.landmarks(0, points.astype(np.float32))
            assert moved is not None
            points = moved
        plane = (points - self.lens[:2, 2]) / self.lens.diagonal()[:2]
        return np.asarray(plane * self.common.diagonal()[:2] + self.common[:2, 2], np.float32)


@dataclass(frozen=True)
class PosedSource(VideoSource):
    """The images, undistorted and through one lens: that of the first of the size that most of them have.

    Attributes:
        posed: the images and their cameras.
        rows: those that are read, numbers of images.
        numbers: of all images, their places in their folder, by which a file with a row for each image is read.
        lens: (3, 3) intrinsics of all frames, pixels.
    """

    posed: PosedFrames | None = None
    rows: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    lens: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))

    @classmethod
    def of(cls, posed: PosedFrames, every: int = 1, limit: int | None = None) -> "PosedSource":
        """Every Nth image, at most `limit`."""
        rows = tuple(range(0, len(posed), every))[:limit]
        sizes = [posed.sizes[row] for row in rows]
        size = max(sizes, key=sizes.count)
        lens = posed.intrinsics[rows[sizes.index(size)]]
        return cls(posed.folder, size, 0.0, files=tuple(posed.images[row] for row in rows), posed=posed, rows=rows,
                   numbers=_places(posed.images), lens=lens)  # fmt: skip

    @property
    def has_alpha(self) -> bool:
        assert self.posed is not None
        return any(self.posed.masks) or super().has_alpha

    def single(self, index: int) -> "PosedSource":
        """One of the images alone."""
        return replace(self, files=(self.files[index],), rows=(self.rows[index],))

    def _image(self, index: int, file: Path) -> SourceFrame:
        posed, row = self.posed, self.rows[index]
        assert posed is not None
        where, size, number = f"frame {row} ({file.name})", posed.sizes[row], self.numbers[row]
        black = np.zeros((*self.size, 3), np.uint8)
        try:
            rgba = decode_image(file, where, "file_path", "rgba", size)
            mask = posed.masks[row]
            alpha = rgba[..., 3] if bool((rgba[..., 3] < 255).any()) else None
            if mask is not None:
                alpha = decode_image(mask, where, "mask_path", "label", size)
                alpha = alpha * np.uint8(255) if alpha.max(initial=0) == 1 else alpha
        except CaptureError as error:
            return _PosedFrame(number, where, file.stem, black, None, str(error))
        raw = SourceFrame(number, where, file.stem, np.ascontiguousarray(rgba[..., :3]), alpha)
        undistortion = None
        if posed.distortion is not None and posed.distortion[row].any():
            undistortion = _undistortion(
                posed.intrinsics[row].tobytes(), posed.distortion[row].tobytes(), posed.distortion.shape[1], size, where
            )
        own = posed.intrinsics[row]
        frame = _PosedFrame(number, where, file.stem, black, None, None, raw, undistortion, own, self.lens)
        return replace(frame, rgb=frame.image(raw.rgb), alpha=None if alpha is None else frame.image(alpha))


def _places(images: Sequence[Path]) -> tuple[int, ...]:
    """The place of each image among those of its folder; in the list, if there are several folders."""
    if len({path.parent for path in images}) > 1:
        return tuple(range(len(images)))
    suffixes = {path.suffix for path in images}
    every = sorted(
        (path for path in images[0].parent.iterdir() if path.suffix in suffixes),
        key=lambda path: natural_key(path.stem),
    )
    place = {path.name: number for number, path in enumerate(every)}
    return tuple(place[path.name] for path in images)


@functools.lru_cache(maxsize=64)
def _undistortion(lens: bytes, numbers: bytes, count: int, size: tuple[int, int], name: str) -> Undistortion:
    intrinsics, coefficients = np.frombuffer(lens).reshape(1, 3, 3), np.frombuffer(numbers).reshape(1, count)
    return Undistortion(intrinsics.copy(), coefficients.copy(), size, [name])


class _PosedDetections(DetectionFiles):
    """Detections of the original images, through the common lens; landmarks that detectors have found are kept."""

    def __init__(self, files: DetectionFiles | None) -> None:
        super().__init__()
        self._files = files
        self.known: dict[int, Float[np.ndarray, "1 68 2"] | None] = {}

    @property
    def given(self) -> set[str]:
        return {"landmarks"} | (set() if self._files is None else self._files.given)

    def landmarks_of(self, frame: SourceFrame) -> Float[np.ndarray, "k 68 2"] | None:
        if frame.index in self.known:
            return self.known[frame.index]
        if self._files is None or not isinstance(frame, _PosedFrame) or frame.original is None:
            return None
        faces = self._files.landmarks_of(frame.original)
        return None if faces is None else np.stack([frame.points(face) for face in faces])

    def matte_of(self, frame: SourceFrame) -> UInt8[np.ndarray, "h w"] | None:
        return self._moved(frame, "matte_of", False)

    def labels_of(self, frame: SourceFrame) -> UInt8[np.ndarray, "h w"] | None:
        return self._moved(frame, "labels_of", True)

    def _moved(self, frame: SourceFrame, kind: str, nearest: bool) -> UInt8[np.ndarray, "h w"] | None:
        if self._files is None or not isinstance(frame, _PosedFrame) or frame.original is None:
            return None
        image = getattr(self._files, kind)(frame.original)
        return None if image is None else frame.image(image, nearest)


def prepare_posed(
    posed: PosedFrames,
    folder: str | Path,
    files: DetectionFiles | None = None,
    detectors: Sequence[Detector] = (),
    crop: Literal["auto", "none"] | tuple[int, int, int, int] = "auto",
    side: int | None = 512,
    convention: Convention = "auto",
    motion: Motion = "auto",
    scale: float | int | None = None,
    every: int = 1,
    limit: int | None = None,
    show: Callable[[str, int], None] = lambda what, frame: None,
    stop: Callable[[], bool] = lambda: False,
) -> UntrackedRecording | None:
    """The recording of images with cameras, undistorted; see the module for what is made of the cameras' places.

    Args:
        posed: the images.
        folder: of the recording; a whole one there is opened and not made again.
        files, detectors, crop, side, show, stop: as those of `prepare_recording`.
        convention: of the matrices; "auto" is OpenGL's camera-to-world, which these files have by definition, unless
            another one is the only one under which the rays of landmarks meet.
        motion: whether the head was held still. "auto" takes it as still if the rays of its landmarks meet within 4 %
            of the face's diagonal.
        scale: meters per unit of the cameras' places, of a still head; None: by the distance of the eyes' corners.
        every, limit: every Nth image, and at most so many.

    Returns:
        The recording; None if stopped.

    Raises:
        CaptureError: too few faces; a convention or a focal length that the landmarks contradict; `motion="still"` of
            a head that moves, or `scale` of one; mattes are missing.
    """
    folder = Path(folder)
    if is_untracked(folder):
        return load_untracked(folder)
    if scale is not None and not 0 < scale < float("inf"):
        raise CaptureError(f"prepare_posed: scale is {scale}; expected a positive number, meters per unit")
    source, detections = PosedSource.of(posed, every, limit), _PosedDetections(files)
    check_given(source, files, detectors)
    marks = []
    for count, frame in enumerate(source):
        if stop():
            return None
        faces = None if frame.fault else detected_landmarks(frame, detections, detectors)
        detections.known[frame.index] = None if faces is None else faces[:1]
        marks.append(np.full((68, 2), np.nan) if faces is None else faces[0].astype(np.float64))
        show("landmarks", count + 1)
    matrices = posed.matrices[list(source.rows)]
    still, name, line = _judged(posed.folder, np.stack(marks), matrices, source, convention, motion)
    report = [*posed.report, line]
    if source.lens is not None and any(not np.array_equal(lens, source.lens) for lens in posed.intrinsics):
        report.append("images of several lenses are resampled to that of the first one")
    if posed.distortion is not None:
        report.append("lens distortion is taken out of images, mattes, labels and landmarks")
    if not still:
        if scale is not None:
            raise CaptureError(
                f"prepare_posed: scale is {scale:g}, and the head moves between the images, so that the cameras' "
                "places are not used; leave scale out"
            )
        recording = prepare_recording(
            source, folder, detections, detectors, crop, side, None, show, stop, lens=source.lens
        )
        if recording is None:
            return None
        recording = replace(recording, report=(*report, *recording.report))
        write_recording_file(folder, recording, (folder / "labels").is_dir())
        return load_untracked(folder)
    to_camera = np.linalg.inv(np.stack([CONVENTIONS[name](matrix) for matrix in matrices]))
    names = [f"{number:04d}_{path.stem}" for number, path in enumerate(source.files)]
    return prepare_cameras(
        {each: source.single(number) for number, each in enumerate(names)}, posed.folder / "transforms.json", folder,
        dict.fromkeys(names, detections), detectors, crop, side, show, stop,
        placed=({each: to_camera[number] for number, each in enumerate(names)}, dict.fromkeys(names, source.lens)),
        scale=scale, report=report,
    )  # fmt: skip


def _judged(
    folder: Path, marks: Float[np.ndarray, "n 68 2"], matrices: Float[np.ndarray, "n 4 4"], source: PosedSource,
    convention: Convention, motion: Motion,
) -> tuple[bool, str, str]:  # fmt: skip
    """Whether the head is still, the convention's name, and a line on it."""
    stated = _USUAL if convention == "auto" else named_convention(convention)
    inner = marks[:, _INNER]
    seen = np.isfinite(inner).all(2).sum(1) >= _SEEN
    if motion == "moving":
        return False, stated, "the head moves, as said: of the cameras only the lenses are used, not their places"
    if int(seen.sum()) < _FEWEST:
        raise CaptureError(
            f"{folder}: {int(seen.sum())} of {len(marks)} images have a face with landmarks; {_FEWEST} or more show "
            "whether the cameras fit them. Pass landmarks of a detector (--landmarks), or a model (--face-landmarker, "
            "--landmark-onnx)"
        )
    inner, matrices = inner[seen], matrices[seen]
    size = float(np.median(np.linalg.norm(np.nanmax(inner, axis=1) - np.nanmin(inner, axis=1), axis=1)))

    @functools.cache
    def apart(name: str, factor: float) -> float:
        poses = np.linalg.inv(np.stack([CONVENTIONS[name](matrix) for matrix in matrices]))
        return _rays_apart(inner, poses, source.lens, factor, source.size) / size

    given = apart(stated, 1.0)
    if given <= _STILL:
        return True, stated, f"the head is still: rays of its landmarks meet within {100 * given:.1f} % of the face"
    order = [stated, *(name for name in CONVENTIONS if name != stated)]
    other = min(order, key=lambda name: apart(name, 1.0))
    if apart(other, 1.0) <= _STILL:
        said = f"read as {stated}, rays of the landmarks miss each other by {100 * given:.0f} % of the face, and by "
        said += f"{100 * apart(other, 1.0):.1f} % as {other}"
        if convention == "auto":
            return True, other, f"warning: the layout's matrices are {stated}; {said}, which is taken"
        raise CaptureError(
            f"{folder}: convention is {convention!r}; {said}. Pass {convention_word(other)!r}, or leave convention out"
        )
    tried = order if convention == "auto" else [stated]
    best, factor, name = min((apart(name, float(by)), float(by), name) for name in tried for by in _FACTORS)
    if best <= _STILL and not 1 / _WRONG_FOCAL < factor < _WRONG_FOCAL:
        focal, amount = source.lens[0, 0], max(factor, 1 / factor)
        raise CaptureError(
            f"{folder}: fl_x, fl_y: the focal length is wrong: the projected landmarks are {amount:.1f} times too "
            f"{'wide' if factor < 1 else 'narrow'}. With {focal * factor:.0f} in place of {focal:.0f} pixels the "
            f"rays of the landmarks meet within {100 * best:.1f} % of the face ({name}), and miss each other by "
            f"{100 * given:.0f} % as it is. Are w and h those of the images that the intrinsics are for?"
        )
    if motion == "still":
        raise CaptureError(
            f"{folder}: the head is said to be still, and rays of its landmarks miss each other by {100 * given:.0f} % "
            f"of the face, and by {100 * best:.0f} % under the best convention and focal length. It moves, or the "
            "cameras are not of these images; for a head that moves pass moving"
        )
    return (
        False,
        stated,
        (
            f"the head moves between the images: rays of its landmarks miss each other by {100 * given:.0f} % of the "
            "face. Of the cameras only the lenses are used, not their places"
        ),
    )


def _rays_apart(
    marks: Float[np.ndarray, "n l 2"], poses: Float[np.ndarray, "n 4 4"], lens: Float[np.ndarray, "3 3"], factor: float,
    size: tuple[int, int],
) -> float:  # fmt: skip
    """Distance in pixels of landmarks to the points where their rays meet (direct linear transform): of brows, nose,
    eyes and mouth the median, and the largest of these."""
    centers = -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
    middle = centers.mean(0)
    reach = float(np.sqrt(((centers - middle) ** 2).sum(1).mean())) or 1.0
    bent = lens.copy()
    bent[:2, :2] *= factor
    shifted = np.concatenate([poses[:, :3, :3], -(poses[:, :3, :3] @ ((centers - middle) / reach)[..., None])], axis=2)
    cameras = bent @ shifted
    known = np.isfinite(marks).all(2)
    pixels = np.where(known[..., None], marks, 0.0)
    rows = pixels[..., None] * cameras[:, None, 2:] - cameras[:, None, :2]  # (N, L, 2, 4)
    rows /= np.linalg.norm(rows[..., :3], axis=-1, keepdims=True)
    rows = np.where(known[..., None, None], rows, 0.0)
    points = np.linalg.eigh(np.einsum("nlpi,nlpj->lij", rows, rows))[1][..., 0]
    points = points[:, :3] / np.where(np.abs(points[:, 3:]) < 1e-12, 1e-12, points[:, 3:])
    seen = np.einsum("nij,lj->nli", shifted, np.concatenate([points, np.ones((len(points), 1))], axis=1))
    depth = np.where(seen[..., 2] > 1e-9, seen[..., 2], np.nan)
    projected = seen[..., :2] / depth[..., None] * bent.diagonal()[:2] + bent[:2, 2]
    off = np.linalg.norm(projected - pixels, axis=-1)
    off = np.where(np.isfinite(off), off, float(max(size)))
    medians = [float(np.median(off[:, part][known[:, part]])) for part in _PARTS if known[:, part].any()]
    return max(medians, default=float("inf"))
