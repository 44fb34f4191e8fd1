"""What the host draws for a step of a prior's training, besides its points: rows of the code tables, noise, factors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.records import Record

__all__ = ["CodeRows", "StepDraw"]


@dataclass(frozen=True)
class CodeRows(Record):
    """The rows of a code table that B scans use, each once.

    A captured step has a fixed number of rows: with padding there are B, and those behind the distinct ones repeat the
    first, have no scan, and share its gradient.

    Attributes:
        numbers: (U,) the rows.
        position: (B,) each scan's row among them.
        owner: (U,) the place among them of the row that each repeats, its own if none; None without padding.
        mixing: (U, P) weights of the table's P rows, less their mean, in the noise on each row; P = 0: no noise.
    """

    numbers: Int[Tensor, " u"]
    position: Int[Tensor, " b"]
    owner: Int[Tensor, " u"] | None
    mixing: Float[Tensor, "u p"]

    @classmethod
    def draw(
        cls, index: Int[Tensor, " b"], random: torch.Generator, size: int = 0, noise: float = 0.0, padded: bool = False
    ) -> "CodeRows":
        """The rows of B scans, on the host.

        Args:
            index: (B,) the row of each scan.
            random: draws the noise.
            size: P, rows of the table.
            noise: its standard deviation, relative to the covariance of the table.
            padded: whether there are as many rows as scans.

        >>> import torch
        >>> from headfields.apps.priors.step_draw import CodeRows
        >>> rows = CodeRows.draw(torch.tensor([4, 1, 4]), torch.Generator())
        >>> rows.numbers.tolist(), rows.position.tolist()
        ([1, 4], [1, 0, 1])
        """
        numbers, position = index.unique(return_inverse=True)
        count, owner = len(numbers), None
        if noise and size >= 2:
            mixing = noise / size**0.5 * torch.randn(count, size, generator=random)
        else:
            mixing = torch.zeros(count, 0)
        if padded:
            owner = torch.cat([torch.arange(count), torch.zeros(len(index) - count, dtype=torch.long)])
            numbers, mixing = numbers[owner], mixing[owner]
        return cls(numbers, position, owner, mixing)

    def codes(self, leaf: Float[Tensor, "u width"], table: Float[Tensor, "p width"]) -> Float[Tensor, "b width"]:
        """The code of each scan, of the rows `leaf` of a `table` that gives the noise its covariance."""
        if self.mixing.shape[1]:
            leaf = leaf + self.mixing @ (table - table.mean(dim=0))
        return leaf.index_select(0, self.position)

    def gradient(self, gradient: Float[Tensor, "u width"]) -> Float[Tensor, "u width"]:
        """The gradient by the rows, of repeated ones that of the row itself."""
        return gradient if self.owner is None else gradient.index_select(0, self.owner)


@dataclass(frozen=True)
class StepDraw(Record):
    """What the host gives to a step of B scans.

    Attributes:
        rows: the rows of each code table, by its name.
        cube: (B, N, 3) numbers in [0, 1) for points of the cube of `prior_terms`.
        rates: (3,) learning rates: of the networks, of identities, of expressions.
        correspondence: () factor of the weight of correspondences.
    """

    rows: Mapping[str, CodeRows]
    cube: Float[Tensor, "b n 3"]
    rates: Float[Tensor, "3"]
    correspondence: Float[Tensor, ""]
