"""Inverse linear blend skinning: a posed point goes back through the blend of the joints that its place on the head
follows."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.mesh import MeshDeformer
from headfields.ops.affine import affine_inverse, apply_affine
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.ops.triangle_bvh import ClosestPoint, TriangleBVH
from headfields.records import Canonical, HeadState


@dataclass(frozen=True)
class PosedSkeleton:
    """What `SkinningDeformer.prepare` makes of B frames.

    Attributes:
        bvh: the posed meshes.
        transforms: (B, J, 4, 4) canonical-to-posed transforms of the joints.
        vertices: (B, V, 15) of each vertex: its blended map (3 × 4, row by row), and how far expression and pose
            correctives move it from its canonical place before it is skinned.
        box: (2, 3) around the shells of all frames.
    """

    bvh: TriangleBVH
    transforms: Float[Tensor, "b j 4 4"]
    vertices: Float[Tensor, "b v 15"]
    box: Float[Tensor, "2 3"]


class SkinningDeformer(MeshDeformer):
    """What the inverses of skinning share: the mesh with its weights, and what each frame does to its vertices.

    A posed vertex is A (c + d): c its canonical place, A the blend of the joints' maps, d what is left, which is what
    expression, pose correctives and whatever else moves the mesh come to. d is taken from the posed vertices
    themselves, A⁻¹ p − c, so that no basis of expressions is needed and every posed vertex goes exactly to its
    canonical one.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        weights: (V, J) skinning weights; rows sum to 1.
        canonical_transforms: (J, 4, 4) rest-to-canonical transforms of the joints where the canonical mesh is not in
            the rest pose (with the jaw open, say); None where it is.
        shell, padding, behind: as in `MeshDeformer`.

    Raises:
        ValueError: shapes do not fit, weights are negative or do not sum to 1; later, a state without
            `joint_transforms` or with those of another skeleton.
    """

    gives_faces = True
    needs = ("joint_transforms",)
    weights: Tensor
    _from_canonical: Tensor | None

    def __init__(
        self,
        canonical_vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        weights: Float[Tensor, "v j"],
        canonical_transforms: Float[Tensor, "j 4 4"] | None = None,
        shell: float = 0.045,
        padding: float | None = None,
        behind: float | None = 0.03,
    ) -> None:
        super().__init__(canonical_vertices, faces, shell, padding, behind)
        name = type(self).__name__
        if weights.ndim != 2 or len(weights) != len(canonical_vertices):
            raise ValueError(
                f"{name}: weights has shape {tuple(weights.shape)}; expected ({len(canonical_vertices)}, J), one row "
                "for each vertex"
            )
        if len(weights) and (float(weights.min()) < 0 or float((weights.sum(-1) - 1).abs().max()) > 1e-3):
            raise ValueError(f"{name}: weights must not be negative, and each vertex's must sum to 1 (to 0.001)")
        joints = weights.shape[1]
        if canonical_transforms is not None and canonical_transforms.shape != (joints, 4, 4):
            raise ValueError(
                f"{name}: canonical_transforms has shape {tuple(canonical_transforms.shape)}; expected "
                f"({joints}, 4, 4), one for each joint of weights"
            )
        self.register_buffer("weights", weights.detach().float().clone(), persistent=False)
        inverse = None if canonical_transforms is None else torch.linalg.inv(canonical_transforms.detach().float())
        self.register_buffer("_from_canonical", inverse, persistent=False)

    def extra_repr(self) -> str:
        return f"{len(self.faces)} faces, {self.weights.shape[1]} joints, shell={self.shell} m"

    def prepare(self, state: HeadState) -> PosedSkeleton:
        name = type(self).__name__
        transforms = state.need(name, "joint_transforms")
        if transforms.shape[1] != self.weights.shape[1]:
            raise ValueError(
                f"{name}: the state has {transforms.shape[1]} joints and the skinning weights {self.weights.shape[1]}; "
                "they must be of one skeleton"
            )
        bvh = self.posed(state)
        if self._from_canonical is not None:
            transforms = transforms @ self._from_canonical
        maps = (self.weights @ transforms[:, :, :3].flatten(2)).unflatten(-1, (3, 4))  # (B, V, 3, 4)
        back, usable = affine_inverse(maps)
        displaced = apply_affine(back, state.vertices) - self.canonical_vertices
        displaced = torch.where(usable[..., None], displaced, 0.0)
        table = torch.cat([maps.flatten(2), displaced], dim=-1)
        return PosedSkeleton(bvh, transforms, table, self.box_around(state.vertices))

    def _on_surface(
        self, nearest: ClosestPoint, frame: Int[Tensor, " m"], table: Float[Tensor, "b v c"]
    ) -> Float[Tensor, "m c"]:
        """Values of the vertices at the nearest surface points; zeros where there is none."""
        corners = self.faces[nearest.face.clamp_min(0)]
        rows = torch.where((nearest.face >= 0)[:, None], frame[:, None] * table.shape[1] + corners, -1)
        return interpolate_rows(table.flatten(0, 1), rows, nearest.barycentric)


class InverseSkinning(SkinningDeformer):
    """Undoes linear blend skinning with the weights of the nearest triangle of the posed mesh.

    x_c = c + L⁻¹ (x − p): p is the nearest point of the posed mesh, c the point of the canonical mesh with the same
    barycentric coordinates, and L the rotations of the joints, blended with the skinning weights there. So the posed
    surface goes exactly to the canonical one, with all that expression and pose correctives did to it, and what lies
    off it follows the joints (with `SurfaceCanonicalizer` it follows the triangle). One look-up a point, and nothing is
    learned; but where two parts of the skin come near one another (lips that close), a point follows the nearer, and
    canonical space has a seam between them: `SkinningRoots` has none.

    Directions go through L⁻¹ and are made unit again: for a single joint that is the inverse rotation. A point is not
    valid farther than the shell from the mesh, nor where the blend is singular.

    Args:
        canonical_vertices, faces, weights, canonical_transforms, shell, padding, behind: as in `SkinningDeformer`.

    Differentiable to second order in points, directions, joint transforms and vertices, except across the change of the
    nearest triangle.

    Source: linear blend skinning: Loper et al. 2015, "SMPL", equation 2; weights of the nearest point of the posed
    mesh: Chen et al. 2021, "Animatable Neural Radiance Fields from Monocular RGB Videos", section 3.2. That the surface
    is met exactly is our own choice.
    """

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedSkeleton,
    ) -> Canonical:  # fmt: skip
        nearest = prepared.bvh.closest(points, frame, max_distance=self.shell)
        maps, usable = affine_inverse(
            self._on_surface(nearest, frame, prepared.vertices[..., :12]).unflatten(-1, (3, 4))
        )
        valid = usable & (nearest.face >= 0)
        corners = self.faces[nearest.face.clamp_min(0)]
        foot = interpolate_rows(self.canonical_vertices, corners, nearest.barycentric)
        moved = foot + (maps[..., :3] * (points - nearest.point)[:, None]).sum(-1)
        turned = torch.nn.functional.normalize((maps[..., :3] * directions[:, None]).sum(-1), dim=-1)
        return Canonical(
            points=torch.where(valid[:, None], moved, points), directions=turned, posed_points=points, frame=frame,
            valid=valid, face=nearest.face, barycentric=nearest.barycentric, distance=nearest.distance,
        )  # fmt: skip
