"""Adam on rows of tables, in steps that a GPU takes by itself."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["RowAdam"]


class RowAdam(torch.optim.Optimizer):
    """The steps of `torch.optim.SparseAdam`, with dense gradients and the rows of a step in a tensor.

    Moments of rows that a step does not use stay, and all rows share the count of steps.
    (`headfields.apps.priors.code_table.CodeTable` counts them for each row.) The work is that of the whole tables,
    which are small; the host waits for nothing.

    Args:
        tables: (F, W) each, leaves.
        betas: decay rates of the moments.
        epsilon: added to the root of the second moment.
    """

    def __init__(
        self, tables: Sequence[Tensor], betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        super().__init__([{"params": [table]} for table in tables], {"betas": betas, "eps": epsilon})
        for table in tables:
            zero = torch.zeros((), device=table.device)
            self.state[table] = {
                "step": zero, "exp_avg": torch.zeros_like(table), "exp_avg_sq": torch.zeros_like(table)
            }  # fmt: skip

    def load_state_dict(self, state_dict: Any) -> None:
        """Restores the state of one of these, or of a `SparseAdam`, whose counts are integers."""
        super().load_state_dict(state_dict)
        for table, state in self.state.items():
            state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(table.device)

    @torch.no_grad()
    def step_rows(self, rows: Int[Tensor, " k"], rates: Float[Tensor, " t"], is_taken: Bool[Tensor, ""]) -> None:
        """Moves rows by the gradients of the tables.

        Args:
            rows: (K,) of each of the T tables; one may be there twice.
            rates: (T,) learning rates.
            is_taken: () whether anything changes.
        """
        for group, rate in zip(self.param_groups, rates, strict=True):
            (table,), (beta1, beta2) = group["params"], group["betas"]
            state = self.state[table]
            used = torch.zeros(len(table), 1, dtype=torch.bool, device=table.device).index_fill_(0, rows, True)
            used &= is_taken
            state["step"].add_(is_taken)
            first = torch.lerp(state["exp_avg"], table.grad, 1 - beta1)
            second = torch.lerp(state["exp_avg_sq"], table.grad.square(), 1 - beta2)
            size = rate * (1 - beta2 ** state["step"]).sqrt() / (1 - beta1 ** state["step"])
            table.sub_(torch.where(used, size * first / (second.sqrt() + group["eps"]), 0.0))
            state["exp_avg"].copy_(torch.where(used, first, state["exp_avg"]))
            state["exp_avg_sq"].copy_(torch.where(used, second, state["exp_avg_sq"]))
