"""Code tables of an auto-decoder, with Adam on the rows that a step uses."""

import torch
from jaxtyping import Bool, Float, Int
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

    def rows(self, numbers: Int[Tensor, " u"]) -> Float[Tensor, "u width"]:
        """The rows `numbers` (U,), as a leaf for a gradient."""
        return self.table.detach().index_select(0, numbers).requires_grad_()

    @torch.no_grad()
    def step(
        self,
        numbers: Int[Tensor, " u"],
        gradient: Float[Tensor, "u width"],
        rate: float | Float[Tensor, ""],
        is_taken: Bool[Tensor, ""] | None = None,
    ) -> None:
        """Updates rows by Adam; the host does not wait for a GPU.

        Args:
            numbers: (U,) the rows. One that is there twice has the same gradient twice, and moves once.
            gradient: (U, width) by them.
            rate: learning rate.
            is_taken: () whether anything changes; None: it does.
        """
        beta1, beta2 = self.betas
        before = [each.index_select(0, numbers) for each in (self.steps, self.first, self.second, self.table.data)]
        steps, first, second, row = before
        steps = steps + 1
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient.square()
        count = steps[:, None]
        denominator = (second / (1 - beta2**count)).sqrt() + self.epsilon
        row = row - rate * (first / (1 - beta1**count)) / denominator
        after = [steps, first, second, row]
        if is_taken is not None:
            after = [torch.where(is_taken, new, old) for new, old in zip(after, before, strict=True)]
        for table, rows in zip((self.steps, self.first, self.second, self.table.data), after, strict=True):
            table.index_copy_(0, numbers, rows)
