"""Geometry of a triangle mesh at its vertices and faces: normals and areas."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import (
    check_faces,
    check_floating,
    check_shape,
)
from headfields.ops.vectors import unit_vectors

__all__ = [
    "cross_areas",
    "face_crosses",
    "face_normals",
    "triangle_areas",
    "vertex_areas",
    "vertex_normals",
]


def face_crosses(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3"]:
    """(b − a) × (c − a) of every face: its normal, by the winding, times twice its area. Differentiable."""
    a, b, c = (vertices[..., faces[:, corner], :] for corner in range(3))
    return torch.linalg.cross(b - a, c - a)


def face_normals(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3"]:
    """Unit normals of faces that run counter-clockwise seen from outside.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (..., F, 3); 0, with a gradient of 0, for a face without area (under 1e-18 m²). Differentiable to any order.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.
        IndexError: faces is out of range (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> hf.ops.face_normals(corners, torch.tensor([[0, 1, 2]])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    _check("face_normals", vertices, faces)
    return unit_vectors(face_crosses(vertices, faces))


def vertex_normals(
    vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"], unit: bool = True
) -> Float[Tensor, "*batch v 3"]:
    """Normals of vertices: the mean of the normals of the faces around each, weighted by area.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices, counter-clockwise seen from outside.
        unit: whether to normalize. If False, return the sum of the faces' normals, each times twice its area.

    Returns:
        (..., V, 3); 0, with a gradient of 0, where there is no face or the faces cancel. Differentiable to any order.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.
        IndexError: faces is out of range (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> corners, faces = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), torch.tensor([[0, 1, 2]])
    >>> hf.ops.vertex_normals(corners, faces).tolist()  # the last vertex belongs to no face
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    _check("vertex_normals", vertices, faces)
    crosses = face_crosses(vertices, faces)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(-2, faces[:, corner], crosses)
    return unit_vectors(total) if unit else total


def triangle_areas(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f"]:
    """Area of every triangle.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (..., F), square meters. Differentiable to any order; the gradient at a triangle without area is zero.

    Raises:
        TypeError, ValueError, IndexError: as `face_normals`.
    """
    _check("triangle_areas", vertices, faces)
    return cross_areas(face_crosses(vertices, faces))


def cross_areas(crosses: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Areas of triangles with these `face_crosses`; the gradient at a triangle without area is zero."""
    squared = (crosses * crosses).sum(-1)
    flat = squared <= 0
    return torch.where(flat, 0.0, 0.5 * torch.where(flat, 1.0, squared).sqrt())


def vertex_areas(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, " v"]:
    """A third of the area of the faces around each vertex; the sum is the area of the mesh. Differentiable.

    Args:
        vertices: (V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (V,), square meters.

    Raises:
        TypeError, ValueError, IndexError: as `face_normals`.
    """
    check_shape("vertex_areas", "vertices", vertices, "V 3")
    _check("vertex_areas", vertices, faces)
    third = triangle_areas(vertices, faces) / 3
    return vertices.new_zeros(len(vertices)).index_add(0, faces.flatten(), third.repeat_interleave(3))


def _check(op: str, vertices: Tensor, faces: Tensor) -> None:
    check_floating(op, "vertices", vertices)
    check_shape(op, "vertices", vertices, "... V 3")
    check_faces(op, vertices, faces)
