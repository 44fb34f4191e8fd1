"""Latent tables: a learned code for each frame of a capture, or for each person (auto-decoders)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.ops._checks import check_integer, check_shape
from headfields.parts import Part


class LatentTable(Part):
    """Learned codes, one row for each of `count` frames or people; an auto-decoder's (Park et al. 2019, "DeepSDF").

    The parameter is called `table`, so the trainer gives it the learning rate of tables and no weight decay. Use
    `squared_norm` in a loss for a Gaussian prior.

    >>> import torch
    >>> codes = LatentTable(count=10, width=8)
    >>> codes(torch.tensor([3, 3, 7])).shape
    torch.Size([3, 8])

    Args:
        count: number of rows. For the frames of a capture, `len(capture)`: `HeadState.frame_id` counts all of them.
        width: width of a code.
        std: initial standard deviation of the codes; 0 starts at zero (auto-decoders of shape).

    Differentiable in the codes to any order.

    Raises:
        ValueError: a size is not positive, or std is negative.
    """

    def __init__(self, count: int, width: int, std: float | int = 0.01) -> None:
        super().__init__()
        if count < 1 or width < 1:
            raise ValueError(f"LatentTable: count is {count} and width {width}; both must be at least 1")
        if not 0 <= std < torch.inf:
            raise ValueError(f"LatentTable: std is {std}; expected a standard deviation, 0 or more")
        self.table = nn.Parameter(std * torch.randn(count, width))

    def extra_repr(self) -> str:
        return f"{len(self)} x {self.width}"

    def __len__(self) -> int:
        """Number of rows."""
        return self.table.shape[0]

    @property
    def width(self) -> int:
        """Width of a code."""
        return self.table.shape[1]

    def forward(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """The codes (B, width) of rows `index` (B,); B = 0 is legal.

        Raises:
            TypeError: index holds no integers.
            IndexError: there is no such row.
        """
        self._check("index", index)
        return self.table[index]

    def between(
        self, first: Int[Tensor, " b"], second: Int[Tensor, " b"], amount: Float[Tensor, " b"] | float | int
    ) -> Float[Tensor, "b width"]:
        """Codes (B, width) on the line from row `first` (B,) to row `second` (B,).

        Args:
            first, second: rows.
            amount: 0 gives the first, 1 the second; other values extrapolate. Differentiable.

        Raises:
            TypeError, IndexError: as `forward`.
        """
        self._check("first", first)
        self._check("second", second)
        weight = amount[:, None] if isinstance(amount, Tensor) else amount
        start = self.table[first]
        return start + weight * (self.table[second] - start)

    def mean(self) -> Float[Tensor, " width"]:
        """The mean code, for a frame or a person that has no row."""
        return self.table.mean(dim=0)

    def squared_norm(self, index: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """‖z‖² of rows `index` (B,), of all if None: up to a constant, -2 σ² log p of a normal prior of deviation σ.

        Raises:
            TypeError, IndexError: as `forward`.
        """
        codes = self.table if index is None else self(index)
        return codes.square().sum(dim=-1)

    def _check(self, name: str, index: Tensor) -> None:
        check_integer("LatentTable", name, index)
        check_shape("LatentTable", name, index, "B")
        low, high = torch.stack(torch.aminmax(index)).tolist() if len(index) else (0, 0)
        if low < 0 or high >= len(self):
            raise IndexError(
                f"LatentTable: {name} holds {low if low < 0 else high}, and the table has rows 0 to {len(self) - 1}; "
                "build it with one row for each frame of the capture (count=len(capture)), or each person"
            )
