"""Reader of NeRSemble's benchmark of avatars from one camera (Kirschstein et al.; `nersemble_benchmark`), and the paths
of the results that it takes.

    mono_flame_avatar/393/calibration/camera_params.json          world_2_cam (4, 4) and intrinsics (3, 3) by serial
    mono_flame_avatar/393/sequences/FREE/images/cam_222200037.mp4
    mono_flame_avatar/393/sequences/FREE/alpha_maps/cam_222200037.mp4
    mono_flame_avatar/393/sequences/FREE/tracking/flame2023_tracking_v2.npz

A tracking of T frames has `shape` (1, 300), `expression` (T, 100), `jaw`, `neck`, `rotation` and `translation` (T, 3),
`eyes` (T, 6), `scale` (1, 1). Joints are axis-angle. `rotation` has the Euler angles of Rx Ry Rz, and FLAME's posed
mesh v is at scale R v + translation. Sequences that are held out have a tracking and no videos. The FLAME model (2023)
is the user's file.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headfields.data.calibration import read_calibration
from headfields.data.errors import CaptureError
from headfields.data.formats.flame_frames import (
    CameraReading,
    FlameFrames,
    RigidMotion,
    coefficients,
    flame_recording,
    unseen_recording,
)
from headfields.data.formats.metrical_folder import open_jaw
from headfields.data.formats.transforms import splits_from_end
from headfields.data.image_files import exists
from headfields.data.recording import Recording
from headfields.data.video_frames import VideoFrames, video_length, video_size
from headfields.files.arrays import load_numbers
from headfields.files.checked import checked_arrays
from headfields.files.reading import reading
from headfields.heads.skinned import SkinnedHead
from headfields.ops.rotations import rotation_from_euler

__all__ = [
    "BENCHMARK_FPS",
    "BENCHMARK_SERIALS",
    "is_nersemble",
    "read_nersemble",
    "read_nersemble_holdout",
]

BENCHMARK_SERIALS = ("220700191", "222200037", "222200039", "222200046")
"""Cameras that results are rendered from; the second is the one for training (`nersemble_benchmark`, constants.py)."""
BENCHMARK_FPS = 24.3
"""Frames a second of the benchmark's videos and of results (`nersemble_benchmark`, data/submission_data.py)."""
_SIZE = (512, 512)  # pixels, of the benchmark's videos
_CONVENTION = "world-to-camera, OpenCV axes"
_ROWS = {"expression": "T E", "jaw": "T 3", "rotation": "T 3", "translation": "T 3"}
_OPTIONAL = {"neck": "T 3", "eyes": "T 6", "rotation_matrices": "T 3 3"}
_SCALES = (1e-3, 1e3)
_FARTHEST = 50.0  # meters


def is_nersemble(folder: Path) -> bool:
    """Whether the folder is that of a person or of a sequence."""
    person = exists(folder / "calibration" / "camera_params.json") and (folder / "sequences").is_dir()
    return person or any((folder / "images").glob("cam_*.mp4"))


@dataclass(frozen=True)
class _Sequence:
    """A tracked sequence: its folder, the model's arguments and what moves the posed mesh, for each of T frames.

    `scale` turns FLAME's meters into units of the cameras' world.
    """

    folder: Path
    arguments: list[dict[str, Tensor]]
    rotation: Float[np.ndarray, "t 3 3"]
    translation: Float[np.ndarray, "t 3"]
    scale: float

    def __len__(self) -> int:
        return len(self.arguments)

    def video(self, kind: str, serial: str) -> Path:
        """The path of a camera's video."""
        return self.folder / kind / f"cam_{serial}.mp4"

    @property
    def serials(self) -> list[str]:
        """Cameras with a video."""
        return sorted(path.stem.removeprefix("cam_") for path in (self.folder / "images").glob("cam_*.mp4"))


@dataclass(frozen=True)
class _Shot:
    """A frame of the capture: time step `step` of a sequence, seen by a camera."""

    sequence: _Sequence
    serial: str
    step: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.sequence.folder.name}/images/cam_{self.serial}.mp4 frame {self.step}"


