"""A capture that is still being written: frames join it while they arrive, and memory stays within its budget."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.formats.insta import is_insta, open_insta
from headfields.data.formats.transforms import read_frames
from headfields.data.head_frame import HeadFrameChoice
from headfields.data.template import Mouth

__all__ = ["LiveCapture", "wait_for_frames"]

LEAST = 8
"""Frames that a capture needs to be opened: its conventions, and the regions of its mesh, are decided by them."""
_MOST_FRAMES = 2**40
"""More than ever come: what limits the frames in memory is the budget."""


class LiveCapture(Capture):
    """A capture in INSTA's layout that somebody is still writing. `refresh` takes the frames that have come since.

    A frame joins once `transforms*.json` names it and its files can be decoded: write the files first and the list
    last (`headfields.data.formats.insta_writer` does), or both in any order, and it joins later. What the frames at the
    start decide holds for all: the size of the images, the files that a frame has, the convention of the cameras, the
    treatment of the head's motion, the regions of the mesh. New frames are behind the old ones, in the order they came.
    Where there is neither `transforms_train.json` nor `transforms_test.json`, all frames are for training.

    Frames stay on disk and are decoded when they are used; those used last are kept, up to the memory budget.

    Args:
        path: the capture's folder, with at least one whole frame; see `wait_for_frames`.
        memory_budget_mb, regions, head_frame, mouth, skinning: as for `headfields.data.load_capture`.

    Attributes:
        refused: why the next frame has not joined, if it is named but cannot be read yet; else "".

    Raises:
        CaptureError: the folder is not in INSTA's layout, or a file of the first frames is wrong.
    """

    def __init__(
        self,
        path: Path | str,
        memory_budget_mb: int | float = 2048,
        regions: Mapping[str, Bool[Tensor, " f"]] | None = None,
        head_frame: HeadFrameChoice = "auto",
        mouth: Mouth = "close",
        skinning: Float[Tensor, "v j"] | None = None,
    ) -> None:
        folder = Path(path)
        if not folder.is_dir() or not is_insta(folder):
            raise CaptureError(
                f"LiveCapture: {folder} is not a folder in INSTA's layout (canonical.obj, and transforms*.json whose "
                "frames have a mesh_path); wait_for_frames waits until it is"
            )
        self._stamp = _stamp(folder)
        self._opened = open_insta(folder)
        self.refused = ""
        recording = self._opened.recording
        if not _has_splits(folder):
            every = list(recording.splits["all"])
            recording.splits = {"train": every, "test": [], "val": [], "all": every}
        self._named = set(recording.frame_names)  # paths of the images
        super().__init__(recording, memory_budget_mb, regions, head_frame, mouth, skinning)

    def _most_frames(self) -> int:
        return _MOST_FRAMES

    def refresh(self) -> list[int]:
        """Takes the frames that have been written since, and returns their indices; a frame that is not whole yet, and
        those behind it, come with a later call.

        Cheap while nothing has changed. Call it from the thread that trains.
        """
        folder, recording = self.path, self._opened.recording
        stamp = _stamp(folder)
        if stamp == self._stamp and not self.refused:
            return []
        try:
            frames, splits = read_frames(folder, [])
        except (CaptureError, ValueError) as error:  # half a file: whoever writes it is not done
            self.refused = str(error)
            return []
        self._stamp, self.refused = stamp, ""
        has_splits, added = _has_splits(folder), []
        joined = {name: list(rows) for name, rows in recording.splits.items()}
        for row, frame in enumerate(frames):
            if frame.path("file_path") in self._named:
                continue
            try:
                index = self._opened.append(frame)
            except CaptureError as error:
                self.refused = str(error)
                break
            self._named.add(frame.path("file_path"))
            added.append(index)
            for split in ("train", "test", "val"):
                if row in splits[split] if has_splits else split == "train":
                    joined[split].append(index)
        if added:
            joined["all"] = list(range(len(recording.frame_names)))
            recording.splits = joined
            self._take(len(added))
        return added

    def _take(self, count: int) -> None:
        """Brings what is kept for each frame up to the recording, of which `count` frames are new."""
        recording = self._opened.recording
        views = np.linalg.inv(recording.camera_to_world[-count:]).astype(np.float32)
        self._world_to_camera = torch.cat([self._world_to_camera, torch.from_numpy(views)])
        self._intrinsics = torch.from_numpy(recording.intrinsics.astype(np.float32))
        unknown = torch.full((count, 4, 4), torch.nan, dtype=torch.float64)
        self._decoder.poses = torch.cat([self._decoder.poses, unknown])
        self.splits = {name: torch.tensor(rows, dtype=torch.long) for name, rows in recording.splits.items()}
        self.frame_names = tuple(recording.frame_names)  # last: it is the length


def wait_for_frames(path: Path | str, least: int = LEAST, timeout: float | int | None = None) -> int:
    """Waits until a folder has `canonical.obj` and so many frames in its transforms files.

    Args:
        path: the folder, which may not exist yet.
        least: number of frames.
        timeout: seconds; None waits for ever.

    Returns:
        The number of frames.

    Raises:
        CaptureError: there are not so many after `timeout` seconds; the message says what there is.
    """
    folder, end = Path(path), None if timeout is None else time.monotonic() + timeout
    while True:
        count, problem = 0, "canonical.obj is missing"
        if (folder / "canonical.obj").is_file():
            try:
                count, problem = len(read_frames(folder, [])[0]), ""
            except (CaptureError, ValueError) as error:  # none yet, or half a file
                problem = str(error)
        if count >= least:
            return count
        if end is not None and time.monotonic() >= end:
            raise CaptureError(f"{folder} has {count} frames, and {least} are needed to begin. {problem}".strip())
        time.sleep(0.2)


def _has_splits(folder: Path) -> bool:
    return any((folder / f"transforms_{split}.json").is_file() for split in ("train", "test"))


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """Names, times and sizes of the transforms files: others mean that frames may have been added."""
    entries = []
    for path in sorted(folder.glob("transforms*.json")):
        try:
            stat = path.stat()
        except OSError:  # replaced in between
            continue
        entries.append((path.name, stat.st_mtime_ns, stat.st_size))
    return entries
