"""Iterative closest points: known motions come back."""

import math

import pytest
import torch

from headfields.mesh import Mesh, align_to_surface, extract
from headfields.ops.rotations import rotation_matrices
from headfields.ops.similarity import Similarity
from tests.ops.test_marching_cubes import BOX
from tests.tables import table

NONE = torch.zeros(0, 3, dtype=torch.long)


def lump(points):
    """A body without symmetry."""
    wave = 0.1 * torch.sin(4 * points[:, 0]) * torch.cos(5 * points[:, 1])
    return points.norm(dim=-1) - 0.6 - wave - 0.2 * points[:, 2] ** 2 * points[:, 1]


@pytest.fixture(scope="module")
def surface() -> Mesh:
    return extract(lump, BOX, 48, progress=False)


def motion(scale: float, angle: float = 0.15) -> Similarity:
    turn = rotation_matrices(torch.tensor([[0.6, -0.5, 0.62]], dtype=torch.float64) * angle)[0]
    return Similarity(turn, torch.tensor([0.05, -0.03, 0.04]).double(), torch.tensor(scale).double())


def assert_undone(found, moved: Similarity, tolerance: float) -> None:
    identity = torch.eye(3, dtype=torch.float64)
    assert (found.transform.rotation @ moved.rotation - identity).abs().max() < tolerance
    assert abs(float(found.transform.scale * moved.scale) - 1) < tolerance
    assert found.transform.apply(moved.apply(torch.zeros(1, 3).double())).abs().max() < tolerance


@pytest.mark.parametrize("scale", [1.0, 1.06])
def test_plane(surface, scale):
    moved = motion(scale)
    points = moved.apply(surface.sample(1500, seed=1).points)
    found = align_to_surface(points, surface, scaling=scale != 1.0)
    assert found.converged and found.steps < 20 and found.residual < 1e-6 and found.share == 1.0
    assert_undone(found, moved, 1e-5)
    assert float(found.transform.scale) == 1.0 or scale != 1.0


def test_point(surface):
    moved = motion(1.0, 0.02)
    points = moved.apply(surface.sample(1500, seed=1).points)
    found = align_to_surface(points, surface, method="point", steps=60)
    assert found.residual < 1e-3
    assert_undone(found, moved, 2e-2)


def test_a_scan_of_points_as_the_surface(surface):
    cloud = Mesh(surface.vertices, NONE, normals=surface.normals)
    moved = motion(1.0, 0.05)
    found = align_to_surface(moved.apply(surface.vertices[::7]), cloud)
    assert_undone(found, moved, 1e-4)
    with pytest.raises(ValueError, match="neither faces nor normals"):
        align_to_surface(surface.vertices, cloud.replace(normals=None))


def test_trimming_and_weights_leave_out_what_is_not_there(surface):
    moved = motion(1.0)
    points = moved.apply(surface.sample(1500, seed=2).points)
    strangers = torch.arange(1500) < 200
    points[strangers] += torch.tensor([0.3, 0.2, 0.0])
    points[0] = torch.nan
    weights = (~strangers).float()
    assert_undone(align_to_surface(points, surface, trim=0.15), moved, 1e-4)
    masked = align_to_surface(points, surface, weights=~strangers)
    assert_undone(masked, moved, 1e-5)
    assert_undone(align_to_surface(points, surface, weights=3 * weights), moved, 1e-5)
    plain = align_to_surface(points, surface)
    assert (plain.transform.rotation - masked.transform.rotation).abs().max() > 1e-3
    assert align_to_surface(points, surface, trim=0.15).share == pytest.approx(0.85, abs=0.01)


def test_start(surface):
    moved = motion(1.0, 1.5)
    points = moved.apply(surface.sample(1500, seed=3).points)
    begin = motion(1.0, 1.4).inverse()
    assert_undone(align_to_surface(points, surface, start=begin), moved, 1e-4)


def test_normals_leave_out_the_other_side_and_what_is_beyond_a_border(surface):
    """Points of a whole body find their place on its front half: the back has no counterpart there."""
    front = surface.select(surface.face_normals()[:, 2] > 0)
    points = surface.sample(2000, seed=4)
    moved = motion(1.0, 0.05)
    normals = points.normals @ moved.rotation.to(points.normals).T
    placed = moved.apply(points.points)
    for method in ("plane", "point"):
        found = align_to_surface(placed, front, normals=normals, angle=30, method=method, steps=60)
        assert 0.3 < found.share < 0.7
        assert_undone(found, moved, 2e-3 if method == "plane" else 3e-2)
    alone = align_to_surface(placed, front)
    assert (alone.transform.apply(placed) - points.points).norm(dim=-1).mean() > 0.01
    turned = align_to_surface(placed, front, normals=-normals)
    assert turned.steps == 0 and turned.share == 0 and math.isnan(turned.residual)


def test_what_the_surface_does_not_say_stays():
    """A sphere does not say how it is turned; the points' place is found all the same."""
    ball = extract(lambda points: points.norm(dim=-1) - 0.7, BOX, 48, progress=False)
    points = ball.sample(500, seed=0).points + torch.tensor([0.1, 0.0, -0.05])
    found = align_to_surface(points, ball)
    assert found.residual < 1e-3
    assert found.transform.apply(torch.tensor([[0.1, 0.0, -0.05]])).norm() < 2e-3
    assert math.acos(min(1.0, float(found.transform.rotation.trace() - 1) / 2)) < 0.05


def test_inverse():
    one = motion(1.2)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(one.inverse().apply(one.apply(x)), x)


@table(
    ("change", "words"),
    [
        ({"method": "line"}, "method is 'line'"),
        ({"trim": 1.0}, "trim is 1.0"),
        ({"steps": 0}, "steps 0"),
        ({"weights": torch.full((9,), -1.0)}, "not negative"),
        ({"weights": torch.ones(4)}, r"weights has shape \(4,\)"),
        ({"points": torch.full((9, 3), torch.nan)}, "0 points have weight"),
        ({"points": torch.zeros(9, 2)}, r"points has shape \(9, 2\)"),
        ({"normals": torch.ones(4, 3)}, r"normals has shape \(4, 3\)"),
    ],
)
def test_errors(unchecked, surface, change, words):
    arguments = {"points": torch.randn(9, 3), "surface": surface} | change
    with pytest.raises(ValueError, match=f"align_to_surface: .*{words}"):
        align_to_surface(**arguments)
