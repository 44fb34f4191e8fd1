"""Volume-rendering quadrature on packed samples: weights along a ray, and weighted sums.

The quadrature of Max, "Optical models for direct volume rendering" (1995), as NeRF writes it (Mildenhall et al. 2020,
equation 3): `w_i = T_i (1 - exp(-sigma_i delta_i))`, `T_i = exp(-sum_{j<i} sigma_j delta_j)`. Nothing is divided by a
transmittance or a weight, so opaque samples and empty rays have finite values and gradients.

Samples are packed: `ray` (M,) holds each sample's ray, in order, and `rays` is N, the number of rays. Rays without
samples are legal, as are N = 0 and M = 0, which keep a gradient. Every function takes `offsets`, the result of
`ray_offsets(ray, rays)`, in place of the two, so that a renderer computes it once for several calls. Without any of
the three the input is dense: its last axis runs along the ray, and the axes before it are batch.

All operations on packed samples (here, `volume_render`, `render_weights`, `distortion`, `interlevel`, `inverse_cdf`,
`merge_samples`) take the same order: what the samples hold, the samples, the number of rays.

Half-precision input is computed and returned in float32.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import (
    check_floating,
    check_integer,
    check_offsets,
    check_ray_count,
    check_same_device,
    check_samples,
    check_shape,
    no_third_derivative,
    require_shapes,
)
from headfields.ops.dispatch import checks_indices, native, use_native, use_warp
from headfields.ops.functorch_rules import pullback
from headfields.ops.reference import compositing as reference
from headfields.ops.registration import like, register_op
from headfields.ops.warp_launch import launch
from headfields.records import Samples
from headfields.records.base import Record

LEAST_DEPTH = -1e-4
"""Optical depths below this are an error on the CPU (as in csrc/packed.cpp); above it they are rounding."""


def ray_offsets(ray: Int[Tensor, " m"], rays: int) -> Int[Tensor, " offsets"]:
    """Offsets of the rays' first samples: ray r owns samples `offsets[r]:offsets[r + 1]`.

    Args:
        ray: (M,) each sample's ray, in ascending order.
        rays: N, the number of rays.

    Returns:
        (N + 1,) int64. No gradient.

    Raises:
        TypeError: `ray` is not of integers.
        ValueError: `ray` is not sorted, or holds an index outside [0, rays); on CUDA, where a check would wait for the
            device, with HEADFIELDS_CHECK_INDICES=1.

    >>> import torch, headfields as hf
    >>> hf.ops.compositing.ray_offsets(torch.tensor([0, 0, 2]), rays=3).tolist()  # ray 1 has no samples
    [0, 2, 2, 3]
    """
    check_integer("ray_offsets", "ray", ray)
    check_shape("ray_offsets", "ray", ray, "m")
    check_ray_count("ray_offsets", rays)
    return _ray_offsets(ray.detach().long(), rays)


def exclusive_sum(
    values: Float[Tensor, "*batch s"],
    ray: Int[Tensor, " m"] | None = None,
    rays: int | None = None,
    *,
    offsets: Int[Tensor, " offsets"] | None = None,
) -> Float[Tensor, "*batch s"]:
    """For each sample, the sum of the values before it on its ray; differentiable to any order.

    Args:
        values: (M,) packed, or (..., S) dense.
        ray, rays, offsets: the packing (see the module's text).

    Returns:
        Sums of the same shape; 0 at the first sample of each ray.

    Raises:
        ValueError: the packing does not fit the values; TypeError: `values` is not floating-point.

    >>> import torch, headfields as hf
    >>> hf.ops.compositing.exclusive_sum(torch.tensor([1.0, 2, 4, 8]), ray=torch.tensor([0, 0, 0, 1]), rays=2).tolist()
    [0.0, 1.0, 3.0, 0.0]
    """
    values = _widen("exclusive_sum", "values", values)
    offsets = _packing("exclusive_sum", "values", values, ray, rays, offsets)
    return _exclusive_sum(values.reshape(-1), offsets, False).reshape(values.shape)


def accumulate(
    weights: Float[Tensor, "*batch s"],
    values: Float[Tensor, "*batch s c"] | None = None,
    ray: Int[Tensor, " m"] | None = None,
    rays: int | None = None,
    *,
    offsets: Int[Tensor, " offsets"] | None = None,
) -> Float[Tensor, "..."]:
    """The weighted sum of the values along each ray; differentiable to any order in weights and values.

    Args:
        weights: (M,) packed, or (..., S) dense.
        values: (M, C), or (..., S, C) dense; None adds up the weights themselves.
        ray, rays, offsets: the packing (see the module's text).

    Returns:
        (N, C), or (N,) without values; (..., C) or (...) dense. Rays without samples have 0.

    Raises:
        ValueError: the shapes disagree; TypeError: an input is not floating-point.

    >>> import torch, headfields as hf
    >>> ray, weights = torch.tensor([0, 0, 2]), torch.tensor([0.5, 0.25, 1.0])
    >>> hf.ops.accumulate(weights, torch.tensor([[2.0], [4.0], [8.0]]), ray, rays=3).tolist()
    [[2.0], [0.0], [8.0]]
    """
    weights = _widen("accumulate", "weights", weights)
    dense = ray is None and offsets is None
    offsets = _packing("accumulate", "weights", weights, ray, rays, offsets)
    batch = weights.shape[:-1] if dense else (offsets.numel() - 1,)
    if values is None:
        empty = weights.new_empty(weights.numel(), 0)
        return _weighted_sum(weights.reshape(-1), empty, offsets, True).reshape(batch)
    values = _widen("accumulate", "values", values)
    check_same_device("accumulate", weights=weights, values=values)
    if values.shape[:-1] != weights.shape:
        raise ValueError(
            f"accumulate: values has shape {tuple(values.shape)}, but weights has {tuple(weights.shape)}; "
            f"expected ({', '.join(map(str, weights.shape))}, C)"
        )
    channels = values.shape[-1]
    flat = values.reshape(weights.numel(), channels)
    flat_weights, flat = _same_dtype(weights.reshape(-1), flat)
    return _weighted_sum(flat_weights, flat, offsets, False).reshape(*batch, channels)


def weights_from_density(
    density: Float[Tensor, "*batch s"],
    start: Float[Tensor, "*batch s"],
    end: Float[Tensor, "*batch s"],
    ray: Int[Tensor, " m"] | None = None,
    rays: int | None = None,
    *,
    offsets: Int[Tensor, " offsets"] | None = None,
) -> Float[Tensor, "*batch s"]:
    """Quadrature weights `T_i (1 - exp(-sigma_i delta_i))` (NeRF, equation 3); second order.

    Args:
        density: sigma, in 1/m, (M,) packed or (..., S) dense; infinity is an opaque sample.
        start, end: the interval of each sample, meters along the ray; delta is their difference. Gradients reach them.
        ray, rays, offsets: the packing (see the module's text).

    Returns:
        Weights of the same shape; on each ray they add up to its opacity. NaN in a sample gives NaN there and behind it
        on its ray.

    Raises:
        ValueError: the shapes disagree, or a density is negative, or an end before its start (the last two on the CPU,
            where `density * (end - start)` is below -1e-4; CUDA, which would have to wait, and transforms compute the
            formula); TypeError: an input is not floating-point.

    >>> import torch, headfields as hf
    >>> start, end = torch.tensor([[1.0, 1.1]]), torch.tensor([[1.1, 1.2]])  # dense: one ray of two samples
    >>> density = torch.tensor([[10.0, torch.inf]])  # 1 - exp(-10 · 0.1), then opaque
    >>> hf.ops.weights_from_density(density, start, end)
    tensor([[0.6321, 0.3679]])
    """
    density = _widen("weights_from_density", "density", density)
    for name, tensor in (("start", start), ("end", end)):
        check_floating("weights_from_density", name, tensor)
        if tensor.shape != density.shape:
            raise ValueError(
                f"weights_from_density: {name} has shape {tuple(tensor.shape)}, but density has "
                f"{tuple(density.shape)}; the two must agree"
            )
    check_same_device("weights_from_density", density=density, start=start, end=end)
    offsets = _packing("weights_from_density", "density", density, ray, rays, offsets)
    optical_depth = density * (end - start)
    return _ray_weights(optical_depth.reshape(-1), offsets, False).reshape(density.shape)


def weights_from_alpha(
    alpha: Float[Tensor, "*batch s"],
    ray: Int[Tensor, " m"] | None = None,
    rays: int | None = None,
    *,
    offsets: Int[Tensor, " offsets"] | None = None,
) -> Float[Tensor, "*batch s"]:
    """Quadrature weights `T_i alpha_i`, `T_i = prod_{j<i} (1 - alpha_j)` (NeuS, Wang et al. 2021, equation 11).

    Second order. The derivative is that of the product itself, without a logarithm or a division, so it is exact and
    finite where alpha is 1.

    Args:
        alpha: (M,) packed or (..., S) dense, in [0, 1].
        ray, rays, offsets: the packing (see the module's text).

    Returns:
        Weights of the same shape.

    Raises:
        ValueError: the packing does not fit; TypeError: `alpha` is not floating-point.

    >>> import torch, headfields as hf
    >>> hf.ops.weights_from_alpha(torch.tensor([[0.5, 0.5, 1.0]])).tolist()
    [[0.5, 0.25, 0.25]]
    """
    alpha = _widen("weights_from_alpha", "alpha", alpha)
    offsets = _packing("weights_from_alpha", "alpha", alpha, ray, rays, offsets)
    return _ray_weights(alpha.reshape(-1), offsets, True).reshape(alpha.shape)


def composite(
    weights: Float[Tensor, " m"],
    rgb: Float[Tensor, "m 3"],
    samples: Samples,
    rays: int,
    background: Float[Tensor, "*n 3"] | None = None,
    *,
    offsets: Int[Tensor, " offsets"] | None = None,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Color, opacity and depth of each ray; differentiable to any order in all floating-point inputs.

    Args:
        weights: (M,) of `weights_from_density` or `weights_from_alpha`.
        rgb: (M, 3) color of each sample.
        samples: the M packed samples.
        rays: N.
        background: (3,) or (N, 3) color behind the samples; None is black.
        offsets: `ray_offsets(samples.ray, rays)`, to save computing it again.

    Returns:
        rgb: (N, 3), `sum w c + (1 - sum w) background`.
        opacity: (N,), `sum w`.
        depth: (N,) meters, `sum w t` at the middles of the samples, not divided by opacity.

    Raises:
        ValueError: the shapes disagree; TypeError: an input is not floating-point, or `samples` or `rays` are something
            else.
    """
    check_samples("composite", samples, rays)
    weights, rgb = _same_dtype(_widen("composite", "weights", weights), _widen("composite", "rgb", rgb))
    check_shape("composite", "weights", weights, str(len(samples)))
    check_shape("composite", "rgb", rgb, f"{len(samples)} 3")
    check_same_device("composite", weights=weights, rgb=rgb, background=background)
    offsets = _packing("composite", "weights", weights, samples.ray, rays, offsets)
    if len(offsets) != rays + 1:
        raise ValueError(f"composite: offsets has shape {tuple(offsets.shape)}; expected ({rays + 1},) of {rays} rays")
    sums = _weighted_sum(weights, rgb, offsets, True)
    color, opacity = sums[:, :3], sums[:, 3]
    depth = _weighted_sum(weights, samples.middle[:, None].to(rgb.dtype), offsets, False)[:, 0]
    if background is not None:
        check_floating("composite", "background", background)
        if background.shape not in ((3,), (rays, 3)):
            raise ValueError(
                f"composite: background has shape {tuple(background.shape)}; expected (3,) or ({rays}, 3), one per ray"
            )
        color = torch.addcmul(color, 1 - opacity[:, None], background.to(color.dtype))
    return color, opacity, depth


def _widen(op: str, name: str, tensor: Tensor) -> Tensor:
    check_floating(op, name, tensor)
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _same_dtype(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def _packing(
    op: str, name: str, tensor: Tensor, ray: Tensor | None, rays: int | None, offsets: Tensor | None
) -> Int[Tensor, " offsets"]:
    """The offsets of a packed or dense input, checked against its shape."""
    if tensor.dim() == 0:
        raise ValueError(f"{op}: {name} has shape (); expected (M,) packed or (..., S) dense")
    if ray is None and offsets is None:
        if rays is not None:
            raise ValueError(
                f"{op}: rays is {rays}, and ray is None; packed samples have both, a dense input (..., S) neither"
            )
        rows = tensor.shape[:-1].numel()
        return torch.arange(rows + 1, device=tensor.device) * tensor.shape[-1]
    if tensor.dim() != 1:
        raise ValueError(
            f"{op}: {name} has shape {tuple(tensor.shape)}; expected (M,) with packed samples. "
            "For a dense input leave out ray, rays and offsets"
        )
    if offsets is not None:
        check_integer(op, "offsets", offsets)
        check_shape(op, "offsets", offsets, "offsets")
        if ray is not None and ray.shape != tensor.shape:
            raise ValueError(f"{op}: ray has shape {tuple(ray.shape)}, but {name} has {tuple(tensor.shape)}")
        check_same_device(op, **{name: tensor, "offsets": offsets})
        if not len(offsets):
            raise ValueError(f"{op}: offsets has shape (0,); expected (N + 1,), which ray_offsets(ray, rays) gives")
        return offsets.long().contiguous()
    if rays is None:
        raise ValueError(f"{op}: rays is None; with packed samples pass the number of rays, or offsets")
    if isinstance(ray, Record):
        remedy = "samples.ray" if isinstance(ray, Samples) else "the ray of each sample, as Samples.ray holds it"
        raise TypeError(f"{op}: ray is a {type(ray).__name__}; pass {remedy}")
    assert ray is not None
    check_integer(op, "ray", ray)
    check_ray_count(op, rays)
    if ray.shape != tensor.shape:
        raise ValueError(f"{op}: ray has shape {tuple(ray.shape)}, but {name} has {tuple(tensor.shape)}")
    check_same_device(op, **{name: tensor, "ray": ray})
    return ray_offsets(ray, rays)


# The registered operations. Each linear one is the derivative of its partner, so those two pairs differentiate to any
# order; the quadrature weights have kernels up to their second derivative, and a third raises. All take `offsets`.


@torch.library.custom_op("headfields::ray_offsets", mutates_args=())
def _ray_offsets(ray: Tensor, rays: int) -> Tensor:
    """Offsets (rays + 1,) of the rays' first samples; an error if `ray` is not sorted or out of range."""
    if use_native(ray):
        offsets = ray.new_empty(rays + 1)
        bad = native.ray_offsets(ray.contiguous(), offsets)
    else:
        offsets = reference.ray_offsets(ray, rays)
        if not checks_indices(ray.device):
            return offsets
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


# The per-ray running sum, and its reverse.


@torch.library.custom_op("headfields::exclusive_sum", mutates_args=())
def _exclusive_sum(values: Tensor, offsets: Tensor, reverse: bool) -> Tensor:
    """The sum of the values before each sample on its ray, or behind it with `reverse`."""
    values, out = values.contiguous(), torch.empty_like(values, memory_format=torch.contiguous_format)
    if use_native(values):
        native.exclusive_sum(values, offsets, reverse, out, torch.get_num_threads())
    elif use_warp(values):
        require_shapes("exclusive_sum", values.ndim == 1, values=values)
        check_offsets("exclusive_sum", offsets, len(values))
        launch("compositing.exclusive_sum", offsets.numel() - 1, values, offsets, reverse, out)
    else:
        return reference.exclusive_sum(values, offsets, reverse)
    return out


def _sum_derivative(ctx: Any, grad: Tensor) -> Any:
    return torch.ops.headfields.exclusive_sum(grad, ctx.saved_tensors[0], not ctx.rest[0]), None, None


# The weighted sum along each ray. With `total`, one column more than the values have: the sum of the weights.


@torch.library.custom_op("headfields::weighted_sum", mutates_args=())
def _weighted_sum(weights: Tensor, values: Tensor, offsets: Tensor, total: bool) -> Tensor:
    """(rays, C), or (rays, C + 1) with `total`, of (M,) weights and (M, C) values."""
    rays, channels = offsets.numel() - 1, values.shape[1]
    weights, values, out = weights.contiguous(), values.contiguous(), weights.new_empty(rays, channels + total)
    if use_native(weights):
        native.weighted_sum(weights, values.view(-1), offsets, channels, total, out.view(-1), torch.get_num_threads())
    elif use_warp(weights):
        fits = weights.ndim == 1 and values.ndim == 2 and len(values) == len(weights)
        require_shapes("weighted_sum", fits, weights=weights, values=values)
        check_offsets("weighted_sum", offsets, len(weights))
        launch("compositing.weighted_sum", (rays, channels + total), weights, values, offsets, out)
    else:
        return reference.weighted_sum(weights, values, offsets, total)
    return out


@torch.library.custom_op("headfields::weighted_sum_backward", mutates_args=())
def _weighted_sum_backward(
    grad: Tensor, weights: Tensor, values: Tensor, offsets: Tensor, total: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of weights and values for `grad` (rays, C or C + 1)."""
    rays, channels = offsets.numel() - 1, values.shape[1]
    grad, weights, values = grad.contiguous(), weights.contiguous(), values.contiguous()
    out_weights, out_values = torch.empty_like(weights), torch.empty_like(values)
    if use_native(weights):
        native.weighted_sum_backward(
            grad.view(-1), weights, values.view(-1), offsets, channels, total,
            out_weights, out_values.view(-1), torch.get_num_threads(),
        )  # fmt: skip
    elif use_warp(weights):
        fits = weights.ndim == 1 and values.ndim == 2 and len(values) == len(weights)
        fits = fits and grad.shape == (rays, channels + total)
        require_shapes("weighted_sum_backward", fits, grad=grad, weights=weights, values=values, offsets=offsets)
        check_offsets("weighted_sum_backward", offsets, len(weights))
        launch("compositing.weighted_sum_backward", rays, grad, weights, values, offsets, out_weights, out_values)
    else:
        ray = torch.repeat_interleave(torch.arange(rays, device=offsets.device), offsets.diff())
        spread = grad[ray]
        out_weights = (spread[:, :channels] * values).sum(1) + (spread[:, channels] if total else 0)
        out_values = spread[:, :channels] * weights[:, None]
    return out_weights, out_values


def _weighted_derivative(ctx: Any, grad: Tensor) -> Any:
    weights, values, offsets = ctx.saved_tensors
    out = torch.ops.headfields.weighted_sum_backward(grad, weights, values, offsets, *ctx.rest)
    return *out, None, None


def _weighted_second_derivative(ctx: Any, grad_weights: Tensor, grad_values: Tensor) -> Any:
    grad, weights, values, offsets = ctx.saved_tensors
    channels, (total,) = values.shape[1], ctx.rest
    to_grad = torch.ops.headfields.weighted_sum(grad_weights, values, offsets, total)
    from_values = torch.ops.headfields.weighted_sum(weights, grad_values, offsets, False)
    to_grad = to_grad + torch.nn.functional.pad(from_values, (0, int(total)))
    to_weights, to_values = torch.ops.headfields.weighted_sum_backward(
        grad[:, :channels], grad_weights, grad_values, offsets, False
    )
    return to_grad, to_weights, to_values, None, None


# The quadrature weights, from optical depth or from alpha.


@torch.library.custom_op("headfields::ray_weights", mutates_args=())
def _ray_weights(values: Tensor, offsets: Tensor, alpha: bool) -> Tensor:
    """(M,) weights of (M,) optical depths, or with `alpha` of alphas."""
    values, out = values.contiguous(), torch.empty_like(values, memory_format=torch.contiguous_format)
    if not (alpha or use_native(values)) and checks_indices(values.device) and bool((values < LEAST_DEPTH).any()):
        raise ValueError(
            "weights_from_density: a density is negative, or an interval ends before it starts; "
            "an exponential, softplus or ReLU makes densities that are not"
        )
    if use_native(values):
        native.ray_weights(values, offsets, alpha, out, torch.get_num_threads())
    elif use_warp(values):
        require_shapes("ray_weights", values.ndim == 1, values=values)
        check_offsets("ray_weights", offsets, len(values))
        launch("compositing.ray_weights", offsets.numel() - 1, values, offsets, alpha, out)
    else:
        return reference.ray_weights(values, offsets, alpha)
    return out


@torch.library.custom_op("headfields::ray_weights_backward", mutates_args=())
def _ray_weights_backward(grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool) -> Tensor:
    """The gradient of the values for `grad` (M,)."""
    grad, values = grad.contiguous(), values.contiguous()
    out = torch.empty_like(values)
    if use_native(values):
        native.ray_weights_backward(grad, values, offsets, alpha, out, torch.get_num_threads())
    elif use_warp(values):
        require_shapes(
            "ray_weights_backward", values.ndim == 1 and grad.shape == values.shape, grad=grad, values=values
        )
        check_offsets("ray_weights_backward", offsets, len(values))
        launch("compositing.ray_weights_backward", offsets.numel() - 1, grad, values, offsets, alpha, out)
    else:
        return reference.ray_weights_backward(grad, values, offsets, alpha)
    return out


@torch.library.custom_op("headfields::ray_weights_double", mutates_args=())
def _ray_weights_double(
    direction: Tensor, grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of `grad` and values for `direction` (M,), the gradient of `ray_weights_backward`'s output."""
    direction, grad, values = direction.contiguous(), grad.contiguous(), values.contiguous()
    out_weights, out_values = torch.empty_like(values), torch.empty_like(values)
    if use_native(values):
        native.ray_weights_double(
            direction, grad, values, offsets, alpha, out_weights, out_values, torch.get_num_threads()
        )  # fmt: skip
    elif use_warp(values):
        reach = torch.empty_like(values)
        fits = values.ndim == 1 and direction.shape == grad.shape == values.shape
        require_shapes("ray_weights_double", fits, direction=direction, grad=grad, values=values)
        check_offsets("ray_weights_double", offsets, len(values))
        launch("compositing.ray_weights_double", offsets.numel() - 1,
               direction, grad, values, offsets, alpha, reach, out_weights, out_values)  # fmt: skip
    else:
        return reference.ray_weights_double(direction, grad, values, offsets, alpha)
    return out_weights, out_values


def _weights_derivative(ctx: Any, grad: Tensor) -> Any:
    values, offsets = ctx.saved_tensors
    return torch.ops.headfields.ray_weights_backward(grad, values, offsets, *ctx.rest), None, None


def _weights_second_derivative(ctx: Any, direction: Tensor) -> Any:
    grad, values, offsets = ctx.saved_tensors
    out = torch.ops.headfields.ray_weights_double(direction, grad, values, offsets, *ctx.rest)
    return *out, None, None


def _plain_weighted_sum_backward(
    grad: Tensor, weights: Tensor, values: Tensor, offsets: Tensor, total: bool
) -> tuple[Tensor, ...]:
    return pullback(reference.weighted_sum, 2)(grad, weights, values, offsets, total)


def _plain_ray_weights_backward(grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool) -> Tensor:
    return pullback(reference.ray_weights, 1)(grad, values, offsets, alpha)[0]


def _plain_ray_weights_double(
    direction: Tensor, grad: Tensor, values: Tensor, offsets: Tensor, alpha: bool
) -> tuple[Tensor, ...]:
    return pullback(_plain_ray_weights_backward, 2)(direction, grad, values, offsets, alpha)


register_op(_ray_offsets, lambda ray, rays: ray.new_empty(rays + 1), None)
register_op(_exclusive_sum, like(0), reference.exclusive_sum, derivative=_sum_derivative, keep=(1,))
register_op(
    _weighted_sum,
    lambda weights, values, offsets, total: weights.new_empty(offsets.shape[0] - 1, values.shape[1] + int(total)),
    reference.weighted_sum, derivative=_weighted_derivative,
)  # fmt: skip
register_op(_weighted_sum_backward, like(1, 2), _plain_weighted_sum_backward, derivative=_weighted_second_derivative)
register_op(_ray_weights, like(0), reference.ray_weights, derivative=_weights_derivative)
register_op(_ray_weights_backward, like(1), _plain_ray_weights_backward, derivative=_weights_second_derivative)
register_op(
    _ray_weights_double, like(2, 2), _plain_ray_weights_double,
    derivative=no_third_derivative("weights_from_alpha, weights_from_density", "compositing.ray_weights"),
)  # fmt: skip
