"""The motion of a face in ARKit's 52 shapes, with turns of head, eyes and jaw."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.faces.arkit import ARKIT_NAMES
from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.records.base import Record

__all__ = ["FaceMotion", "check_times"]

LARGEST_WEIGHT = 2.0
"""A weight is in [0, 1]; apps that exaggerate go somewhat beyond, and more is no weight."""
LARGEST_TURN = 6.3
"""Radians: a whole turn."""


@dataclass(frozen=True)
class FaceMotion(Record):
    """T frames of a face: ARKit's weights, and how head, eyes and jaw are turned.

    A turn is a rotation vector (axis times angle), radians, in the axes of the head: x to the subject's left, y up, z
    out of the face. So a turn (pitch, yaw, roll) is positive where the face looks down, toward the subject's left, and
    leans toward the right shoulder; a jaw that opens has a positive pitch. It is the turn of a joint of FLAME.

    Attributes:
        times: (T,) seconds from the start, rising.
        shapes: (T, 52) weights in the order of `ARKIT_NAMES`, usually in [0, 1].
        head: (T, 3) turn of the head.
        eyes: (T, 2, 3) turns of the subject's left and right eye in the head.
        jaw: (T, 3) turn of the jaw beside what the shapes do.
        name: for messages and lists.
    """

    times: Float[Tensor, " t"]
    shapes: Float[Tensor, "t 52"]
    head: Float[Tensor, "t 3"]
    eyes: Float[Tensor, "t 2 3"]
    jaw: Float[Tensor, "t 3"]
    name: str = "face"

    def __len__(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> float:
        """Length from the first to the last frame."""
        return float(self.times[-1] - self.times[0]) if len(self.times) else 0.0

    def weights(self, frame: int) -> dict[str, float]:
        """The weights of a frame that are not 0, by ARKit's names."""
        return {name: weight for name, weight in zip(ARKIT_NAMES, self.shapes[frame].tolist(), strict=True) if weight}

    def resampled(self, fps: float | int) -> "FaceMotion":
        """The motion at a steady rate, from the first to the last frame; turns go the shortest way.

        Raises:
            ValueError: fps is not positive, or the motion has no frames.
        """
        if not 0 < fps < float("inf"):
            raise ValueError(f"FaceMotion.resampled: fps is {fps}; expected a positive number of frames per second")
        if not len(self.times):
            raise ValueError(f"FaceMotion.resampled: {self.name} has no frames")
        start = self.times[0]
        times = start + torch.arange(int(self.seconds * fps + 1e-6) + 1, dtype=self.times.dtype) / fps
        after = torch.searchsorted(self.times, times).clamp(1 if len(self.times) > 1 else 0, len(self.times) - 1)
        before = (after - 1).clamp_min(0)
        length = (self.times[after] - self.times[before]).clamp_min(1e-9)
        share = ((times - self.times[before]) / length).clamp(0, 1).to(self.shapes)

        def turned(turns: Tensor) -> Tensor:
            first, second = rotation_matrices(turns[before]), rotation_matrices(turns[after])
            part = share.reshape(-1, *[1] * (turns.dim() - 1))
            return axis_angle(first @ rotation_matrices(part * axis_angle(first.mT @ second)))

        return FaceMotion(
            times - start, torch.lerp(self.shapes[before], self.shapes[after], share[:, None]), turned(self.head),
            turned(self.eyes), turned(self.jaw), self.name,
        )  # fmt: skip


def check_times(times: Sequence[float], places: Sequence[str]) -> None:
    """Whether times rise from frame to frame.

    Args:
        times: seconds.
        places: where each is written, for the message: "line 3".

    Raises:
        ValueError: one does not.
    """
    for (before, after), place in zip(itertools.pairwise(times), places[1:], strict=True):
        if after <= before:
            raise ValueError(f"{place}: the time does not rise: {after:g} s after {before:g} s")
