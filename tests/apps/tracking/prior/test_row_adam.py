"""Adam on rows of tables: the steps of `torch.optim.SparseAdam`, taken or not."""

import copy

import torch

from headfields.apps.tracking.prior.row_adam import RowAdam


def test_steps_are_those_of_sparse_adam() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    own, other = start.clone().requires_grad_(), start.clone().requires_grad_()
    rows, sparse = RowAdam([own]), torch.optim.SparseAdam([other], lr=0.1)

    def take(numbers: list[int], is_taken: bool = True) -> None:
        index, target = torch.tensor(numbers), torch.randn(len(numbers), 3)
        rows.zero_grad()
        (own.index_select(0, index) * target).sum().backward()
        rows.step_rows(index, torch.tensor([0.1]), torch.tensor(is_taken))
        if is_taken:
            sparse.zero_grad()
            (torch.nn.functional.embedding(index, other, sparse=True) * target).sum().backward()
            sparse.step()

    for numbers in ([0, 1], [1, 1, 4], [0]):
        take(numbers)
    take([2, 3], is_taken=False)
    torch.testing.assert_close(own, other)
    assert torch.equal(own[2:4], start[2:4]) and not torch.equal(own[4], start[4])
    rows = RowAdam([own])  # continues what the other began
    state = copy.deepcopy(sparse.state_dict()["state"])
    rows.load_state_dict({"state": state, "param_groups": rows.state_dict()["param_groups"]})
    take([1, 2, 4])
    torch.testing.assert_close(own, other)
