"""Grouped linear layers: an ensemble of networks as a few batched matrix products, each row through its own network.

On CUDA a product is one kernel in Triton that reads the weights where they are (`headfields.ops.grouped_linear`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_integer, check_shape
from headfields.ops.dispatch import checks_indices
from headfields.ops.functorch_rules import array_of
from headfields.ops.grouped_linear import grouped_linear, has_tiles, linear_by_copies

LARGEST_BLOCK = 256
"""Most rows of a block: a larger product is no faster, and a block that is partly empty costs more."""
SMALLEST_BLOCK = 16
BLOCKS, BLOCKS_ON_CUDA = 4, 16
"""Blocks of an average group. On CUDA without Triton they may have any size: each gets a copy of its weights, and of
200 × 200 these are a tenth of a million rows in 39 groups, where blocks of 256 rows had four fifths."""
TILE = 128
"""Most rows of a block in Triton, where no weights are copied."""


@dataclass(frozen=True)
class GroupedRows:
    """P rows sorted by group into C blocks of T rows, each block of one group: the result of `group_rows`.

    Attributes:
        source: (C * T,) the row in each place of the blocks; unused places repeat a row, whose result is not read.
        place: (P,) the place of each row.
        group: (C,) the group of each block.
        rows: T, the rows of a block.
    """

    source: Int[Tensor, " ct"]
    place: Int[Tensor, " p"]
    group: Int[Tensor, " c"]
    rows: int

    def gather(self, x: Float[Tensor, "p width"]) -> Float[Tensor, "c t width"]:
        """Rows (P, width) in their blocks (C, T, width). Differentiable to any order."""
        return self.blocks(x.index_select(0, self.source))

    def blocks(self, x: Float[Tensor, "ct width"]) -> Float[Tensor, "c t width"]:
        """Rows (C * T, width) that are gathered by `source` already, as blocks (C, T, width)."""
        return x.view(len(self.group), self.rows, x.shape[-1])

    def scatter(self, x: Float[Tensor, "c t width"]) -> Float[Tensor, "p width"]:
        """Blocks (C, T, width) back to rows (P, width) in their old order. Differentiable to any order."""
        return x.flatten(0, 1).index_select(0, self.place)

    def linear(
        self,
        x: Float[Tensor, "c t in"],
        weights: Float[Tensor, "g in out"],
        bias: Float[Tensor, "g out"] | None = None,
        blocks: slice | None = None,
    ) -> Float[Tensor, "c t out"]:
        """x W + b of each row, with the weights and bias of its group.

        Args:
            x: (C, T, in) rows in their blocks.
            blocks: indices of the blocks that x holds; None for all.
            weights: (G, in, out) of each group, the transpose of `torch.nn.Linear`'s.
            bias: (G, out) or None.

        Differentiable to any order in everything.
        """
        group = self.group if blocks is None else self.group[blocks]
        bias = weights.new_empty(0, weights.shape[2]) if bias is None else bias
        if not x.is_cuda:
            return linear_by_copies(x, weights, bias, group)
        if torch.is_autocast_enabled("cuda"):
            kind = torch.get_autocast_dtype("cuda")
            x, weights, bias = x.to(kind), weights.to(kind), bias.to(kind)
        return grouped_linear(x, weights, bias, group)


def group_rows(
    group: Int[Tensor, " p"], groups: int, block: int | None = None, fixed: bool | None = None
) -> GroupedRows:
    """Sorts rows by group into blocks of one group each, for batched products: no loop over groups, little padding.

    Rows keep their order within a group, so sums over them do not depend on anything but the input.

    Args:
        group: (P,) the group of each row, in [0, groups); P = 0 is legal.
        groups: G.
        block: T, rows of a block; None: a quarter of an average group, at least 16 and at most 256; on CUDA a
            sixteenth, at least 16, and where it runs in Triton at most 128.
        fixed: whether there are (P + G (T - 1)) // T blocks, as many as P rows can need: then the host does not wait
            for the device to count them. None: on CUDA.

    Raises:
        TypeError: group holds no integers.
        ValueError: groups or block is not positive, or a shape does not fit.
        IndexError: a group is out of range (not checked on CUDA).

    >>> import torch, headfields as hf
    >>> rows = hf.ops.grouped.group_rows(torch.tensor([1, 0, 1]), groups=2, block=2)
    >>> rows.group.tolist(), rows.place.tolist()  # group 0 in a block of its own, group 1 in another
    ([0, 1], [2, 0, 3])
    >>> weights = torch.tensor([[[10.0]], [[100.0]]])  # (G, in, out)
    >>> rows.scatter(rows.linear(rows.gather(torch.ones(3, 1)), weights)).flatten().tolist()
    [100.0, 10.0, 100.0]
    """
    op = "group_rows"
    check_integer(op, "group", group)
    check_shape(op, "group", group, "P")
    if groups < 1 or (block is not None and block < 1):
        raise ValueError(f"{op}: groups is {groups} and block {block}; both must be at least 1")
    on_cpu = group.is_cpu
    if block is None:
        part = len(group) // ((BLOCKS if on_cpu else BLOCKS_ON_CUDA) * groups)
        block = max(1 << max(part - 1, 0).bit_length(), SMALLEST_BLOCK)
        block = min(block, LARGEST_BLOCK if on_cpu else TILE if has_tiles(group.device) else block)
    if fixed is None:
        fixed = not on_cpu
    if len(group) and checks_indices(group.device):
        low, high = array_of(torch.stack(torch.aminmax(group))).tolist()
        if low < 0 or high >= groups:
            raise IndexError(f"{op}: group holds {low if low < 0 else high}; expected 0 to {groups - 1}")
    group = group.long()
    ordered = torch.argsort(group, stable=True)
    of_ordered = group[ordered]
    # The size of `bincount` is read by the host.
    counts = torch.searchsorted(of_ordered, torch.arange(groups + 1, device=group.device)).diff()
    blocks = (counts + block - 1) // block
    last_block = blocks.cumsum(0)
    first_row, first_place = counts.cumsum(0) - counts, (last_block - blocks) * block
    where = torch.arange(len(group), device=group.device) - first_row[of_ordered] + first_place[of_ordered]
    if fixed:
        most = (len(group) + groups * (block - 1)) // block if len(group) else 0
        of_block = torch.searchsorted(last_block, torch.arange(most, device=group.device), right=True)
        of_block = of_block.clamp_max(groups - 1)  # those that are not used have a group too
    else:
        of_block = torch.repeat_interleave(torch.arange(groups, device=group.device), blocks)
    source = torch.zeros(len(of_block) * block, dtype=torch.long, device=group.device)
    source[where] = ordered
    place = torch.empty_like(ordered)
    place[ordered] = where
    return GroupedRows(source, place, of_block, block)
