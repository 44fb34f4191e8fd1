"""The k nearest vertices of a mesh or point set, and weights by inverse distance."""

from dataclasses import dataclass
from typing import Sequence  # noqa: UP035 (ops/registration.py)

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._bvh_build import PosedTree, build_topology
from headfields.ops._checks import check_floating, check_same_device, check_shape, check_whole
from headfields.ops._mesh_index import flat_mesh_index
from headfields.ops.dispatch import native, use_native
from headfields.ops.functorch_rules import may_be_differentiated
from headfields.ops.reference.nearest_vertices import MAX_NEIGHBORS, distances_to
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch_refit, launch_search


@dataclass(frozen=True)
class NearestVertices:
    """The result of `VertexTree.nearest`.

    Attributes:
        index: (..., k) int64 indices of the nearest vertices, nearest first; -1 where there is none.
        distance: (..., k) distances to them, meters; infinity where there is none.
    """

    index: Int[Tensor, "*batch k"]
    distance: Float[Tensor, "*batch k"]


@torch.library.custom_op("headfields::vertex_refit", mutates_args=())
def _refit(
    vertices: Tensor, children: Tensor, order: Tensor, slot: Tensor, levels: Sequence[int]
) -> tuple[Tensor, Tensor]:
    bounds = vertices.new_empty(vertices.shape[0], children.shape[0], 48)
    positions = vertices.new_empty(vertices.shape[0], slot.shape[0], 24)
    if use_native(vertices):
        native.vertex_refit(children, order, slot, vertices, bounds, positions, torch.get_num_threads())
    else:
        launch_refit("nearest_vertices", (vertices, order), children, slot, levels, bounds, positions)
    return bounds, positions


def _refit_shapes(vertices, children, order, slot, levels):
    b = vertices.shape[0]
    return vertices.new_empty(b, children.shape[0], 48), vertices.new_empty(b, slot.shape[0], 24)


def _check_count(k: int) -> None:
    check_whole("nearest_vertices", "k", k, 1, MAX_NEIGHBORS)


