"""Base class of deformers on a tracked mesh: ray intervals in a shell around it, and bounding boxes."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.parts import Deformer
from headfields.records import HeadState, Rays, check_meters


def check_mesh(owner: str, canonical_vertices: Tensor, faces: Tensor) -> None:
    """Raises TypeError or ValueError, in the name of `owner`, unless these are the mesh of a head in meters."""
    if (
        isinstance(canonical_vertices, Tensor) and isinstance(faces, Tensor)
        and faces.is_floating_point() and not canonical_vertices.is_floating_point()
    ):  # fmt: skip
        raise TypeError(
            f"{owner}: canonical_vertices is {canonical_vertices.dtype} and faces {faces.dtype}: they are swapped; the "
            "vertices come first"
        )
    check_floating(owner, "canonical_vertices", canonical_vertices)
    check_integer(owner, "faces", faces)
    check_shape(owner, "canonical_vertices", canonical_vertices, "V 3")
    check_shape(owner, "faces", faces, "F 3")
    least, most = (int(each) for each in faces.aminmax()) if faces.numel() else (0, -1)
    if least < 0 or most >= len(canonical_vertices):
        raise ValueError(
            f"{owner}: faces has indices from {least} to {most}, and there are {len(canonical_vertices)} vertices; "
            "pass the faces of this mesh"
        )
    check_meters(owner, "canonical_vertices", canonical_vertices)


_FARTHEST = 100
"""Meters: a shell beyond this is one in another unit."""


class MeshDeformer(Deformer):
    """A deformer on a tracked mesh: rays are sampled within a shell around its surface, and a short way behind it.

    Subclasses build the posed BVH in `prepare` with `posed`; the result has `bvh` and `box`, of `box_around`.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        shell: distance from the surface beyond which space is empty, meters.
        padding: meters added around the canonical mesh to make `bounds`; the shell if None.
        behind: length of a ray behind its first intersection, meters; None: no limit.

    Raises:
        TypeError: vertices are not floating point, or faces no integers (vertices come first).
        ValueError: an argument is out of range, vertices are not finite or not in meters, or a face has a vertex that
            there is not; later, a state of another topology.
    """

    canonical_vertices: Tensor
    faces: Tensor

    def __init__(
        self,
        canonical_vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        shell: float = 0.045,
        padding: float | None = None,
        behind: float | None = 0.03,
    ) -> None:
        super().__init__()
        check_mesh(type(self).__name__, canonical_vertices, faces)
        if not 0 < shell <= _FARTHEST:
            raise ValueError(
                f"{type(self).__name__}: shell is {shell} m; it must be positive, and at most {_FARTHEST} m"
            )
        if behind is not None and not 0 <= behind < math.inf:
            raise ValueError(f"{type(self).__name__}: behind is {behind} m; it must not be negative, or None")
        self.register_buffer("canonical_vertices", canonical_vertices.detach().float().clone())
        self.register_buffer("faces", faces.detach().long().clone())
        self.face_count = len(faces)
        self.shell = shell
        self.padding = shell if padding is None else padding
        self.behind = behind
        self._bvh = TriangleBVH(self.faces, self.canonical_vertices)

    def bounds(self) -> Float[Tensor, "2 3"]:
        low, high = self.canonical_vertices.amin(0), self.canonical_vertices.amax(0)
        return torch.stack([low - self.padding, high + self.padding])

    def posed(self, state: HeadState) -> TriangleBVH:
        """A BVH of the meshes of B frames.

        Raises:
            ValueError: the state's mesh is of another topology.
        """
        self.check_topology(state)
        vertices = state.vertices
        if self._bvh.faces.device != vertices.device:
            self._bvh = TriangleBVH(self.faces, self.canonical_vertices)
        return self._bvh.posed(vertices)

    def check_topology(self, state: HeadState) -> None:
        """Raises ValueError if the state's mesh is of another topology."""
        vertices = state.vertices
        if vertices.shape[1] != self.canonical_vertices.shape[0]:
            raise ValueError(
                f"{type(self).__name__}: the state has {vertices.shape[1]} vertices and the canonical mesh "
                f"{self.canonical_vertices.shape[0]}; they must be one topology. If they are of one head, its capture "
                "was opened with another mouth, whose inside adds vertices: load_capture(folder, avatar=avatar) opens "
                "it as for training, and mouth= says it; of another head, headfields.retargeting transfers the motion"
            )

    def box_around(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "2 3"]:
        """Corners (2, 3) of the box around the shells of all B meshes, meters."""
        low, high = vertices.detach().amin(dim=(0, 1)), vertices.detach().amax(dim=(0, 1))
        return torch.stack([low - self.shell, high + self.shell])

    def shell_of(self, rays: Rays, bvh: TriangleBVH) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """near, far (N,), meters: where N rays are within the shell of their mesh, up to `behind` its first hit."""
        near, far = bvh.interval(rays.origins, rays.directions, self.shell, rays.frame)
        if self.behind is not None:
            with torch.no_grad():
                first = bvh.raycast(rays.origins, rays.directions, rays.frame).distance
            far = far.minimum(first + self.behind)
        return near, far

    def near_far(self, rays: Rays, prepared: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return self.shell_of(rays, prepared.bvh)

    def posed_bounds(self, prepared: Any) -> Float[Tensor, "2 3"]:
        return prepared.box


class MeshBinding(MeshDeformer):
    """A mesh deformer whose Gaussians need no BVH and no box: those of `prepared.state` are made, the first in the list
    `prepared.trees`, where points are to be canonicalized."""

    def near_far(self, rays: Rays, prepared: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return self.shell_of(rays, self.tree(prepared))

    def posed_bounds(self, prepared: Any) -> Float[Tensor, "2 3"]:
        return self.box_around(prepared.state.vertices)

    def tree(self, prepared: Any) -> TriangleBVH:
        """The BVH of the posed meshes."""
        if not prepared.trees:
            prepared.trees.append(self.posed(prepared.state))
        return prepared.trees[0]
