"""Latent tables: a learned code for each frame of a capture, person or sequence (auto-decoders)."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.ops._checks import check_integer, check_shape
from headfields.part_base import Part
from headfields.records import HeadState

Unseen = Literal["mean", "nearest", "zero", "given"]
_INDEX = {"frame": "frame_id", "identity": "identity", "sequence": "sequence"}


class LatentTable(Part):
    """Learned codes, a row for each of `count` frames, people or sequences (Park et al. 2019, "DeepSDF").

    Among the `codes` of an `Avatar` it fills `HeadState.codes`, one row for each frame of the state:

    - The row is `HeadState.frame_id`, `identity` or `sequence`, as `by` says. A table by identity or by sequence with
      one row needs no index.
    - In training mode a frame has its row, and the rows that gradients were computed for are remembered in the buffer
      `trained`, which is saved. In evaluation mode a frame has its row if it is trained. Any other frame (held out,
      beyond the table, without an index) has what `unseen` says.

    The trainer gives the table no weight decay, and to those of an avatar's `codes` the networks' learning rate or
    `learning_rates={"codes": ...}`; others have the rate of tables. `headfields.losses.CodePrior` is a Gaussian prior.

    >>> import torch
    >>> codes = LatentTable(count=10, width=8)
    >>> codes(torch.tensor([3, 3, 7])).shape
    torch.Size([3, 8])

    Args:
        count: number of rows. For the frames of a capture, `len(capture)`: `HeadState.frame_id` counts all of them.
        width: width of a code.
        std: initial standard deviation of the codes; 0 starts at zero (auto-decoders of shape).
        by: index of the rows in an avatar: `"frame"`, `"identity"` or `"sequence"`.
        unseen: the code, in an avatar, of a frame without a trained row: `"mean"` of the trained rows; `"nearest"`
            trained row in time, the earlier of two (for tables by frame; the mean without a `frame_id`); `"zero"`; or
            `"given"`, an error unless the state carries the code. Mean and nearest are zero before training.

    Attributes:
        trained: (count,) whether training used each row, in an avatar; set it for rows that you fill by hand.

    Differentiable in the codes to any order.

    Raises:
        TypeError: a size is no integer.
        ValueError: a size is not positive, std is negative, or by or unseen is unknown.
    """

    trained: Bool[Tensor, " count"]

    def __init__(
        self,
        count: int,
        width: int,
        std: float | int = 0.01,
        by: Literal["frame", "identity", "sequence"] = "frame",
        unseen: Unseen = "mean",
    ) -> None:
        super().__init__()
        for name, size in (("count", count), ("width", width)):
            if not hasattr(size, "__index__") or isinstance(size, bool):
                raise TypeError(f"LatentTable: {name} is {size!r}; expected an integer")
        if count < 1 or width < 1:
            raise ValueError(f"LatentTable: count is {count} and width {width}; both must be at least 1")
        if not 0 <= std < torch.inf:
            raise ValueError(f"LatentTable: std is {std}; expected a standard deviation, 0 or more")
        if by not in _INDEX:
            raise ValueError(f"LatentTable: by is {by!r}; expected one of {', '.join(map(repr, _INDEX))}")
        self.by = by
        self.unseen = unseen
        self.table = nn.Parameter(std * torch.randn(count, width))

    @property
    def unseen(self) -> Unseen:
        """The code of a frame without a trained row; may be set, and is saved as it is set."""
        return self._unseen

    @unseen.setter
    def unseen(self, unseen: Unseen) -> None:
        if unseen not in get_args(Unseen):
            raise ValueError(f"LatentTable: unseen is {unseen!r}; expected {', '.join(map(repr, get_args(Unseen)))}")
        if unseen == "nearest" and self.by != "frame":
            raise ValueError(f"LatentTable: unseen='nearest' is nearest in time, and by is {self.by!r}; use by='frame'")
        self._unseen: Unseen = unseen
        if "unseen" in self.arguments:
            self.arguments["unseen"] = unseen

    def build(self) -> None:
        """Called by an `Avatar` that has the table among its `codes`: adds the buffer `trained`, once."""
        if "trained" not in self._buffers:
            self.register_buffer("trained", torch.zeros(len(self), dtype=torch.bool, device=self.table.device))
            self.rate_group = "codes"

    def extra_repr(self) -> str:
        sizes = f"{len(self)} x {self.width}"
        return f"{sizes}, by {self.by}, unseen: {self.unseen}" if "trained" in self._buffers else sizes

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
            IndexError: there is no such row (on CUDA, the device's own error).
        """
        self._check("index", index)
        return self.table.index_select(0, index.long())

    def of_state(self, name: str, state: HeadState) -> Float[Tensor, "b width"]:
        """The codes (B, width) of the frames of a state, for an avatar: its code called `name`.

        Raises:
            ValueError: the state lacks the index of the rows in training, or unseen is "given" and a frame has no
                trained row.
            IndexError: in training, there is no such row (on CUDA, the device's own error).
        """
        index = getattr(state, _INDEX[self.by])
        if index is None and len(self) == 1 and self.by != "frame":
            index = torch.zeros(len(state), dtype=torch.long)
        if index is not None:
            index = index.to(self.table.device)
        if not self.training:
            return self._evaluated(name, index, len(state))
        if index is None:
            raise ValueError(
                f"the code {name!r} comes from a LatentTable of {len(self)} rows by {self.by}, and the HeadState has "
                f"no {_INDEX[self.by]}: a capture fills frame_id, headfields.data.JoinedCaptures also identity and "
                f"sequence; or pass state.replace({_INDEX[self.by]}=...), (B,) integers"
            )
        self._check("index", index)
        codes = self.table[index]
        if torch.is_grad_enabled():
            self.trained[index] = True
        return codes

    def _evaluated(self, name: str, index: Int[Tensor, " b"] | None, frames: int) -> Float[Tensor, "b width"]:
        """The trained rows of `index` (B,), and what `unseen` says for all others; without a wait for the device."""
        if index is None:
            row = torch.zeros(frames, dtype=torch.long, device=self.table.device)
            known = torch.zeros_like(row, dtype=torch.bool)
        else:
            row = index.clamp(0, len(self) - 1)
            known = self.trained[row] & (row == index)
        if self.unseen == "given":
            if not bool(known.all()):
                raise ValueError(
                    f"the code {name!r} of {_INDEX[self.by]} {'None' if index is None else index[~known].tolist()} is "
                    f"not trained, and its LatentTable has unseen='given': pass state.replace(codes={{{name!r}: ...}}) "
                    f"of shape ({frames}, {self.width}), or another policy, 'mean' or 'nearest'"
                )
            return self.table[row]
        other = torch.zeros_like(self.table[:1])
        if self.unseen == "nearest" and index is not None:
            rows = torch.arange(len(self), device=index.device)
            away = (index[:, None] - rows).abs().masked_fill(~self.trained, torch.iinfo(torch.long).max)
            other = self.table[away.argmin(dim=1)] * self.trained.any()
        elif self.unseen != "zero":
            weight = self.trained[:, None].to(self.table)
            other = (weight * self.table).sum(dim=0, keepdim=True) / weight.sum().clamp_min(1)
        return torch.where(known[:, None], self.table[row], other)

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
        if not index.is_cpu:  # the device's own error: a check would wait for it
            return
        low, high = torch.stack(torch.aminmax(index)).tolist() if len(index) else (0, 0)
        if low < 0 or high >= len(self):
            raise IndexError(
                f"LatentTable: {name} holds {low if low < 0 else high}, and the table has rows 0 to {len(self) - 1}; "
                "build it with one row for each frame of the capture (count=len(capture)), or each person"
            )
