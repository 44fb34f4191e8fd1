"""Gaussians bound to triangles, which they follow rigidly and in size (GaussianAvatars), rigidly (RGBAvatar) or by a
point alone (FlashAvatar)."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.mesh_deformer import MeshBinding
from headfields.ops.barycentric import barycentric_on
from headfields.ops.bound_gaussians import bind_gaussians, triangle_similarities
from headfields.ops.reference.bound_gaussians import similarity_parts
from headfields.ops.rotations import quaternion_product
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Canonical, HeadState, Splats

Follows = Literal["similarity", "rotation", "translation"]
"""What Gaussians take of their triangle's motion."""


@dataclass(frozen=True)
class TrianglePoses:
    """Similarities from the coordinates of each triangle to posed space, of B frames.

    Attributes:
        table: (B, F, 17), as `headfields.ops.bound_gaussians.triangle_similarities` gives them.
        state: the frames.
        trees: the BVH of the posed meshes, in a list that is empty before it is needed.
    """

    table: Float[Tensor, "b f 17"]
    state: HeadState
    trees: list[TriangleBVH]


class TriangleBinding(MeshBinding):
    """Each Gaussian is attached to a triangle, whose frame and size it follows: μ' = k R μ + T, r' = R r, s' = k s.

    T is the triangle's centroid; the columns of R are the direction of its first edge, its normal, and the cross
    product of the two; k is the mean of the length of that edge and the triangle's height over it, in meters. So μ and
    s count in sizes of the triangle, and the same step of an optimizer is a smaller one where the mesh is finer.

    That is `follows="similarity"`. With `"rotation"` and `"translation"` k is 1, so lengths are meters, and T is not
    the centroid but the point of the triangle that the Gaussian was attached to (`Gaussians.barycentric`), which moves
    as the surface does; with `"translation"` R is the identity too: Gaussians keep their orientation in the frame of
    the mesh, which is to be the head's (`head_frame=`). RGBAvatar is `"rotation"` (released code, model/binding.py; its
    axes in the triangle's plane are those of the texture coordinates, here the first edge), FlashAvatar `"translation"`
    (released code, src/deform_model.py).

    Canonicalizes points with the similarities, of the nearest triangle within the shell, whatever Gaussians follow.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        shell, padding, behind: options as in `MeshDeformer`, for points.
        follows: see above.

    Differentiable in Gaussians, points and vertices to second order, except across the change of the nearest triangle
    and of a quaternion's largest entry.

    Raises:
        ValueError: as `MeshDeformer`; `follows` is another word; later, Gaussians of a triangle that there is not, or
            without points of attachment where positions begin at them.

    Source: GaussianAvatars (Qian et al. 2024), section 3.2.
    """

    gives_faces = True
    poses = True
    _canonical: Tensor | None = None

    def __init__(
        self,
        canonical_vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        shell: float = 0.045,
        padding: float | None = None,
        behind: float | None = 0.03,
        follows: Follows = "similarity",
    ) -> None:
        super().__init__(canonical_vertices, faces, shell, padding, behind)
        if follows not in get_args(Follows):
            raise ValueError(f"TriangleBinding: follows is {follows!r}; expected one of {', '.join(get_args(Follows))}")
        self.follows = follows
        self.follows_head = follows != "translation"

    def extra_repr(self) -> str:
        return f"follows={self.follows!r}"

    def prepare(self, state: HeadState) -> TrianglePoses:
        self.check_topology(state)
        return TrianglePoses(triangle_similarities(state.vertices, self.faces), state, [])

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        if face is None:
            face = self._bvh.closest(splats.means.detach()).face
        if self.follows != "similarity":
            return self._attached_to_points(splats, face), face
        size, linear, origin, rotation = similarity_parts(self._canonical_table()[0][face])
        means = (linear.mT @ (splats.means - origin)[..., None])[..., 0] / size.square()
        back = rotation * rotation.new_tensor([1.0, -1.0, -1.0, -1.0])
        return splats.placed(means, quaternion_product(back, splats.quaternions), splats.scales / size), face

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        table, vertices = self._canonical_table(), self.canonical_vertices[None]
        if splats.means.ndim == 3:
            frames = len(splats.means)
            return self._place(splats, table.expand(frames, -1, -1), vertices.expand(frames, -1, -1), face)
        return self._place(splats, table, vertices, face).map(lambda tensor: tensor[0])

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: TrianglePoses) -> Splats:
        return self._place(splats, prepared.table, prepared.state.vertices, face)

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: TrianglePoses,
    ) -> Canonical:  # fmt: skip
        nearest = self.tree(prepared).closest(points, frame, max_distance=self.shell)
        valid = nearest.face >= 0
        face = nearest.face.clamp_min(0)
        size, linear, origin, _ = similarity_parts(prepared.table[frame, face])
        own_size, own_linear, own_origin, _ = similarity_parts(self._canonical_table()[0][face])
        back = own_linear @ linear.mT / size.square()[..., None]
        moved = (back @ (points - origin)[..., None])[..., 0] + own_origin
        turned = (back @ directions[..., None])[..., 0] * size / own_size
        return Canonical(
            points=moved, directions=turned, posed_points=points, frame=frame, valid=valid, face=nearest.face,
            barycentric=nearest.barycentric, distance=nearest.distance,
        )  # fmt: skip

    def _canonical_table(self) -> Float[Tensor, "1 f 17"]:
        if self._canonical is None or self._canonical.device != self.canonical_vertices.device:
            self._canonical = triangle_similarities(self.canonical_vertices[None], self.faces)
        return self._canonical

    def _place(
        self, splats: Splats, table: Float[Tensor, "b f 17"], vertices: Float[Tensor, "b v 3"], face: Int[Tensor, " n"]
    ) -> Splats:
        """Gaussians in the coordinates of triangles, in the space of these."""
        if self.follows == "similarity":
            return splats.placed(*bind_gaussians(splats.means, splats.quaternions, splats.scales, table, face))
        if splats.barycentric is None:
            raise ValueError(
                f"TriangleBinding: follows is {self.follows!r}, and the Gaussians have no points of attachment "
                "(barycentric); make them with Gaussians.of(*deformer.attach(splats))"
            )
        origin = (vertices[:, self.faces[face]] * splats.barycentric[..., None]).sum(-2)
        if self.follows == "translation":
            return splats.placed(origin + splats.means, splats.quaternions, splats.scales)
        means, quaternions, scales = bind_gaussians(
            splats.means, splats.quaternions, splats.scales, _without_size(table), face
        )
        return splats.placed(origin + means, quaternions, scales)

    def _attached_to_points(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        """Canonical Gaussians relative to the points of their triangles that they have, or else are nearest to."""
        barycentric = splats.barycentric
        if barycentric is None:
            barycentric = barycentric_on(splats.means.detach(), self.canonical_vertices, self.faces[face])
        away = splats.means - (self.canonical_vertices[self.faces[face]] * barycentric[..., None]).sum(-2)
        if self.follows == "translation":
            return splats.replace(means=away, barycentric=barycentric)
        size, linear, _, rotation = similarity_parts(self._canonical_table()[0][face])
        means = (linear.mT @ away[..., None])[..., 0] / size
        back = rotation * rotation.new_tensor([1.0, -1.0, -1.0, -1.0])
        return splats.replace(
            means=means, quaternions=quaternion_product(back, splats.quaternions), barycentric=barycentric
        )


def _without_size(table: Float[Tensor, "b f 17"]) -> Float[Tensor, "b f 17"]:
    """The rotations of similarities alone, about the origin."""
    size, linear, origin, rotation = similarity_parts(table)
    turns = (linear / size[..., None]).flatten(-2)
    return torch.cat([turns, torch.zeros_like(origin), rotation, torch.ones_like(size)], dim=-1)
