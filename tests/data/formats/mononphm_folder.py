"""A made-up input folder of MonoNPHM's tracker, written from its layout, and the points that its landmarks show."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (60, 80)


@dataclass(frozen=True)
class MadeUp:
    """`points` (98, 3) in FLAME's space, meters; `views` (T, 4, 4) and `intrinsics` (3, 3) that they are seen with."""

    folder: Path
    points: np.ndarray
    views: np.ndarray
    intrinsics: np.ndarray

    def pixels(self, frame):
        """Where the points are in a frame of the source, (98, 2) pixels."""
        seen = self.points @ self.views[frame, :3, :3].T + self.views[frame, :3, 3]
        return (seen / seen[:, 2:] @ self.intrinsics.T)[:, :2]


def turned(angle):
    """A camera half a meter in front of the face, after a turn about y; x right, y down, z forward."""
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = np.diag([1.0, -1, -1]) @ turn, [0.01 * angle, 0.01, 0.5]
    return view


def write_folder(folder, frames=3, size=SIZE, text=False, kpt=False):
    """Writes T frames; with `text` their intrinsics are in camera_intrinsics.txt, and K is of another size."""
    random = np.random.default_rng(0)
    points = random.uniform(-0.05, 0.05, (98, 3))
    height, width = size
    intrinsics = np.array([[90.0, 0, width / 2 + 3], [0, 95.0, height / 2 - 2], [0, 0, 1]])
    files = [turned(0.1 * number) for number in range(max(frames - 1, 1))]
    views = np.stack([files[max(frame - 1, 0)] for frame in range(frames)])
    made = MadeUp(folder, points, views, intrinsics)
    checkpoints = folder / "metrical_tracker" / folder.name / "checkpoint"
    for place in (checkpoints, *(folder / name for name in ("source", "seg", "matting", "pipnet", "kpt")[: 4 + kpt])):
        place.mkdir(parents=True)
    for number, view in enumerate(files):
        own = np.diag([0.5, 0.5, 1]) @ intrinsics if text else intrinsics
        np.savez(
            checkpoints / f"{number:05d}_cam_params_opencv.npz",
            R=view[None, :3, :3].astype(np.float32), t=view[None, :3, 3].astype(np.float32), K=own[None],
        )  # fmt: skip
    if text:
        fx, fy, cx, cy = (intrinsics[place] for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
        (folder / "camera_intrinsics.txt").write_text(f"{cx} {cy} {fx} {fy} 0.29 -2.6 0 \n")
    rows, columns = np.mgrid[:height, :width]
    for frame in range(frames):
        color = np.stack([columns, rows, np.full_like(rows, frame)], axis=-1).astype(np.uint8)
        Image.fromarray(color).save(folder / "source" / f"{frame:05d}.png")
        label = np.full(size, 2, np.uint8)
        label[:, :5], label[:, -5:] = 0, 20
        label[-4:] = 3
        Image.fromarray(label).save(folder / "seg" / f"{frame}.png")
        Image.fromarray(np.full(size, 204, np.uint8)).save(folder / "matting" / f"{frame:05d}.png")
        if kpt:
            np.save(folder / "kpt" / f"{frame:05d}.npy", made.pixels(frame)[:68] + 1)
    landmarks = np.stack([made.pixels(frame) for frame in range(frames)]) / [width, height]
    np.save(folder / "pipnet" / "test.npy", landmarks)
    return made
