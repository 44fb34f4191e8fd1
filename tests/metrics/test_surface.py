"""Figures of surfaces that are known: spheres in one another, planes, and what is cut off."""

import functools
import json
import math

import numpy as np
import pytest
import torch

from headfields.mesh import Mesh, extract
from headfields.metrics.surface import compare_surfaces
from tests.ops.test_marching_cubes import BOX
from tests.tables import table

NONE = torch.zeros(0, 3, dtype=torch.long)


@functools.cache
def ball(radius: float, resolution: int = 64) -> Mesh:
    return extract(lambda points: points.norm(dim=-1) - radius, BOX, resolution, progress=False)


def square(z: float, side: float = 1.0) -> Mesh:
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * side / 2
    return Mesh(corners + torch.tensor([0.0, 0, z]), torch.tensor([[0, 1, 2], [0, 2, 3]]))


def test_spheres_within_one_another():
    found = compare_surfaces(ball(0.7), ball(0.704), samples=20_000)
    # The mean of |x| + |y| + |z| over directions is 1.5.
    assert found.chamfer_l2 == pytest.approx(0.004, rel=0.02)
    assert found.chamfer_l1 == pytest.approx(0.006, rel=0.02)
    assert found.normal_consistency > 0.999
    assert found.recall == found.precision == found.fscore == {0.001: 0.0, 0.0025: 0.0, 0.005: 1.0, 0.01: 1.0}
    assert found.completeness.points == 20_000


def test_definitions_by_brute_force():
    surface = Mesh(torch.randn(40, 3) * 0.005, NONE, normals=torch.nn.functional.normalize(torch.randn(40, 3), dim=-1))
    truth = Mesh(torch.randn(30, 3) * 0.005, NONE, normals=torch.nn.functional.normalize(torch.randn(30, 3), dim=-1))
    found = compare_surfaces(surface, truth)
    figures = []
    for one, other in ((truth, surface), (surface, truth)):
        offset = other.vertices[None] - one.vertices[:, None]
        nearest = offset.norm(dim=-1).argmin(1)
        delta = offset[torch.arange(len(nearest)), nearest]
        cosine = (one.normals * other.normals[nearest]).sum(-1).abs().mean()
        within = [(delta.norm(dim=-1) <= t).float().mean() for t in (0.001, 0.0025, 0.005, 0.01)]
        figures.append((delta.abs().sum(-1).mean(), delta.norm(dim=-1).mean(), cosine, within))
    complete, accurate = figures
    for k, name in enumerate(("chamfer_l1", "chamfer_l2", "normal_consistency")):
        assert getattr(found.completeness, name) == pytest.approx(float(complete[k]), rel=1e-5)
        assert getattr(found.accuracy, name) == pytest.approx(float(accurate[k]), rel=1e-5)
        assert getattr(found, name) == pytest.approx(float(complete[k] + accurate[k]) / 2, rel=1e-5)
    for k, threshold in enumerate((0.001, 0.0025, 0.005, 0.01)):
        r, p = float(complete[3][k]), float(accurate[3][k])
        assert found.recall[threshold] == pytest.approx(r) and found.precision[threshold] == pytest.approx(p)
        assert found.fscore[threshold] == pytest.approx(2 * p * r / (p + r) if p + r else 0.0)


def test_precision_and_recall_are_not_one_another():
    whole, half = square(0.0, 2.0), square(0.0, 2.0 * math.sqrt(0.5))
    found = compare_surfaces(half, whole, samples=20_000)
    assert found.precision[0.001] == 1.0 and found.recall[0.001] == pytest.approx(0.5, abs=0.02)
    assert found.fscore[0.001] == pytest.approx(2 / 3, abs=0.02)


def test_distances_are_to_the_surface_and_not_to_its_vertices():
    found = compare_surfaces(square(0.002), Mesh(torch.rand(100, 3) * torch.tensor([0.8, 0.8, 0]) - 0.4, NONE))
    assert found.completeness.chamfer_l2 == pytest.approx(math.sqrt(0.4**2 + 0.002**2), abs=0.4)
    flat = Mesh(torch.rand(100, 3) * torch.tensor([0.8, 0.8, 0.0]) - torch.tensor([0.4, 0.4, 0.0]), NONE)
    found = compare_surfaces(square(0.002), flat, directions="truth_to_surface")
    assert found.chamfer_l1 == found.chamfer_l2 == pytest.approx(0.002, rel=1e-4)


