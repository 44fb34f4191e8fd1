"""Canonical points without a deformer, for tests of encoders and decoders."""

import torch
from torch import Tensor

from headfields.records import Canonical


def viewed_along(directions: Tensor) -> Canonical:
    """M points at the origin, seen along unit directions (M, 3), all in frame 0."""
    count = len(directions)
    points = torch.zeros_like(directions)
    frame, valid = torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.bool)
    return Canonical(points, directions, points, frame, valid)
