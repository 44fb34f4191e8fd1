"""The registered operations behind `headfields.ops.compositing`: kernels, fake tensors and derivatives.

All take `offsets` (N + 1,) int64, where each ray's samples begin. Each linear operation is the derivative of its
partner, so those two pairs differentiate to any order; the quadrature weights have kernels up to their second
derivative, and a third raises.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from headfields.ops.dispatch import native, use_native, warp
from headfields.ops.reference import compositing as reference


def use_warp(tensor: Tensor) -> bool:
    """Whether a Warp kernel serves this tensor (float32 only); else the reference does."""
    return tensor.dtype == torch.float32 and not use_native(tensor)


def launch(name: str, dim: int | tuple[int, ...], *arguments: Any) -> None:
    """Launches kernel `name` ("file.kernel" in headfields.ops.kernels) on its first tensor's device and stream."""
    if dim == 0 or (isinstance(dim, tuple) and 0 in dim):
        return
    wp = warp()
    file, kernel = name.split(".")
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    converted = [wp.from_torch(a.detach(), return_ctype=True) if isinstance(a, Tensor) else a for a in arguments]
    module = import_module(f"headfields.ops.kernels.{file}")
    wp.launch(getattr(module, kernel), dim, converted, device=wp.device_from_torch(device), stream=stream)


def _threads() -> int:
    return torch.get_num_threads()


@torch.library.custom_op("headfields::ray_offsets", mutates_args=())
def ray_offsets(ray: Tensor, rays: int) -> Tensor:
    """Where each ray's samples begin, (rays + 1,); an error where `ray` is not sorted or out of range."""
    if ray.device.type == "cpu" and native is not None:
        offsets = ray.new_empty(rays + 1)
        bad = native.ray_offsets(ray.contiguous(), offsets)
    else:
        offsets = reference.ray_offsets(ray, rays)
        wrong = (ray < 0) | (ray >= rays)
        wrong[1:] |= ray[1:] < ray[:-1]
        bad = int(wrong.int().argmax()) if bool(wrong.any()) else -1
    if bad >= 0:
        value = int(ray[bad])
        if not 0 <= value < rays:
            raise ValueError(f"ray_offsets: ray[{bad}] is {value} with rays = {rays}; expected indices in [0, {rays})")
        raise ValueError(
            f"ray_offsets: ray is not sorted (ray[{bad}] is {value} after {int(ray[bad - 1])}); "
            "packed samples are sorted by ray: reorder them with ray.argsort(stable=True)"
        )
    return offsets


@ray_offsets.register_fake
def _(ray: Tensor, rays: int) -> Tensor:
    return ray.new_empty(rays + 1)


# The per-ray running sum, and its reverse.


@torch.library.custom_op("headfields::exclusive_sum", mutates_args=())
def exclusive_sum(values: Tensor, offsets: Tensor, reverse: bool) -> Tensor:
    """The sum of the values before each sample on its ray, or behind it with `reverse`."""
    values, out = values.contiguous(), torch.empty_like(values, memory_format=torch.contiguous_format)
    if use_native(values):
        native.exclusive_sum(values, offsets, reverse, out, _threads())
    elif use_warp(values):
        launch("compositing.exclusive_sum", offsets.numel() - 1, values, offsets, reverse, out)
    else:
        return reference.exclusive_sum(values, offsets, reverse)
    return out


@exclusive_sum.register_fake
def _(values: Tensor, offsets: Tensor, reverse: bool) -> Tensor:
    return values.new_empty(values.shape)


def _keep_sum(ctx: Any, inputs: Any, output: Any) -> None:
    _, offsets, ctx.reverse = inputs
    ctx.save_for_backward(offsets)


def _sum_derivative(ctx: Any, grad: Tensor) -> Any:
    return torch.ops.headfields.exclusive_sum(grad, ctx.saved_tensors[0], not ctx.reverse), None, None


exclusive_sum.register_autograd(_sum_derivative, setup_context=_keep_sum)


# The weighted sum along each ray. With `total`, one column more than the values have: the sum of the weights.


@torch.library.custom_op("headfields::weighted_sum", mutates_args=())
def weighted_sum(weights: Tensor, values: Tensor, offsets: Tensor, total: bool) -> Tensor:
    """(rays, C), or (rays, C + 1) with `total`, of (M,) weights and (M, C) values."""
    rays, channels = offsets.numel() - 1, values.shape[1]
    weights, values, out = weights.contiguous(), values.contiguous(), weights.new_empty(rays, channels + total)
    if use_native(weights):
        native.weighted_sum(weights, values.view(-1), offsets, channels, total, out.view(-1), _threads())
    elif use_warp(weights):
        launch("compositing.weighted_sum", (rays, channels + total), weights, values, offsets, out)
    else:
        return reference.weighted_sum(weights, values, offsets, total)
    return out


@weighted_sum.register_fake
def _(weights: Tensor, values: Tensor, offsets: Tensor, total: bool) -> Tensor:
    return weights.new_empty(offsets.shape[0] - 1, values.shape[1] + int(total))


