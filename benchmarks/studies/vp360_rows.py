"""How the rows of 3VP Avatar's studies draw training frames."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from headfields.data import Capture
from headfields.data.balance import view_yaw, yaw_balanced_weights

FRONT = 50.0
"""Degrees: views up to this absolute yaw are from the front."""
THINNED = 4
"""A recording of talking, mostly from the front, keeps one of this many training frames that are not."""


def evenly(capture: Capture) -> Mapping[str, Any]:
    """Every frame as often, where the recipe balances them over the yaw."""
    return {"frame_weights": None}


def mostly_front_evenly(capture: Capture) -> Mapping[str, Any]:
    return {"frame_weights": torch.zeros(len(capture)).index_fill(0, _kept(capture), 1.0)}


def mostly_front_balanced(capture: Capture) -> Mapping[str, Any]:
    capture.splits["mostly front"] = _kept(capture)
    weights = yaw_balanced_weights(capture, split="mostly front")
    return {"frame_weights": torch.zeros(len(capture)).index_fill(0, _kept(capture), 1.0) * weights}


def _kept(capture: Capture) -> Tensor:
    frames = capture.splits["train"]
    front = view_yaw(capture, frames).rad2deg().abs() <= FRONT
    return frames[front | ((~front).cumsum(0) % THINNED == 1)]
