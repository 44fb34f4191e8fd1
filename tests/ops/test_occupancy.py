"""Occupancy: the march must find exactly the lattice intervals whose middles lie in occupied cells."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import occupancy, sampling
from headfields.ops.reference import occupancy as reference
from tests.tables import table

OPS = torch.ops.headfields


def scene(rays: int, size: tuple[int, int, int], density: float, seed: int = 0, dtype=torch.float32):
    """Rays from around a box toward points in it, some along axes, and a random grid."""
    g = torch.Generator().manual_seed(seed)
    origins = torch.randn(rays, 3, generator=g, dtype=dtype)
    directions = torch.rand(rays, 3, generator=g, dtype=dtype) - 0.5 - origins
    directions[::7] = torch.eye(3, dtype=dtype)[torch.arange(len(directions[::7])) % 3] * -origins[::7].sign()
    near = torch.rand(rays, generator=g, dtype=dtype) * 0.2
    far = near + 3 * torch.rand(rays, generator=g, dtype=dtype)
    occupied = torch.rand(size, generator=g) < density
    aabb = torch.tensor([[-0.5, -0.6, -0.5], [0.5, 0.4, 0.5]], dtype=dtype)
    return origins, torch.nn.functional.normalize(directions, dim=-1), near, far, occupied, aabb


def unmatched(some, others):
    """How many of the samples (ray, start) have no counterpart on the same ray within a tenth of a millimeter."""
    key, sorted_key = (1e3 * ray.double() + start.double() for ray, start in (some[:2], others[:2]))
    at = torch.searchsorted(sorted_key, key).clamp(1, max(len(sorted_key) - 1, 1))
    near = [sorted_key[(at - back).clamp_max(len(sorted_key) - 1)] for back in (0, 1)] if len(sorted_key) else []
    gap = torch.stack([(other - key).abs() for other in near]).amin(0) if near else torch.full_like(key, torch.inf)
    return int((gap > 1e-4).sum())


def same_samples(got, want):
    """Equal ray by ray, but for middles that rounding puts on the other side of a cell wall (at most 1 in 500)."""
    assert unmatched(got, want) + unmatched(want, got) <= max(2, len(want[0]) // 500)


@table("cone_angle", [0.0, 0.01])
@table("jittered", [False, True])
@table(("size", "density"), [((17, 13, 9), 0.1), ((1, 1, 1), 1.0), ((5, 64, 3), 0.5), ((8, 8, 8), 0.0)])
def test_march_is_the_lattice_in_occupied_cells(device, size, density, jittered, cone_angle):
    *rays, occupied, aabb = (t.to(device) for t in scene(150, size, density))
    jitter = torch.rand(150, generator=torch.Generator().manual_seed(1)).to(device) if jittered else None
    samples = occupancy.march_occupancy(*rays, occupied, aabb, 0.0125, jitter=jitter, cone_angle=cone_angle)
    want = reference.march(*rays, occupied, aabb, 0.0125, cone_angle, jitter)
    assert len(want[0]) > 300 or density == 0
    same_samples((samples.ray, samples.start), want)
    assert (samples.ray.diff() >= 0).all() and (samples.start < samples.end).all()
    middle = rays[0][samples.ray] + samples.middle[:, None] * rays[1][samples.ray]
    assert occupancy.lookup_occupancy(middle, occupied, aabb).float().sum() >= len(samples) * 0.998


def test_samples_do_not_depend_on_skipping(device):
    """Emptying cells only removes samples: those that stay are bit for bit the same."""
    *rays, occupied, aabb = (t.to(device) for t in scene(100, (16, 16, 16), 0.3))
    full = occupancy.march_occupancy(*rays, torch.ones_like(occupied), aabb, 0.01)
    sparse = occupancy.march_occupancy(*rays, occupied, aabb, 0.01)
    every = sampling.uniform_step(rays[2], rays[3], 0.01)
    pairs = [set(zip(s.ray.tolist(), s.start.tolist(), s.end.tolist(), strict=True)) for s in (sparse, full, every)]
    assert pairs[0] < pairs[1] < pairs[2]


def test_float64_agrees_exactly(device):
    *rays, occupied, aabb = (t.to(device) for t in scene(60, (9, 9, 9), 0.2, dtype=torch.float64))
    samples = occupancy.march_occupancy(*rays, occupied, aabb, 0.02)
    want = reference.march(*rays, occupied, aabb, 0.02, 0.0, None)
    assert torch.equal(samples.ray, want[0])
    torch.testing.assert_close(samples.start, want[1], rtol=1e-12, atol=1e-12)


def test_rays_without_a_range_have_no_samples(device):
    nan, inf = float("nan"), float("inf")
    origins = torch.tensor([[0, 0, -1], [0, 0, -1], [0, 0, -1], [nan, 0, -1], [0, 0, -1], [5, 0, -1.0], [0, 0, -1]])
    directions = torch.tensor([[0, 0, 1.0]]).repeat(7, 1)
    directions[4, 1] = inf
    near = torch.tensor([2, nan, 0, 0, 0, 0, 0.5])
    far = torch.tensor([1, 1, inf, 2, 2, 2, 1.5])
    box = torch.tensor([[-0.5] * 3, [0.5] * 3])
    arguments = (t.to(device) for t in (origins, directions, near, far, torch.ones(4, 4, 4, dtype=torch.bool), box))
    samples = occupancy.march_occupancy(*arguments, 0.25)
    assert samples.ray.tolist() == [6] * 4
    torch.testing.assert_close(samples.start.cpu(), torch.tensor([0.5, 0.75, 1.0, 1.25]))


def test_budget_error_names_the_number(device):
    *rays, occupied, aabb = (t.to(device) for t in scene(50, (4, 4, 4), 0.7))
    total = len(occupancy.march_occupancy(*rays, occupied, aabb, 0.02))
    assert total > 100 and len(occupancy.march_occupancy(*rays, occupied, aabb, 0.02, budget=total)) == total
    with pytest.raises(
        ValueError, match=rf"march_occupancy: 50 rays have {total} samples.*raise budget to at least {total}"
    ):
        occupancy.march_occupancy(*rays, occupied, aabb, 0.02, budget=total - 1)


def test_a_far_empty_box_is_cheap():
    """Empty space costs a step a cell, not a step a lattice interval: 1e9 of these would not end."""
    origins, directions = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    near, far = torch.zeros(1), torch.full((1,), 1e3)
    occupied = torch.zeros(4, 4, 4, dtype=torch.bool)
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    assert len(occupancy.march_occupancy(origins, directions, near, far, occupied, box, 1e-6)) == 0


@table("batch", [(), (2,), (1, 2), (0,), (9001,)])
def test_lookup(device, batch):
    torch.manual_seed(0)
    points = torch.rand(*batch, 3).mul(2).sub(1).to(device)
    occupied = (torch.rand(3, 5, 4) < 0.5).to(device)
    aabb = torch.tensor([[-0.7, -0.6, -0.8], [0.7, 0.9, 0.5]], device=device)
    result = occupancy.lookup_occupancy(points, occupied, aabb)
    assert result.shape == batch and result.dtype == torch.bool
    assert torch.equal(result.reshape(-1), reference.lookup(points.reshape(-1, 3), occupied, aabb))


def test_lookup_at_the_walls(device):
    occupied = torch.ones(2, 2, 2, dtype=torch.bool, device=device)
    box = torch.tensor([[0.0] * 3, [1.0] * 3], device=device)
    points = torch.tensor(
        [[0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0], [-1e-6, 0, 0], [float("nan"), 0, 0], [0, float("inf"), 0]]
    )
    assert occupancy.lookup_occupancy(points.to(device), occupied, box).tolist() == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


@given(
    st.integers(0, 30),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.floats(0, 1),
    st.integers(0, 9999),
    st.floats(0.004, 0.3),
)
def test_any_march(rays, size, density, seed, step):
    *arguments, occupied, aabb = scene(rays, size, density, seed)
    samples = occupancy.march_occupancy(*arguments, occupied, aabb, step)
    same_samples((samples.ray, samples.start), reference.march(*arguments, occupied, aabb, step, 0.0, None))


def test_opcheck(device):
    o, d, near, far, occupied, aabb = (t.to(device) for t in scene(20, (4, 4, 4), 0.5))
    jitter = torch.rand(20, device=device)
    torch.library.opcheck(OPS.occupancy_lookup.default, (o, occupied, aabb))
    torch.library.opcheck(OPS.march.default, (o, d, near, far, jitter, occupied, aabb, 0.1, 0.0, 100000, "march"))
    torch.library.opcheck(OPS.march.default, (None, None, near, far, None, None, None, 0.1, 0.01, 100000, "march"))


def test_errors_say_what_to_do(unchecked):
    o, d, near, far, occupied, aabb = scene(4, (2, 2, 2), 0.5)
    with pytest.raises(ValueError, match=r"directions has shape"):
        occupancy.march_occupancy(o, d[:3], near, far, occupied, aabb, 0.1)
    with pytest.raises(TypeError, match=r"occupied has dtype torch.float32; expected bool"):
        occupancy.march_occupancy(o, d, near, far, occupied.float(), aabb, 0.1)
    with pytest.raises(ValueError, match=r"aabb has shape"):
        occupancy.lookup_occupancy(o, occupied, aabb[0])
    for bad in (aabb.flip(0), torch.tensor([[torch.nan] * 3, [1.0] * 3]), torch.tensor([[0.0] * 3, [torch.inf] * 3])):
        with pytest.raises(ValueError, match=r"aabb has the corners .*; expected finite ones, the lower corner first"):
            occupancy.march_occupancy(o, d, near, far, occupied, bad, 0.01)
        with pytest.raises(ValueError, match=r"lookup_occupancy: aabb has the corners"):
            occupancy.lookup_occupancy(o, occupied, bad)
    with pytest.raises(ValueError, match=r"at least one cell"):
        occupancy.lookup_occupancy(o, occupied[:0], aabb)
    with pytest.raises(ValueError, match=r"jitter has shape"):
        occupancy.march_occupancy(o, d, near, far, occupied, aabb, 0.1, jitter=near[:2])
    with pytest.raises(ValueError, match=r"step is nan"):
        occupancy.march_occupancy(o, d, near, far, occupied, aabb, float("nan"))


def test_a_direction_with_a_denormal_is_one_with_a_zero(device):
    occupied = torch.zeros(8, 8, 8, dtype=torch.bool, device=device)
    occupied[:, :, 1], occupied[:, :, 6] = True, True  # empty cells between
    box = torch.tensor([[0.0] * 3, [1.0] * 3], device=device)
    near, far = torch.zeros(1, device=device), torch.full((1,), 2.0, device=device)
    origin = torch.tensor([[0.3, 0.6, -0.5]], device=device)
    zero = occupancy.march_occupancy(origin, torch.tensor([[0.0, 0, 1]], device=device), near, far, occupied, box, 0.02)
    assert len(zero) > 10
    for tiny in (1e-40, -1e-40, 1e-45, 1e-35):
        samples = occupancy.march_occupancy(
            origin, torch.tensor([[tiny, 0, 1]], device=device), near, far, occupied, box, 0.02
        )
        assert samples.start.equal(zero.start) and samples.end.equal(zero.end)