def read_nersemble(folder: Path, head: SkinnedHead) -> Recording:
    """Reads trackings and calibration; videos are decoded on demand, fast in order and slowly out of it.

    Args:
        folder: of a person, for all sequences that have videos, or of one sequence, within its person's.
        head: the FLAME model of 2023.

    Raises:
        CaptureError: names the file and the field.
    """
    report: list[str] = []
    person, sequences = _sequences(folder, head, report)
    seen = [sequence for sequence in sequences if sequence.serials]
    if not seen:
        raise CaptureError(f"{folder}: no sequence has images/cam_*.mp4 and a tracking; download the training data")
    if len(sequences) > len(seen):
        held = ", ".join(sequence.folder.name for sequence in sequences if not sequence.serials)
        report.append(f"sequences without videos, which the benchmark holds out, are left out: {held}")
    size, mattes = _check_videos(seen, report)
    shots = [
        _Shot(sequence, serial, step)
        for sequence in seen
        for serial in sequence.serials
        for step in range(len(sequence))
    ]
    image = functools.partial(_image, shots, VideoFrames(), size, mattes)
    flame, cameras = _frames(person, shots, sequences[0], head, image, size)
    splits = splits_from_end("load_capture", len(shots)) | {"all": list(range(len(shots)))}
    report.append(f"the layout has no splits within what it gives: the last {len(splits['test'])} frames are test")
    names = [shot.name for shot in shots]
    recording = flame_recording(folder, flame, names, splits, [cameras], _CONVENTION, report, stated=True)
    return dataclasses.replace(recording, in_videos=True)


def read_nersemble_holdout(person: Path, head: SkinnedHead) -> tuple[Recording, list[tuple[str, str]]]:
    """The sequences that the benchmark holds out, for rendering: heads and cameras, and no images.

    Args:
        person: the person's folder.
        head: the FLAME model of 2023.

    Returns:
        The recording, whose frames are those of each sequence and camera in turn, and each frame's sequence and serial.

    Raises:
        CaptureError: names the file and the field; or no sequence is held out.
    """
    report: list[str] = []
    person, sequences = _sequences(person, head, report)
    held = [sequence for sequence in sequences if not sequence.serials]
    if not held:
        raise CaptureError(f"{person}: every tracked sequence has videos; download the trackings of those held out")
    own = next((sequence.video("images", sequence.serials[0]) for sequence in sequences if sequence.serials), None)
    size = _SIZE if own is None else video_size(own)
    shots = [
        _Shot(sequence, serial, step)
        for sequence in held
        for serial in BENCHMARK_SERIALS
        for step in range(len(sequence))
    ]

    flame, cameras = _frames(person, shots, sequences[0], head, functools.partial(_no_image, shots), size)
    recording = unseen_recording(person, flame, [shot.name for shot in shots], cameras, _CONVENTION, report)
    return recording, [(shot.sequence.folder.name, shot.serial) for shot in shots]


def _sequences(folder: Path, head: SkinnedHead, report: list[str]) -> tuple[Path, list[_Sequence]]:
    """The person's folder, and the tracked sequences of it, or the one that `folder` is."""
    if (folder / "sequences").is_dir():
        person, folders = folder, sorted(path for path in (folder / "sequences").iterdir() if path.is_dir())
    else:
        person, folders = folder.parent.parent, [folder]
    if not exists(person / "calibration" / "camera_params.json"):
        raise CaptureError(
            f"{folder}: no calibration/camera_params.json in the person's folder {person}; copy it there, or open the "
            "sequence within its person's folder"
        )
    tracked = []
    for path in folders:
        files = sorted((path / "tracking").glob("flame*_tracking*.npz"))
        if files:
            tracked.append(_read_sequence(path, files[-1], head, report))
        elif any((path / "images").glob("cam_*.mp4")):
            report.append(f"warning: {path.name} is left out, for it has no tracking/flame2023_tracking*.npz")
    if not tracked:
        raise CaptureError(
            f"{folder}: no sequence has a tracking/flame2023_tracking*.npz (the benchmark of novel views has none); "
            "download it with the benchmark of avatars, or track the videos: headfields capture"
        )
    return person, tracked


