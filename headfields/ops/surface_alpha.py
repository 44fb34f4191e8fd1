"""Opacity and density from signed distances: NeuS, MonoNPHM's tracker, VolSDF.

| function | source | gives |
|---|---|---|
| `neus_alpha` | Wang et al. 2021, "NeuS", equations 5 and 13 | opacity of an interval, 0 where the ray goes outward |
| `unclamped_alpha` | MonoNPHM's tracker (Giebenhain et al. 2024) | the same without the clamp of the slope, clipped |
| `laplace_density` | Yariv et al. 2021, "VolSDF", equations 2 and 3 | density, whatever the ray's direction |

Distances are in meters, negative inside, so a sharpness is in 1/m: Φ(f) = sigmoid(sharpness · f) has a standard
deviation of π / (√3 sharpness) meters. The weights along a ray are `weights_from_alpha` of the alphas, and
`weights_from_density` of the density.

All are compositions of PyTorch's own functions: on any device, under `torch.compile`, in float32 and float64,
differentiable to second order in everything that is a tensor. M = 0 is legal and keeps a gradient. A NaN stays with its
own sample.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headfields.ops._checks import check_floating, check_same_device


def neus_alpha(
    distance: Float[Tensor, "*batch"],
    slope: Float[Tensor, "*batch"],
    length: Float[Tensor, "*batch"],
    sharpness: Float[Tensor, "*batch"] | Float[Tensor, ""] | float | int,
    anneal: Float[Tensor, ""] | float | int = 1.0,
) -> Float[Tensor, "*batch"]:
    """Opacity of ray intervals by NeuS: 1 - Φ(next) / Φ(prev), Φ the sigmoid of the sharpened distance.

    The distances at the interval's ends, prev and next, are taken along the tangent at its middle,
    distance ∓ slope · length / 2, with the slope clamped to 0 from above: an interval in which the ray leaves the
    surface is transparent. With `anneal` a < 1 the clamped slope is mixed with one that passes all directions,
    -(a · relu(-slope) + (1 - a) · relu(1/2 - slope / 2)), which helps the first steps (released code).

    Computed as -expm1(log Φ(next) - log Φ(prev)): no division, so it is finite and has gradients however far from the
    surface. Its absolute error is a few units of rounding of the larger logarithm: about 1e-7 near the surface, and in
    float32 about 6e-8 · sharpness · |distance| deep inside. (The released code adds 1e-5 to both sides of the quotient
    instead, which leaves an opacity of 1e-5 in empty space.)

    Args:
        distance: (...) signed distance at the middle of each interval, meters, negative inside.
        slope: (...) derivative of the distance along the ray: the unit direction times the gradient.
        length: (...) of each interval, meters.
        sharpness: 1/m, positive: one for all or (...).
        anneal: annealing weight in [0, 1]; 1 is the paper's formula.

    Returns:
        (...) in [0, 1].

    Differentiable to second order in all tensors, except in the slope where it changes sign.

    Raises:
        TypeError, ValueError: a dtype does not fit, shapes disagree or devices differ.

    Source: Wang et al. 2021, "NeuS", equations 5, 12 and 13; the annealing from its released code.

    >>> import torch, headfields as hf
    >>> distance, slope = torch.tensor([0.0, 0.0]), torch.tensor([-1.0, 1.0])  # into the surface, and out of it
    >>> hf.ops.neus_alpha(distance, slope, torch.full((2,), 0.01), sharpness=1000.0).abs()
    tensor([0.9933, 0.0000])
    """
    _check("neus_alpha", distance, slope=slope, length=length, sharpness=sharpness)
    falling = functional.relu(-slope) * anneal + functional.relu(0.5 - 0.5 * slope) * (1.0 - anneal)
    half = 0.5 * falling * length
    before, after = (distance + half) * sharpness, (distance - half) * sharpness
    return -torch.expm1(functional.logsigmoid(after) - functional.logsigmoid(before))


def unclamped_alpha(
    distance: Float[Tensor, "*batch"],
    slope: Float[Tensor, "*batch"],
    length: Float[Tensor, "*batch"],
    sharpness: Float[Tensor, "*batch"] | Float[Tensor, ""] | float | int,
    epsilon: float | int = 1e-5,
) -> Float[Tensor, "*batch"]:
    """Opacity of ray intervals by MonoNPHM's tracker: (Φ(prev) - Φ(next) + ε) / (Φ(prev) + ε), clipped.

    As `neus_alpha`, but the slope is not clamped: an interval in which the ray leaves the surface has a negative
    quotient, which is clipped to 0 and then passes no gradient. ε leaves an opacity of ε in empty space, and makes it 1
    deep inside, where Φ vanishes.

    Args:
        distance: (...) signed distance at the middle of each interval, meters, negative inside.
        slope: (...) derivative of the distance along the ray: the unit direction times the gradient.
        length: (...) of each interval, meters.
        sharpness: 1/m, positive: one for all or (...).
        epsilon: ε (MonoNPHM: 1e-5).

    Returns:
        (...) in [0, 1].

    Differentiable to second order in all tensors where it is not clipped.

    Raises:
        TypeError, ValueError: a dtype does not fit, shapes disagree or devices differ.

    Source: Giebenhain et al. 2024, "MonoNPHM", released code.
    """
    _check("unclamped_alpha", distance, slope=slope, length=length, sharpness=sharpness)
    half = 0.5 * slope * length
    before, after = torch.sigmoid((distance - half) * sharpness), torch.sigmoid((distance + half) * sharpness)
    return ((before - after + epsilon) / (before + epsilon)).clamp(0.0, 1.0)


def laplace_density(
    distance: Float[Tensor, "*batch"],
    sharpness: Float[Tensor, "*batch"] | Float[Tensor, ""] | float | int,
    scale: Float[Tensor, "*batch"] | Float[Tensor, ""] | float | int | None = None,
) -> Float[Tensor, "*batch"]:
    """VolSDF's density: `scale` times the cumulative distribution of a Laplace law of width 1 / sharpness at -distance.

    Args:
        distance: (...) signed distance, meters, negative inside.
        sharpness: 1 / β, in 1/m, positive: one for all or (...).
        scale: the density deep inside, 1/m; None: the sharpness itself, the paper's α = 1 / β.

    Returns:
        (...) density in 1/m; half of `scale` on the surface.

    Differentiable once everywhere; a second time except where the distance is 0, where the second derivative jumps.

    Raises:
        TypeError, ValueError: a dtype does not fit, shapes disagree or devices differ.

    Source: Yariv et al. 2021, "Volume Rendering of Neural Implicit Surfaces", equations 2 and 3.
    """
    _check("laplace_density", distance, sharpness=sharpness, scale=scale)
    sharpened = distance * sharpness
    # Each branch sees its own half of the line alone, so that the exponential of the other cannot overflow.
    outside = 0.5 * torch.exp(-sharpened.clamp_min(0.0))
    inside = 1.0 - 0.5 * torch.exp(sharpened.clamp_max(0.0))
    return torch.where(sharpened >= 0, outside, inside) * (sharpness if scale is None else scale)


def _check(op: str, distance: Tensor, **others: "Tensor | float | int | None") -> None:
    check_floating(op, "distance", distance)
    numbers = {"sharpness": (int, float), "scale": (int, float, type(None))}
    tensors: dict[str, Any] = {
        name: value for name, value in others.items() if not isinstance(value, numbers.get(name, ()))
    }
    for name, tensor in tensors.items():
        check_floating(op, name, tensor)
        if tensor.shape != distance.shape and (name not in ("sharpness", "scale") or tensor.dim()):
            raise ValueError(
                f"{op}: {name} has shape {tuple(tensor.shape)}, but distance has {tuple(distance.shape)}; "
                "the two must agree"
            )
    check_same_device(op, distance=distance, **tensors)
