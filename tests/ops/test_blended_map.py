"""The blended map: every backend against the definition, derivatives, odd sizes and bad input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import blended_map
from headfields.ops.blended_map import _blended_map
from headfields.ops.mesh_topology import edge_neighbors
from headfields.ops.reference.blended_map import blended_map as definition
from headfields.ops.triangle_frames import deformation_gradients
from tests.backends import BACKENDS, running_on
from tests.shapes import uv_sphere
from tests.tables import table

CANONICAL, FACES = uv_sphere(6, 8, radius=0.1)
NAMES = ("points", "directions", "face", "mesh_index", "gradients", "centroids", "ring")


def scene(count, meshes=2, width=4, seed=0, dtype=torch.float32, ring_from=FACES):
    """Arguments of `blended_map`: bent spheres, points near them, rings with holes in them."""
    generator = torch.Generator().manual_seed(seed)
    bend = torch.eye(3) + 0.1 * torch.randn(meshes, 1, 3, 3, generator=generator)
    posed = (bend @ CANONICAL[None, :, :, None])[..., 0]
    gradients = deformation_gradients(posed.to(dtype), CANONICAL.to(dtype), FACES)
    centroids = posed[:, FACES].mean(-2).to(dtype)
    ring = torch.cat([torch.arange(len(FACES))[:, None], edge_neighbors(ring_from)], dim=1)
    ring[::3, 2] = -1
    ring[::5, 1:] = -1
    face = torch.randint(len(FACES), (count,), generator=generator)
    mesh_index = torch.randint(meshes, (count,), generator=generator)
    points = centroids[mesh_index, face] + 0.02 * torch.randn(count, 3, generator=generator, dtype=dtype)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    return [points, directions, face, mesh_index, gradients, centroids, ring[:, :width].contiguous()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 37, 3000])
@pytest.mark.parametrize("sharpness", [4.0, 300.0])
def test_kernels_agree_with_the_definition(backend, width, count, sharpness):
    arguments = scene(count, width=width)
    expected = definition(*(x.double() if x.is_floating_point() else x for x in arguments), sharpness)
    with running_on(backend) as device:
        result = blended_map(*(x.to(device) for x in arguments), sharpness)
    for have, want in zip(result, expected, strict=True):
        torch.testing.assert_close(have.cpu().double(), want, atol=2e-6, rtol=1e-5)


@given(count=st.integers(0, 70), meshes=st.integers(1, 3), width=st.integers(1, 4), seed=st.integers(0, 99))
def test_any_size(count, meshes, width, seed):
    arguments = scene(count, meshes, width, seed)
    expected = definition(*arguments, 4.0)
    for have, want in zip(blended_map(*arguments), expected, strict=True):
        torch.testing.assert_close(have, want, atol=2e-6, rtol=1e-5)


def test_its_gradient_is_the_same_in_each_run():
    """With several threads the gradient of an index is another sum each time."""
    arguments = scene(20_000)
    for place in (4, 5):
        arguments[place].requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [torch.autograd.grad(blended_map(*arguments)[0].square().sum(), arguments[4:6]) for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(own, first) for run in runs for own, first in zip(run, runs[0], strict=True))


def test_derivatives_to_second_order():
    points, directions, face, mesh_index, gradients, centroids, ring = scene(4, 1, dtype=torch.float64)

    def mapped(points, directions, gradients, centroids):
        return blended_map(points, directions, face, mesh_index, gradients, centroids, ring, 40.0)

    used = torch.unique(torch.cat([face, ring[face].flatten().clamp_min(0)]))
    keep = torch.zeros(len(FACES), dtype=torch.bool)
    keep[used] = True
    inputs = [x.requires_grad_() for x in (points, directions, gradients, centroids)]
    assert torch.autograd.gradcheck(mapped, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(mapped, inputs, fast_mode=True)
    grads = torch.autograd.grad(mapped(*inputs)[0].sum(), inputs[2])[0]
    assert bool((grads[0].abs().sum((-1, -2)) > 0)[keep].any())
    assert not bool(grads[0][~keep].any())


def test_the_path_with_a_graph_gives_the_same_values():
    arguments = scene(50)
    plain = blended_map(*arguments)
    arguments[0].requires_grad_()
    for have, want in zip(blended_map(*arguments), plain, strict=True):
        assert have.requires_grad
        torch.testing.assert_close(have.detach(), want, atol=2e-6, rtol=1e-5)


def test_opcheck():
    torch.library.opcheck(_blended_map, (*scene(9), 4.0))


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_without_a_break(unchecked, grad):
    torch._dynamo.reset()
    arguments = scene(30)
    arguments[0].requires_grad_(grad)
    compiled = torch.compile(lambda *a: blended_map(*a), fullgraph=True, backend="aot_eager")
    for have, want in zip(compiled(*arguments), blended_map(*arguments), strict=True):
        torch.testing.assert_close(have, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_point_spoils_itself_alone(backend):
    arguments = scene(20)
    clean = blended_map(*arguments)[0]
    arguments[0][3, 0] = torch.nan
    arguments[0][5, 1] = torch.inf
    with running_on(backend) as device:
        result = blended_map(*(x.to(device) for x in arguments))[0].cpu()
    rest = torch.ones(20, dtype=torch.bool)
    rest[[3, 5]] = False
    torch.testing.assert_close(result[rest], clean[rest], atol=2e-6, rtol=1e-5)
    assert not bool(result[[3, 5]].isfinite().all(-1).any())


@table(
    ("name", "bad", "error"),
    [
        ("points", torch.zeros(4, 3, dtype=torch.long), TypeError),
        ("directions", torch.zeros(3, 3), ValueError),
        ("face", torch.zeros(3, dtype=torch.long), ValueError),
        ("face", torch.zeros(4), TypeError),
        ("mesh_index", torch.zeros(5, dtype=torch.long), ValueError),
        ("gradients", torch.zeros(2, 3, 3), ValueError),
        ("centroids", torch.zeros(1, 3, 3), ValueError),
        ("ring", torch.zeros(3, 4, dtype=torch.long), ValueError),
    ],
)
def test_bad_arguments_are_named(unchecked, name, bad, error):
    arguments = scene(4)
    arguments[NAMES.index(name)] = bad
    with pytest.raises(error, match=name):
        blended_map(*arguments)


@pytest.mark.skipif(BACKENDS[0].marks[0].args[0], reason="the compiled module is not installed")
@pytest.mark.parametrize(("name", "value"), [("face", 10_000), ("face", -1), ("mesh_index", 2)])
def test_an_index_out_of_range_is_refused(name, value):
    arguments = scene(4)
    arguments[NAMES.index(name)][2] = value
    with pytest.raises(IndexError, match="blended_map"):
        blended_map(*arguments)
