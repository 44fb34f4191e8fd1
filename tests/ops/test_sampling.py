"""Sample placement: against the reference over backends, and by the properties the samples must have."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import sampling
from headfields.ops.compositing import ray_offsets
from headfields.ops.dispatch import native, use_cpu_backend
from headfields.ops.occupancy import march_occupancy, march_padded
from headfields.ops.reference import sampling as reference
from headfields.records import Samples
from tests.tables import table

OPS = torch.ops.headfields


def generator(device: str, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def random_samples(counts: list[int], device: str, seed: int = 0, gaps: bool = True) -> Samples:
    """Sorted, disjoint intervals; touching ones if there are no gaps."""
    torch.manual_seed(seed)
    ray = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    start, end = [], []
    for count in counts:
        edges = torch.rand(2 * count + 1).add(0.01).cumsum(0)
        start.append(edges[0 : 2 * count : 2])
        end.append(edges[1 : 2 * count + 1 : 2] if gaps else edges[2 : 2 * count + 1 : 2])
    empty = torch.zeros(0)
    return Samples(ray, torch.cat([empty, *start]), torch.cat([empty, *end])).to(device)


def well_formed(samples: Samples) -> None:
    ray, start, end = samples.ray, samples.start, samples.end
    assert (ray[1:] >= ray[:-1]).all() and (start <= end).all() and start.isfinite().all() and end.isfinite().all()
    same = ray[1:] == ray[:-1]
    assert (end[:-1] <= start[1:])[same].all()


@table("jitter", [False, True])
@table("count", [1, 2, 7])
def test_stratified_tiles_the_range(device, count, jitter):
    near = torch.tensor([0.5, 1.0, 1.0, 2.0, float("nan"), 0.0], device=device)
    far = torch.tensor([1.5, 4.0, 1.0, 1.0, 1.0, float("inf")], device=device)
    samples = sampling.stratified(near, far, count, jitter, generator(device))
    well_formed(samples)
    assert samples.ray.tolist() == [0] * count + [1] * count
    start, end = samples.start.view(2, count), samples.end.view(2, count)
    torch.testing.assert_close(start[:, 0], near[:2])
    torch.testing.assert_close(end[:, -1], far[:2])
    torch.testing.assert_close(start[:, 1:], end[:, :-1], rtol=0, atol=0)
    even = near[:2, None] + (far - near)[:2, None] * torch.arange(count + 1, device=device) / count
    bin_width = (far - near)[:2, None] / count
    moved = torch.cat([start, end[:, -1:]], dim=1) - even
    assert (moved.abs() <= bin_width * 0.5001 + 1e-6).all()
    assert count < 3 or (moved.abs().max() > 1e-3) == jitter


def test_generators_repeat(device):
    near, far = torch.zeros(5, device=device), torch.ones(5, device=device)
    first, again, other = (sampling.stratified(near, far, 6, True, generator(device, s)).start for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@table("counts", [[], [0], [1], [3, 0, 1, 17], [0, 130, 2]])
def test_inverse_cdf_agrees_with_the_reference(device, counts):
    samples = random_samples(counts, device)
    offsets = ray_offsets(samples.ray, len(counts))
    weights = torch.rand(len(samples), device=device)
    weights[::3] = 0
    quantiles = torch.rand(len(counts), 9, device=device).sort(-1).values
    got = OPS.inverse_cdf(samples.start, samples.end, weights, offsets, quantiles)
    double = (samples.start.double(), samples.end.double(), weights.double(), offsets, quantiles.double())
    torch.testing.assert_close(got.double(), reference.inverse_cdf(*double), rtol=1e-4, atol=1e-4)


@table("jitter", [False, True])
def test_inverse_cdf_follows_the_weights(device, jitter):
    """Three quarters of the edges lie where three quarters of the weight do, and none in a bin without weight."""
    edges = torch.tensor([[0.0, 1.0, 2.0, 3.0]], device=device).expand(4, 4)
    weights = torch.tensor([[1.0, 0.0, 3.0]], device=device).expand(4, 3)
    samples = sampling.inverse_cdf(weights, edges, 400, jitter=jitter, generator=generator(device))
    well_formed(samples)
    assert samples.ray.tolist() == sorted([*range(4)] * 400)
    assert abs(float((samples.start >= 2).float().mean()) - 0.75) < 0.01
    assert not ((samples.start > 1.0001) & (samples.start < 1.9999)).any()
    torch.testing.assert_close(samples.start[0].item(), 0.0)
    torch.testing.assert_close(samples.end[-1].item(), 3.0)


@table("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_without_a_sum_are_uniform(device, weight):
    edges = torch.tensor([[0.0, 3.0, 4.0]], device=device)
    weights = torch.tensor([[0.0, weight]], device=device)
    samples = sampling.inverse_cdf(weights, edges, 4, jitter=False)
    torch.testing.assert_close(samples.start.cpu(), torch.arange(4.0))
    torch.testing.assert_close(samples.end.cpu(), torch.arange(1.0, 5.0))


def test_dense_edges_are_a_view_of_packed(device):
    edges = torch.rand(3, 6, device=device).cumsum(-1)
    weights = torch.rand(3, 5, device=device)
    ray = torch.arange(3, device=device).repeat_interleave(5)
    packed = Samples(ray, edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1))
    dense = sampling.inverse_cdf(weights, edges, 8, generator=generator(device))
    again = sampling.inverse_cdf(weights.view(-1), packed, 8, 3, generator=generator(device))
    assert torch.equal(dense.ray, again.ray) and torch.equal(dense.start, again.start)


def test_bins_without_samples(device):
    samples = sampling.inverse_cdf(torch.zeros(2, 0, device=device), torch.zeros(2, 1, device=device), 4)
    assert len(samples) == 0


@table("pair", [([], []), ([0, 2], [3, 0]), ([5, 1, 0, 9], [7, 2, 0, 1])])
@table("gaps", [False, True])
def test_merge_agrees_with_the_reference(device, pair, gaps):
    rays = len(pair[0])
    first, second = (random_samples(c, device, seed, gaps) for seed, c in enumerate(pair))
    merged = sampling.merge_samples(first, second, rays)
    well_formed(merged)
    expected = reference.merge(
        ray_offsets(first.ray, rays), first.start, first.end, ray_offsets(second.ray, rays), second.start, second.end
    )
    for got, want in zip((merged.ray, merged.start, merged.end), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_merge_cuts_at_both_sets_of_edges(device):
    zero = torch.zeros(2, dtype=torch.long, device=device)
    at = lambda *values: torch.tensor(values, device=device)  # noqa: E731
    first = Samples(zero, at(0.0, 4.0), at(2.0, 5.0))
    second = Samples(zero, at(1.0, 7.0), at(3.0, 8.0))
    merged = sampling.merge_samples(first, second, 1)
    assert merged.start.tolist() == [0, 1, 2, 4, 7] and merged.end.tolist() == [1, 2, 3, 5, 8]
    both = sampling.merge_samples(first, first, 1)
    assert torch.equal(both.start, first.start) and torch.equal(both.end, first.end)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6), st.integers(0, 1000), st.booleans())
def test_merge_keeps_the_length_of_the_union(pairs, seed, gaps):
    rays = len(pairs)
    first = random_samples([a for a, _ in pairs], "cpu", seed, gaps)
    second = random_samples([b for _, b in pairs], "cpu", seed + 1, gaps)
    merged = sampling.merge_samples(first, second, rays)
    well_formed(merged)
    covers = lambda s, ray, t: bool(((s.ray == ray) & (s.start <= t) & (t < s.end)).any())  # noqa: E731
    for ray in range(rays):
        for t in torch.rand(10).mul(10).tolist():
            assert covers(merged, ray, t) == (covers(first, ray, t) or covers(second, ray, t))


@table("cone_angle", [0.0, 0.02, 5.0])
@table("jittered", [False, True])
def test_uniform_step_agrees_with_the_reference(device, cone_angle, jittered):
    torch.manual_seed(0)
    near = torch.rand(41, device=device)
    far = near + 3 * torch.rand(41, device=device)
    far[3], far[4], near[5] = near[3], float("inf"), float("nan")
    jitter = torch.rand(41, device=device) if jittered else None
    samples = sampling.uniform_step(near, far, 0.037, jitter, cone_angle=cone_angle)
    well_formed(samples)
    ray, start, end = reference.uniform_step(near, far, 0.037, cone_angle, jitter)
    assert torch.equal(samples.ray, ray)
    torch.testing.assert_close(samples.start, start, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(samples.end, end, rtol=1e-5, atol=1e-5)
    hit = sorted(set(range(41)) - {3, 4, 5})
    length = torch.zeros(41, device=device).index_add(0, samples.ray, samples.end - samples.start)
    torch.testing.assert_close(length[hit], (far - near)[hit], rtol=1e-4, atol=1e-5)


def test_step_lengths(device):
    """The edges by hand: constant steps after the jittered first, growing ones where the cone is wider."""
    near, far = torch.tensor([1.0], device=device), torch.tensor([2.0], device=device)
    jitter = torch.tensor([0.25], device=device)
    constant = sampling.uniform_step(near, far, 0.4, jitter)
    torch.testing.assert_close(constant.start.cpu(), torch.tensor([1.0, 1.3, 1.7]))
    torch.testing.assert_close(constant.end.cpu(), torch.tensor([1.3, 1.7, 2.0]))
    growing = sampling.uniform_step(near, far * 2, 0.25, cone_angle=0.2)
    torch.testing.assert_close(growing.start.cpu(), torch.tensor([1.0, 1.25, 1.5, 1.8, 2.16, 2.592, 3.1104, 3.73248]))


def test_budget_error_names_the_number(device):
    near, far = torch.zeros(3, device=device), torch.ones(3, device=device)
    assert len(sampling.uniform_step(near, far, 0.125, budget=24)) == 24
    with pytest.raises(ValueError, match=r"uniform_step: 3 rays have 24 samples.*raise budget to at least 24"):
        sampling.uniform_step(near, far, 0.125, budget=23)


def test_no_rays(device):
    none = torch.zeros(0, device=device)
    assert len(sampling.stratified(none, none, 4)) == 0
    assert len(sampling.uniform_step(none, none, 0.1)) == 0
    empty = Samples(none.long(), none, none)
    assert len(sampling.inverse_cdf(none, empty, 4, 0)) == 0
    assert len(sampling.inverse_cdf(none, empty, 4, 3)) == 0
    assert len(sampling.merge_samples(empty, empty, 0)) == 0


def test_float64(device):
    near = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    samples = sampling.uniform_step(near, near + 1, 0.3)
    fine = sampling.inverse_cdf(samples.end, samples, 5, 2)
    merged = sampling.merge_samples(samples, fine, 2)
    assert samples.start.dtype == fine.start.dtype == merged.start.dtype == torch.float64
    well_formed(merged)


def test_opcheck(device):
    first, second = random_samples([2, 0, 3], device), random_samples([1, 4, 0], device, 1)
    a, b = ray_offsets(first.ray, 3), ray_offsets(second.ray, 3)
    torch.library.opcheck(OPS.merge_samples.default, (a, first.start, first.end, b, second.start, second.end))
    quantiles = torch.rand(3, 4, device=device).sort(-1).values
    weights = torch.rand(5, device=device)
    torch.library.opcheck(OPS.inverse_cdf.default, (first.start, first.end, weights, a, quantiles))


def test_errors_say_what_to_do(unchecked):
    x = torch.rand(4)
    samples = Samples(torch.zeros(4, dtype=torch.long), x, x)
    with pytest.raises(ValueError, match=r"far has shape"):
        sampling.stratified(x, x[:3], 4)
    with pytest.raises(ValueError, match=r"count is 0"):
        sampling.stratified(x, x, 0)
    with pytest.raises(TypeError, match=r"near has dtype torch.int64"):
        sampling.stratified(x.long(), x, 4)
    with pytest.raises(ValueError, match=r"step is 0"):
        sampling.uniform_step(x, x, 0.0)
    with pytest.raises(ValueError, match=r"cone_angle is -1"):
        sampling.uniform_step(x, x, 0.1, cone_angle=-1.0)
    with pytest.raises(ValueError, match=r"rays is None"):
        sampling.inverse_cdf(x, samples, 4)
    with pytest.raises(ValueError, match=r"one weight a bin"):
        sampling.inverse_cdf(torch.rand(2, 4), torch.rand(2, 4), 4)
    with pytest.raises(ValueError, match=r"one weight a bin \(the order is inverse_cdf\(weights, edges, count\)\)"):
        sampling.inverse_cdf(torch.rand(2, 5).cumsum(-1), torch.rand(2, 4), 4)
    with pytest.raises(ValueError, match=r"edges that descend"):
        sampling.inverse_cdf(torch.rand(1, 2), torch.tensor([[0.0, 2.0, 1.0]]), 4)
    with pytest.raises(ValueError, match=r"not sorted"):
        sampling.merge_samples(samples.replace(ray=torch.tensor([0, 1, 0, 1])), samples, 2)


@pytest.mark.parametrize("backend", ["native", "warp"])
def test_a_budget_is_looked_at_before_memory(backend):
    if backend == "native" and native is None:
        pytest.skip("the compiled module is not installed")
    near, far = torch.zeros(3000, dtype=torch.float64), torch.full((3000,), 1.0, dtype=torch.float64)
    with use_cpu_backend(backend), pytest.raises(ValueError, match="more than budget"):
        sampling.uniform_step(near, far, 1e-6)  # 24 GB of edges


@pytest.mark.parametrize("backend", ["native", "warp"])
def test_no_interval_is_empty_and_one_long_ray_costs_only_itself(backend):
    if backend == "native" and native is None:
        pytest.skip("the compiled module is not installed")
    with use_cpu_backend(backend):
        samples = sampling.uniform_step(torch.tensor([1000.0]), torch.tensor([1000.001]), 1e-5)
        assert len(samples) and (samples.start < samples.end).all()
        assert samples.start[0] == 1000 and samples.end[-1] == torch.tensor(1000.001)
        assert samples.end[:-1].equal(samples.start[1:])


def test_a_step_that_the_dtype_cannot_hold_is_named():
    near, far = torch.zeros(2), torch.ones(2)
    with pytest.raises(ValueError, match=r"uniform_step: step is 1e-300, which torch.float32 cannot hold; expected a"):
        sampling.uniform_step(near, far, 1e-300)


@pytest.mark.parametrize("backend", ["native", "warp"])
def test_jitter_of_nearly_one_and_beyond(backend):
    if backend == "native" and native is None:
        pytest.skip("the compiled module is not installed")
    with use_cpu_backend(backend):
        for dtype in (torch.float32, torch.float64):
            most = torch.tensor([1 - torch.finfo(dtype).eps / 2, 1.0], dtype=dtype)
            samples = sampling.uniform_step(torch.ones_like(most), 2 * torch.ones_like(most), 0.25, most)
            assert (samples.start < samples.end).all() and samples.ray.tolist() == [0] * 4 + [1] * 4
        near, rays, cells = torch.zeros(2), torch.ones(2, 3), torch.ones(2, 2, 2, dtype=torch.bool)
        box = torch.tensor([[0.0] * 3, [1.0] * 3])
        for jitter in (1.5, -0.1, torch.nan, torch.inf):
            shift = torch.tensor([0.5, jitter])
            for call in (
                lambda shift=shift: sampling.uniform_step(near, near + 1, 0.1, shift),
                lambda shift=shift: march_occupancy(rays, rays, near, near + 1, cells, box, 0.1, jitter=shift),
                lambda shift=shift: march_padded(rays, rays, near, near + 1, 0.1, 50, cells, box, jitter=shift),
            ):
                with pytest.raises(ValueError, match=r"jitter has values outside \[0, 1\]"):
                    call()
