"""Tables of codes for an auto-decoder, and the optimizer that moves only the rows that a step has seen."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.networks.latent_table import LatentTable

__all__ = ["CodeTable"]


class CodeTable(LatentTable):
    """A table of codes that starts at zero and is trained by Adam on the rows of a step alone.

    A row that a step does not use stays as it is, moments and all, and its bias correction counts its own steps: rows
    of rarely seen scans move as far per step as others. (`torch.optim.SparseAdam` counts the steps of the whole table.)
    Moments are buffers, so a checkpoint of the module holds them.

    Args:
        count: rows.
        width: numbers in a code.
        betas: of Adam's moments.
        epsilon: added to the root of the second.

    Raises:
        ValueError: a size is not positive.
    """

    steps: Tensor
    first: Tensor
    second: Tensor

    def __init__(
        self, count: int, width: int, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        super().__init__(count, width, std=0.0)
        self.betas, self.epsilon = betas, epsilon
        self.register_buffer("steps", torch.zeros(count))
        self.register_buffer("first", torch.zeros(count, width))
        self.register_buffer("second", torch.zeros(count, width))

    def rows(self, index: Int[Tensor, " b"]) -> tuple[Float[Tensor, "u width"], Int[Tensor, " u"], Int[Tensor, " b"]]:
        """The rows that B entries use, as leaves for a gradient: (U, width), their numbers (U,), and which one each
        entry has (B,)."""
        numbers, place = index.unique(return_inverse=True)
        return self.table.detach()[numbers].requires_grad_(), numbers, place

    @torch.no_grad()
    def step(self, numbers: Int[Tensor, " u"], gradient: Float[Tensor, "u width"], rate: float) -> None:
        """Moves rows `numbers` (U,), all different, by Adam with `gradient` (U, width) at a learning `rate`."""
        low, high = self.betas
        self.steps[numbers] += 1
        count = self.steps[numbers][:, None]
        self.first[numbers] = low * self.first[numbers] + (1 - low) * gradient
        self.second[numbers] = high * self.second[numbers] + (1 - high) * gradient.square()
        size = (self.second[numbers] / (1 - high**count)).sqrt() + self.epsilon
        self.table.data[numbers] -= rate * (self.first[numbers] / (1 - low**count)) / size
