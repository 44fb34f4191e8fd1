"""Latent tables: look-up, interpolation, prior, errors, and the file that an avatar is saved to."""

import pytest
import torch

from headfields.networks.anchors import AnchoredCode
from headfields.networks.latent_table import LatentTable
from headfields.part_base import Part
from headfields.part_names import part_class


def test_rows_are_looked_up_with_gradients() -> None:
    table = LatentTable(4, 3, std=0.5)
    codes = table(torch.tensor([2, 0, 2]))
    assert torch.equal(codes, table.table[[2, 0, 2]]) and len(table) == 4 and table.width == 3
    codes.sum().backward()
    assert table.table.grad.sum(dim=1).tolist() == [3.0, 0.0, 6.0, 0.0]
    assert isinstance(table, Part) and part_class("headfields.networks.latent_table.LatentTable") is LatentTable
    empty = table(torch.zeros(0, dtype=torch.long))
    assert empty.shape == (0, 3)
    empty.sum().backward()


def test_codes_start_as_asked() -> None:
    assert not bool(LatentTable(5, 4, std=0).table.any())
    assert float(LatentTable(200, 50, std=0.3).table.detach().std()) == pytest.approx(0.3, rel=0.05)


def test_between_two_rows() -> None:
    table = LatentTable(3, 2, std=1.0)
    first, second = torch.tensor([0, 1]), torch.tensor([2, 2])
    rows = table.table.detach()
    torch.testing.assert_close(table.between(first, second, 0), rows[first])
    torch.testing.assert_close(table.between(first, second, 1.0), rows[second])
    amount = torch.tensor([0.25, 2.0], requires_grad=True)
    found = table.between(first, second, amount)
    torch.testing.assert_close(found[1].detach(), rows[1] + 2 * (rows[2] - rows[1]))
    found.sum().backward()
    torch.testing.assert_close(amount.grad, (rows[second] - rows[first]).sum(1))


def test_prior_and_mean() -> None:
    table = LatentTable(3, 2)
    with torch.no_grad():
        table.table.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]))
    assert table.squared_norm().tolist() == [25.0, 0.0, 1.0]
    assert table.squared_norm(torch.tensor([2, 0])).tolist() == [1.0, 25.0]
    torch.testing.assert_close(table.mean(), torch.tensor([4 / 3, 4 / 3]))
    assert torch.autograd.gradcheck(
        lambda rows: torch.func.functional_call(table, {"table": rows}, (torch.tensor([1, 1]),)),
        table.table.detach().double().requires_grad_(),
    )


def test_errors_name_the_row_and_the_remedy(unchecked: None) -> None:
    table = LatentTable(4, 2)
    with pytest.raises(IndexError, match=r"index holds 4, and the table has rows 0 to 3.*count=len\(capture\)"):
        table(torch.tensor([0, 4]))
    with pytest.raises(IndexError, match="second holds -1"):
        table.between(torch.tensor([0]), torch.tensor([-1]), 0.5)
    with pytest.raises(TypeError, match=r"LatentTable: index has dtype torch\.float32"):
        table(torch.zeros(2))
    with pytest.raises(ValueError, match=r"index has shape \(1, 2\)"):
        table(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="count is 0"):
        LatentTable(0, 2)
    with pytest.raises(ValueError, match=r"std is -1\.0"):
        LatentTable(2, 2, std=-1.0)


def test_the_layout_of_anchored_codes() -> None:
    layout = AnchoredCode(pairs=2, middle=1, global_width=3, local_width=2)
    assert layout.members == 6 and layout.width == 15
    assert AnchoredCode(30, 5).width == 2176  # MonoNPHM's
    code = torch.randn(4, 15, requires_grad=True)
    shared, local = layout.split(code)
    assert shared.shape == (4, 3) and local.shape == (4, 6, 2)
    assert torch.equal(local[:, 1], code[:, 5:7]) and torch.equal(layout.join(shared, local), code)
    mirrored = layout.mirror(code)
    assert torch.equal(layout.split(mirrored)[1], local[:, [1, 0, 3, 2, 4, 5]])
    assert torch.equal(layout.mirror(mirrored), code) and torch.equal(layout.split(mirrored)[0], shared)
    wanted = ((local[:, 0] - local[:, 1]).norm(dim=-1) + (local[:, 2] - local[:, 3]).norm(dim=-1)) / 2
    torch.testing.assert_close(layout.asymmetry(code), wanted)
    symmetric = (code + mirrored) / 2
    torch.testing.assert_close(layout.asymmetry(symmetric), torch.zeros(4))
    layout.asymmetry(code).sum().backward()
    assert bool(code.grad[:, 3:11].all()) and not bool(code.grad[:, 11:].any()) and not bool(code.grad[:, :3].any())
    assert layout.split(torch.zeros(0, 15))[1].shape == (0, 6, 2)
    assert AnchoredCode(0, 3, 1, 1).asymmetry(torch.ones(2, 5)).tolist() == [0.0, 0.0]


def test_codes_that_do_not_fit_their_layout(unchecked: None) -> None:
    layout = AnchoredCode(pairs=2, middle=1, global_width=3, local_width=2)
    with pytest.raises(ValueError, match=r"a code of shape \(4, 14\); expected \(..., 15\)"):
        layout.split(torch.zeros(4, 14))
    with pytest.raises(ValueError, match=r"a code of shape \(4, 13\)"):
        layout.join(torch.zeros(4, 3), torch.zeros(4, 5, 2))
    with pytest.raises(ValueError, match="pairs=-1"):
        AnchoredCode(-1, 3)
