"""Normals and areas of small meshes, against what they are defined to be."""

import pytest
import torch

from headfields.ops.vertex_geometry import face_normals, triangle_areas, vertex_areas, vertex_normals

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)


def test_normals_point_outward_and_areas_add_up() -> None:
    normals = face_normals(CORNERS, TETRAHEDRON)
    middle = CORNERS[TETRAHEDRON].mean(1) - CORNERS.mean(0)
    assert ((normals * middle).sum(-1) > 0).all()
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    areas = triangle_areas(CORNERS, TETRAHEDRON)
    torch.testing.assert_close(vertex_areas(CORNERS, TETRAHEDRON).sum(), areas.sum())
    weighted = torch.zeros_like(CORNERS)
    for face, corners in enumerate(TETRAHEDRON):
        weighted[corners] += areas[face] * normals[face]
    torch.testing.assert_close(vertex_normals(CORNERS, TETRAHEDRON, unit=False), 2 * weighted)
    unit = torch.nn.functional.normalize(weighted, dim=-1)
    torch.testing.assert_close(vertex_normals(CORNERS, TETRAHEDRON), unit)
    batch = vertex_normals(torch.stack([CORNERS, 2 * CORNERS]), TETRAHEDRON)
    torch.testing.assert_close(batch, unit.expand(2, 4, 3))


def test_normals_have_derivatives_and_are_zero_without_area() -> None:
    vertices = CORNERS.clone().requires_grad_()
    for function in (face_normals, vertex_normals):
        assert torch.autograd.gradcheck(lambda v, f=function: f(v, TETRAHEDRON), (vertices,))
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v, TETRAHEDRON), (vertices,), fast_mode=True)
        flat = torch.zeros(3, 3, requires_grad=True)
        normals = function(flat, torch.tensor([[0, 1, 2]]))
        (gradient,) = torch.autograd.grad(normals.sum(), flat)
        assert normals.eq(0).all() and gradient.eq(0).all()
    assert (
        vertex_normals(CORNERS, TETRAHEDRON[:0]).eq(0).all() and face_normals(CORNERS[:0], TETRAHEDRON[:0]).numel() == 0
    )


def test_errors_name_the_argument(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"vertex_normals: vertices has shape \(4, 2\)"):
        vertex_normals(torch.zeros(4, 2), TETRAHEDRON)
    with pytest.raises(TypeError, match="face_normals: faces has dtype"):
        face_normals(torch.zeros(4, 3), TETRAHEDRON.float())
