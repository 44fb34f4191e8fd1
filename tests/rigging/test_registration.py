import pytest
import torch

from headfields.ops.similarity import Similarity, fit_similarity
from headfields.ops.vertex_geometry import vertex_normals
from headfields.rigging import Stage, register, trimmed_icp

FEW = (Stage(60.0, 0.1, 2, 75.0), Stage(10.0, 0.06, 2), Stage(2.0, 0.04, 2), Stage(0.5, 0.03, 2))


def bent(points):
    """A smooth deformation of some 6 mm, with a stretch of some per cent."""
    x, y, z = points.unbind(-1)
    moved = [
        x * (1 + 0.05 * torch.sin(12 * y)) + 0.004 * torch.sin(20 * z),
        y + 0.005 * torch.cos(18 * x) - 0.004,
        z * (1 + 0.04 * torch.cos(15 * y)) + 0.004 * torch.sin(14 * x),
    ]
    return torch.stack(moved, -1)


def shuffled(vertices, faces):
    """The same surface, tessellated otherwise: each triangle cut into three at its middle."""
    count = len(vertices)
    middle = torch.arange(len(faces)) + count
    a, b, c = faces.unbind(1)
    parts = [torch.stack([a, b, middle], 1), torch.stack([b, c, middle], 1), torch.stack([c, a, middle], 1)]
    return torch.cat([vertices, vertices[faces].mean(1)]), torch.cat(parts)


def anchors_of(head, vertices):
    rows = torch.zeros(len(head.landmark_faces), len(vertices), dtype=torch.float64)
    rows.scatter_(1, head.faces[head.landmark_faces], head.landmark_barycentric.double())
    return rows


def test_it_recovers_a_smooth_deformation(head):
    vertices = head.template_vertices.double()
    truth = bent(vertices)
    target, faces = shuffled(truth, head.faces)
    rows = anchors_of(head, vertices)
    found = register(vertices, head.faces, target, faces, rows, rows @ truth, stages=FEW, progress=False)
    assert found.matched.float().mean() > 0.8
    assert found.distance[found.matched].mean() < 3e-4
    before, after = (vertices - truth).norm(dim=1), (found.vertices - truth).norm(dim=1)
    assert before.mean() > 0.004 and after.mean() < 0.25 * before.mean() and after.quantile(0.95) < 0.004
    assert len(found.history) == 8 and found.history[-1] < found.history[0]
    folded = vertex_normals(found.vertices, head.faces) * vertex_normals(truth, head.faces)
    assert (folded.sum(-1) < 0).float().mean() < 0.01


def test_anchors_alone_turn_the_mesh_rigidly(head):
    vertices = head.template_vertices.double()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0.1, 0.05], [-0.1, 0, 0.02], [-0.05, -0.02, 0]]).double())
    truth = vertices @ turn.T + torch.tensor([0.01, -0.02, 0.005]).double()
    nobody = torch.zeros(len(vertices), dtype=torch.bool)
    rows = anchors_of(head, vertices)
    found = register(
        vertices, head.faces, truth, head.faces, rows, rows @ truth, nobody,
        stages=(Stage(1.0, 0.01, 30),), anchor_weight=1e3, stretch=1.0, progress=False,
    )  # fmt: skip
    skin = head.weights[:, 3:].sum(1) < 0.5
    assert (found.vertices - truth)[skin].norm(dim=1).mean() < 0.25 * (vertices - truth)[skin].norm(dim=1).mean()
    assert not found.matched.any()


def test_settling_finds_a_similarity(head):
    vertices = head.template_vertices.double()
    truth = Similarity(
        torch.linalg.matrix_exp(torch.tensor([[0, 0.1, 0], [-0.1, 0, 0.08], [0, -0.08, 0]]).double()),
        torch.tensor([0.01, 0.02, -0.01]).double(),
        torch.tensor(0.8).double(),
    )
    target, faces = shuffled(truth.apply(vertices), head.faces)
    start = fit_similarity(vertices[::400], truth.apply(vertices[::400]) + 0.004)
    found = trimmed_icp(vertices, vertex_normals(vertices, head.faces), target, faces, start, rounds=60)
    assert (found.apply(vertices) - truth.apply(vertices)).norm(dim=1).max() < 1.5e-3


def test_what_cannot_be_registered_is_refused(head, unchecked):
    vertices = head.template_vertices
    with pytest.raises(ValueError, match="the mesh has 0 faces"):
        register(vertices, head.faces[:0], vertices, head.faces)
    with pytest.raises(ValueError, match="anchors and anchor_positions"):
        register(vertices, head.faces, vertices, head.faces, torch.zeros(1, len(vertices)))
    with pytest.raises(ValueError, match=r"stretch is 0\.5"):
        register(vertices, head.faces, vertices, head.faces, stretch=0.5)
