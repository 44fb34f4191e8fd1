"""Lazy Adam: entries of a table without a gradient keep value and moments, and each counts its own steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headfields.ops.lazy_adam import lazy_adam_step

__all__ = ["LazyAdam", "lazy_adam"]


class LazyAdam(torch.optim.Adam):
    """PyTorch's Adam, where entries of the groups with `lazy=True` are left alone while their gradient is zero.

    Value, moments and the number of steps of such an entry stay. Adam as it is goes on moving it by its old momentum,
    and its bias correction counts steps that the entry did not see; an entry of a hash table that is met in one step in
    a hundred then moves farther between its gradients than by them. Weight decay of lazy groups is left out.

    Where `found_inf` is set, as `torch.amp.GradScaler` does for fused optimizers, lazy groups obey it too.

    Source: the rule of tiny-cuda-nn's Adam (optimizers/adam.h) for parameters that are no matrices: its bias
    correction multiplies the rate, and ε is added to the root of the uncorrected second moment.

    Args:
        params: parameters or groups, as in `torch.optim.Adam`; `lazy` is an entry of a group, False if it is missing.
        options: as in `torch.optim.Adam`, without amsgrad and maximize.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        for name in ("amsgrad", "maximize", "decoupled_weight_decay"):
            if options.get(name):
                raise ValueError(f"LazyAdam: {name} is {options[name]!r}; lazy steps have none")
        super().__init__(params, **options)
        for group in self.param_groups:
            group.setdefault("lazy", False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; a closure is evaluated first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lazy = [
            (group, parameter, parameter.grad)
            for group in self.param_groups if group["lazy"]
            for parameter in group["params"] if parameter.grad is not None
        ]  # fmt: skip
        for group, parameter, gradient in lazy:
            self._step_lazily(group, parameter, gradient)
            parameter.grad = None  # Adam's own step leaves it out
        try:
            super().step()
        finally:
            for _, parameter, gradient in lazy:
                parameter.grad = gradient
        return loss

    def _step_lazily(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            for name in ("step", "exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        lazy_adam_step(
            parameter, gradient, state["step"], state["exp_avg"], state["exp_avg_sq"], group["lr"], group["betas"],
            group["eps"], getattr(self, "grad_scale", None), getattr(self, "found_inf", None),
        )  # fmt: skip


def lazy_adam(groups: Sequence[dict[str, Any]]) -> LazyAdam:
    """INSTA's Adam, lazy for tables: for `Trainer(optimizer=lazy_adam, weight_decay=1e-6)`.

    β 0.9 and 0.99, ε 1e-15; a group is lazy if it is called "tables", or says `lazy` itself.

    On CUDA a step is one pass, in which entries without a gradient cost no more than reading that. On a CPU it is no
    way to train faster: a step of a table of 6.6 million entries, of which 39 % have a gradient, takes fourteen times
    as long as PyTorch's fused Adam.
    """
    marked = [{"lazy": group.get("name") == "tables", **group} for group in groups]
    on_cuda = any(parameter.is_cuda for group in marked for parameter in group["params"])
    return LazyAdam(marked, betas=(0.9, 0.99), eps=1e-15, fused=True, capturable=on_cuda)
