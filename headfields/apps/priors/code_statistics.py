"""Gaussian statistics of latent codes: mean and principal axes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["CodeStatistics", "PriorStatistics"]

LEAST = 0.01
"""Directions whose standard deviation is below this fraction of the largest are left out."""


@dataclass(frozen=True)
class CodeStatistics:
    """Mean and principal axes of a code.

    Attributes:
        mean: (W,) the code that fits start from.
        axes: (W, K) orthogonal columns, each as long as the standard deviation along it.

    >>> import torch
    >>> from headfields.apps.priors.code_statistics import CodeStatistics
    >>> codes = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0], [4.0, 1.0, 5.0]])
    >>> statistics = CodeStatistics.of(codes, codes.mean(0))
    >>> statistics.axes.shape, statistics.at(torch.zeros(1)).tolist()
    (torch.Size([3, 1]), [2.0, 1.0, 5.0])
    """

    mean: Float[Tensor, " w"]
    axes: Float[Tensor, "w k"]

    @classmethod
    def of(cls, codes: Float[Tensor, "n w"], mean: Float[Tensor, " w"]) -> "CodeStatistics":
        """The principal axes of N codes about their own mean, without those below `LEAST`.

        Args:
            codes: (N, W).
            mean: (W,) kept as `mean`; it may differ from that of the codes.
        """
        _, deviations, directions = torch.linalg.svd(
            (codes - codes.mean(dim=0)).double() / max(len(codes), 1) ** 0.5, full_matrices=False
        )
        significant = deviations > LEAST * deviations[:1]
        return cls(mean.detach().clone(), (directions[significant].T * deviations[significant]).to(codes))

    def at(self, free: Float[Tensor, "*b k"]) -> Float[Tensor, "*b w"]:
        """The codes (..., W) at coordinates (..., K), in standard deviations along each axis. Differentiable."""
        return self.mean + free @ self.axes.T


@dataclass(frozen=True)
class PriorStatistics:
    """Statistics of each of a prior's codes.

    Attributes:
        geometry, appearance: statistics over people.
        expression: statistics over scans, about the mean of the neutral ones.
    """

    geometry: CodeStatistics
    appearance: CodeStatistics
    expression: CodeStatistics
