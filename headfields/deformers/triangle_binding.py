"""Gaussians bound to triangles, which they follow rigidly and in size (GaussianAvatars)."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.mesh_deformer import MeshBinding
from headfields.ops.bound_gaussians import bind_gaussians, triangle_similarities
from headfields.ops.reference.bound_gaussians import similarity_parts
from headfields.ops.rotations import quaternion_product
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Canonical, HeadState, Splats


@dataclass(frozen=True)
class TrianglePoses:
    """Similarities from the coordinates of each triangle to posed space, of B frames.

    Attributes:
        table: (B, F, 17), as `headfields.ops.bound_gaussians.triangle_similarities` gives them.
        state: the frames.
        box: (2, 3) around the shells of all frames.
        trees: the BVH of the posed meshes, in a list that is empty before it is needed.
    """

    table: Float[Tensor, "b f 17"]
    state: HeadState
    box: Float[Tensor, "2 3"]
    trees: list[TriangleBVH]


class TriangleBinding(MeshBinding):
    """Each Gaussian is attached to a triangle, whose frame and size it follows: μ' = k R μ + T, r' = R r, s' = k s.

    T is the triangle's centroid; the columns of R are the direction of its first edge, its normal, and the cross
    product of the two; k is the mean of the length of that edge and the triangle's height over it, in meters. So μ and
    s count in sizes of the triangle, and the same step of an optimizer is a smaller one where the mesh is finer.

    Canonicalizes points with the same maps, of the nearest triangle within the shell.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        shell, padding, behind: options as in `MeshDeformer`, for points.

    Differentiable in Gaussians, points and vertices to second order, except across the change of the nearest triangle
    and of a quaternion's largest entry.

    Raises:
        ValueError: as `MeshDeformer`; later, Gaussians of a triangle that there is not.

    Source: GaussianAvatars (Qian et al. 2024), section 3.2.
    """

    gives_faces = True
    poses = True
    _canonical: Tensor | None = None

    def prepare(self, state: HeadState) -> TrianglePoses:
        self.check_topology(state)
        return TrianglePoses(
            triangle_similarities(state.vertices, self.faces), state, self.box_around(state.vertices), []
        )

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        if face is None:
            face = self._bvh.closest(splats.means.detach()).face
        size, linear, origin, rotation = similarity_parts(self._canonical_table()[0][face])
        means = (linear.mT @ (splats.means - origin)[..., None])[..., 0] / size.square()
        back = rotation * rotation.new_tensor([1.0, -1.0, -1.0, -1.0])
        return splats.placed(means, quaternion_product(back, splats.quaternions), splats.scales / size), face

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        table = self._canonical_table()
        if splats.means.ndim == 3:
            return _place(splats, table.expand(len(splats.means), -1, -1), face)
        return _place(splats, table, face).map(lambda tensor: tensor[0])

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: TrianglePoses) -> Splats:
        return _place(splats, prepared.table, face)

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


def _place(splats: Splats, table: Float[Tensor, "b f 17"], face: Int[Tensor, " n"]) -> Splats:
    """Gaussians in the coordinates of triangles, in the space of these."""
    return splats.placed(*bind_gaussians(splats.means, splats.quaternions, splats.scales, table, face))
