"""A bounding volume hierarchy over a triangle mesh: nearest points, first hits of rays, and intervals near the surface.

The registered operations below find faces in float32 and have no gradient; the methods of `TriangleBVH` compute from a
face what is differentiable, in PyTorch.
"""

from dataclasses import dataclass
from typing import Sequence  # noqa: UP035 (ops/registration.py)

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._bvh_build import PosedTree, build_topology
from headfields.ops._checks import (
    check_floating,
    check_index,
    check_integer,
    check_same_device,
    check_shape,
    require_shapes,
)
from headfields.ops._mesh_index import flat_mesh_index
from headfields.ops.dispatch import native, use_native
from headfields.ops.functorch_rules import may_be_differentiated
from headfields.ops.mesh_topology import unique_edges
from headfields.ops.reference.closest_triangle import closest_on_face, pseudo_normal_sign
from headfields.ops.reference.ray_mesh import hit_on_face
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch, launch_refit, launch_search


@dataclass(frozen=True)
class ClosestPoint:
    """The result of `TriangleBVH.closest`.

    Attributes:
        face: (...) int64 index of the nearest face, -1 where there is none.
        barycentric: (..., 3) of the nearest point on it; 0 where there is none.
        point: (..., 3) the nearest point, meters; the query itself where there is none.
        distance: (...) to it, meters; infinity where there is none.
        sign: (...) +1 outside, -1 inside, +1 where there is no face; None unless requested. No gradient.
    """

    face: Int[Tensor, "*batch"]
    barycentric: Float[Tensor, "*batch 3"]
    point: Float[Tensor, "*batch 3"]
    distance: Float[Tensor, "*batch"]
    sign: Float[Tensor, "*batch"] | None = None


@dataclass(frozen=True)
class RayHit:
    """The result of `TriangleBVH.raycast`.

    Attributes:
        face: (...) int64 index of the first face hit, -1 where there is none.
        barycentric: (..., 3) of the hit on it; 0 where there is none.
        distance: (...) along the ray in lengths of its direction (meters if that is a unit vector); infinity where
            there is none.
    """

    face: Int[Tensor, "*batch"]
    barycentric: Float[Tensor, "*batch 3"]
    distance: Float[Tensor, "*batch"]


@torch.library.custom_op("headfields::bvh_refit", mutates_args=())
def _refit(
    vertices: Tensor, faces: Tensor, children: Tensor, order: Tensor, slot: Tensor, levels: Sequence[int]
) -> tuple[Tensor, Tensor]:
    bounds = vertices.new_empty(vertices.shape[0], children.shape[0], 48)
    triangles = vertices.new_empty(vertices.shape[0], slot.shape[0], 144)
    if use_native(vertices):
        native.bvh_refit(children, order, slot, faces, vertices, bounds, triangles, torch.get_num_threads())
    else:
        launch_refit("closest_triangle", (vertices, faces, order), children, slot, levels, bounds, triangles)
    return bounds, triangles


def _refit_shapes(vertices, faces, children, order, slot, levels):
    b = vertices.shape[0]
    return vertices.new_empty(b, children.shape[0], 48), vertices.new_empty(b, slot.shape[0], 144)


