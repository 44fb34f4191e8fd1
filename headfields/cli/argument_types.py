"""Argument types that several commands share: how tyro names and parses them."""

from pathlib import Path
from typing import Annotated

import tyro

Count = Annotated[int, tyro.conf.arg(metavar="N")]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="N")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="N")]
Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Rig = Annotated[Path, tyro.conf.arg(metavar="RIG.npz")]
CaptureFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
NewRun = Annotated[Path, tyro.conf.arg(metavar="RUN")]


def eyelid_files(folder: Path | None) -> tuple[Path, Path] | None:
    """The left and the right eyelid's blendshapes in a folder, for `headfields.data.load_capture`."""
    return None if folder is None else (folder / "l_eyelid.npy", folder / "r_eyelid.npy")
