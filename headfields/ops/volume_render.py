"""Volume rendering of packed samples in one call: weights, colors, opacity and depth of each ray."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_samples, check_shape
from headfields.ops.compositing import composite, ray_offsets, weights_from_alpha, weights_from_density
from headfields.records import Samples
from headfields.records.base import Record


@dataclass(frozen=True)
class RenderedRays(Record):
    """N rays that were volume-rendered.

    Attributes:
        rgb: (N, 3) color over the background.
        opacity: (N,) in [0, 1].
        depth: (N,) meters along the ray, weighted by opacity (divide to normalize).
        weights: (M,) of the samples, for losses.
    """

    rgb: Float[Tensor, "n 3"]
    opacity: Float[Tensor, " n"]
    depth: Float[Tensor, " n"]
    weights: Float[Tensor, " m"]


def render_weights(
    samples: Samples,
    rays: int,
    *,
    density: Float[Tensor, " m"] | None = None,
    alpha: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, " m"]:
    """Weights of packed samples, from their densities or from their alphas; differentiable to second order.

    Args:
        samples: M samples of N rays, sorted by ray and then by distance.
        rays: N; rays without samples are legal, as are N = 0 and M = 0.
        density: (M,) 1/m, as of a NeRF; see `weights_from_density`.
        alpha: (M,) in [0, 1], as of NeuS; see `weights_from_alpha`. One of the two is given.

    Returns:
        (M,); on each ray they add up to its opacity.

    Raises:
        ValueError: both or neither of density and alpha are given, a shape does not fit, or the samples are not sorted.
        TypeError: an input is not floating-point, or `samples` or `rays` are something else.

    >>> import torch, headfields as hf
    >>> samples = hf.Samples(torch.tensor([0, 0]), start=torch.tensor([1.0, 1.1]), end=torch.tensor([1.1, 1.2]))
    >>> hf.ops.render_weights(samples, rays=1, density=torch.tensor([10.0, torch.inf]))
    tensor([0.6321, 0.3679])
    """
    check_samples("render_weights", samples, rays)
    return _weights("render_weights", samples, ray_offsets(samples.ray, rays), density, alpha)


def volume_render(
    rgb: Float[Tensor, "m 3"],
    samples: Samples,
    rays: int,
    *,
    density: Float[Tensor, " m"] | None = None,
    alpha: Float[Tensor, " m"] | None = None,
    background: Float[Tensor, "*n 3"] | None = None,
) -> RenderedRays:
    """Color, opacity and depth of N rays from the values at M packed samples; differentiable to second order.

    Args:
        rgb: (M, 3) color of each sample.
        samples: M samples of N rays, sorted by ray and then by distance.
        rays: N; rays without samples are legal, as are N = 0 and M = 0.
        density: (M,) 1/m, as of a NeRF; see `weights_from_density`.
        alpha: (M,) in [0, 1], as of NeuS; see `weights_from_alpha`. One of the two is given.
        background: (3,) or (N, 3) color behind the samples; None is black.

    Returns:
        `RenderedRays`: rgb (N, 3), opacity (N,), depth (N,) and the weights (M,).

    Raises:
        ValueError: both or neither of density and alpha are given, a shape does not fit, or the samples are not sorted.
        TypeError: an input is not floating-point, or `samples` or `rays` are something else.

    >>> import torch, headfields as hf
    >>> near, far = torch.full((2,), 1.0), torch.full((2,), 2.0)
    >>> samples = hf.ops.stratified(near, far, count=8, jitter=False)
    >>> fog, white = torch.full((16,), 2.0), torch.ones(16, 3)
    >>> image = hf.ops.volume_render(white, samples, rays=2, density=fog)
    >>> image.opacity  # 1 - exp(-2)
    tensor([0.8647, 0.8647])
    """
    check_samples("volume_render", samples, rays)
    offsets = ray_offsets(samples.ray, rays)
    weights = _weights("volume_render", samples, offsets, density, alpha)
    color, opacity, depth = composite(weights, rgb, samples, rays, background, offsets=offsets)
    return RenderedRays(color, opacity, depth, weights)


def _weights(
    op: str, samples: Samples, offsets: Int[Tensor, " offsets"], density: Tensor | None, alpha: Tensor | None
) -> Float[Tensor, " m"]:
    if (density is None) == (alpha is None):
        given = "neither" if density is None else "both"
        raise ValueError(f"{op}: {given} of density and alpha are given; pass one: density in 1/m, or alpha in [0, 1]")
    for name, values in (("density", density), ("alpha", alpha)):
        if values is not None:
            check_floating(op, name, values)
            check_shape(op, name, values, str(len(samples)))
    if density is not None:
        return weights_from_density(density, samples.start, samples.end, offsets=offsets)
    assert alpha is not None
    return weights_from_alpha(alpha, offsets=offsets)
