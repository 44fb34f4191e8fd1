"""Rows of a small table for many points, and the copies that its gradient is summed into, against an index."""

import pytest
import torch

from headfields.ops.few_rows import copied_rows, few_rows
from tests.tables import table


def drawn(count: int, rows: int = 3, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(count)
    return torch.randn(rows, 4, generator=random, dtype=dtype), torch.randint(rows, (count,), generator=random)


@table("count", [0, 1, 7, 1000])
@table("copies", [1, 2, 5, 600])
def test_copies_have_the_rows_and_the_gradient_of_an_index(count: int, copies: int) -> None:
    table, index = drawn(count)
    table.requires_grad_()
    many, place = copied_rows(table, index, copies)
    assert torch.equal(many[place], table[index]), "to the bit"
    assert count < 100 or place.bincount().max() <= count // copies + 1, "points take turns"
    grad = torch.randn(count, 4, dtype=torch.float64)
    (ours,) = torch.autograd.grad(many.double().index_select(0, place), table, grad)
    (theirs,) = torch.autograd.grad(table.double()[index], table, grad)
    torch.testing.assert_close(ours, theirs)


def test_derivatives_to_second_order() -> None:
    table, index = drawn(9, dtype=torch.float64)

    def copied(table: torch.Tensor) -> torch.Tensor:
        many, place = copied_rows(table, index, 4)
        return many.index_select(0, place).sin()

    assert torch.autograd.gradcheck(copied, table.requires_grad_())
    assert torch.autograd.gradgradcheck(copied, table, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda table: few_rows(table, index).sin(), table, fast_mode=True)


def test_shapes(unchecked: None) -> None:
    table, index = drawn(6)
    assert torch.equal(few_rows(table, index.view(2, 3)), table[index.view(2, 3)])
    assert few_rows(table, index[:0]).shape == (0, 4) and few_rows(table[:, 0], index).shape == (6,)
    assert few_rows(table[:0], index[:0]).shape == (0, 4)
    with pytest.raises(IndexError):
        few_rows(table, index + 3)
