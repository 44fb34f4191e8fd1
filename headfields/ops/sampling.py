"""Sample placement along rays: stratified, by importance, at constant steps; and the union of two sets of samples.

All functions return packed `Samples`, sorted by ray and then by distance. None of them is differentiable: a renderer
computes positions from the distances in PyTorch, where gradients to origins and directions flow. Random
numbers come from the caller's torch generator, so a run can be repeated.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops import compositing
from headfields.ops._checks import (
    check_floating,
    check_integer,
    check_offsets,
    check_same_device,
    check_samples,
    check_shape,
    check_whole,
    has_readable_values,
    require_shapes,
)
from headfields.ops.dispatch import native, use_native, use_warp
from headfields.ops.occupancy import DEFAULT_BUDGET, check_range, check_step, march_lattice
from headfields.ops.reference import sampling as reference
from headfields.ops.registration import like, register_op
from headfields.ops.warp_launch import launch
from headfields.records import Samples


def _hits(near: Float[Tensor, " n"], far: Float[Tensor, " n"]) -> Int[Tensor, " hits"]:
    """The rays whose range is finite and not empty."""
    return ((near < far) & near.isfinite() & far.isfinite()).nonzero()[:, 0]


def _descends(start: Tensor, end: Tensor) -> bool:
    """Whether an end lies before its start; NumPy compares in half the time that PyTorch takes for a difference."""
    low, high = (x.to(torch.promote_types(x.dtype, torch.float32)).numpy(force=True) for x in (start, end))
    return bool((low > high).any())


def _check_count(op: str, count: int) -> None:
    check_whole(op, "count", count, 1)


def _quantiles(
    shape: int, count: int, jitter: bool, generator: torch.Generator | None, like: Tensor
) -> Float[Tensor, "n edges"]:
    """(shape, count + 1) sorted in [0, 1], ends at 0 and 1; the inner ones moved within half a step where jittered."""
    even = torch.arange(count + 1, device=like.device, dtype=like.dtype)
    if not jitter or count == 1:
        return (even / count).expand(shape, -1)
    noise = torch.rand(shape, count - 1, device=like.device, dtype=like.dtype, generator=generator)
    inner = (even[1:-1] - 0.5 + noise) / count
    return torch.cat([inner.new_zeros(shape, 1), inner, inner.new_ones(shape, 1)], dim=1)


def _from_edges(ray: Int[Tensor, " n"], edges: Float[Tensor, "n edges"]) -> Samples:
    count = edges.shape[1] - 1
    return Samples(ray.repeat_interleave(count), edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1))


def stratified(
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    count: int,
    jitter: bool = True,
    generator: torch.Generator | None = None,
) -> Samples:
    """`count` intervals that tile [near, far] of each ray.

    Stratified sampling (Mildenhall et al. 2020, equation 2) of interval edges: the inner edges of an even division each
    move uniformly within half a bin to either side, so the intervals still tile the range and quadrature stays exact
    for constant density.

    Args:
        near, far: (N,) meters along the unit direction. Rays with near >= far, or either not finite, get no samples.
        count: samples per ray.
        jitter: whether the edges move; without, the division is even.
        generator: random number generator, on the device of `near`.

    Returns:
        Samples, M = count * (number of rays that hit). Not differentiable.

    >>> import torch, headfields as hf
    >>> near, far = torch.tensor([1.0, torch.inf]), torch.tensor([2.0, -torch.inf])  # the second ray misses
    >>> samples = hf.ops.stratified(near, far, count=2, jitter=False)
    >>> samples.ray.tolist(), samples.start.tolist(), samples.end.tolist()
    ([0, 0], [1.0, 1.5], [1.5, 2.0])
    """
    check_range("stratified", near, far)
    _check_count("stratified", count)
    near, far = near.detach(), far.detach()
    ray = _hits(near, far)
    low, high = near[ray, None], far[ray, None]
    part = _quantiles(ray.numel(), count, jitter, generator, near)
    return _from_edges(ray, torch.lerp(low.expand_as(part), high.expand_as(part), part))


def stratified_edges(
    near: Float[Tensor, " n"], far: Float[Tensor, " n"], count: int, jitter: bool = True
) -> Float[Tensor, "n edges"]:
    """The edges (N, count + 1) of the intervals of `stratified`, all 0 for a ray without: without a wait for a GPU."""
    check_range("stratified_edges", near, far)
    _check_count("stratified_edges", count)
    near, far = near.detach(), far.detach()
    hits = (near < far) & near.isfinite() & far.isfinite()
    low, high = near.where(hits, 0.0)[:, None], far.where(hits, 0.0)[:, None]
    part = _quantiles(near.numel(), count, jitter, None, near)
    return torch.lerp(low.expand_as(part), high.expand_as(part), part)


def inverse_cdf_edges(
    weights: Float[Tensor, " m"],
    samples: Samples,
    count: int,
    offsets: Int[Tensor, " offsets"],
    rays: int,
    jitter: bool = True,
) -> Float[Tensor, "n edges"]:
    """The edges (N, count + 1) of the intervals of `inverse_cdf`, all 0 for a ray without: without a wait for a GPU.

    Args:
        weights: (M,).
        samples: M packed samples.
        count: samples per ray.
        offsets: of the samples of N rays, and of further ones.
        rays: N.
        jitter: as in `inverse_cdf`.
    """
    _check_count("inverse_cdf_edges", count)
    start, end = samples.start.detach(), samples.end.detach()
    quantiles = _quantiles(rays, count, jitter, None, start)
    further = quantiles.new_zeros(offsets.numel() - 1 - rays, count + 1)
    edges = _inverse_cdf(start, end, weights.detach().to(start.dtype), offsets, torch.cat([quantiles, further]))
    return edges[:rays]


def inverse_cdf(
    weights: "Float[Tensor, ' m'] | Float[Tensor, 'n s']",
    samples: "Samples | Float[Tensor, 'n edges']",
    count: int,
    rays: int | None = None,
    jitter: bool = True,
    generator: torch.Generator | None = None,
    *,
    offsets: Int[Tensor, " offsets"] | None = None,
) -> Samples:
    """`count` intervals a ray whose edges divide the distribution of the weights evenly (hierarchical sampling).

    NeRF's fine samples (Mildenhall et al. 2020, section 5.2), as interval edges: edge k is the (k / count)-quantile of
    the distribution that has each sample's weight distributed evenly over its interval; with `jitter`, moved within
    half a step of probability to either side. Weights are not padded: a sample of zero (or negative) weight holds no
    edge, and rays whose weights sum to 0 or to no finite number are divided evenly in length. An interval may span a
    gap between samples.

    Args:
        weights: (M,), or (N, S) with edges.
        samples: packed samples, or (N, S + 1) sorted edges of S bins per ray.
        count: samples per ray; rays without samples get none.
        rays: N, needed with packed samples unless `offsets` is given.
        jitter, generator: options as in `stratified`.
        offsets: `ray_offsets(samples.ray, rays)`, to save computing it again.

    Returns:
        Samples. Not differentiable.

    Raises:
        ValueError: the weights are not one for each sample or bin, or edges descend (the last on the CPU only).
        TypeError: an input is not floating-point, or `samples` or `rays` are something else.

    >>> import torch, headfields as hf
    >>> edges, weights = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 1.0]])  # all weight in the second bin
    >>> samples = hf.ops.inverse_cdf(weights, edges, count=2, jitter=False)
    >>> samples.start.tolist(), samples.end.tolist()
    ([1.0, 1.5], [1.5, 2.0])
    """
    _check_count("inverse_cdf", count)
    if isinstance(weights, Samples):
        raise TypeError("inverse_cdf: weights is a Samples; the order is inverse_cdf(weights, samples, count, rays)")
    check_floating("inverse_cdf", "weights", weights)
    if isinstance(samples, Tensor):
        check_floating("inverse_cdf", "samples", samples)
        check_shape("inverse_cdf", "samples", samples, "n edges")
        samples = samples.float() if samples.dtype in (torch.float16, torch.bfloat16) else samples
        if weights.shape != (samples.shape[0], samples.shape[1] - 1):
            raise ValueError(
                f"inverse_cdf: weights has shape {tuple(weights.shape)}, but samples has {tuple(samples.shape)} edges; "
                f"expected ({samples.shape[0]}, {samples.shape[1] - 1}), one weight a bin "
                "(the order is inverse_cdf(weights, edges, count))"
            )
        start, end = samples[:, :-1].reshape(-1), samples[:, 1:].reshape(-1)
        if has_readable_values(start) and _descends(start, end):
            raise ValueError("inverse_cdf: samples holds edges that descend; expected (N, S + 1) ascending ones")
        offsets = torch.arange(samples.shape[0] + 1, device=samples.device) * weights.shape[1]
    else:
        check_samples("inverse_cdf", samples, 0 if rays is None else rays)
        start, end = samples.start, samples.end
        check_shape("inverse_cdf", "weights", weights, str(len(samples)))
        if offsets is None:
            if rays is None:
                raise ValueError("inverse_cdf: rays is None; with packed samples pass the number of rays, or offsets")
            offsets = compositing.ray_offsets(samples.ray, rays)
    check_integer("inverse_cdf", "offsets", offsets)
    if offsets.ndim != 1 or not len(offsets):
        raise ValueError(f"inverse_cdf: offsets has shape {tuple(offsets.shape)}; expected (N + 1,) of N rays")
    offsets = offsets.long()
    start, end, flat = start.detach(), end.detach(), weights.detach().reshape(-1).to(start.dtype)
    check_same_device("inverse_cdf", samples=start, weights=flat, offsets=offsets)
    quantiles = _quantiles(offsets.numel() - 1, count, jitter, generator, start)
    edges = _inverse_cdf(start, end, flat, offsets, quantiles)
    ray = (offsets.diff() > 0).nonzero()[:, 0]
    return _from_edges(ray, edges[ray])


def merge_samples(first: Samples, second: Samples, rays: int) -> Samples:
    """The union of two sets of samples, cut at the edges of both.

    Each piece between two neighboring edges (of either set) that an interval of either set covers is one sample of the
    result: nothing is counted twice, gaps in both sets stay gaps, and where both tile one range the result tiles it
    with up to `len(first) + len(second) - 1` samples per ray. Our own choice; NeRF sorts the points of both.

    Args:
        first, second: packed samples of the same N rays; within one ray, intervals of one set do not overlap.
        rays: N.

    Returns:
        Samples. Not differentiable.

    >>> import torch, headfields as hf
    >>> ray = torch.zeros(1, dtype=torch.long)
    >>> first = hf.Samples(ray, torch.tensor([0.0]), torch.tensor([2.0]))
    >>> second = hf.Samples(ray, torch.tensor([1.0]), torch.tensor([3.0]))
    >>> union = hf.ops.merge_samples(first, second, rays=1)
    >>> union.start.tolist(), union.end.tolist()
    ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    """
    for name, samples in (("first", first), ("second", second)):
        check_samples("merge_samples", samples, rays, name)
        check_floating("merge_samples", name, samples.start)
    check_same_device("merge_samples", first=first.start, second=second.start)
    dtype = torch.promote_types(first.start.dtype, second.start.dtype)
    packed = []
    for samples in (first, second):
        offsets = compositing.ray_offsets(samples.ray, rays)
        packed += [offsets, samples.start.detach().to(dtype), samples.end.detach().to(dtype)]
    return Samples(*_merge(*packed))


def uniform_step(
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    step: float,
    jitter: Float[Tensor, " n"] | None = None,
    budget: int = DEFAULT_BUDGET,
    cone_angle: float = 0.0,
) -> Samples:
    """Intervals of one length that tile [near, far] of each ray: the lattice of
    `headfields.ops.occupancy.march_occupancy`.

    The edges are `near`, then `near + (1 - jitter) * step` and every step from there, the last cut off at `far`.

    Args:
        near, far: (N,) meters. Rays with near >= far, or with either not finite, get no samples.
        step: length of an interval, meters.
        jitter: (N,) in [0, 1), `torch.rand(N)`: part of a step by which the lattice is shifted to `near`; None is 0.
        budget: the most samples of all rays together.
        cone_angle: an interval that begins at distance t is max(step, cone_angle * t) long.

    Returns:
        Samples. Not differentiable.

    Raises:
        ValueError: more samples than `budget` (the message has the number), shapes that disagree, or jitter outside
            [0, 1] (checked on the CPU only).
        TypeError: a dtype that does not fit.
    """
    check_range("uniform_step", near, far, jitter)
    check_step("uniform_step", step, cone_angle, near.dtype)
    shift = None if jitter is None else jitter.detach().to(near.dtype)
    near, far = near.detach(), far.detach()
    return Samples(*march_lattice(None, None, near, far, shift, None, None, step, cone_angle, budget, "uniform_step"))


@torch.library.custom_op("headfields::inverse_cdf", mutates_args=())
def _inverse_cdf(start: Tensor, end: Tensor, weights: Tensor, offsets: Tensor, quantiles: Tensor) -> Tensor:
    arguments = [t.contiguous() for t in (start, end, weights, offsets, quantiles)]
    edges = torch.empty_like(arguments[-1])
    if use_native(start):
        flat = arguments[-1].view(-1)
        native.inverse_cdf(*arguments[:-1], flat, quantiles.shape[1], edges.view(-1), torch.get_num_threads())
    elif use_warp(start):
        fits = start.ndim == 1 and end.shape == weights.shape == start.shape
        fits = fits and quantiles.ndim == 2 and len(quantiles) == offsets.numel() - 1
        require_shapes("inverse_cdf", fits, start=start, end=end, weights=weights, offsets=offsets, quantiles=quantiles)
        check_offsets("inverse_cdf", offsets, len(start))
        launch("sampling.inverse_cdf", offsets.numel() - 1, *arguments, edges)
    else:
        return reference.inverse_cdf(*arguments)
    return edges


@torch.library.custom_op("headfields::merge_samples", mutates_args=())
def _merge(
    offsets_a: Tensor, start_a: Tensor, end_a: Tensor, offsets_b: Tensor, start_b: Tensor, end_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = [t.contiguous() for t in (offsets_a, start_a, end_a, offsets_b, start_b, end_b)]
    rays = offsets_a.numel() - 1
    on_native = use_native(start_a)
    if not on_native and not use_warp(start_a):
        return reference.merge(*arguments)
    counts = torch.empty(rays, dtype=torch.long, device=start_a.device)
    if on_native:
        native.merge_count(*arguments, counts, torch.get_num_threads())
    else:
        fits = start_a.ndim == start_b.ndim == 1 and offsets_a.shape == offsets_b.shape
        fits = fits and start_a.shape == end_a.shape and start_b.shape == end_b.shape
        require_shapes("merge_samples", fits, offsets_a=offsets_a, start_a=start_a, end_a=end_a, offsets_b=offsets_b,
                       start_b=start_b, end_b=end_b)  # fmt: skip
        check_offsets("merge_samples", offsets_a, len(start_a))
        check_offsets("merge_samples", offsets_b, len(start_b))
        nothing = start_a.new_empty(0)
        launch("sampling.merge", rays, *arguments, False, counts, counts, nothing, nothing)
    offsets = torch.zeros(rays + 1, dtype=torch.long, device=start_a.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    total = int(offsets[-1])
    ray = torch.empty(total, dtype=torch.long, device=start_a.device)
    start, end = start_a.new_empty(total), start_a.new_empty(total)
    if on_native:
        native.merge_fill(*arguments, offsets, ray, start, end, torch.get_num_threads())
    else:
        launch("sampling.merge", rays, *arguments, True, offsets, ray, start, end)
    return ray, start, end


def _merge_shapes(offsets_a: Tensor, start_a: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    return start_a.new_empty(total, dtype=torch.long), start_a.new_empty(total), start_a.new_empty(total)


_CONSTANT = "samples are constants: detach the arguments"
register_op(_inverse_cdf, like(4), None, remedy=_CONSTANT)
register_op(_merge, _merge_shapes, None, remedy=_CONSTANT)
