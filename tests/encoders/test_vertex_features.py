"""Vertex-anchored features: against the formulas written out, frames, gradients, degenerate input."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from headfields.encoders import VertexFeatures
from headfields.encoders.vertex_source import VertexSource
from headfields.ops import frequency_encoding, triangle_frames
from headfields.records import Canonical, HeadState
from tests.shapes import rotation, uv_sphere
from tests.tables import table

VERTICES, FACES = uv_sphere(6, 8, radius=0.1)
COUNT = len(VERTICES)


class Table(VertexSource):
    """Features learned for each vertex, the same in every frame but for a factor that the expression gives."""

    def __init__(self, vertex_count: int, width: int) -> None:
        super().__init__()
        self.vertex_count, self.width, self.needs = vertex_count, width, ("expression",)
        self.table = nn.Parameter(torch.randn(vertex_count, width))

    def forward(self, state: HeadState) -> Tensor:
        return self.table * (1 + state.need("Table", "expression")[:, :1, None])


def state(frames: int = 2, vertices: Tensor = VERTICES) -> HeadState:
    shift = torch.linspace(0, 0.02, frames, dtype=vertices.dtype)[:, None, None]
    expression = torch.linspace(-0.5, 0.5, frames, dtype=vertices.dtype)[:, None]
    return HeadState(vertices=vertices + shift, expression=expression)


def at(points: Tensor, frame: Tensor | None = None) -> Canonical:
    frame = torch.arange(len(points)) % 2 if frame is None else frame
    return Canonical(
        points=points, directions=torch.zeros_like(points), posed_points=points, frame=frame,
        valid=torch.ones(len(points), dtype=torch.bool),
    )  # fmt: skip


def make(width: int = 5, seed: int = 0, **options) -> VertexFeatures:
    torch.manual_seed(seed)
    sizes = {"bands": 2, "hidden": 8, "layers": 2, "merged_layers": 2}
    encoder = VertexFeatures(Table(COUNT, width), **(sizes | options))
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # biases too
    return encoder


def near(count: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(COUNT, (count,), generator=generator)
    return VERTICES[place] + 0.01 * torch.randn(count, 3, generator=generator)


def layers(network: nn.Sequential, x: Tensor) -> Tensor:
    for linear in list(network)[::2]:
        x = linear(x).relu()
    return x


@table("fixed", [False, True])
def test_the_papers_formulas(device, fixed):
    encoder = make(neighbors=3, vertices=VERTICES if fixed else None).to(device)
    points, frames = near(40).to(device), state().to(device)
    canonical = at(points, (torch.arange(40) % 2).to(device))
    found = encoder(canonical, encoder.prepare(frames))
    assert found.shape == (40, encoder.width)
    for i, q in enumerate(points):
        v = VERTICES.to(device) if fixed else frames.vertices[i % 2]
        distance, nearest = (v - q).norm(dim=-1).topk(3, largest=False)
        z = encoder.source(frames)[i % 2, nearest]
        each = layers(encoder.neighbor_network, torch.cat([frequency_encoding((v[nearest] - q) / 0.05, 2), z], -1))
        weight = (1 / distance) / (1 / distance).sum()
        wanted = layers(encoder.merged_network, (weight[:, None] * each).sum(0))
        torch.testing.assert_close(found[i], wanted, atol=2e-5, rtol=1e-4)


def test_many_vertices_and_points_give_the_gradients_of_the_layers(device):
    """More vertices than the network's kernel keeps sums for."""
    torch.manual_seed(0)
    count, points = 2000, torch.rand(300, 3).to(device)
    table, vertices = Table(count, 6), torch.rand(1, count, 3).to(device)
    encoder = VertexFeatures(table, bands=2, hidden=16, layers=2, merged_layers=1).to(device)
    frames = HeadState(vertices=vertices, expression=torch.full((1, 1), 0.5, device=device))
    canonical = at(points, torch.zeros(300, dtype=torch.long, device=device))
    grad = torch.randn(300, 16, device=device)
    found = torch.autograd.grad(encoder(canonical, encoder.prepare(frames)), list(encoder.parameters()), grad)
    distance, nearest = torch.cdist(points, vertices[0], compute_mode="donot_use_mm_for_euclid_dist").topk(
        4, largest=False
    )
    z = encoder.source(frames)[0][nearest]
    encoded = frequency_encoding((vertices[0][nearest] - points[:, None]) / 0.05, 2)
    weight = (1 / distance) / (1 / distance).sum(-1, keepdim=True)
    each = layers(encoder.neighbor_network, torch.cat([encoded, z], -1))
    wanted = layers(encoder.merged_network, (weight[..., None] * each).sum(1))
    for one, other in zip(found, torch.autograd.grad(wanted, list(encoder.parameters()), grad), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)


