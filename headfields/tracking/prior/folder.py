"""The folder of a tracking run: what it leaves behind, and where.

config.json                 what was tracked with what
fits/stage1/00000.safetensors, fits/stage2/...
                            each frame's codes, pose, light and colors, exactly; to go on from
fits/stage2.safetensors     stage 2 as it stands, while it runs
pictures/stage1/00000.png, pictures/stage2/...
                            truth | rendering | normals | truth with the matte's outline and landmarks
meshes/00000.ply            the head of each frame in the space of the prior, meters
mononphm/stage1|stage2/     the published layout
stage1.mp4, stage2.mp4      the pictures
errors.json                 how well each frame fits, and which frames failed by what
profile.json                seconds a frame, by what they went into
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headfields.runs.folder import read_json, write_json, writing
from headfields.tracking.failures import FrameFailure
from headfields.tracking.prior.fit import FrameFit

__all__ = ["TrackingFolder"]

FIXED = ("capture", "options", "prior", "frames", "landmarks")
"""What a run that goes on cannot change."""


class TrackingFolder:
    """The files of one run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def open(self, config: Mapping[str, Any], resume: bool) -> None:
        """Makes the folder, or goes on with one that the same was begun in.

        Args:
            config: what is tracked with what.
            resume: whether to go on.

        Raises:
            FileExistsError: there is a run already, and `resume` is False.
            ValueError: it was begun with something else; the message says what.
            RunWriteError: it cannot be written.
        """
        path = self.path / "config.json"
        plain = json.loads(json.dumps(config, default=str))
        if path.exists():
            if not resume:
                raise FileExistsError(f"{self.path} holds a tracking run already; resume it, or name another folder")
            before = read_json(path, "a tracking run has one")
            for name in FIXED:
                if before.get(name) != plain.get(name):
                    raise ValueError(
                        f"{self.path} was begun with other {name}: {_short(before.get(name), plain.get(name))}; give "
                        "what it was begun with, or another folder"
                    )
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(path, plain)

    def fit_path(self, stage: int, frame: int) -> Path:
        """Where the fit of a frame is, or would be."""
        return self.path / "fits" / f"stage{stage}" / f"{frame:05d}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Where stage 2 is, or would be, while it runs."""
        return self.path / "fits" / "stage2.safetensors"

    def picture_path(self, stage: int, frame: int) -> Path:
        """Where the picture of a frame is, or would be."""
        return self.path / "pictures" / f"stage{stage}" / f"{frame:05d}.png"

    def mesh_path(self, frame: int) -> Path:
        """Where the mesh of a frame is, or would be."""
        return self.path / "meshes" / f"{frame:05d}.ply"

    def fits(self, stage: int) -> dict[int, FrameFit]:
        """The fits that there are, by frame."""
        paths = sorted((self.path / "fits" / f"stage{stage}").glob("[0-9]*.safetensors"))
        return {int(path.stem): FrameFit.load(path) for path in paths}

    def write_errors(
        self, names: Mapping[int, str], fits: Mapping[int, Any], failed: Mapping[int, FrameFailure]
    ) -> None:
        """Writes errors.json: of each frame its fit's `errors`, or the reason that it failed for."""
        write_json(
            self.path / "errors.json",
            {
                "frames": {
                    str(frame): {"name": names[frame], **{k: round(v, 6) for k, v in fits[frame].errors.items()}}
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


def _short(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return ", ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names[:3])
    return f"was {before!r} and is {now!r}"