@torch.library.custom_op("headfields::closest_triangle", mutates_args=())
def _closest(
    points: Tensor, mesh_index: Tensor | None, vertices: Tensor, faces: Tensor, children: Tensor, order: Tensor,
    slot: Tensor, bounds: Tensor, triangles: Tensor, max_distance: float, fused: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Nearest face (n,), and if `fused` barycentric coordinates (n, 3), distance (n,) and point (n, 3)."""
    n = points.shape[0]
    face = torch.empty(n, dtype=torch.long, device=points.device)
    barycentric = points.new_empty(n if fused else 0, 3)
    distance = points.new_empty(n if fused else 0)
    nearest = torch.empty_like(barycentric)
    if use_native(points):
        native.bvh_closest(
            children, order, slot, faces, vertices, bounds, triangles, points, mesh_index, max_distance,
            face, *((barycentric, distance, nearest) if fused else (None, None, None)), torch.get_num_threads(),
        )  # fmt: skip
    else:
        launch_search(
            "closest_triangle.closest", (points,), mesh_index, (children, order, slot), len(faces), bounds, triangles,
            max_distance, int(fused), face, barycentric, distance,
        )  # fmt: skip
        if fused:
            fits = vertices.ndim == 3 and len(vertices) == len(bounds) and faces.ndim == 2 and faces.shape[1] == 3
            require_shapes("closest", fits and vertices.shape[2] == 3, vertices=vertices, faces=faces)
            check_index("closest", "faces", faces, vertices.shape[1])
            index, indexed = (children.view(-1), 0) if mesh_index is None else (mesh_index, 1)
            launch(
                "triangle_points.points_on", n, face, barycentric, index, indexed, points, vertices, faces, nearest
            )  # fmt: skip
    return face, barycentric, distance, nearest


def _closest_shapes(points, *arguments):
    n = points.shape[0] if arguments[-1] else 0  # fused
    face = points.new_empty(points.shape[0], dtype=torch.long)
    return face, points.new_empty(n, 3), points.new_empty(n), points.new_empty(n, 3)


@torch.library.custom_op("headfields::raycast", mutates_args=())
def _raycast(
    origins: Tensor, directions: Tensor, mesh_index: Tensor | None, vertices: Tensor, faces: Tensor, children: Tensor,
    order: Tensor, slot: Tensor, bounds: Tensor, triangles: Tensor, max_distance: float, fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Face (n,), and if `fused` barycentric coordinates (n, 3) and distance (n,), of each ray's first hit."""
    n = origins.shape[0]
    face = torch.empty(n, dtype=torch.long, device=origins.device)
    barycentric = origins.new_empty(n if fused else 0, 3)
    distance = origins.new_empty(n if fused else 0)
    if use_native(origins):
        native.bvh_raycast(
            children, order, slot, faces, vertices, bounds, triangles, origins, directions, mesh_index, max_distance,
            face, barycentric if fused else None, distance if fused else None, torch.get_num_threads(),
        )  # fmt: skip
    else:
        launch_search(
            "ray_mesh.raycast", (origins, directions), mesh_index, (children, order, slot), len(faces),
            bounds, triangles, max_distance, int(fused), face, barycentric, distance,
        )  # fmt: skip
    return face, barycentric, distance


def _raycast_shapes(origins, *arguments):
    n = origins.shape[0] if arguments[-1] else 0  # fused
    return origins.new_empty(origins.shape[0], dtype=torch.long), origins.new_empty(n, 3), origins.new_empty(n)


@torch.library.custom_op("headfields::ray_interval", mutates_args=())
def _interval(
    origins: Tensor, directions: Tensor, mesh_index: Tensor | None, vertices: Tensor, faces: Tensor, children: Tensor,
    order: Tensor, slot: Tensor, bounds: Tensor, triangles: Tensor, margin: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """First and last distance (n,) of rays within `margin` of the surface."""
    near = origins.new_empty(origins.shape[0])
    far = torch.empty_like(near)
    if use_native(origins):
        native.bvh_interval(
            children, order, slot, faces, vertices, bounds, triangles, origins, directions, mesh_index, margin,
            near, far, torch.get_num_threads(),
        )  # fmt: skip
    else:
        launch_search(
            "ray_mesh.interval", (origins, directions), mesh_index, (children, order, slot), len(faces),
            bounds, triangles, margin, near, far, ordered=False,
        )  # fmt: skip
    return near, far


_CONSTANT = "it finds a face, a constant: detach its arguments, and compute from the face what is differentiated"
register_op(_refit, _refit_shapes, None, remedy=_CONSTANT)
register_op(_closest, _closest_shapes, None, rows=(0, 1), remedy=_CONSTANT)
register_op(_raycast, _raycast_shapes, None, rows=(0, 1, 2), remedy=_CONSTANT)
register_op(
    _interval, lambda origins, *_: (origins.new_empty(origins.shape[0]), origins.new_empty(origins.shape[0])), None,
    rows=(0, 1, 2), remedy=_CONSTANT,
)  # fmt: skip


class TriangleBVH(PosedTree):
    """A bounding volume hierarchy over the triangles of B meshes that share their faces, refitted as they move.

    The tree (eight children a node, eight triangles a leaf, surface area heuristic) is built once, for the first mesh
    of the constructor; `refit` moves it to new vertices in well under a millisecond a mesh. Queries refer to the
    vertices of the last refit, and their gradients flow to those.

    A face without area (its edges from the first corner less than 1e-6 radians apart) is a segment or a point: it can
    be the nearest, and no ray hits it. A face with a vertex that is not finite, or farther than 1e18 m from the
    origin, is left out until a refit with usable vertices. Of equally
    near faces (to 1e-6 of the distance and 2.4e-7 of the mesh's largest coordinate, which is float32 rounding; within a
    thin face that is more, by its length over its height; all points of a wedge outside a convex edge have several),
    and of faces that a ray hits at the same distance in float32, the result is the one of lowest index, whatever other
    queries are in the call. All of this holds on every backend.

    The face is found in float32; everything else is computed in the dtype of `points` and `vertices`.

    Attributes:
        faces: (F, 3) int64.
        vertices: (B, V, 3) of the last refit, with their graph.

    Raises:
        TypeError: faces are not integers, or vertices not floating point.
        ValueError: a shape does not fit, devices differ, or an index in faces is out of range.
    """

    faces: Int[Tensor, "f 3"]

    def __init__(self, faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "v 3"] | Float[Tensor, "b v 3"]) -> None:
        check_integer("TriangleBVH", "faces", faces)
        check_shape("TriangleBVH", "faces", faces, "F 3")
        vertices = self._as_batch(vertices)
        check_same_device("TriangleBVH", faces=faces, vertices=vertices)
        if faces.numel() and (int(faces.min()) < 0 or int(faces.max()) >= vertices.shape[1]):
            raise ValueError(
                f"TriangleBVH: faces holds indices from {int(faces.min())} to {int(faces.max())}, "
                f"but vertices has {vertices.shape[1]}; indices must lie in [0, {vertices.shape[1]})"
            )
        self.faces = faces.long().contiguous()
        self._faces = faces.int().contiguous()
        self._edges: Int[Tensor, "f 3"] | None = None
        self._build(self._faces, vertices, build_topology)

    def _fitted(self, packed: Float[Tensor, "b v 3"]) -> tuple[Tensor, ...]:
        return packed, self._faces, *self._topology, *_refit(packed, self._faces, *self._topology, self._levels)

    def closest(
        self,
        points: Float[Tensor, "*batch 3"],
        mesh_index: Int[Tensor, "*batch"] | None = None,
        max_distance: float = torch.inf,
        sign: bool = False,
    ) -> ClosestPoint:
        """The nearest point of the mesh to each query.

        Differentiable to second order in `points` and the vertices of the last refit: the kernel finds the face, and
        the projection onto it is computed in PyTorch. The gradient of the distance at distance 0 is 0. If nothing
        requires a gradient and all is float32, the kernel computes the projection too.

        Args:
            points: (..., 3) meters, in the frame of the vertices.
            mesh_index: (...) the mesh of each point, in [0, B); may be None if B = 1.
            max_distance: faces farther than this are left out, meters.
            sign: whether to compute the sign of the distance, by the angle-weighted pseudo-normal of the nearest face,
                edge or vertex (Baerentzen and Aanaes 2005). Right for closed meshes whose faces share their vertices
                and run counter-clockwise seen from outside.

        Raises:
            TypeError: points are not floating point, or mesh_index not integers.
            ValueError: a shape does not fit, devices differ, mesh_index is missing, or max_distance is not >= 0.
            IndexError: mesh_index is out of range (CPU; not checked on CUDA).

        >>> import torch, headfields as hf
        >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> tree = hf.ops.TriangleBVH(torch.tensor([[0, 1, 2]]), corners)
        >>> nearest = tree.closest(torch.tensor([[0.25, 0.25, 2.0]]))
        >>> nearest.face.tolist(), nearest.distance.tolist(), nearest.barycentric.tolist()
        ([0], [2.0], [[0.5, 0.25, 0.25]])
        """
        check_floating("closest_triangle", "points", points)
        check_shape("closest_triangle", "points", points, "... 3")
        check_same_device("closest_triangle", points=points, vertices=self.vertices)
        if not max_distance >= 0:
            raise ValueError(f"closest_triangle: max_distance is {max_distance}; expected a distance >= 0 in meters")
        batch = points.shape[:-1]
        index = flat_mesh_index("closest_triangle", mesh_index, batch, self.vertices)
        flat = points.reshape(-1, 3)
        fused = points.dtype == self.vertices.dtype == torch.float32
        fused = fused and not may_be_differentiated(points, self.vertices)
        query = flat.detach().float().contiguous()
        face, barycentric, distance, nearest = _closest(query, index, *self._tree, max_distance, fused)
        if not fused:
            dtype = torch.promote_types(points.dtype, self.vertices.dtype)
            barycentric, nearest, distance = closest_on_face(
                flat.to(dtype), self.vertices.to(dtype), self.faces, index, face
            )
        signs = self._sign(flat, face, barycentric, nearest, index).reshape(batch) if sign else None
        return ClosestPoint(
            face.reshape(batch),
            barycentric.reshape(*batch, 3),
            nearest.reshape(*batch, 3),
            distance.reshape(batch),
            signs,
        )

    def _rays(
        self, name: str, origins: Tensor, directions: Tensor, mesh_index: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Flat rays in their own dtype and flat int32 mesh indices, after their checks."""
        for argument, tensor in (("origins", origins), ("directions", directions)):
            check_floating(name, argument, tensor)
            check_shape(name, argument, tensor, "... 3")
        check_same_device(name, origins=origins, directions=directions, vertices=self.vertices)
        if origins.shape != directions.shape:
            raise ValueError(
                f"{name}: origins has shape {tuple(origins.shape)} and directions {tuple(directions.shape)}; "
                "they must be the same (origins.expand_as(directions) repeats one origin)"
            )
        index = flat_mesh_index(name, mesh_index, origins.shape[:-1], self.vertices)
        return origins.reshape(-1, 3), directions.reshape(-1, 3), index

    def raycast(
        self,
        origins: Float[Tensor, "*batch 3"],
        directions: Float[Tensor, "*batch 3"],
        mesh_index: Int[Tensor, "*batch"] | None = None,
        max_distance: float = torch.inf,
    ) -> RayHit:
        """The first hit of each ray with the mesh, at a distance in [0, max_distance], on either side of a face.

        Differentiable to second order in rays and vertices, as `closest` is. No ray slips through an edge or a vertex
        that faces share (Woop et al. 2013, "Watertight ray/triangle intersection"). A ray that is not finite, or whose
        direction is zero, hits nothing. The search takes components of a direction below 1e-30 as zero: a direction
        shorter than that finds next to nothing; scale it first.

        Args:
            origins, directions: (..., 3) meters, in the frame of the vertices.
            mesh_index: (...) the mesh of each ray, in [0, B); may be None if B = 1.
            max_distance: largest hit distance, in units of the direction's length.

        Raises:
            TypeError, ValueError, IndexError: as `closest`.

        >>> import torch, headfields as hf
        >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> tree = hf.ops.TriangleBVH(torch.tensor([[0, 1, 2]]), corners)
        >>> origins = torch.tensor([[0.25, 0.25, 2.0], [0.9, 0.9, 2.0]])  # the second ray misses
        >>> hit = tree.raycast(origins, torch.tensor([[0.0, 0, -1]]).expand(2, 3))
        >>> hit.face.tolist(), hit.distance.tolist()
        ([0, -1], [2.0, inf])
        """
        origin, direction, index = self._rays("raycast", origins, directions, mesh_index)
        if not max_distance >= 0:
            raise ValueError(f"raycast: max_distance is {max_distance}; expected a distance >= 0")
        inputs = (origins, directions, self.vertices)
        fused = all(x.dtype == torch.float32 for x in inputs)
        fused = fused and not may_be_differentiated(*inputs)
        ray = [x.detach().float().contiguous() for x in (origin, direction)]
        face, barycentric, distance = _raycast(*ray, index, *self._tree, max_distance, fused)
        if not fused:
            dtype = torch.promote_types(torch.promote_types(origins.dtype, directions.dtype), self.vertices.dtype)
            barycentric, distance = hit_on_face(
                origin.to(dtype), direction.to(dtype), self.vertices.to(dtype), self.faces, index, face
            )
        batch = origins.shape[:-1]
        return RayHit(face.reshape(batch), barycentric.reshape(*batch, 3), distance.reshape(batch))

    def interval(
        self,
        origins: Float[Tensor, "*batch 3"],
        directions: Float[Tensor, "*batch 3"],
        margin: float,
        mesh_index: Int[Tensor, "*batch"] | None = None,
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The first and the last distance t >= 0 at which each ray is within `margin` of the surface.

        Exact: the union over the faces of the ray's intersection with all points within the margin of the face.
        Computed in float32 whatever the dtype, and not differentiable.

        Args:
            origins, directions: (..., 3) meters, in the frame of the vertices; unit directions.
            margin: meters, > 0.
            mesh_index: (...) the mesh of each ray, in [0, B); may be None if B = 1.

        Returns:
            near, far (...), meters, and finite; both 0, an empty interval, where there is none.

        Raises:
            TypeError, ValueError, IndexError: as `closest`.
        """
        origin, direction, index = self._rays("interval", origins, directions, mesh_index)
        if not 0 < margin < torch.inf:
            raise ValueError(f"interval: margin is {margin}; expected a finite distance > 0 in meters")
        ray = [x.detach().float().contiguous() for x in (origin, direction)]
        near, far = _interval(*ray, index, *self._tree, float(margin))
        miss = near > far
        near, far = near.masked_fill(miss, 0.0), far.masked_fill(miss, 0.0)
        batch = origins.shape[:-1]
        return near.to(origins.dtype).reshape(batch), far.to(origins.dtype).reshape(batch)

    def _sign(self, points: Tensor, face: Tensor, barycentric: Tensor, nearest: Tensor, index: Tensor | None) -> Tensor:
        if self._edges is None:
            self._edges = unique_edges(self.faces)[1].roll(-1, 1)  # of the edge opposite each corner
        with torch.no_grad():
            return pseudo_normal_sign(points, face, barycentric, nearest, self.vertices, self.faces, self._edges, index)