def test_a_point_at_a_vertex_sees_that_vertex_alone():
    encoder = make(merged_layers=0)
    frames = state(1)
    canonical = at(VERTICES.clone(), torch.zeros(COUNT, dtype=torch.long))
    found = encoder(canonical, encoder.prepare(frames))
    z = encoder.source(frames)[0]
    wanted = layers(encoder.neighbor_network, torch.cat([frequency_encoding(torch.zeros(COUNT, 3), 2), z], -1))
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)


def test_features_turn_with_the_surface_in_its_frame():
    turn = rotation(1).float()
    points = near(30)
    canonical = at(points, torch.zeros(30, dtype=torch.long))
    moved = at(points @ turn.T + 0.3, torch.zeros(30, dtype=torch.long))
    options = {"faces": FACES, "rest_vertices": VERTICES}
    raw, local = make(bands=3), make(bands=3, frame="triangle", **options)
    rest, posed = state(1), HeadState(vertices=(VERTICES @ turn.T + 0.3)[None], expression=state(1).expression)
    at_rest = local(canonical, local.prepare(rest))
    torch.testing.assert_close(at_rest, raw(canonical, raw.prepare(rest)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(local(moved, local.prepare(posed)), at_rest, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(raw(moved, raw.prepare(posed)), at_rest, atol=1e-2)


def test_turns_are_rotations_whatever_the_mesh():
    encoder = make(frame="triangle", faces=FACES[FACES.ne(3).all(-1)], rest_vertices=VERTICES)  # none at vertex 3
    generator = torch.Generator().manual_seed(0)
    posed = torch.stack([VERTICES, torch.zeros(COUNT, 3), torch.randn(COUNT, 3, generator=generator), -VERTICES])
    turns = encoder.surface_turns(posed)
    eye = torch.eye(3).expand_as(turns)
    torch.testing.assert_close(turns @ turns.transpose(-1, -2), eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(4, COUNT), atol=1e-5, rtol=0)
    torch.testing.assert_close(turns[:, 3], eye[:, 3])
    torch.testing.assert_close(turns[0], eye[0], atol=1e-5, rtol=0)


def test_turns_follow_the_triangles_of_a_bend():
    """A strip folded by a right angle: half turns at the crease, all of it behind."""
    rest = torch.tensor([[x, y, 0.0] for x in (0.0, 1, 2) for y in (0.0, 1)])
    faces = torch.tensor([[0, 2, 1], [1, 2, 3], [2, 4, 3], [3, 4, 5]])
    posed = rest.clone()
    posed[4:] = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    encoder = VertexFeatures(
        Table(6, 2), 1, bands=1, hidden=4, layers=1, frame="triangle", faces=faces, rest_vertices=rest
    )
    turns = encoder.surface_turns(posed[None])[0]
    torch.testing.assert_close(turns[0], torch.eye(3))
    behind = triangle_frames(posed, faces)[2, :, :3] @ triangle_frames(rest, faces)[2, :, :3].T
    torch.testing.assert_close(turns[5], behind, atol=1e-6, rtol=0)
    angle = torch.acos((turns[2].trace() - 1) / 2)
    assert 0.3 < angle < 1.3


@pytest.mark.parametrize("frame", ["offset", "triangle"])
def test_gradients_and_second_order(frame):
    mesh, options = VERTICES.double(), {}
    if frame == "triangle":
        options = {"frame": frame, "faces": FACES, "rest_vertices": VERTICES}
    encoder = make(width=2, neighbors=2, hidden=3, bands=1, merged_layers=1, **options).double()
    encoder.neighbor_network[0].bias.data += 1  # away from the kinks of ReLU
    canonical = at(near(3).double())

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, points, posed):
            frames = HeadState(vertices=posed, expression=state(2, mesh).expression)
            return encoder(canonical.replace(points=points), encoder.prepare(frames))

    def run(points, posed, table):
        return torch.func.functional_call(Whole(), {"encoder.source.table": table}, (points, posed))

    inputs = (canonical.points, state(2, mesh).vertices, encoder.source.table.detach())
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    assert gradcheck(run, inputs, fast_mode=True)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_second_derivatives_at_vertices_and_where_they_coincide_are_finite():
    doubled = VERTICES.clone()
    doubled[1::2] = doubled[:-1:2]
    encoder = make()
    points, posed = doubled.clone().requires_grad_(), doubled.clone()[None].requires_grad_()
    frames = HeadState(vertices=posed, expression=torch.zeros(1, 1))
    canonical = at(doubled, torch.zeros(COUNT, dtype=torch.long)).replace(points=points)
    features = encoder(canonical, encoder.prepare(frames))
    first = torch.autograd.grad(features.square().sum(), (points, posed), create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), (points, posed, *encoder.parameters()),
                                 allow_unused=True)  # fmt: skip
    assert all(x.isfinite().all() for x in (features, *first, *second) if x is not None)


def test_nothing_keeps_a_gradient():
    encoder = make()
    points = torch.zeros(0, 3, requires_grad=True)
    found = encoder(at(points), encoder.prepare(state()))
    assert found.shape == (0, 8)
    found.sum().backward()
    assert encoder.source.table.grad is not None and points.grad is not None
    empty = state(2)[:0]
    assert encoder(at(points), encoder.prepare(empty)).shape == (0, 8)


def test_points_that_are_not_finite_have_features_of_nothing():
    encoder = make()
    points = near(4)
    points[1, 0], points[3] = torch.nan, torch.inf
    points.requires_grad_()
    found = encoder(at(points), encoder.prepare(state()))
    nothing = layers(encoder.merged_network, torch.zeros(8))
    torch.testing.assert_close(found[1::2], nothing.expand(2, 8))
    found.square().sum().backward()
    assert found.isfinite().all() and points.grad.isfinite().all() and (points.grad[0] != 0).any()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_bfloat16_follows():
    encoder, canonical = make(), at(near(20))
    whole = encoder(canonical, encoder.prepare(state()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(canonical, encoder.prepare(state()))
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.1)


def test_another_topology_and_what_does_not_fit(unchecked):
    encoder, table = make(), Table(COUNT, 2)
    with pytest.raises(ValueError, match=r"the state has 3 vertices and the source gives features of 42"):
        encoder.prepare(HeadState(vertices=torch.zeros(1, 3, 3), expression=torch.zeros(1, 1)))
    with pytest.raises(ValueError, match="needs 'expression'"):
        encoder.prepare(HeadState(vertices=VERTICES[None]))
    with pytest.raises(TypeError, match="source is a Linear"):
        VertexFeatures(nn.Linear(1, 1))
    for options, message in (
        ({"neighbors": 17}, "neighbors is 17"),
        ({"neighbors": 0}, "neighbors is 0"),
        ({"layers": 0}, "layers=0"),
        ({"unit": 0.0}, "unit=0.0"),
        ({"frame": "tangent"}, "frame is 'tangent'"),
        ({"frame": "triangle"}, "needs faces and rest_vertices"),
        ({"frame": "triangle", "faces": FACES, "rest_vertices": VERTICES, "vertices": VERTICES}, "do not rotate"),
        ({"vertices": VERTICES[:-1]}, r"vertices has shape \(41, 3\); expected \(42, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            VertexFeatures(table, **options)
    with pytest.raises(ValueError, match="source's 2 vertices"):
        VertexFeatures(Table(2, 2))