@torch.library.custom_op("headfields::weighted_sum_backward", mutates_args=())
def weighted_sum_backward(
    grad: Tensor, weights: Tensor, values: Tensor, offsets: Tensor, total: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of weights and values for `grad` (rays, C or C + 1)."""
    rays, channels = offsets.numel() - 1, values.shape[1]
    grad, weights, values = grad.contiguous(), weights.contiguous(), values.contiguous()
    out_weights, out_values = torch.empty_like(weights), torch.empty_like(values)
    if use_native(weights):
        native.weighted_sum_backward(
            grad.view(-1), weights, values.view(-1), offsets, channels, total,
            out_weights, out_values.view(-1), _threads(),
        )  # fmt: skip
    elif use_warp(weights):
        launch("compositing.weighted_sum_backward", rays, grad, weights, values, offsets, out_weights, out_values)
    else:
        ray = torch.repeat_interleave(torch.arange(rays, device=offsets.device), offsets.diff())
        spread = grad[ray]
        out_weights = (spread[:, :channels] * values).sum(1) + (spread[:, channels] if total else 0)
        out_values = spread[:, :channels] * weights[:, None]
    return out_weights, out_values


@weighted_sum_backward.register_fake
def _(grad: Tensor, weights: Tensor, values: Tensor, offsets: Tensor, total: bool) -> tuple[Tensor, Tensor]:
    return weights.new_empty(weights.shape), values.new_empty(values.shape)


def _keep_weighted(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.total = inputs
    ctx.save_for_backward(*tensors)


def _weighted_derivative(ctx: Any, grad: Tensor) -> Any:
    weights, values, offsets = ctx.saved_tensors
    out = torch.ops.headfields.weighted_sum_backward(grad, weights, values, offsets, ctx.total)
    return *out, None, None


def _weighted_second_derivative(ctx: Any, grad_weights: Tensor, grad_values: Tensor) -> Any:
    grad, weights, values, offsets = ctx.saved_tensors
    channels = values.shape[1]
    to_grad = torch.ops.headfields.weighted_sum(grad_weights, values, offsets, ctx.total)
    from_values = torch.ops.headfields.weighted_sum(weights, grad_values, offsets, False)
    to_grad = to_grad + torch.nn.functional.pad(from_values, (0, int(ctx.total)))
    to_weights, to_values = torch.ops.headfields.weighted_sum_backward(
        grad[:, :channels], grad_weights, grad_values, offsets, False
    )
    return to_grad, to_weights, to_values, None, None


weighted_sum.register_autograd(_weighted_derivative, setup_context=_keep_weighted)
weighted_sum_backward.register_autograd(_weighted_second_derivative, setup_context=_keep_weighted)


# The quadrature weights, from optical depth or from alpha.


@torch.library.custom_op("headfields::ray_weights", mutates_args=())
def ray_weights(values: Tensor, offsets: Tensor, alpha: bool) -> Tensor:
    """(M,) weights of (M,) optical depths, or with `alpha` of alphas."""
    values, out = values.contiguous(), torch.empty_like(values, memory_format=torch.contiguous_format)
    if use_native(values):
        native.ray_weights(values, offsets, alpha, out, _threads())
    elif use_warp(values):
        launch("compositing.ray_weights", offsets.numel() - 1, values, offsets, alpha, out)
    else:
        return reference.ray_weights(values, offsets, alpha)
    return out


@ray_weights.register_fake
def _(values: Tensor, offsets: Tensor, alpha: bool) -> Tensor:
    return values.new_empty(values.shape)


@torch.library.custom_op("headfields::ray_weights_backward", mutates_args=())
def ray_weights_backward(grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool) -> Tensor:
    """The gradient of the values for `grad` (M,)."""
    grad, values = grad.contiguous(), values.contiguous()
    out = torch.empty_like(values)
    if use_native(values):
        native.ray_weights_backward(grad, values, offsets, alpha, out, _threads())
    elif use_warp(values):
        launch("compositing.ray_weights_backward", offsets.numel() - 1, grad, values, offsets, alpha, out)
    else:
        return reference.ray_weights_backward(grad, values, offsets, alpha)
    return out


@ray_weights_backward.register_fake
def _(grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool) -> Tensor:
    return values.new_empty(values.shape)


@torch.library.custom_op("headfields::ray_weights_double", mutates_args=())
def ray_weights_double(
    direction: Tensor, grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of `grad` and values for `direction` (M,), the gradient of `ray_weights_backward`'s output."""
    direction, grad, values = direction.contiguous(), grad.contiguous(), values.contiguous()
    out_weights, out_values = torch.empty_like(values), torch.empty_like(values)
    if use_native(values):
        native.ray_weights_double(
            direction, grad, values, offsets, alpha, out_weights, out_values, _threads()
        )  # fmt: skip
    elif use_warp(values):
        reach = torch.empty_like(values)
        launch("compositing.ray_weights_double", offsets.numel() - 1,
               direction, grad, values, offsets, alpha, reach, out_weights, out_values)  # fmt: skip
    else:
        return reference.ray_weights_double(direction, grad, values, offsets, alpha)
    return out_weights, out_values


@ray_weights_double.register_fake
def _(
    direction: Tensor, grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return values.new_empty(values.shape), values.new_empty(values.shape)


def _keep_weights(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.alpha = inputs
    ctx.save_for_backward(*tensors)


def _weights_derivative(ctx: Any, grad: Tensor) -> Any:
    values, offsets = ctx.saved_tensors
    return torch.ops.headfields.ray_weights_backward(grad, values, offsets, ctx.alpha), None, None


def _weights_second_derivative(ctx: Any, direction: Tensor) -> Any:
    grad, values, offsets = ctx.saved_tensors
    out = torch.ops.headfields.ray_weights_double(direction, grad, values, offsets, ctx.alpha)
    return *out, None, None


ray_weights.register_autograd(_weights_derivative, setup_context=_keep_weights)
ray_weights_backward.register_autograd(_weights_second_derivative, setup_context=_keep_weights)
