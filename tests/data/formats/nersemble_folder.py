"""A made-up person of NeRSemble's benchmark, written from its layout alone."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from torch import Tensor

from headfields.heads.skinned import SkinnedHead
from tests.data.formats import silhouettes, vhap_folder

SIZE = (48, 40)
STEPS = 3
SERIAL = "222200037"
SERIALS = ("220700191", "222200037", "222200039", "222200046")
SCALE = 1.25
TRACKING = "tracking/flame2023_tracking_v2.npz"


def euler(angles: np.ndarray) -> np.ndarray:
    """Rx Ry Rz of (3,) angles."""
    x, y, z = (vhap_folder.rodrigues(axis * angle).numpy() for axis, angle in zip(np.eye(3), angles, strict=True))
    return x @ y @ z


def rows_of(head: SkinnedHead, start: int = 0, scale: float = SCALE) -> dict[str, np.ndarray]:
    """The content of a tracking file."""
    steps = [vhap_folder.parameters(head, start + step, offsets=False) for step in range(STEPS)]
    rotation = np.array([[0.1, 0.2 * (step - 1), 0.05 * step] for step in range(STEPS)])
    return {
        "shape": steps[0]["shape"][None],
        "expression": np.concatenate([step["expr"] for step in steps]),
        "jaw": np.concatenate([step["jaw_pose"] for step in steps]),
        "neck": np.concatenate([step["neck_pose"] for step in steps]),
        "eyes": np.concatenate([step["eyes_pose"] for step in steps]),
        "rotation": rotation,
        "rotation_matrices": np.stack([euler(angles) for angles in rotation]),
        "translation": np.array([[0.02 * step, -0.01, 0.03] for step in range(STEPS)]),
        "scale": np.array([[scale]]),
        "frames": 3 * np.arange(STEPS),
    }


def posed(head: SkinnedHead, rows: dict[str, np.ndarray], step: int) -> Tensor:
    """(V, 3) in the world of the cameras."""
    values = {
        "shape": rows["shape"][0], "expr": rows["expression"][step : step + 1], "rotation": np.zeros((1, 3)),
        "neck_pose": rows["neck"][step : step + 1], "jaw_pose": rows["jaw"][step : step + 1],
        "eyes_pose": rows["eyes"][step : step + 1], "translation": np.zeros((1, 3)),
    }  # fmt: skip
    local = vhap_folder.posed(head, values) * rows["scale"][0, 0]
    return local @ torch.from_numpy(euler(rows["rotation"][step])).T + torch.from_numpy(rows["translation"][step])


def view(serial: str) -> np.ndarray:
    """World to camera, OpenCV axes."""
    yaw = 0.25 * (SERIALS.index(serial) - 1)
    turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([1.0, -1, -1]) @ turn
    matrix[:3, 3] = (0.0, 0.01, 1.1)
    return matrix


def intrinsics() -> np.ndarray:
    return np.array([[115.0, 0, 20.5], [0, 116.0, 23.0], [0, 0, 1]])


def save_video(path: Path, frames: Iterable[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(
        str(path), SIZE[::-1], fps=24.3, codec="libx264", macro_block_size=2, output_params=["-crf", "10"],
        ffmpeg_log_level="error", quality=None,
    )  # fmt: skip
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def write(
    person: Path,
    head: SkinnedHead,
    sequences: tuple[str, ...] = ("EXP-1-head",),
    serials: tuple[str, ...] = (SERIAL,),
    holdout: tuple[str, ...] = (),
    mattes: bool = True,
) -> Path:
    """Writes a person's folder."""
    (person / "calibration").mkdir(parents=True)
    content = {
        "world_2_cam": {serial: view(serial).tolist() for serial in SERIALS},
        "intrinsics": {serial: intrinsics().tolist() for serial in SERIALS},
    }
    (person / "calibration/camera_params.json").write_text(json.dumps(content))
    for number, name in enumerate((*sequences, *holdout)):
        folder, rows = person / "sequences" / name, rows_of(head, number)
        (folder / "tracking").mkdir(parents=True)
        np.savez(folder / TRACKING, **rows)
        if name in holdout:
            continue
        for serial in serials:
            masks = [
                silhouettes.matte(posed(head, rows, step), head.faces, view(serial), intrinsics(), SIZE)
                for step in range(STEPS)
            ]
            pictures = [silhouettes.picture(mask, 40 + 60 * step) for step, mask in enumerate(masks)]
            save_video(folder / f"images/cam_{serial}.mp4", pictures)
            if mattes:
                save_video(folder / f"alpha_maps/cam_{serial}.mp4", [m[..., None].repeat(3, -1) for m in masks])
    return person