def test_one_direction():
    found = compare_surfaces(ball(0.7), ball(0.704), directions="truth_to_surface", samples=5000)
    assert found.accuracy is None and found.chamfer_l2 == found.completeness.chamfer_l2
    assert all(math.isnan(value) for value in (*found.precision.values(), *found.fscore.values()))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["recall"]["2.5mm"] == 0.0 and json.loads(text)["precision"]["5mm"] is None


def test_weights_and_masks():
    truth = Mesh(torch.cat([square(0.001).vertices, square(0.5).vertices * 0.1]), NONE)
    near = torch.arange(8) < 4
    found = compare_surfaces(square(0.0), truth, weights=near, directions="truth_to_surface")
    assert found.chamfer_l2 == pytest.approx(0.001, rel=1e-4) and found.completeness.points == 4
    weights = torch.cat([torch.full((4,), 3.0), torch.ones(4)])
    found = compare_surfaces(square(0.0), truth, weights=weights, directions="truth_to_surface")
    assert found.chamfer_l2 == pytest.approx((3 * 0.001 + 0.05) / 4, rel=1e-3)
    # Only the part of the surface whose truth counts is judged.
    far = Mesh(torch.cat([square(0).vertices, square(0).vertices + torch.tensor([5.0, 0, 0.1])]),
               torch.cat([square(0).faces, square(0).faces + 4]))  # fmt: skip
    other = Mesh(torch.cat([square(0).vertices, square(0).vertices + torch.tensor([5.0, 0, 0])]), far.faces)
    found = compare_surfaces(far, other, weights=near, samples=2000)
    assert found.chamfer_l2 < 1e-6 and 0 < found.accuracy.points < 2000
    nothing = compare_surfaces(far, other, weights=torch.zeros(8), samples=100)
    assert math.isnan(nothing.chamfer_l1) and nothing.completeness.points == 0 and math.isnan(nothing.fscore[0.001])


def test_scans_without_normals_have_no_normal_consistency():
    cloud = Mesh(ball(0.7).vertices, NONE)
    assert math.isnan(compare_surfaces(ball(0.7), cloud, samples=500).normal_consistency)


def test_trimesh_agrees():
    proximity = pytest.importorskip("trimesh.proximity")
    pytest.importorskip("rtree")
    import trimesh

    surface = ball(0.6, 16)
    points = torch.randn(200, 3)
    mesh = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    closest, distance, _ = proximity.closest_point(mesh, points.numpy())
    found = compare_surfaces(surface, Mesh(points, NONE), directions="truth_to_surface")
    assert found.chamfer_l2 == pytest.approx(distance.mean(), rel=1e-5)
    assert found.chamfer_l1 == pytest.approx(np.abs(closest - points.numpy()).sum(1).mean(), rel=1e-5)


def test_seeds():
    one, again, other = (compare_surfaces(ball(0.5, 16), ball(0.6, 16), samples=300, seed=s) for s in (1, 1, 2))
    assert one == again and one != other


@table(
    ("change", "words"),
    [
        ({"directions": "back"}, "directions is 'back'"),
        ({"surface": Mesh(torch.zeros(0, 3), NONE)}, "surface has no vertices"),
        ({"truth": Mesh(torch.zeros(0, 3), NONE)}, "truth has no vertices"),
        ({"samples": 0}, "samples is 0"),
        ({"thresholds": (0.0,)}, r"thresholds \[0.0\]"),
        ({"weights": torch.ones(3)}, r"weights has shape \(3,\)"),
        ({"weights": torch.full((4,), -1.0)}, "negative"),
    ],
)
def test_errors(unchecked, change, words):
    arguments = {"surface": square(0.0), "truth": square(0.1)} | change
    with pytest.raises(ValueError, match=f"compare_surfaces: .*{words}"):
        compare_surfaces(**arguments)
