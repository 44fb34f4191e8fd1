"""Errors of a rigged scan's tracking against the truth of a synthetic capture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.data.errors import CaptureError
from headfields.files.arrays import load_numbers
from headfields.files.checked import checked_arrays
from headfields.files.reading import reading
from headfields.ops.rigid import fit_rigid
from headfields.ops.rotations import rotation_angle, rotation_matrices
from headfields.synthetic.tracking_error import TRUTH, TRUTH_FORMAT

__all__ = ["RigTrackingError", "rig_tracking_error"]


@dataclass(frozen=True)
class RigTrackingError:
    """Errors of F frames, in the camera's frame.

    Attributes:
        frames: frame indices.
        surface: mean distance between vertices, mm.
        across: mean distance across the viewing direction, mm; the visible part of `surface`.
        shape: mean distance after rigid alignment, mm: the error of joints and expression.
        torso, head, jaw: angles between tracked and true rotations of the torso, of the head, and of the jaw in the
            head's frame, degrees.
        yaw: yaw of the head relative to the camera, degrees in (-180, 180], 0 facing it.
    """

    frames: list[int]
    surface: Float[np.ndarray, " f"]
    across: Float[np.ndarray, " f"]
    shape: Float[np.ndarray, " f"]
    torso: Float[np.ndarray, " f"]
    head: Float[np.ndarray, " f"]
    jaw: Float[np.ndarray, " f"]
    yaw: Float[np.ndarray, " f"]

    @property
    def views(self) -> dict[str, Bool[np.ndarray, " f"]]:
        """Masks (F,) of front (yaw to 50 degrees), side and back (beyond 100 degrees) views."""
        turn = np.abs(self.yaw)
        return {"front": turn <= 50, "side": (turn > 50) & (turn <= 100), "back": turn > 100}

    def means(self, rows: Bool[np.ndarray, " f"] | None = None) -> dict[str, float]:
        """Means over all frames or over the masked `rows`; NaN if there are none."""
        names = ("surface", "across", "shape", "torso", "head", "jaw")
        rows = np.ones(len(self.frames), bool) if rows is None else rows
        return {name: float(getattr(self, name)[rows].mean()) if rows.any() else float("nan") for name in names}


@torch.no_grad()
def rig_tracking_error(folder: str | Path, body: TrackedBody, poses: Mapping[int, BodyPose]) -> RigTrackingError:
    """Compares tracked poses with the `truth.npz` of a capture that `write_rig_capture` made of the same rig.

    Args:
        folder: folder of the capture.
        body: the tracked rig.
        poses: tracked pose by frame.

    Raises:
        CaptureError: the file does not exist, or is of another rig.
    """
    path = Path(folder) / TRUTH
    if not path.is_file():
        raise CaptureError(f"rig_tracking_error: {path} does not exist; write_rig_capture makes one")
    keys = {"vertices": "F V 3", "world_to_camera": "F 4 4", "pose": "F J 3"}
    with reading(path, "the truth of a drawn capture", CaptureError):
        raw = load_numbers(path, kind=TRUTH_FORMAT)
        arrays = checked_arrays(f"rig_tracking_error: {path}", raw, keys)
    truth = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    rig = body.rig
    if truth["vertices"].shape[1:] != rig.template_vertices.shape or truth["pose"].shape[1] != len(rig.parents):
        raise CaptureError(f"rig_tracking_error: {path} belongs to another rig; pass the rig it was drawn with")
    frames = sorted(poses)
    if frames and not 0 <= frames[0] <= frames[-1] < len(truth["pose"]):
        raise CaptureError(f"rig_tracking_error: {path} has {len(truth['pose'])} frames, and poses {frames[-1]}")
    strongest = rig.weights.argmax(dim=1)
    above_torso = _below(rig.parents, rig.neck_joint or rig.skull_joint)
    groups = {"head": strongest == rig.skull_joint, "torso": ~above_torso[strongest]}
    if not bool(groups["torso"].any()):
        groups["torso"] = groups["head"]
    rows = []
    for frame in frames:
        tracked = body.posed(poses[frame]).local
        true = _moved(truth["vertices"][frame], truth["world_to_camera"][frame])
        difference = (tracked - true).double()
        view = torch.nn.functional.normalize(true.double(), dim=1)
        aside = difference - (difference * view).sum(1, keepdim=True) * view
        turn, shift = fit_rigid(tracked.double(), true[None].double())
        aligned = tracked.double() @ turn[0].T + shift[0]
        angles = {}
        for name, chosen in groups.items():
            part, _ = fit_rigid(tracked[chosen].double(), true[None, chosen].double())
            angles[name] = float(rotation_angle(part[0]).rad2deg())
        jaw = body.names.index("jaw") if "jaw" in body.names else None
        tracked_jaw = torch.zeros(3) if jaw is None else poses[frame].turns[jaw]
        both = rotation_matrices(torch.stack([tracked_jaw, truth["pose"][frame, rig.jaw_joint]]).double())
        facing = fit_rigid(rig.template_vertices[groups["head"]].double(), true[None, groups["head"]].double())
        ahead = facing[0][0][:, 2]  # of the head, OpenCV axes
        jaw_off = float(rotation_angle(both[0] @ both[1].T).rad2deg())
        rows.append(
            (1e3 * difference.norm(dim=1).mean(), 1e3 * aside.norm(dim=1).mean(),
             1e3 * (aligned - true).norm(dim=1).mean(), angles["torso"], angles["head"], jaw_off,
             float(torch.rad2deg(torch.atan2(ahead[0], -ahead[2]))))
        )  # fmt: skip
    return RigTrackingError(frames, *np.array(rows, np.float64).reshape(-1, 7).T)


def _below(parents: tuple[int, ...], joint: int) -> Bool[Tensor, " j"]:
    out = torch.zeros(len(parents), dtype=torch.bool)
    for j, parent in enumerate(parents):
        out[j] = j == joint or (parent >= 0 and bool(out[parent]))
    return out


def _moved(points: Tensor, pose: Tensor) -> Tensor:
    return points @ pose[:3, :3].T + pose[:3, 3]
