"""The linear layer of each row's group, and its gradient by the weights: two registered operations for CUDA.

Each is the derivative of the other, so that they are differentiable to any order. In Triton, where it is installed, no
weights are copied; elsewhere each block of rows gets a copy of its group's.
"""

import functools
import importlib.util
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_index, check_integer, require_shapes
from headfields.ops.needed_gradients import needed_gradients
from headfields.ops.registration import register_op

_TRITON = importlib.util.find_spec("triton") is not None
_KINDS = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def has_tiles(device: torch.device) -> bool:
    """Whether grouped layers run in Triton on a device: on GPUs with tensor cores for TF32, from sm_80 on."""
    return _TRITON and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _runs_triton(x: Tensor, other: Tensor) -> bool:
    fits = x.dtype == other.dtype and x.dtype in _KINDS and x.shape[1] % 16 == 0
    return fits and x.numel() > 0 and other.numel() > 0 and has_tiles(x.device)


def _check_group(op: str, group: Tensor, groups: int) -> None:
    check_integer(op, "group", group)
    check_index(op, "group", group, groups)


def linear_by_copies(
    x: Float[Tensor, "c t in"],
    weights: Float[Tensor, "g in out"],
    bias: Float[Tensor, "_ out"],
    group: Int[Tensor, " c"],
) -> Float[Tensor, "c t out"]:
    """x W + b in batched products, for which each block gets a copy of its weights; bias (G, out), or (0, out)."""
    chosen = weights.index_select(0, group)
    if not len(bias):
        return torch.bmm(x, chosen)
    return torch.baddbmm(bias.index_select(0, group)[:, None], x, chosen)


def outer_by_copies(
    x: Float[Tensor, "c t in"], y: Float[Tensor, "c t out"], group: Int[Tensor, " c"], groups: int
) -> Float[Tensor, "g in out"]:
    """The sum of xᵀ y over the rows of each group."""
    return x.new_zeros(groups, x.shape[2], y.shape[2]).index_add(0, group, torch.bmm(x.transpose(1, 2), y))


@torch.library.custom_op("headfields::grouped_linear", mutates_args=())
def grouped_linear(x: Tensor, weights: Tensor, bias: Tensor, group: Tensor) -> Tensor:
    """x W + b (C, T, out) of C blocks of T rows, each of the group `group` (C,), ascending."""
    fits = x.ndim == weights.ndim == 3 and bias.ndim == 2 and group.shape == x.shape[:1]
    fits = fits and x.shape[2] == weights.shape[1] and bias.shape[1] == weights.shape[2]
    require_shapes("grouped_linear", fits and len(bias) in (0, len(weights)), x=x, weights=weights, group=group)
    _check_group("grouped_linear", group, len(weights))
    if _runs_triton(x, weights):
        from headfields.ops.kernels import grouped_triton

        return grouped_triton.linear(x.detach(), weights.detach(), bias.detach(), group)
    return linear_by_copies(x, weights, bias, group)


@torch.library.custom_op("headfields::grouped_outer", mutates_args=())
def grouped_outer(x: Tensor, y: Tensor, group: Tensor, groups: int) -> Tensor:
    """The sum of xᵀ y (G, in, out) over the rows of each group, of C blocks of T rows."""
    fits = x.ndim == y.ndim == 3 and x.shape[:2] == y.shape[:2] and group.shape == x.shape[:1]
    require_shapes("grouped_outer", fits, x=x, y=y, group=group)
    _check_group("grouped_outer", group, groups)
    if _runs_triton(x, y):
        from headfields.ops.kernels import grouped_triton

        return grouped_triton.outer(x.detach(), y.detach(), group, groups)
    return outer_by_copies(x, y, group, groups)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, bias, group = inputs
    ctx.biases = len(bias)
    ctx.save_for_backward(x, weights, group)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weights, group = ctx.saved_tensors
    needs_x, needs_weights, needs_bias = needed_gradients(ctx, 3)
    none = grad.new_empty(0, weights.shape[1])
    to_x = grouped_linear(grad, weights.transpose(1, 2), none, group) if needs_x else None
    to_weights = grouped_outer(x, grad, group, len(weights)) if needs_weights else None
    to_bias = None
    if needs_bias:
        to_bias = grad.new_zeros(ctx.biases, grad.shape[2])
        to_bias = to_bias.index_add(0, group, grad.sum(1)) if ctx.biases else to_bias
    return to_x, to_weights, to_bias, None


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, group = ctx.saved_tensors
    to_x = to_y = None
    needs_x, needs_y = needed_gradients(ctx, 2)
    if needs_x:
        to_x = grouped_linear(y, grad.transpose(1, 2), grad.new_empty(0, grad.shape[1]), group)
    if needs_y:
        to_y = grouped_linear(x, grad, grad.new_empty(0, grad.shape[2]), group)
    return to_x, to_y, None, None


register_op(
    grouped_linear, lambda x, weights, *_: x.new_empty(*x.shape[:2], weights.shape[2]), linear_by_copies,
    derivative=_linear_backward, setup=_save_linear,
)  # fmt: skip
register_op(
    grouped_outer, lambda x, y, group, groups: x.new_empty(groups, x.shape[2], y.shape[2]), outer_by_copies,
    derivative=_outer_backward,
)  # fmt: skip
