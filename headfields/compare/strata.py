"""Strata: the frames that a study measures apart, each with columns of its own, and the frames that its cells train on.

A stratum is a choice of frames of a cell's capture, or a folder within it: another capture of the same head, such as
`cameras`, which `headfields synth --cameras` writes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headfields.data.balance import view_yaw
from headfields.training.frames import choose_frames
from headfields.training.region_scores import RegionMasks

TEST = "test"
CHOICES = {
    TEST: "the frames of the split",
    "seen": "training frames",
    "unseen": "frames with the widest jaw or smile, of a study with `held_out`",
    "blinks": "frames of the split with the eyes shut",
    "turned": "the third of all frames that turns farthest, less training frames",
}
"""Strata that are frames of the capture itself."""


def evenly_spaced(frames: Sequence[int], most: int | None) -> list[int]:
    """At most `most` of the frames, evenly spaced, the first and last among them."""
    if most is None or most >= len(frames):
        return list(frames)
    return [frames[index] for index in torch.linspace(0, len(frames) - 1, most).round().int().tolist()]


def wide_expressions(capture: Any, share: float) -> Bool[Tensor, " f"]:
    """(F,) True where the mouth is among the highest or the widest `share` of all frames.

    Both are measured on the meshes, as height and width of the template's region "mouth", whatever the coefficients of
    the expression are. Of an inside of the mouth only the tracked mesh's vertices count.

    Raises:
        ValueError: the template has no such region.
    """
    tracked = capture.tracked(range(len(capture)))
    region = capture.template.regions.get("mouth")
    if region is None:
        raise ValueError(f"held_out: capture {capture.name!r} has no region 'mouth'; it needs labels")
    mouth = capture.template.faces[region].unique()
    mouth = tracked[:, mouth[mouth < tracked.shape[1]]]
    width, height, _ = (mouth.amax(dim=1) - mouth.amin(dim=1)).unbind(dim=-1)
    return (height > height.quantile(1 - share)) | (width > width.quantile(1 - share))


def choose_training(capture: Any, share: float | int = 1, held_out: float | int = 0, front: float | int = 1) -> None:
    """Leaves in the split "train" of a capture what a cell trains on.

    Args:
        capture: its splits are changed.
        share: of the training frames, evenly spaced.
        held_out: frames with expressions among this widest share of all frames are left out.
        front: share of the training frames that see the head most from the front; the others are left out.

    Raises:
        ValueError: no frame is left.
    """
    frames = torch.as_tensor(choose_frames(capture, "train"))
    if held_out:
        frames = frames[~wide_expressions(capture, held_out)[frames]]
    if front < 1 and len(frames):
        yaw = view_yaw(capture, frames).abs()
        frames = frames[yaw <= yaw.quantile(front)]
    if share < 1:
        frames = torch.tensor(evenly_spaced(frames.tolist(), max(1, round(share * len(frames)))), dtype=torch.long)
    if not len(frames):
        raise ValueError(f"no training frame of {capture.name!r} is left; lower held_out")
    capture.splits["train"] = frames


def stratum_frames(study: Any, stratum: str, source: Any) -> tuple[Any, list[int]]:
    """The capture and the frames that a stratum is measured on.

    Args:
        study: the study.
        stratum: its name.
        source: a cell's capture, after `choose_training`.

    Raises:
        ValueError: the stratum has no frame.
        FileNotFoundError: it is no choice of frames, and the capture has no such folder.
    """
    if stratum not in CHOICES:
        folder = Path(source.path) / stratum
        if not folder.is_dir():
            raise FileNotFoundError(
                f"stratum {stratum!r}: {source.path} has no such folder; a stratum is one of {', '.join(CHOICES)}, or "
                "a capture of the same head in a folder of that name within each capture (headfields synth --cameras)"
            )
        other = study.load_capture(folder)
        return other, evenly_spaced(list(range(len(other))), study.frames)
    trained = set(source.splits["train"].tolist())
    wide = wide_expressions(source, study.held_out).nonzero()[:, 0].tolist() if study.held_out else []
    frames = [frame for frame in choose_frames(source, study.split) if frame not in wide]
    if stratum == "seen":
        frames = sorted(trained)
    elif stratum == "unseen":
        frames = wide
    elif stratum == "blinks":
        frames = sorted({*RegionMasks(source).blinks()} & {*choose_frames(source, study.split)})
    elif stratum == "turned":
        yaw = view_yaw(source).abs()
        used = trained | set(getattr(source, "validation", ()))  # by which rates are chosen
        frames = [frame for frame in (yaw >= yaw.quantile(2 / 3)).nonzero()[:, 0].tolist() if frame not in used]
    if not frames:
        raise ValueError(f"stratum {stratum!r} has no frame of {source.name!r}: {CHOICES[stratum]}")
    return source, evenly_spaced(frames, study.frames)
