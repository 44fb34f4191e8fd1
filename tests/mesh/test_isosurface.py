"""Isosurfaces, evaluated coarse to fine: equal to the dense grid's, closed, at a few percent of its points."""

import math

import pytest
import torch

from headfields.mesh.isosurface import isosurface
from headfields.ops import marching_cubes
from tests.ops.test_marching_cubes import BOX, assert_closed_manifold, grid
from tests.tables import table


def sphere(points):
    return points.norm(dim=-1) - 0.7


def torus(points):
    return ((points[:, :2].norm(dim=-1) - 0.6) ** 2 + points[:, 2] ** 2).sqrt() - 0.2


def blob(points):
    """Not a distance: its slope varies."""
    return points.pow(4).sum(-1) - 0.2 + 0.05 * torch.sin(9 * points).prod(-1)


@pytest.mark.parametrize("lipschitz", [None, 1.0])
@pytest.mark.parametrize("function", [sphere, torus, blob])
def test_the_same_as_the_dense_grid(function, lipschitz):
    found = isosurface(function, BOX, 64, lipschitz=lipschitz, coarse=16, progress=False)
    points = grid(65)
    dense = marching_cubes(function(points.reshape(-1, 3)).reshape(65, 65, 65), bounds=BOX)
    assert found.faces.equal(dense.faces)
    torch.testing.assert_close(found.vertices, dense.vertices, atol=1e-5, rtol=0)
    assert not found.cap.any() and found.grid_points == 65**3


@pytest.mark.parametrize("lipschitz", [None, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_few_per_cent_are_asked(lipschitz):
    asked = []

    def counting(points):
        asked.append(len(points))
        assert points.abs().max() <= 1.0 + 1e-5
        return sphere(points)

    found = isosurface(counting, BOX, 256, lipschitz=lipschitz, progress=False)
    assert sum(asked) == found.evaluations < 0.05 * found.grid_points
    assert (found.vertices.norm(dim=-1) - 0.7).abs().max() < 1e-4
    assert len(found.vertices) - len(found.faces) // 2 == 2


def test_a_bound_of_the_slope_finds_what_lies_between_the_coarse_points():
    middle = torch.tensor([0.53, 0.11, -0.37])

    def pea(points):
        return (points - middle).norm(dim=-1) - 0.03

    assert not len(isosurface(pea, BOX, 128, coarse=8, progress=False).faces)
    found = isosurface(pea, BOX, 128, coarse=8, lipschitz=1.0, progress=False)
    assert_closed_manifold(found.faces, len(found.vertices))
    assert ((found.vertices - middle).norm(dim=-1) - 0.03).abs().max() < 2e-3


def test_the_surface_is_followed_out_of_the_cells_that_found_it():
    """A thin arm that the coarse grid meets only at its root."""

    middle = torch.tensor([0.4, 0.0, 0.0])

    def arm(points):
        along = points[:, 0].clamp(-0.8, 0.9)
        axis = torch.stack([along, torch.full_like(along, 0.02), torch.full_like(along, 0.03)], dim=-1)
        return torch.minimum((points + middle).norm(dim=-1) - 0.5, (points - axis).norm(dim=-1) - 0.02)

    found = isosurface(arm, BOX, 128, coarse=8, progress=False)
    assert_closed_manifold(found.faces, len(found.vertices))
    assert found.vertices[:, 0].max() > 0.9


def test_what_leaves_the_box_is_closed_there():
    found = isosurface(lambda points: points[:, 1] - 0.1, BOX, 20, progress=False)
    assert_closed_manifold(found.faces, len(found.vertices))
    assert found.vertices.abs().max() <= 1.05 + 1e-5  # half a cell beyond
    kept = found.vertices[found.faces[~found.cap]]
    assert (kept[..., 1] - 0.1).abs().max() < 1e-5 and found.cap.any() and not found.cap.all()


def test_undefined_values_are_outside():
    def half(points):
        return torch.where(points[:, 0] > 0, torch.nan, sphere(points))

    for lipschitz in (None, 1.0):
        found = isosurface(half, BOX, 40, lipschitz=lipschitz, progress=False)
        assert_closed_manifold(found.faces, len(found.vertices))
        assert found.vertices[:, 0].max() < 0.03
        assert (found.vertices[found.faces[~found.cap]].norm(dim=-1) - 0.7).abs().max() < 0.01


@table("resolution", [1, 2, 3, 5, 17])
@table("box", [[[-1.0, -0.3, -1.0], [1.0, 0.2, 0.4]], [[-0.9, -1.0, 0.0], [0.1, 1.3, 0.01]]])
def test_boxes_of_any_shape(box, resolution):
    bounds = torch.tensor(box)
    found = isosurface(lambda points: torch.full_like(points[:, 0], -1.0), bounds, resolution, progress=False)
    assert_closed_manifold(found.faces, len(found.vertices))
    cell = float((bounds[1] - bounds[0]).max()) / resolution
    assert (found.vertices.amin(0) <= bounds[0] + 1e-5).all() and (
        found.vertices.amin(0) > bounds[0] - 1.6 * cell
    ).all()
    assert (found.vertices.amax(0) >= bounds[1] - 1e-5).all() and (
        found.vertices.amax(0) < bounds[1] + 1.6 * cell
    ).all()


def test_nothing_there():
    found = isosurface(lambda points: torch.ones_like(points[:, 0]), BOX, 16, progress=False)
    assert found.vertices.shape == (0, 3) and found.faces.shape == (0, 3) and found.cap.shape == (0,)


def test_chunks_do_not_matter():
    one = isosurface(torus, BOX, 32, chunk=100, progress=False)
    other = isosurface(torus, BOX, 32, progress=False)
    assert one.vertices.equal(other.vertices) and one.faces.equal(other.faces)


def test_float64():
    found = isosurface(torus, BOX.double(), 24, progress=False)
    assert found.vertices.dtype == torch.float64 and len(found.faces)


def test_the_budget_is_kept():
    with pytest.raises(ValueError, match=r"isosurface: \d+ cells .* raise memory_mb \(it is 1\)"):
        isosurface(sphere, BOX, 256, memory_mb=1, progress=False)


@table(
    ("change", "words"),
    [
        ({"bounds": BOX.flip(0)}, "minimum below a maximum"),
        ({"bounds": BOX * math.nan}, "minimum below a maximum"),
        ({"bounds": BOX[:1]}, r"bounds has shape \(1, 3\)"),
        ({"resolution": 0}, "resolution is 0"),
        ({"resolution": 10**8}, "overflow|memory_mb"),
        ({"level": math.inf}, "level is inf"),
        ({"lipschitz": -1.0}, "lipschitz is -1.0"),
        ({"coarse": 0}, "coarse is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"function": lambda points: points}, r"function gave shape \(\d+, 3\)"),
    ],
)
def test_errors(unchecked, change, words):
    arguments = {"function": sphere, "bounds": BOX, "resolution": 16, "progress": False} | change
    with pytest.raises(ValueError, match=f"isosurface: .*({words})"):
        isosurface(**arguments)
