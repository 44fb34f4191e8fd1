"""Gaussians that ride on triangles: the kernels against the definition, derivatives, and bad input."""

import pytest
import torch

import headfields as hf
from headfields.ops.bound_gaussians import bind_gaussians, triangle_similarities
from headfields.ops.reference import bound_gaussians as reference
from tests.tables import table


@pytest.fixture(scope="module")
def mesh():
    """Two frames of a head, with a triangle without area and one without extent."""
    head = hf.synthetic.procedural_head()
    faces = head.faces[::7]
    faces = torch.cat([faces, torch.tensor([[0, 1, 1], [2, 2, 2]])])
    g = torch.Generator().manual_seed(0)
    vertices = head.template_vertices.float().expand(2, -1, -1)
    return vertices + 0.002 * torch.randn(vertices.shape, generator=g), faces


def gaussians(frames, count, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(frames, count, width, generator=g).to(dtype) for width in (3, 4, 3)]


def test_similarities_are_those_of_the_definition(mesh, device):
    vertices, faces = (x.to(device) for x in mesh)
    rows, expected = triangle_similarities(vertices, faces), reference.triangle_similarities(vertices.double(), faces)
    area = torch.arange(len(faces), device=device) < len(faces) - 2
    turn, sign = rows[..., 12:16].double(), (rows[..., 12:16] * expected[..., 12:16]).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(turn[:, area], (expected[..., 12:16] * sign)[:, area], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows[:, area, :12].double(), expected[:, area, :12], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rows[..., 9:12].double(), expected[..., 9:12])
    torch.testing.assert_close(rows[..., 16].double(), expected[..., 16], rtol=1e-4, atol=1e-7)
    linear = rows[..., :9].unflatten(-1, (3, 3)) / rows[..., 16:, None]  # of any triangle a rotation
    torch.testing.assert_close(linear @ linear.mT, torch.eye(3, device=device).expand_as(linear), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hf.ops.rotation_from_quaternion(rows[..., 12:16]), linear, rtol=1e-4, atol=1e-4)
    leaf = vertices.clone().requires_grad_()  # then PyTorch's, which has derivatives
    torch.testing.assert_close(triangle_similarities(leaf, faces)[:, area], rows[:, area], rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(triangle_similarities(leaf, faces).sum(), leaf)[0].isfinite().all()
    assert triangle_similarities(vertices[:0], faces).shape == (0, len(faces), 17)
    assert triangle_similarities(vertices, faces[:0]).shape == (2, 0, 17)


@table("own", [1, 2])
@table("count", [0, 1, 37])
def test_gaussians_move_as_the_definition_says(mesh, own, count, device):
    vertices, faces = (x.to(device) for x in mesh)
    table = triangle_similarities(vertices, faces)
    face = torch.randint(len(faces) - 2, (count,), generator=torch.Generator().manual_seed(2)).to(device)
    leaves = [x.to(device).requires_grad_() for x in gaussians(own, count)]
    plain = [x.detach().double().requires_grad_() for x in leaves]
    upper = [x.to(device) for x in gaussians(2, count)]
    moved, expected = bind_gaussians(*leaves, table, face), reference.bind_gaussians(*plain, table.double(), face)
    torch.autograd.backward(moved, upper)
    torch.autograd.backward(expected, [x.double() for x in upper])
    for have, want in zip((*moved, *(x.grad for x in leaves)), (*expected, *(x.grad for x in plain)), strict=True):
        torch.testing.assert_close(have.double(), want, rtol=1e-5, atol=1e-5)


def test_derivatives_by_every_path(mesh):
    vertices, faces = mesh
    face = torch.tensor([3, 0, 5])
    table = triangle_similarities(vertices, faces)
    leaves = [x.requires_grad_() for x in gaussians(1, 3)]
    first = torch.autograd.grad(
        sum(x.square().sum() for x in bind_gaussians(*leaves, table, face)), leaves, create_graph=True
    )
    second = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
    plain = [x.detach().double().requires_grad_() for x in leaves]
    moved = reference.bind_gaussians(*plain, table.double(), face)
    want = torch.autograd.grad(sum(x.square().sum() for x in moved), plain, create_graph=True)
    for have, expected in zip(second, torch.autograd.grad(sum(x.square().sum() for x in want), plain), strict=True):
        torch.testing.assert_close(have.double(), expected, rtol=1e-4, atol=1e-4)
    by_table = table.clone().requires_grad_()
    (to_table,) = torch.autograd.grad(sum(x.sum() for x in bind_gaussians(*leaves, by_table, face)), by_table)
    assert bool((to_table[:, face] != 0).any()) and int((to_table != 0).any(-1).sum()) == 6
    tangents = torch.func.jvp(
        lambda means: bind_gaussians(means, *leaves[1:], table, face)[0], (leaves[0].detach(),), (torch.ones(1, 3, 3),)
    )[1]
    torch.testing.assert_close(tangents, table[:, face, :9].unflatten(-1, (3, 3)).sum(-1))
    for op, arguments in (("bind_gaussians", (*leaves, table, face)),
                          ("bind_gaussians_backward", (*gaussians(2, 3), table, face, 1)),
                          ("triangle_similarities", (vertices, faces))):  # fmt: skip
        for check in ("test_schema", "test_faketensor"):
            torch.library.opcheck(getattr(torch.ops.headfields, op), arguments, test_utils=check)


def test_bad_input(mesh, unchecked):
    vertices, faces = mesh
    table, three = triangle_similarities(vertices, faces), gaussians(1, 2)
    with pytest.raises(IndexError, match="triangle_similarities: faces"):
        triangle_similarities(vertices[:, :5], faces)
    with pytest.raises(IndexError, match="bind_gaussians: face"):
        bind_gaussians(*three, table, torch.tensor([0, -1]))
    with pytest.raises(IndexError, match="bind_gaussians: face"):
        bind_gaussians(*three, table, torch.tensor([0, len(faces)]))
    with pytest.raises(ValueError, match=r"bind_gaussians: .*means"):
        bind_gaussians(*three, table, torch.tensor([0]))
    with pytest.raises(TypeError, match="face"):
        bind_gaussians(*three, table, torch.tensor([0.0, 1.0]))
