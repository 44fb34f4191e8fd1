import pytest
import torch

from headfields.apps.rigging.registration import Stage, register
from headfields.mesh import Mesh, align_to_surface
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.ops.vertex_geometry import vertex_normals

FEW = (Stage(60.0, 0.1, 2, 75.0), Stage(10.0, 0.06, 2), Stage(2.0, 0.04, 2), Stage(0.5, 0.03, 2))


def bent(points):
    """A smooth deformation of about 6 mm, with a stretch of a few percent."""
    x, y, z = points.unbind(-1)
    moved = [
        x * (1 + 0.05 * torch.sin(12 * y)) + 0.004 * torch.sin(20 * z),
        y + 0.005 * torch.cos(18 * x) - 0.004,
        z * (1 + 0.04 * torch.cos(15 * y)) + 0.004 * torch.sin(14 * x),
    ]
    return torch.stack(moved, -1)


def shuffled(vertices, faces):
    """The same surface with each triangle split into three at its center."""
    count = len(vertices)
    middle = torch.arange(len(faces)) + count
    a, b, c = faces.unbind(1)
    parts = [torch.stack([a, b, middle], 1), torch.stack([b, c, middle], 1), torch.stack([c, a, middle], 1)]
    return torch.cat([vertices, vertices[faces].mean(1)]), torch.cat(parts)


def anchors_of(head, vertices):
    rows = torch.zeros(len(head.landmark_faces), len(vertices), dtype=torch.float64)
    rows.scatter_(1, head.faces[head.landmark_faces], head.landmark_barycentric.double())
    return rows


def test_register_recovers_a_smooth_deformation(head):
    vertices = head.template_vertices.double()
    truth = bent(vertices)
    target, faces = shuffled(truth, head.faces)
    rows = anchors_of(head, vertices)
    result = register(vertices, head.faces, target, faces, rows, rows @ truth, stages=FEW, progress=False)
    assert result.matched.float().mean() > 0.8
    assert result.distance[result.matched].mean() < 3e-4
    before, after = (vertices - truth).norm(dim=1), (result.vertices - truth).norm(dim=1)
    assert before.mean() > 0.004 and after.mean() < 0.25 * before.mean() and after.quantile(0.95) < 0.004
    assert len(result.history) == 8 and result.history[-1] < result.history[0]
    folded = vertex_normals(result.vertices, head.faces) * vertex_normals(truth, head.faces)
    assert (folded.sum(-1) < 0).float().mean() < 0.01


@pytest.mark.slow
def test_anchors_alone_turn_the_mesh_rigidly(head):
    vertices = head.template_vertices.double()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0.1, 0.05], [-0.1, 0, 0.02], [-0.05, -0.02, 0]]).double())
    truth = vertices @ turn.T + torch.tensor([0.01, -0.02, 0.005]).double()
    inactive = torch.zeros(len(vertices), dtype=torch.bool)
    rows = anchors_of(head, vertices)
    result = register(
        vertices, head.faces, truth, head.faces, rows, rows @ truth, inactive,
        stages=(Stage(1.0, 0.01, 30),), anchor_weight=1e3, stretch=1.0, progress=False,
    )  # fmt: skip
    skin = head.weights[:, 3:].sum(1) < 0.5
    assert (result.vertices - truth)[skin].norm(dim=1).mean() < 0.25 * (vertices - truth)[skin].norm(dim=1).mean()
    assert not result.matched.any()


def test_points_with_normals_recover_a_similarity(head):
    vertices = head.template_vertices.double()
    truth = Similarity(
        torch.linalg.matrix_exp(torch.tensor([[0, 0.1, 0], [-0.1, 0, 0.08], [0, -0.08, 0]]).double()),
        torch.tensor([0.01, 0.02, -0.01]).double(),
        torch.tensor(0.8).double(),
    )
    target, faces = shuffled(truth.apply(vertices), head.faces)
    start = fit_similarity(vertices[::400], truth.apply(vertices[::400]) + 0.004)
    result = align_to_surface(
        vertices, Mesh(target, faces), scaling=True, method="point", trim=0.25, start=start, steps=60,
        normals=vertex_normals(vertices, head.faces),
    ).transform  # fmt: skip
    assert (result.apply(vertices) - truth.apply(vertices)).norm(dim=1).max() < 1.5e-3


def test_register_rejects_invalid_input(head, unchecked):
    vertices = head.template_vertices
    with pytest.raises(ValueError, match="the mesh has 0 faces"):
        register(vertices, head.faces[:0], vertices, head.faces)
    with pytest.raises(ValueError, match="anchors and anchor_positions"):
        register(vertices, head.faces, vertices, head.faces, torch.zeros(1, len(vertices)))
    with pytest.raises(ValueError, match=r"stretch is 0\.5"):
        register(vertices, head.faces, vertices, head.faces, stretch=0.5)
