"""Latent tables: a learned code for each frame of a capture, or for each person; and the layout of anchored codes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.ops._checks import check_integer, check_shape
from headfields.parts import Part
from headfields.records import HeadState

__all__ = ["AnchoredCode", "LatentTable"]


class LatentTable(Part):
    """Learned codes, one row for each of `count` frames or people; an auto-decoder's (Park et al. 2019, "DeepSDF").

    The parameter is called `table`, so the trainer takes it as one: the rate of tables, no weight decay. A prior is a
    loss over `squared_norm`.

    Args:
        count: number of rows. For the frames of a capture, `len(capture)`: `HeadState.frame_id` counts all of them.
        width: numbers in a code.
        std: of the normal distribution that the codes start from; 0 starts at zero (auto-decoders of shape).

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
        """How many rows there are."""
        return self.table.shape[0]

    @property
    def width(self) -> int:
        """Numbers in a code."""
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
            amount: 0 gives the first, 1 the second; beyond that the line goes on. Differentiable.

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


@dataclass(frozen=True)
class AnchoredCode:
    """How a code of an ensemble of local networks is laid out: [global | member 0 | member 1 | ... | global member].

    Members are the anchors in order, symmetric pairs first (2i and 2i + 1 mirror each other), then those in the middle,
    and last the global member, which has a local part too.

    Attributes:
        pairs, middle: how many symmetric pairs of anchors there are, and how many anchors in the middle.
        global_width, local_width: numbers in the global part, and in each member's.

    All methods are differentiable to any order.

    Raises:
        ValueError: a number is negative, or there is no member or no number at all.
    """

    pairs: int
    middle: int
    global_width: int = 64
    local_width: int = 32

    def __post_init__(self) -> None:
        if min(self.pairs, self.middle) < 0 or min(self.global_width, self.local_width) < 1:
            raise ValueError(f"{self}: expected no negative count, and widths of at least 1")

    @property
    def members(self) -> int:
        """How many members there are, with the global one."""
        return 2 * self.pairs + self.middle + 1

    @property
    def width(self) -> int:
        """Numbers in a code."""
        return self.global_width + self.members * self.local_width

    def split(self, code: Float[Tensor, "*b width"]) -> tuple[Float[Tensor, "*b shared"], Float[Tensor, "*b n local"]]:
        """The global part (..., G), and those of the members (..., N, L).

        Raises:
            ValueError: the code has another width.
        """
        self._check(code)
        shared, local = code[..., : self.global_width], code[..., self.global_width :]
        return shared, local.unflatten(-1, (self.members, self.local_width))

    def join(self, shared: Float[Tensor, "*b shared"], local: Float[Tensor, "*b n local"]) -> Float[Tensor, "*b width"]:
        """The code (..., width) of a global part (..., G) and members' parts (..., N, L).

        Raises:
            ValueError: a part has another width, or there are not as many members.
        """
        code = torch.cat([shared, local.flatten(-2)], dim=-1)
        self._check(code)
        return code

    def mirror(self, code: Float[Tensor, "*b width"]) -> Float[Tensor, "*b width"]:
        """The code (..., width) with the parts of the members of each pair exchanged.

        Raises:
            ValueError: the code has another width.
        """
        shared, local = self.split(code)
        order = torch.arange(self.members, device=code.device)
        order[: 2 * self.pairs] ^= 1
        return self.join(shared, local[..., order, :])

    def asymmetry(self, code: Float[Tensor, "*b width"]) -> Float[Tensor, "*b"]:
        """The sum (...,) over all pairs of the squared difference of its members' parts: 0 for a symmetric person.

        Raises:
            ValueError: the code has another width.
        """
        _, local = self.split(code)
        paired = local[..., : 2 * self.pairs, :].unflatten(-2, (self.pairs, 2))
        return (paired[..., 0, :] - paired[..., 1, :]).square().sum(dim=(-1, -2))

    def of_state(self, part: str, name: str, state: HeadState) -> Float[Tensor, "b width"]:
        """The code called `name` of a state, which `part` asks for.

        Raises:
            ValueError: the state has no such code, or one of another width.
        """
        code = state.need(part, name)
        if code.shape[-1] != self.width:
            raise ValueError(
                f"{part}: the code {name!r} of the HeadState has {code.shape[-1]} numbers, and {self.width} are wanted "
                f"({self.global_width} and {self.local_width} for each of {self.members} members); make its "
                f"LatentTable {self.width} wide"
            )
        return code

    def _check(self, code: Tensor) -> None:
        if code.shape[-1:] != (self.width,):
            raise ValueError(
                f"AnchoredCode: a code of shape {tuple(code.shape)}; expected (..., {self.width}): {self.global_width} "
                f"and {self.local_width} for each of {self.members} members"
            )
