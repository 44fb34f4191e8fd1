"""What codes of people and faces are likely: where they lie around their mean, and along which directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["CodeStatistics", "PriorStatistics"]

LEAST = 0.01
"""What part of the largest deviation a direction of a code must have to be fitted."""


@dataclass(frozen=True)
class CodeStatistics:
    """Where a code starts, along which directions people (or faces) differ from there, and how far.

    Attributes:
        mean: (W,) where it starts.
        axes: (W, K) columns are orthogonal directions, each as long as the standard deviation along it.
    """

    mean: Float[Tensor, " w"]
    axes: Float[Tensor, "w k"]

    @classmethod
    def of(cls, codes: Float[Tensor, "n w"], mean: Float[Tensor, " w"]) -> "CodeStatistics":
        """The principal directions of N codes, but those along which they differ by less than `LEAST` of the most."""
        _, deviations, directions = torch.linalg.svd(
            (codes - codes.mean(dim=0)).double() / max(len(codes), 1) ** 0.5, full_matrices=False
        )
        kept = deviations > LEAST * deviations[:1]
        return cls(mean.detach().clone(), (directions[kept].T * deviations[kept]).to(codes))

    def at(self, free: Float[Tensor, "*b k"]) -> Float[Tensor, "*b w"]:
        """The codes (..., W) at coordinates (..., K), in standard deviations along each direction. Differentiable."""
        return self.mean + free @ self.axes.T


@dataclass(frozen=True)
class PriorStatistics:
    """The range of each of a prior's codes.

    Attributes:
        geometry, appearance: over people.
        expression: over scans; around the mean of neutral ones.
    """

    geometry: CodeStatistics
    appearance: CodeStatistics
    expression: CodeStatistics
