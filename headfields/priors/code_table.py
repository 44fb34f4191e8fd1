"""Code tables of an auto-decoder, with Adam on the rows that a step uses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.networks.latent_table import LatentTable

__all__ = ["CodeTable"]


class CodeTable(LatentTable):
    """A table of codes that starts at zero and is trained by Adam, only on the rows of each step.

    A row and its moments change only in steps that use the row, and its bias correction counts these steps alone, so
    rows of rarely used scans move as far per step as others. (`torch.optim.SparseAdam` counts the steps of the whole
    table.) Moments are buffers: checkpoints of the module include them.

    Args:
        count: rows.
        width: numbers in a code.
        betas: decay rates of Adam's moments.
        epsilon: added to the root of the second moment.

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
        """The U distinct rows among B entries, as leaves for a gradient.

        Args:
            index: (B,) row of each entry.

        Returns:
            The rows (U, width), their numbers (U,), and the position (B,) of each entry among them.

        >>> import torch
        >>> from headfields.priors import CodeTable
        >>> rows, numbers, position = CodeTable(count=5, width=3).rows(torch.tensor([4, 1, 4]))
        >>> rows.shape, numbers.tolist(), position.tolist()
        (torch.Size([2, 3]), [1, 4], [1, 0, 1])
        """
        numbers, position = index.unique(return_inverse=True)
        return self.table.detach()[numbers].requires_grad_(), numbers, position

    @torch.no_grad()
    def step(self, numbers: Int[Tensor, " u"], gradient: Float[Tensor, "u width"], rate: float) -> None:
        """Updates distinct rows `numbers` (U,) by Adam with `gradient` (U, width) and learning `rate`."""
        beta1, beta2 = self.betas
        self.steps[numbers] += 1
        count = self.steps[numbers][:, None]
        self.first[numbers] = beta1 * self.first[numbers] + (1 - beta1) * gradient
        self.second[numbers] = beta2 * self.second[numbers] + (1 - beta2) * gradient.square()
        denominator = (self.second[numbers] / (1 - beta2**count)).sqrt() + self.epsilon
        self.table.data[numbers] -= rate * (self.first[numbers] / (1 - beta1**count)) / denominator
