"""Sequences of states that the viewer's scrubber runs through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from headfields.records import HeadState

__all__ = ["PLAYED", "Motion", "neutral_frame"]

PLAYED = 25
"""Frames a second that motions play with at first."""


@dataclass(frozen=True)
class Motion:
    """States of one head by frame.

    Attributes:
        name: for the panel.
        count: number of frames, at least 1.
        state_of: the state (one frame) of a frame, from 0.
        recorded: whether frame i is frame i of the scene's capture, which has its camera and its image.
    """

    name: str
    count: int
    state_of: Callable[[int], HeadState]
    recorded: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Motion: {self.name} has {self.count} frames; it needs at least one")

    @classmethod
    def still(cls, name: str, state: HeadState) -> "Motion":
        """One state."""
        return cls(name, 1, lambda frame: state)

    @classmethod
    def of_capture(cls, capture: Any) -> "Motion":
        """The frames of a capture, which is the scene's."""
        return cls("recorded", len(capture), lambda frame: capture.state([frame]), recorded=True)


def neutral_frame(capture: Any) -> int:
    """The training frame with the smallest expression coefficients; the first where there are none."""
    frames = torch.as_tensor(capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"])
    picks = frames[:: max(len(frames) // 400, 1)]
    expression = capture.state(picks.tolist()).expression
    return int(picks[0] if expression is None or not expression.shape[1] else picks[expression.norm(dim=-1).argmin()])