def _read_sequence(folder: Path, path: Path, head: SkinnedHead, report: list[str]) -> _Sequence:
    if not exists(path):
        raise CaptureError(f"{path} is no file; copy it again")
    with reading(path, "a FLAME tracking of NeRSemble", CaptureError):
        raw = load_numbers(path, CaptureError)
        arrays = checked_arrays(str(path), raw, {"shape": "1 S", "scale": "1 1", **_ROWS})
        arrays |= checked_arrays(str(path), raw, {**_OPTIONAL, "expression": "T E"}, optional=True)
    count, scale = len(arrays["expression"]), float(arrays["scale"][0, 0])
    if not count:
        raise CaptureError(f"{path}: expression has no rows; expected a row for each frame")
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise CaptureError(f"{path}: scale is {scale:g}; expected {_SCALES[0]:g} to {_SCALES[1]:g}")
    rotation = rotation_from_euler(torch.from_numpy(arrays["rotation"]).double(), "xyz").numpy()
    stored = arrays.get("rotation_matrices")
    if stored is not None and np.abs(stored - rotation).max() > 1e-3:
        report.append(
            f"warning: {folder.name}: rotation_matrices differ from rotation, Euler angles of Rx Ry Rz, by up to "
            f"{np.abs(stored - rotation).max():.2g}; rotation is used"
        )
    translation = arrays["translation"] / scale
    if np.abs(translation).max() > _FARTHEST:
        raise CaptureError(
            f"{path}: translation is up to {np.abs(translation).max():.3g} of FLAME's meters; expected {_FARTHEST:g} "
            "at most"
        )
    if abs(scale - 1) > 1e-6:
        report.append(
            f"{folder.name}: the world is divided by the tracking's scale of {scale:.4g}, into FLAME's meters"
        )
    shape = coefficients(torch.from_numpy(arrays["shape"][0]), head.shape_count, f"{path}: shape")
    neck, eyes = arrays.get("neck", np.zeros((count, 3))), arrays.get("eyes", np.zeros((count, 6)))
    joints = torch.from_numpy(np.concatenate([np.zeros((count, 3)), neck, arrays["jaw"], eyes], axis=1))
    arguments = [
        {
            "shape": shape,
            "expression": coefficients(
                torch.from_numpy(arrays["expression"][row]), head.expression_count, f"{path}: expression of row {row}"
            ),
            "pose": joints[row].reshape(1, 5, 3),
        }
        for row in range(count)
    ]
    return _Sequence(folder, arguments, rotation, translation, scale)


def _check_videos(sequences: Sequence[_Sequence], report: list[str]) -> tuple[tuple[int, int], bool]:
    """The (height, width) of all videos, and whether there are mattes; every video has a tracking's frames."""
    size = video_size(sequences[0].video("images", sequences[0].serials[0]))
    mattes = [exists(sequence.video("alpha_maps", serial)) for sequence in sequences for serial in sequence.serials]
    for sequence in sequences:
        for serial in sequence.serials:
            for kind in ("images", *(("alpha_maps",) if any(mattes) else ())):
                path = sequence.video(kind, serial)
                length = video_length(path)
                if length != len(sequence):
                    raise CaptureError(
                        f"{path} has {length} frames, and the tracking of {sequence.folder.name} {len(sequence)}; "
                        "expected as many: copy both again"
                    )
    if not any(mattes):
        report.append("there are no alpha_maps; the matte is 1 everywhere")
    return size, any(mattes)


def _frames(
    person: Path,
    shots: Sequence[_Shot],
    first: _Sequence,
    head: SkinnedHead,
    image: Callable[[int], np.ndarray],
    size: tuple[int, int],
) -> tuple[FlameFrames, CameraReading]:
    """The heads of all frames, and their cameras in the meters of each sequence's tracking."""
    parameters = functools.partial(_parameters, shots, RigidMotion(head))
    rest = {"shape": first.arguments[0]["shape"], "pose": open_jaw(head)}
    flame = FlameFrames(head, [shot.name for shot in shots], parameters, rest, image, size)
    serials = sorted({shot.serial for shot in shots})
    views, intrinsics = read_calibration(person / "calibration" / "camera_params.json", dict.fromkeys(serials, size))
    matrices = np.stack([views[shot.serial] for shot in shots])
    matrices[:, :3, 3] /= np.array([shot.sequence.scale for shot in shots])[:, None]
    return flame, CameraReading("", matrices, np.stack([intrinsics[shot.serial] for shot in shots]))


def _parameters(shots: Sequence[_Shot], motion: RigidMotion, index: int) -> dict[str, Tensor]:
    """The model's arguments for a frame."""
    shot = shots[index]
    rotation = torch.from_numpy(shot.sequence.rotation[shot.step])
    translation = torch.from_numpy(shot.sequence.translation[shot.step])
    return motion.after(shot.sequence.arguments[shot.step], rotation, translation)


def _image(
    shots: Sequence[_Shot], videos: VideoFrames, size: tuple[int, int], mattes: bool, index: int
) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA of a frame."""
    shot = shots[index]
    rgba = np.full((*size, 4), 255, np.uint8)
    for kind, channels in (("images", slice(0, 3)), *([("alpha_maps", slice(3, 4))] if mattes else [])):
        pixels = videos.frame(shot.sequence.video(kind, shot.serial), shot.step)
        if pixels.shape[:2] != size:
            raise CaptureError(
                f"{shot.sequence.video(kind, shot.serial)} is {pixels.shape[1]}x{pixels.shape[0]} pixels; expected "
                f"{size[1]}x{size[0]} as the first video: copy it again"
            )
        rgba[..., channels] = pixels[..., : channels.stop - channels.start]
    return rgba


def _no_image(shots: Sequence[_Shot], index: int) -> np.ndarray:
    raise CaptureError(f"{shots[index].name}: the benchmark holds its images out")
