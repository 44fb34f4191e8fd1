"""Saving a loaded capture in INSTA's layout, bit for bit."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from headfields.data.capture import Capture
from headfields.data.formats.insta_writer import CapturedFrame, InstaWriter
from headfields.data.image_files import natural_key
from headfields.files.unfinished import filling
from headfields.records import Camera

__all__ = ["frames_to_save", "save_capture"]


def frames_to_save(op: str, capture: Capture, frames: Int[Tensor, " b"] | Sequence[int] | None) -> list[int]:
    """The indices of the frames to write, all if None, in the capture's order and each once.

    Raises:
        IndexError: a frame is out of range.
        ValueError: `frames` is empty.
    """
    indices = list(range(len(capture))) if frames is None else sorted(set(capture.frame_indices(frames)))
    if not indices:
        raise ValueError(f"{op}: frames is empty; a capture has at least one")
    return indices


def save_capture(
    capture: Capture,
    folder: Path | str,
    frames: Int[Tensor, " b"] | Sequence[int] | None = None,
    progress: bool = False,
) -> int:
    """Writes a capture in INSTA's layout so that `load_capture` returns every field exactly.

    Bit for bit: pixels and straight alpha (also the color under alpha 0), labels, depth as stored and its unit,
    vertices, expression, rotations and transforms of joints, landmarks, canonical mesh with texture coordinates,
    splits, and camera poses and intrinsics as doubles. What the reader does not keep is not written: texture
    coordinates of the frames' meshes, the second and third channel of label images, unknown JSON keys. Images named
    `images/NAME.png` keep their names if these sort in the capture's order; otherwise frames are numbered.

    Args:
        capture: decoded one frame at a time, whatever its memory budget.
        folder: a new or empty folder, or one that a killed call has left unfinished; empty again after an error.
        frames: write only these, in the capture's order; splits keep those of their frames. All if None.
        progress: show a progress bar on stderr.

    Returns:
        The number of frames written.

    Raises:
        FileExistsError: `folder` is a file or not empty.
        IndexError: a frame is out of range.
        ValueError: `frames` is empty, or a camera has skew, which the layout cannot express.
        CaptureError: a frame cannot be read.
    """
    folder = Path(folder)
    indices = frames_to_save("save_capture", capture, frames)
    recording = capture.recording
    stems = _stems([capture.frame_names[frame] for frame in indices])
    with filling(folder, "save_capture"):
        writer = InstaWriter(folder, recording.canonical, recording.depth_scale)
        for stem, frame in tqdm(list(zip(stems, indices, strict=True)), unit="frame", disable=not progress):
            rgba, label, depth = recording.decode_image(frame)
            head = {key: torch.from_numpy(value) for key, value in vars(recording.decode_head(frame)).items()
                    if value is not None}  # fmt: skip
            pose = recording.camera_to_world[frame]
            camera = Camera(
                torch.from_numpy(np.linalg.inv(pose)), torch.from_numpy(recording.intrinsics[frame]), capture.size
            )
            captured = CapturedFrame(
                image=rgba,
                camera=camera,
                **head,
                label=label,
                depth=depth,
                landmarks=recording.decode_landmarks(frame),
            )
            writer.add(stem, captured, pose)
        row = {frame: index for index, frame in enumerate(indices)}
        writer.finish(
            {
                name: [row[frame] for frame in rows.tolist() if frame in row]
                for name, rows in capture.splits.items()
                if name != "all"
            }
        )
    return writer.count


def _stems(names: list[str]) -> list[str]:
    """File names without extension that sort in the order of the frames."""
    stems = [PurePosixPath(name).stem for name in names]
    keys = [natural_key(f"meshes/{stem}.obj\nimages/{stem}.png") for stem in stems]
    same = all(name == f"images/{stem}.png" for name, stem in zip(names, stems, strict=True))
    if same and keys == sorted(keys):
        return stems
    return [f"{index:05d}" for index in range(len(names))]
