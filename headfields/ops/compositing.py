"""Volume-rendering quadrature on packed samples: weights along a ray, and what they add up to.

The quadrature of Max, "Optical models for direct volume rendering" (1995), as NeRF writes it (Mildenhall et al. 2020,
equation 3): `w_i = T_i (1 - exp(-sigma_i delta_i))`, `T_i = exp(-sum_{j<i} sigma_j delta_j)`. Nothing is divided by a
transmittance or a weight, so opaque samples and empty rays have finite values and gradients.

Samples are packed: `ray` (M,) holds each sample's ray, in order, and `rays` is N, the number of rays. Rays without
samples are legal, as are N = 0 and M = 0, which keep a gradient. Every function takes `offsets`, the result of
`ray_offsets(ray, rays)`, in place of the two, so that a renderer works it out once for several calls. Where all three
are left out the input is dense: its last axis runs along the ray and all before it are batch.

Half-precision input is computed and returned in float32.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops import packed
from headfields.ops._checks import check_floating, check_integer, check_same_device, check_shape
from headfields.records import Samples


def ray_offsets(ray: Int[Tensor, " m"], rays: int) -> Int[Tensor, " offsets"]:
    """Where each ray's samples begin: ray r owns samples `offsets[r]:offsets[r + 1]`.

    On CUDA this waits for the device (to check the order), one more reason to call it once and hand the result on.

    Args:
        ray: (M,) each sample's ray, in ascending order.
        rays: N, the number of rays.

    Returns:
        (N + 1,) int64. No gradient.

    Raises:
        TypeError: `ray` is not of integers.
        ValueError: `ray` is not sorted, or holds an index outside [0, rays).
    """
    check_integer("ray_offsets", "ray", ray)
    check_shape("ray_offsets", "ray", ray, "m")
    if rays < 0:
        raise ValueError(f"ray_offsets: rays is {rays}; expected the number of rays, 0 or more")
    return packed.ray_offsets(ray.detach().long(), rays)


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
    """
    values = _widen("exclusive_sum", "values", values)
    offsets = _packing("exclusive_sum", "values", values, ray, rays, offsets)
    return packed.exclusive_sum(values.reshape(-1), offsets, False).reshape(values.shape)


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
    """
    weights = _widen("accumulate", "weights", weights)
    dense = ray is None and offsets is None
    offsets = _packing("accumulate", "weights", weights, ray, rays, offsets)
    batch = weights.shape[:-1] if dense else (offsets.numel() - 1,)
    if values is None:
        empty = weights.new_empty(weights.numel(), 0)
        return packed.weighted_sum(weights.reshape(-1), empty, offsets, True).reshape(batch)
    values = _widen("accumulate", "values", values)
    if values.shape[:-1] != weights.shape:
        raise ValueError(
            f"accumulate: values has shape {tuple(values.shape)}, but weights has {tuple(weights.shape)}; "
            f"expected ({', '.join(map(str, weights.shape))}, C)"
        )
    channels = values.shape[-1]
    flat = values.reshape(weights.numel(), channels)
    flat_weights, flat = _same_dtype(weights.reshape(-1), flat)
    return packed.weighted_sum(flat_weights, flat, offsets, False).reshape(*batch, channels)


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
        Weights of the same shape; on each ray they add up to its opacity.

    Raises:
        ValueError: the shapes disagree; TypeError: an input is not floating-point.
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
    return packed.ray_weights(optical_depth.reshape(-1), offsets, False).reshape(density.shape)


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
    """
    alpha = _widen("weights_from_alpha", "alpha", alpha)
    offsets = _packing("weights_from_alpha", "alpha", alpha, ray, rays, offsets)
    return packed.ray_weights(alpha.reshape(-1), offsets, True).reshape(alpha.shape)


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
        background: (3,) or (N, 3) color seen where opacity is below 1; None is black.
        offsets: `ray_offsets(samples.ray, rays)`, if the caller has it.

    Returns:
        rgb: (N, 3), `sum w c + (1 - sum w) background`.
        opacity: (N,), `sum w`.
        depth: (N,) meters, `sum w t` at the middles of the samples, not divided by opacity.

    Raises:
        ValueError: the shapes disagree; TypeError: an input is not floating-point.
    """
    weights, rgb = _same_dtype(_widen("composite", "weights", weights), _widen("composite", "rgb", rgb))
    check_shape("composite", "weights", weights, str(len(samples)))
    check_shape("composite", "rgb", rgb, f"{len(samples)} 3")
    offsets = _packing("composite", "weights", weights, samples.ray, rays, offsets)
    sums = packed.weighted_sum(weights, rgb, offsets, True)
    color, opacity = sums[:, :3], sums[:, 3]
    depth = packed.weighted_sum(weights, samples.middle[:, None].to(rgb.dtype), offsets, False)[:, 0]
    if background is not None:
        if background.shape not in ((3,), (rays, 3)):
            raise ValueError(
                f"composite: background has shape {tuple(background.shape)}; expected (3,) or ({rays}, 3), one a ray"
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
        return offsets
    if rays is None:
        raise ValueError(f"{op}: rays is None; with packed samples pass the number of rays, or offsets")
    assert ray is not None
    if ray.shape != tensor.shape:
        raise ValueError(f"{op}: ray has shape {tuple(ray.shape)}, but {name} has {tuple(tensor.shape)}")
    check_same_device(op, **{name: tensor, "ray": ray})
    return ray_offsets(ray, rays)
