"""Distortion of a ray's weights: how far they are spread along it (Mip-NeRF 360)."""

from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_samples, check_shape
from headfields.ops.compositing import accumulate, exclusive_sum, ray_offsets
from headfields.records import Samples


def distortion(
    weights: Float[Tensor, " m"], samples: Samples, rays: int, *, offsets: Int[Tensor, " offsets"] | None = None
) -> Float[Tensor, " n"]:
    """Σ_ij w_i w_j |m_i − m_j| + ⅓ Σ_i w_i² δ_i of each ray, m the middles of its samples and δ their lengths.

    It is smallest where all weight lies in one short interval, so it gathers weight and removes floaters. The double
    sum is computed in one pass, for samples that are in order. Differentiable to second order in the weights and the
    distances.

    Args:
        weights: (M,) of the samples, as `render_weights` gives them.
        samples: M samples of N rays, sorted by ray and then by distance. The paper's distances are of a contracted,
            normalized ray; these are meters.
        rays: N; rays without samples have 0.
        offsets: `ray_offsets(samples.ray, rays)` of `headfields.ops.compositing`, to save computing it again.

    Returns:
        (N,) meters.

    Raises:
        ValueError: the weights are not (M,), or the samples are not sorted.
        TypeError: the weights are not floating-point, or `samples` or `rays` are something else.

    Source: Barron et al. 2022, "Mip-NeRF 360", equation 15.

    >>> import torch, headfields as hf
    >>> samples = hf.Samples(torch.tensor([0, 0]), start=torch.tensor([0.0, 1.0]), end=torch.tensor([1.0, 2.0]))
    >>> hf.ops.distortion(torch.tensor([0.5, 0.5]), samples, rays=1)  # 2 · ¼ · 1 + ⅓ (¼ + ¼)
    tensor([0.6667])
    """
    check_samples("distortion", samples, rays)
    check_floating("distortion", "weights", weights)
    check_shape("distortion", "weights", weights, str(len(samples)))
    check_same_device("distortion", weights=weights, samples=samples.start)
    if offsets is None:
        offsets = ray_offsets(samples.ray, rays)
    middle = samples.middle.to(weights.dtype)
    before = exclusive_sum(weights, offsets=offsets)
    moment = exclusive_sum(weights * middle, offsets=offsets)
    length = (samples.end - samples.start).to(weights.dtype)
    spread = 2 * (middle * before - moment) + weights * length / 3
    return accumulate(weights, spread[:, None], offsets=offsets)[:rays, 0]
