"""The folder of a tracking run: its files and where they are.

config.json                 capture, options, model and frames of the run
fits/stage1/00000.safetensors, fits/stage2/...
                            each frame's fit, exactly; a resumed run starts from them
fits/stage2.safetensors     checkpoint of stage 2 (of trackers that keep one)
pictures/stage1/00000.png, pictures/stage2/...
                            each frame's image next to its fit
stage1.mp4, stage2.mp4      these pictures
errors.json                 how well each frame fits, and which frames failed for which reason
profile.json                seconds per frame, by part of the fit
meshes/00000.ply            `PriorTracker`: the head of each frame in the space of the prior, meters
mononphm/stage1|stage2/     `PriorTracker`: the published layout
adapted.safetensors         `RigTracker`: the template adapted to the person, if it is
capture/                    `RigTracker`: the tracked capture
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.file_formats import TRACKING_RUN
from headfields.runs.folder import RunFolder, read_json_object, remove_leftovers, write_json, writing

__all__ = ["TrackingFolder"]

_UNCHANGEABLE = ("capture", "options", "prior", "frames", "landmarks")
"""Entries of config.json that a resumed run cannot change."""


class TrackingFolder:
    """The files of one run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def create(self) -> None:
        """Makes the folder.

        Raises:
            NotADirectoryError: a file is where the folder should be.
            RunWriteError: it cannot be made or written to.
        """
        RunFolder(self.path).check_writable()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def open(self, config: Mapping[str, Any], resume: bool) -> None:
        """Writes config.json, or checks that the run was started with the same one; removes what a killed process left.

        Call it with the folder locked.

        Args:
            config: capture, options, model and frames of the run.
            resume: whether a run in the folder is resumed.

        Raises:
            FileExistsError: the folder holds a run, and `resume` is False.
            FileVersionError: another version of the library began it.
            ValueError: its configuration is another; the message names the difference.
            RunWriteError: config.json cannot be written.
        """
        path = self.path / "config.json"
        current = TRACKING_RUN.stamp(json.loads(json.dumps(config, default=str)))
        if path.exists():
            if not resume:
                raise FileExistsError(f"{self.path} holds a tracking run already; resume it, or name another folder")
            recorded = read_json_object(path, "a tracking run has one")
            TRACKING_RUN.check(path, recorded)
            for name in _UNCHANGEABLE:
                if recorded.get(name) != current.get(name):
                    raise ValueError(
                        f"{self.path} was begun with other {name}: "
                        f"{_difference(recorded.get(name), current.get(name))}; resume with the same, or name another "
                        "folder"
                    )
        remove_leftovers(self.path, below=True)
        write_json(path, current)

    def fit_path(self, stage: int, frame: int) -> Path:
        """Path of the fit of a frame, whether or not it exists."""
        return self.path / "fits" / f"stage{stage}" / f"{frame:05d}.safetensors"

    def fit_paths(self, stage: int) -> dict[int, Path]:
        """Paths of the fits on disk, by frame."""
        paths = sorted((self.path / "fits" / f"stage{stage}").glob("[0-9]*.safetensors"))
        return {int(path.stem): path for path in paths}

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint of stage 2, whether or not it exists."""
        return self.path / "fits" / "stage2.safetensors"

    def picture_path(self, stage: int, frame: int) -> Path:
        """Path of the picture of a frame, whether or not it exists."""
        return self.path / "pictures" / f"stage{stage}" / f"{frame:05d}.png"

    def mesh_path(self, frame: int) -> Path:
        """Path of the mesh of a frame, whether or not it exists."""
        return self.path / "meshes" / f"{frame:05d}.ply"

    def write_errors(
        self, names: Mapping[int, str], fits: Mapping[int, Any], failed: Mapping[int, FrameFailure]
    ) -> None:
        """Writes errors.json: the `errors` of each frame's fit, or the reason why it failed."""
        write_json(
            self.path / "errors.json",
            {
                "frames": {
                    str(frame): {
                        "name": names[frame],
                        **{name: round(value, 6) for name, value in fits[frame].errors.items()},
                    }
                    for frame in sorted(fits)
                },
                "failed": {
                    str(frame): {"name": names[frame], "reason": failed[frame].reason, "message": str(failed[frame])}
                    for frame in sorted(failed)
                },
            },
        )

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file into the folder."""
        write_json(self.path / name, content)


def _difference(recorded: Any, current: Any) -> str:
    if isinstance(recorded, dict) and isinstance(current, dict):
        names = [name for name in {**recorded, **current} if recorded.get(name) != current.get(name)]
        return ", ".join(f"{name} was {recorded.get(name)!r} and is {current.get(name)!r}" for name in names[:3])
    return f"was {recorded!r} and is {current!r}"