@torch.library.custom_op("headfields::nearest_vertices", mutates_args=())
def _nearest(
    points: Tensor, mesh_index: Tensor | None, vertices: Tensor, children: Tensor, order: Tensor, slot: Tensor,
    bounds: Tensor, positions: Tensor, k: int, max_distance: float, fused: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _check_count(k)
    index = torch.empty(points.shape[0], k, dtype=torch.long, device=points.device)
    distance = points.new_empty(points.shape[0] if fused else 0, k)
    if use_native(points):
        native.nearest_vertices(
            children, order, slot, vertices, bounds, positions, points, mesh_index, max_distance, index,
            distance if fused else None, torch.get_num_threads(),
        )  # fmt: skip
    else:
        launch_search(
            "nearest_vertices.nearest", (points,), mesh_index, (children, order, slot), vertices.shape[1],
            bounds, positions, max_distance, index, int(fused), distance,
        )  # fmt: skip
    return index, distance


def _nearest_shapes(points, mesh_index, vertices, children, order, slot, bounds, positions, k, max_distance, fused):
    n = points.shape[0]
    return points.new_empty(n, k, dtype=torch.long), points.new_empty(n if fused else 0, k)


_CONSTANT = "it finds vertices, a constant: detach its arguments, and compute from the index what is differentiated"
register_op(_refit, _refit_shapes, None, remedy=_CONSTANT)
register_op(_nearest, _nearest_shapes, None, rows=(0, 1), remedy=_CONSTANT)


class VertexTree(PosedTree):
    """A tree over the vertices of B meshes (or point sets) of one size, refitted as they move.

    An eight-wide bounding volume hierarchy, built once, for the first of the meshes given to the constructor; `refit`
    moves it to new vertices. Queries use the vertices of the last refit, and their gradients flow to those.

    A vertex that is not finite, or farther than 1e18 m from the origin, is left out until a refit mends it. Vertices
    are ranked by their squared distance, computed in float64 and rounded to float32, and where that is equal (vertices
    in one place, or a query midway between two) by their index, the lowest first. All of this holds on every backend.
    From some 100 m away that rounding leaves some neighbors out of order; on the CPU they are sorted by distance;
    on a GPU, within `torch.func` and in compiled code they are not, where no branch may depend on values.

    Vertices are found in float32; distances are computed in the dtype of `points` and `vertices`.

    Attributes:
        vertices: (B, V, 3) of the last refit, with their graph.

    Raises:
        TypeError: vertices are not floating point.
        ValueError: their shape does not fit.
    """

    def __init__(self, vertices: Float[Tensor, "v 3"] | Float[Tensor, "b v 3"]) -> None:
        vertices = self._as_batch(vertices)
        # To the builder, each vertex is a triangle without extent.
        faces = torch.arange(vertices.shape[1], dtype=torch.int32)[:, None].expand(-1, 3)
        self._build(faces, vertices, build_topology)

    def _fitted(self, packed: Float[Tensor, "b v 3"]) -> tuple[Tensor, ...]:
        return packed, *self._topology, *_refit(packed, *self._topology, self._levels)

    def nearest(
        self,
        points: Float[Tensor, "*batch 3"],
        k: int,
        mesh_index: Int[Tensor, "*batch"] | None = None,
        max_distance: float = torch.inf,
    ) -> NearestVertices:
        """The k nearest vertices to each query, nearest first.

        Differentiable to second order in `points` and the vertices of the last refit: the kernel finds the vertices,
        and the distances are computed in PyTorch. All derivatives of a distance of 0 are 0. If nothing requires a
        gradient and all is float32, the kernel computes the distances too.

        Args:
            points: (..., 3) meters, in the frame of the vertices. One that is not finite, or farther than 1e18 m from
                the origin, has no neighbors.
            k: number of neighbors, 1 to 16 and at most the number of vertices.
            mesh_index: (...) the mesh of each point, in [0, B); may be None if B = 1.
            max_distance: vertices farther than this are left out, meters.

        Returns:
            `index` and `distance` (..., k); -1 and infinity where fewer were found.

        Raises:
            TypeError: points are not floating point, or mesh_index not integers.
            ValueError: a shape does not fit, k is out of range or more than there are vertices, devices differ,
                mesh_index is missing, or max_distance is not >= 0.
            IndexError: mesh_index is out of range (CPU; not checked on CUDA).
        """
        check_floating("nearest_vertices", "points", points)
        check_shape("nearest_vertices", "points", points, "... 3")
        check_same_device("nearest_vertices", points=points, vertices=self.vertices)
        _check_count(k)
        if k > self.vertices.shape[1]:
            raise ValueError(f"nearest_vertices: k is {k}, but there are only {self.vertices.shape[1]} vertices")
        if not max_distance >= 0:
            raise ValueError(f"nearest_vertices: max_distance is {max_distance}; expected a distance >= 0 in meters")
        batch = points.shape[:-1]
        which = flat_mesh_index("nearest_vertices", mesh_index, batch, self.vertices)
        flat = points.reshape(-1, 3)
        fused = points.dtype == self.vertices.dtype == torch.float32
        fused = fused and not may_be_differentiated(points, self.vertices)
        query = flat.detach().float().contiguous()
        index, distance = _nearest(query, which, *self._tree, k, max_distance, fused)
        if not fused:
            dtype = torch.promote_types(points.dtype, self.vertices.dtype)
            distance = distances_to(flat.to(dtype), self.vertices.to(dtype), which, index)
        eager = not (flat.is_cuda or torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling())
        if eager and bool((distance.detach()[:, 1:] < distance.detach()[:, :-1]).any()):
            distance, order = distance.sort(dim=1, stable=True)
            index = index.gather(1, order)
        return NearestVertices(index.reshape(*batch, k), distance.reshape(*batch, k))


def knn(
    points: Float[Tensor, "*batch 3"], vertices: Float[Tensor, "v 3"], k: int, max_distance: float = torch.inf
) -> NearestVertices:
    """The k nearest of V vertices to each point, nearest first: a `VertexTree` for one call.

    Keep the tree for many queries of the same or of moving vertices; building it takes most of the time here.

    Args:
        points: (..., 3) meters.
        vertices: (V, 3) meters, in the frame of the points.
        k: number of neighbors, 1 to 16 and at most V.
        max_distance: vertices farther than this are left out, meters.

    Returns:
        `index` and `distance` (..., k); -1 and infinity where fewer were found. Distances are differentiable to second
        order in points and vertices.

    Raises:
        TypeError, ValueError: as `VertexTree.nearest`.

    >>> import torch, headfields as hf
    >>> hf.ops.knn(torch.zeros(1, 3), torch.tensor([[3.0, 0, 0], [0, 1, 0], [0, 0, 2]]), k=2).index
    tensor([[1, 2]])
    """
    check_floating("knn", "points", points)
    check_shape("knn", "points", points, "... 3")
    check_floating("knn", "vertices", vertices)
    check_shape("knn", "vertices", vertices, "V 3")
    check_same_device("knn", points=points, vertices=vertices)
    return VertexTree(vertices).nearest(points, k, max_distance=max_distance)


def inverse_distance_weights(
    distance: Float[Tensor, "*batch k"], power: float = 1.0, epsilon: float = 1e-6
) -> Float[Tensor, "*batch k"]:
    """Weights of k neighbors by inverse distance, which sum to 1: w_j = d_j^−power / Σ_k d_k^−power.

    MonoAvatar (Bai et al. 2023, section 3.1) has power 1 and does not say what happens at a vertex, where 1/d has no
    value and, as d is a norm, no second derivative nearby. Our own choice: d is √(distance² + epsilon²), and the
    weights are a softmax of −power · log d, so that nothing overflows. As the distance goes to 0, the nearest vertex
    takes all the weight but about epsilon over the distance of the others; farther than a few epsilon from a vertex the
    weights are the paper's.

    Args:
        distance: (..., k) meters, as `VertexTree.nearest` gives them. Infinity: no neighbor, weight 0.
        power: exponent of the inverse distance, > 0.
        epsilon: meters, > 0; far below the distance between vertices.

    Returns:
        (..., k) in [0, 1]; all 0 where no neighbor was found. Differentiable to any order, finite at distance 0.

    Raises:
        TypeError: distance is not floating point.
        ValueError: it has no axis of neighbors, or power or epsilon is not positive.

    >>> import torch, headfields as hf
    >>> tree = hf.ops.VertexTree(torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]))
    >>> nearest = tree.nearest(torch.tensor([[0.25, 0.0, 0.0]]), k=2)
    >>> nearest.index.tolist(), nearest.distance.tolist()
    ([[0, 1]], [[0.25, 0.75]])
    >>> hf.ops.nearest_vertices.inverse_distance_weights(nearest.distance).round(decimals=4).tolist()
    [[0.75, 0.25]]
    """
    check_floating("inverse_distance_weights", "distance", distance)
    check_shape("inverse_distance_weights", "distance", distance, "... k")
    for name, value in (("power", power), ("epsilon", epsilon)):
        if not 0 < value < torch.inf:
            raise ValueError(f"inverse_distance_weights: {name} is {value}; expected a number > 0")
    present = distance != torch.inf
    squared = torch.where(present, distance, 1.0).square() + epsilon**2
    empty = ~present.any(-1, keepdim=True)  # where a softmax of -inf alone would be NaN
    logits = torch.where(present | empty, -0.5 * power * squared.log(), -torch.inf)
    return torch.where(present, logits.softmax(-1), 0.0)
