"""Gaussians embedded on a mesh by barycentric coordinates and a height, which walk over it (SplattingAvatar)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.mesh_deformer import MeshBinding
from headfields.ops.barycentric import barycentric_on, plane_barycentric
from headfields.ops.mesh_topology import edge_neighbors
from headfields.ops.rotations import quaternion_from_rotation, quaternion_product
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import triangle_areas, vertex_normals
from headfields.records import Canonical, HeadState, Splats

_HOPS = 4
"""Triangles that a Gaussian crosses in one walk, at most; an optimizer's step is smaller than one."""
_TINY = 1e-14  # square meters


@dataclass(frozen=True)
class PosedEmbedding:
    """Meshes of B frames with their vertex normals; the BVH of the meshes, in a list that is empty before it is needed.

    Attributes:
        vertices, normals: (B, V, 3).
        growth: (B, F, 1) side of each triangle relative to the canonical one: the root of the ratio of areas.
        state: the frames.
        trees: the BVH.
    """

    vertices: Float[Tensor, "b v 3"]
    normals: Float[Tensor, "b v 3"]
    growth: Float[Tensor, "b f 1"]
    state: HeadState
    trees: list[TriangleBVH]


class EmbeddedBinding(MeshBinding):
    """Each Gaussian sits at barycentric coordinates (u, v) of a triangle and a height d along the interpolated normal.

    μ = (1 − u − v) a + u b + v c + d n(u, v). n is interpolated from the vertices, so that the surface of Gaussians has
    no creases at edges, and a Gaussian may leave its triangle: `walk` moves it to the neighbor, where its coordinates
    continue. Its rotation is kept in canonical space and turned by the frame of n and the triangle's first edge; its
    scales, in meters, grow with the side of the triangle.

    A Gaussian's `position` is (u, v, d / 10 mm), so that one learning rate suits all three. That, the frame and the
    growth are our own choice.

    Canonicalizes points likewise: barycentric coordinates of the nearest point, and the height along the line to it.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        shell, padding, behind: options as in `MeshDeformer`, for points.

    Differentiable in Gaussians, points and vertices to second order, except across the change of the triangle and of a
    quaternion's largest entry.

    Raises:
        ValueError: as `MeshDeformer`.

    Source: SplattingAvatar (Shao et al. 2024), section 3: embedding by (k, u, v, d), and walking on triangles.
    """

    gives_faces = True
    poses = True
    unit = 0.01
    """Meters of height for a third coordinate of 1."""

    def prepare(self, state: HeadState) -> PosedEmbedding:
        self.check_topology(state)
        vertices = state.vertices
        before = triangle_areas(self.canonical_vertices, self.faces).clamp_min(_TINY)
        growth = (triangle_areas(vertices, self.faces) / before).clamp(1e-2, 1e2).sqrt()[..., None]
        normals = vertex_normals(vertices, self.faces)
        return PosedEmbedding(vertices, normals, growth, state, [])

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        if face is None:
            face = self._bvh.closest(splats.means.detach()).face
        corners = self.faces[face]
        normals = self._canonical_normals()
        barycentric = barycentric_on(splats.means, self.canonical_vertices, corners)
        for _ in range(_HOPS):  # the foot along the interpolated normal, which is not that of the plane
            height, normal = self._height(splats.means, barycentric, corners, normals)
            barycentric = plane_barycentric(splats.means - height * normal, self.canonical_vertices, corners)
        height, _ = self._height(splats.means, barycentric, corners, normals)
        return splats.replace(means=torch.cat([barycentric[..., 1:], height / self.unit], dim=-1)), face

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        means, _ = self._place(splats.means, face, self.canonical_vertices, self._canonical_normals())
        return splats.placed(means, splats.quaternions, splats.scales)

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: PosedEmbedding) -> Splats:
        means, there = self._place(splats.means, face, prepared.vertices, prepared.normals)
        _, here = self._place(splats.means, face, self.canonical_vertices, self._canonical_normals())
        turned = quaternion_product(quaternion_from_rotation(there @ here.mT), splats.quaternions)
        return splats.placed(means, turned, splats.scales * prepared.growth[:, face])

    @torch.no_grad()
    def walk(self, position: Float[Tensor, "n 3"], face: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        """Positions whose (u, v) have left their triangle, in the coordinates of the triangle that they have come to.

        At the border of the mesh they stay on the edge.

        Returns:
            (N, 3), and (N,) triangles.
        """
        position, face = position.clone(), face.clone()
        neighbors = edge_neighbors(self.faces)
        for _ in range(_HOPS):
            barycentric = torch.cat([1 - position[:, :1] - position[:, 1:2], position[:, :2]], dim=-1)
            least, corner = barycentric.min(dim=-1)
            gone = (least < 0).nonzero()[:, 0]
            if not len(gone):
                break
            across = neighbors[face[gone], (corner[gone] + 1) % 3]  # the edge opposite to that corner
            own = barycentric[gone]
            point = (self.canonical_vertices[self.faces[face[gone]]] * own[..., None]).sum(1)
            there = plane_barycentric(point, self.canonical_vertices, self.faces[across.clamp_min(0)])
            inside = own.clamp_min(0)
            inside = inside / inside.sum(-1, keepdim=True)
            moves = (across >= 0)[:, None]
            position[gone, :2] = torch.where(moves, there, inside)[:, 1:]
            face[gone] = torch.where(moves[:, 0], across, face[gone])
        else:
            barycentric = torch.cat([1 - position[:, :1] - position[:, 1:2], position[:, :2]], dim=-1).clamp_min(0)
            position[:, :2] = (barycentric / barycentric.sum(-1, keepdim=True))[:, 1:]
        return position, face

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedEmbedding,
    ) -> Canonical:  # fmt: skip
        nearest = self.tree(prepared).closest(points, frame, max_distance=self.shell)
        valid, face = nearest.face >= 0, nearest.face.clamp_min(0)
        local = torch.cat([nearest.barycentric[:, 1:], torch.zeros_like(points[:, :1])], dim=-1)
        index = frame[:, None] * prepared.vertices.shape[1] + self.faces[face]
        corners, normals = (x.flatten(0, 1)[index] for x in (prepared.vertices, prepared.normals))
        foot, there = _on_rows(local, corners, normals)
        rest, here = self._place(local, face, self.canonical_vertices, self._canonical_normals())
        back = here @ there.mT
        growth = prepared.growth[frame, face]
        moved = rest + (back @ (points - foot)[..., None])[..., 0] / growth
        turned = (back @ directions[..., None])[..., 0]
        return Canonical(
            points=moved, directions=turned, posed_points=points, frame=frame, valid=valid, face=nearest.face,
            barycentric=nearest.barycentric, distance=nearest.distance,
        )  # fmt: skip

    def _canonical_normals(self) -> Float[Tensor, "v 3"]:
        return vertex_normals(self.canonical_vertices, self.faces)

    def _height(
        self, points: Tensor, barycentric: Tensor, corners: Tensor, normals: Tensor
    ) -> tuple[Float[Tensor, "*b n 1"], Float[Tensor, "*b n 3"]]:
        """Height of points over the places with these barycentric coordinates, and the interpolated unit normals."""
        normal = torch.nn.functional.normalize((normals[corners] * barycentric[..., None]).sum(-2), dim=-1)
        foot = (self.canonical_vertices[corners] * barycentric[..., None]).sum(-2)
        return ((points - foot) * normal).sum(-1, keepdim=True), normal

    def _place(
        self, local: Float[Tensor, "*b n 3"], face: Int[Tensor, " n"], vertices: Float[Tensor, "*c v 3"],
        normals: Float[Tensor, "*c v 3"],
    ) -> tuple[Float[Tensor, "*d n 3"], Float[Tensor, "*d n 3 3"]]:  # fmt: skip
        """Positions, and frames (columns: tangent, bitangent, normal), of coordinates on triangles."""
        corners = self.faces[face]
        means, frames = _on_rows(local, vertices[..., corners, :], normals[..., corners, :], self.unit)
        return means, frames


def _on_rows(
    local: Tensor, corners: Tensor, normals: Tensor, unit: float = 1.0
) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b 3 3"]]:
    barycentric = torch.cat([1 - local[..., :1] - local[..., 1:2], local[..., :2]], dim=-1)[..., None]
    normal = torch.nn.functional.normalize((normals * barycentric).sum(-2), dim=-1, eps=1e-20)
    edge = corners[..., 1, :] - corners[..., 0, :]
    across = torch.nn.functional.normalize(torch.linalg.cross(normal, edge.expand_as(normal)), dim=-1, eps=1e-20)
    frame = torch.stack([torch.linalg.cross(across, normal), across, normal], dim=-1)
    return (corners * barycentric).sum(-2) + unit * local[..., 2:] * normal, frame
