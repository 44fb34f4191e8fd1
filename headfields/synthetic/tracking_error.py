"""Errors of a head's tracking against the truth of a synthetic capture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.projection import project
from headfields.files.arrays import load_numbers, save_arrays
from headfields.files.reading import reading
from headfields.files.versions import FileFormat
from headfields.ops.rotations import rotation_angle
from headfields.records import Camera, HeadState

__all__ = ["TRUTH", "TrackingError", "tracking_error", "write_truth"]

TRUTH = "truth.npz"
TRUTH_FORMAT = FileFormat("headfields.truth", "the truth of a drawn capture", 1, "write the capture again")
"""Name of the file with the true tracking; readers of the layout ignore it."""


@dataclass(frozen=True)
class TrackingError:
    """Errors of each of F frames.

    Attributes:
        rotation: angle between tracked and true head pose, degrees.
        translation: error of the center of the canonical mesh in the camera's frame, millimeters.
        surface: mean distance between tracked and true vertices in the camera's frame, millimeters.
        pixels: mean distance between the projections of tracked and true vertices, pixels.
        expression: root mean square error of the coefficients.
    """

    rotation: Float[np.ndarray, " f"]
    translation: Float[np.ndarray, " f"]
    surface: Float[np.ndarray, " f"]
    pixels: Float[np.ndarray, " f"]
    expression: Float[np.ndarray, " f"]

    def __str__(self) -> str:
        units = {"rotation": "degrees", "translation": "mm", "surface": "mm", "pixels": "pixels", "expression": ""}
        values = ((name, unit, getattr(self, name)) for name, unit in units.items())
        return ", ".join(f"{name} {v.mean():.3g} (at most {v.max():.3g}) {unit}".strip() for name, unit, v in values)


def write_truth(
    folder: Path,
    vertices: Float[np.ndarray, "f v 3"],
    world_to_camera: Float[np.ndarray, "f 4 4"],
    expression: Float[np.ndarray, "f e"],
) -> None:
    """Writes the true tracking of a capture, in the order of its frames, as float32."""
    arrays = {"vertices": vertices, "world_to_camera": world_to_camera, "expression": expression}
    save_arrays(folder / TRUTH, {name: array.astype(np.float32) for name, array in arrays.items()}, TRUTH_FORMAT)


def tracking_error(
    capture: Capture,
    frames: Sequence[int] | None = None,
    corrected: Mapping[int, tuple[Camera, HeadState]] | None = None,
) -> TrackingError:
    """Compares a capture with its `truth.npz`, which `write_head_capture` writes when it draws with noise.

    A head that moves in the vertices (`capture.head_frame`) is compared in the head's frame.

    Args:
        capture: the capture with its tracking.
        frames: frame indices; all if None.
        corrected: camera and state by frame that replace the tracked ones, such as those of
            `headfields.training.refinement.refine_frame`.

    Raises:
        CaptureError: the file does not exist, cannot be read or is of another capture, or a frame cannot be read.
        IndexError: a frame is out of range.
    """
    path = capture.path / TRUTH
    if not path.is_file():
        raise CaptureError(f"tracking_error: {path} does not exist; write_head_capture(..., noise=...) makes one")
    with reading(path, "the truth of a drawn capture", CaptureError, "write the capture again"):
        arrays = load_numbers(path, kind=TRUTH_FORMAT)
        truth = {name: arrays[name].astype(np.float64) for name in ("vertices", "world_to_camera", "expression")}
    shapes = {
        "vertices": (len(capture), *capture.recording.canonical.vertices.shape),
        "world_to_camera": (len(capture), 4, 4),
        "expression": (len(capture), capture.expression_width or 0),
    }
    for name, shape in shapes.items():
        if not np.isfinite(truth[name]).all():
            raise CaptureError(
                f"tracking_error: {path}: {name} has numbers that are not finite; write the capture again"
            )
        if truth[name].shape != shape:
            raise CaptureError(
                f"tracking_error: {path}: {name} has shape {truth[name].shape}; expected {shape} of the capture, "
                "so it is of another capture; remove it"
            )
    middle = capture.recording.canonical.vertices.numpy().mean(axis=0).astype(np.float64)
    poses = np.linalg.inv(capture.recording.camera_to_world)
    rows = []
    for frame in range(len(capture)) if frames is None else capture.frame_indices(frames):
        head = capture.recording.decode_head(frame)
        vertices, expression = head.vertices, head.expression
        tracked, tracked_pose = _in_head_frame(capture, vertices, poses[frame])
        true, true_pose = _in_head_frame(capture, truth["vertices"][frame], truth["world_to_camera"][frame])
        if corrected is not None and frame in corrected:
            camera, state = corrected[frame]
            tracked_pose = camera.world_to_camera.detach().cpu().double().reshape(4, 4).numpy()
            tracked = state.vertices[0].detach().cpu().numpy()
            expression = None if state.expression is None else state.expression[0].detach().cpu().numpy()
        turn = torch.from_numpy((tracked_pose[:3, :3] @ true_pose[:3, :3].T).astype(np.float64))
        tracked, true = _moved(tracked, tracked_pose), _moved(true, true_pose)
        k = capture.recording.intrinsics[frame]
        differences = None if expression is None else expression - truth["expression"][frame]
        rows.append(
            (
                float(rotation_angle(turn).rad2deg()),
                1000 * np.linalg.norm(_moved(middle, tracked_pose) - _moved(middle, true_pose)),
                1000 * np.linalg.norm(tracked - true, axis=1).mean(),
                np.linalg.norm(project(tracked, np.eye(4), k)[0] - project(true, np.eye(4), k)[0], axis=1).mean(),
                0.0 if differences is None else np.sqrt(np.mean(differences**2)),
            )
        )
    return TrackingError(*np.array(rows, np.float64).reshape(-1, 5).T)


def _in_head_frame(
    capture: Capture, vertices: np.ndarray, world_to_camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and camera in the capture's frame; as on disk unless it has a head frame."""
    if capture.head_frame is None:
        return vertices, world_to_camera
    posed = torch.from_numpy(vertices).double()[None]
    pose = capture.head_frame.pose(posed)
    return capture.head_frame.without_pose(posed, pose)[0].numpy(), world_to_camera @ pose[0].numpy()


def _moved(points: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    moved: np.ndarray = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    return moved
