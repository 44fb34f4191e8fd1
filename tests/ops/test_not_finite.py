"""One row that is not finite: its own result is the documented one, and no other row's result or gradient changes."""

import pytest
import torch

import headfields as hf
from headfields import ops
from headfields.ops.mesh_topology import edge_neighbors
from headfields.ops.ray_box import ray_sphere
from tests.shapes import uv_sphere
from tests.tables import table

torch.manual_seed(0)
BALL, FACES = uv_sphere(4, 5)
LAYOUT = ops.HashGridLayout(levels=2, features=2, log2_table_size=6, base_resolution=2, finest_resolution=5)
TABLE = torch.randn(LAYOUT.entries, 2)
WEIGHTS = [torch.randn(8, 3), torch.randn(2, 8)]
RING = torch.cat([torch.arange(len(FACES))[:, None], edge_neighbors(FACES)], dim=1)
MAPS, CENTERS, ZEROS = torch.randn(1, len(FACES), 3, 4), torch.randn(1, len(FACES), 3), torch.zeros(4, dtype=torch.long)
TREE, CLOUD, BOX = ops.TriangleBVH(FACES, BALL), ops.VertexTree(BALL), torch.tensor([[-1.0] * 3, [1.0] * 3])
DOWN = torch.tensor([[0.0, 0.0, -1.0]]).expand(4, 3)
OCCUPIED = torch.ones(4, 4, 4, dtype=torch.bool)


def rays(x):
    return hf.Rays(x, DOWN, ZEROS)


def marched(x):
    samples = ops.march_occupancy(x, DOWN, torch.full((4,), 0.1), torch.full((4,), 3.0), OCCUPIED, BOX, 0.5)
    return torch.bincount(samples.ray, minlength=4)


NAN, SAME = float("nan"), "x"
# The operation as a function of four points, and its result for the one that is not finite; SAME: the point itself.
POINTWISE = {
    "hash_grid": (lambda x: ops.hash_grid(x, TABLE, LAYOUT), NAN),
    "mlp": (lambda x: ops.mlp(x, WEIGHTS), NAN),
    "softplus": (ops.softplus, SAME),
    "spherical_harmonics": (lambda x: ops.spherical_harmonics(x, 2)[:, 1:], NAN),
    "frequency_encoding": (lambda x: ops.frequency_encoding(x, 2), NAN),
    "blended_map": (lambda x: ops.blended_map(x, DOWN, ZEROS, ZEROS, MAPS, CENTERS, RING)[0], NAN),
    "closest, distance": (lambda x: TREE.closest(x).distance, torch.inf),
    "closest, face": (lambda x: TREE.closest(x).face, -1),
    "closest, point": (lambda x: TREE.closest(x).point, SAME),
    "raycast": (lambda x: TREE.raycast(x, DOWN).face, -1),
    "interval": (lambda x: torch.stack(TREE.interval(x, DOWN, 0.1), -1), 0),
    "nearest": (lambda x: CLOUD.nearest(x, 2).index, -1),
    "ray_box": (lambda x: torch.stack(ops.ray_box(rays(x), BOX), -1), 0),
    "ray_sphere": (lambda x: torch.stack(ray_sphere(rays(x), torch.zeros(3), 1.0), -1), 0),
    "lookup_occupancy": (lambda x: ops.lookup_occupancy(x, OCCUPIED, BOX), 0),
    "march_occupancy": (marched, 0),
}


DEFINED_AT_INFINITY = {"hash_grid", "mlp", "spherical_harmonics", "frequency_encoding", "blended_map", "softplus"}
"""An infinite coordinate is clamped there, or has the limit of the formula."""


@table(
    ("name", "bad"),
    [
        (name, bad)
        for name in POINTWISE
        for bad in ([torch.nan] if name in DEFINED_AT_INFINITY else [torch.nan, torch.inf, -torch.inf])
    ],
)
def test_one_row_alone(name, bad):
    function, expected = POINTWISE[name]
    points = 0.4 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.0, 0.0, 0.2])
    damaged = points.clone()
    damaged[2] = bad
    sound, found = function(points), function(damaged)
    others = [0, 1, 3]
    torch.testing.assert_close(found[others], sound[others])
    want = damaged[2] if isinstance(expected, str) else torch.full_like(found[2], expected)
    torch.testing.assert_close(found[2], want, equal_nan=True)
    if not sound.is_floating_point():
        return
    leaf = damaged.clone().requires_grad_()
    out = function(leaf)
    if out.requires_grad:
        (gradient,) = torch.autograd.grad(out[others].sum(), leaf)
        clean = points.clone().requires_grad_()
        (truth,) = torch.autograd.grad(function(clean)[others].sum(), clean)
        torch.testing.assert_close(gradient[others], truth[others])


@pytest.mark.parametrize("function", [ops.ray_box, lambda r, b: ray_sphere(r, b.mean(0), 1.0)])
def test_misses_are_finite_for_any_sampler(function):
    origins = torch.tensor([[0.0, 0, 2], [5, 0, 2], [0, 0, -2], [torch.nan, 0, 2]], requires_grad=True)
    box = BOX.clone().requires_grad_()
    near, far = function(rays(origins), box)
    assert near[1:].tolist() == far[1:].tolist() == [0.0, 0.0, 0.0] and near[0] < far[0]
    places = near[:, None] + (far - near)[:, None] * torch.rand(4, 8)  # a stratified sampler of one's own
    assert bool(places.isfinite().all())
    places.sum().backward()
    assert bool(origins.grad.isfinite().all()) and bool(box.grad.isfinite().all())
    assert set(ops.stratified(near.detach(), far.detach(), 4).ray.tolist()) == {0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_negative_density_is_an_error(dtype):
    start, density = torch.linspace(0, 1, 5, dtype=dtype)[:-1], torch.tensor([1.0, 2, -3, 4], dtype=dtype)
    for ray, shape in ((torch.zeros(4, dtype=torch.long), (4,)), (None, (1, 4))):
        arguments = (start.reshape(shape), start.reshape(shape) + 0.25, ray, None if ray is None else 1)
        with pytest.raises(ValueError, match="weights_from_density: a density is negative"):
            ops.weights_from_density(density.reshape(shape), *arguments)
        with hf.use_cpu_backend("warp"), pytest.raises(ValueError, match="a density is negative"):
            ops.weights_from_density(density.reshape(shape), *arguments)
        ops.weights_from_density(density.abs().reshape(shape), *arguments)
    rounding = torch.full_like(density, 100.0)
    assert bool(ops.weights_from_density(rounding[None], start[None], start[None] - 1e-7).isfinite().all())
    poisoned = torch.tensor([1.0, torch.nan, 2, 3], dtype=dtype)
    ray = torch.tensor([0, 0, 0, 1])
    weights = ops.weights_from_density(poisoned, start, start + 0.25, ray, 2)
    assert weights.isnan().tolist() == [False, True, True, False]
