"""Searches and what is made of them under torch.compile, whole, with their gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from headfields.ops import VertexTree
from headfields.ops.nearest_vertices import inverse_distance_weights
from headfields.ops.triangle_bvh import TriangleBVH
from tests.encoders.test_vertex_features import FACES, VERTICES, at, make, near, state

pytestmark = pytest.mark.usefixtures("unchecked")  # the checks of annotations are not traceable


def is_compiled_whole(run: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Value and gradients of a scalar function are the same compiled, in one graph."""
    compiled, results = torch.compile(run, fullgraph=True, backend="aot_eager"), []
    compiled(*inputs)
    for function in (run, compiled):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        value = function(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    torch.testing.assert_close(*results)


def test_a_tree_of_triangles() -> None:
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 1, 4], [0, 0, 1]])
    vertices, points, index = torch.randn(2, 5, 3), torch.randn(8, 3), torch.arange(8) % 2
    bvh = TriangleBVH(faces, vertices)

    def run(points: Tensor, vertices: Tensor) -> Tensor:
        bvh.refit(vertices)
        closest, ray = bvh.closest(points, index), bvh.raycast(points, 0.3 - points, index)
        near, far = bvh.interval(points, torch.nn.functional.normalize(-points, dim=-1), 0.5, index)
        seen = torch.where(ray.face >= 0, ray.distance, 0.0) + torch.where(near <= far, far - near, 0.0)
        return (closest.distance + seen).sum()

    is_compiled_whole(run, points, vertices)


def test_a_tree_of_vertices() -> None:
    vertices, points, index = torch.randn(2, 9, 3), torch.randn(8, 3), torch.arange(8) % 2
    tree = VertexTree(vertices)

    def run(points: Tensor, vertices: Tensor) -> Tensor:
        distance = tree.refit(vertices).nearest(points, 3, index).distance
        return (inverse_distance_weights(distance) * torch.arange(3) + distance).sum()

    is_compiled_whole(run, points, vertices)


def test_features_of_vertices() -> None:
    encoder, canonical, frames = make(frame="triangle", faces=FACES, rest_vertices=VERTICES), at(near(6)), state()
    encoder.prepare(frames)  # builds the tree, on the CPU

    def run(points: Tensor) -> Tensor:
        return encoder(canonical.replace(points=points), encoder.prepare(frames)).square().sum()

    is_compiled_whole(run, canonical.points)
