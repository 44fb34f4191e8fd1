"""Captures with head motion in the vertices, converted from captures with the pose in the cameras."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from headfields.data import Capture
from headfields.data.formats.insta_writer import CapturedFrame, InstaWriter
from headfields.records import Camera
from headfields.synthetic.tracking_error import TRUTH, write_truth
from tests.data.tiny import blob, camera, photograph


def jaw_frames(count: int = 6) -> Iterator[CapturedFrame]:
    """A head whose lower front drops by up to 2 cm with its one coefficient, and whose crown does not move."""
    vertices, faces = blob()
    for index in range(count):
        opened = 0.5 - 0.5 * math.cos(1.3 * index)
        view = camera(0.6 * math.sin(index + 0.4), 0.3 * math.cos(1.7 * index))
        posed = jaw(vertices, opened)
        rgba, label, depth = photograph(posed, faces, view)
        yield CapturedFrame(rgba, posed, view, torch.tensor([opened]), label, depth)


def jaw(vertices: torch.Tensor, opened: float) -> torch.Tensor:
    low = torch.sigmoid((-vertices[:, 1] - 0.01) / 0.004) * torch.sigmoid(vertices[:, 2] / 0.01)
    low = torch.where(low > 0.02, low, 0.0)  # a jaw ends somewhere
    return vertices - 0.02 * opened * low[:, None] * torch.tensor([0.0, 1.0, 0.3])


def put_pose_into_vertices(capture: Capture, folder: Path) -> Path:
    """The same capture with one fixed camera, and with its truth if it has any."""
    recording = capture.recording
    writer = InstaWriter(folder, recording.canonical, recording.depth_scale)
    still = recording.camera_to_world[0]
    for frame in range(len(capture)):
        rgba, label, depth = recording.decode_image(frame)
        head = recording.decode_head(frame)
        expression = head.expression
        moved = _moved(head.vertices, still @ np.linalg.inv(recording.camera_to_world[frame]))
        view = Camera(
            torch.from_numpy(np.linalg.inv(still)), torch.from_numpy(recording.intrinsics[frame]), capture.size
        )
        coefficients = None if expression is None else torch.from_numpy(expression)
        landmarks = recording.decode_landmarks(frame)
        joints = None
        if head.joint_transforms is not None:
            motion = still @ np.linalg.inv(recording.camera_to_world[frame])
            joints = torch.from_numpy((motion @ head.joint_transforms).astype(np.float32))
        rotations = None if head.pose is None else torch.from_numpy(head.pose)
        captured = CapturedFrame(
            rgba, torch.from_numpy(moved), view, coefficients, label, depth, landmarks, rotations, joints
        )
        writer.add(f"{frame:05d}", captured, still)
    writer.finish({name: rows.tolist() for name, rows in capture.splits.items() if name != "all"})
    if (capture.path / TRUTH).is_file():
        with np.load(capture.path / TRUTH) as truth:
            views = truth["world_to_camera"].astype(np.float64)
            vertices = np.stack([_moved(v, still @ view) for v, view in zip(truth["vertices"], views, strict=True)])
            write_truth(folder, vertices, np.broadcast_to(np.linalg.inv(still), views.shape), truth["expression"])
    return folder


def _moved(vertices: np.ndarray, motion: np.ndarray) -> np.ndarray:
    return (vertices.astype(np.float64) @ motion[:3, :3].T + motion[:3, 3]).astype(np.float32)
