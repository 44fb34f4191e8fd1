"""A step of Adam that leaves entries without a gradient alone, in place."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops import dispatch
from headfields.ops._checks import require_shapes
from headfields.ops.warp_launch import launch

__all__ = ["lazy_adam_step"]

_CHUNK = 1 << 16  # entries, of which a CPU keeps value, gradient and moments in its cache


@torch.no_grad()
def lazy_adam_step(
    value: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    steps: Float[Tensor, "*shape"],
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    rate: Float[Tensor, ""] | float,
    betas: tuple[float, float],
    eps: float,
    scale: Float[Tensor, ""] | None = None,
    found_inf: Float[Tensor, ""] | None = None,
) -> None:
    """Moves entries with a gradient by Adam, and counts their steps; all others stay, with their moments.

    On CUDA, float32 takes one pass: an entry without a gradient costs the reading of that alone.

    Args:
        value: what is moved.
        gradient: its gradient, times `scale`.
        steps, first, second: number of steps and moments of each entry.
        rate: the learning rate; a tensor of the device where the step is captured as a CUDA graph.
        betas, eps: of Adam; ε is added to the root of the uncorrected second moment.
        scale: what the gradient is divided by; 1 if None.
        found_inf: where it is not 0, nothing moves.

    Source: tiny-cuda-nn's Adam (optimizers/adam.h) for parameters that are no matrices.
    """
    tensors = (value, gradient, steps, first, second)
    flat = all(each.is_contiguous() and each.dtype == torch.float32 for each in tensors)
    if flat and dispatch.use_warp(value):
        given = (rate, 1.0 if scale is None else scale, 0.0 if found_inf is None else found_inf)
        numbers = [
            (each if isinstance(each, Tensor) else torch.full((), each, device=value.device))
            .to(value.device, torch.float32).reshape(1)
            for each in given
        ]  # fmt: skip
        torch.ops.headfields.lazy_adam_step(*tensors, *numbers, *betas, eps)
        return
    chunks = [tensors]
    if value.is_cpu and all(each.is_contiguous() for each in tensors):
        chunks = list(zip(*(each.reshape(-1).split(_CHUNK) for each in tensors), strict=True))
    for chunk in chunks:
        _by_definition(*chunk, rate, betas, eps, scale, found_inf)


def _by_definition(
    value: Tensor, change: Tensor, steps: Tensor, first: Tensor, second: Tensor, rate: Tensor | float,
    betas: tuple[float, float], eps: float, scale: Tensor | None, found_inf: Tensor | None,
) -> None:  # fmt: skip
    if scale is not None:
        change = change / scale
    used = change != 0
    if found_inf is not None:
        used = used & (found_inf == 0)
    steps += used
    first += torch.where(used, (1 - betas[0]) * (change - first), 0.0)
    second += torch.where(used, (1 - betas[1]) * (change.square() - second), 0.0)
    count = steps.clamp(min=1)
    corrected = rate * _one_minus_power(betas[1], count).sqrt() / _one_minus_power(betas[0], count)
    value -= torch.where(used, corrected * first / (second.sqrt() + eps), 0.0)


def _log(beta: float) -> float:
    return math.log(beta) if beta else -math.inf


def _one_minus_power(beta: float, count: Tensor) -> Tensor:
    """1 − β^count."""
    return -torch.expm1(count * _log(beta))


@torch.library.custom_op("headfields::lazy_adam_step", mutates_args=("value", "steps", "first", "second"))
def _lazy_adam_step(
    value: Tensor,
    gradient: Tensor,
    steps: Tensor,
    first: Tensor,
    second: Tensor,
    rate: Tensor,
    scale: Tensor,
    found_inf: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """In Warp, of contiguous float32 tensors."""
    tensors, numbers = (value, gradient, steps, first, second), (rate, scale, found_inf)
    fits = all(each.shape == value.shape and each.is_contiguous() for each in tensors)
    fits = fits and all(each.shape == (1,) for each in numbers)
    fits = fits and all(each.dtype == torch.float32 for each in (*tensors, *numbers))
    require_shapes(
        "lazy_adam_step", fits, value=value, gradient=gradient, steps=steps, first=first, second=second, rate=rate,
        scale=scale, found_inf=found_inf,
    )  # fmt: skip
    launch(
        "lazy_adam.step", value.numel(), *(each.detach().view(-1) for each in tensors), *numbers,
        1 - beta1, 1 - beta2, _log(beta1), _log(beta2), eps,
    )  # fmt: skip


@_lazy_adam_step.register_fake
def _(*arguments: Tensor) -> None:
    return None
