"""Surface canonicalization of INSTA: points move with the nearest triangle of the tracked mesh."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.deformers.mesh_deformer import MeshDeformer
from headfields.ops.blended_map import blended_map
from headfields.ops.mesh_topology import edge_neighbors
from headfields.ops.reference.blended_map import ring_weights
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.triangle_frames import Scaling, deformation_gradients, triangle_frames
from headfields.records import Canonical, HeadState
from headfields.records.inverse import inverse_3x3

BlendFormula = Literal["published", "released"]


@dataclass(frozen=True)
class PosedSurface:
    """A BVH of the frames' meshes, and matrices of their triangles, from `SurfaceCanonicalizer.prepare`."""

    bvh: TriangleBVH
    gradients: Float[Tensor, "b f 3 4"]
    centroids: Float[Tensor, "b f 3"]
    frames: Float[Tensor, "b f 3 4"] | None
    box: Float[Tensor, "2 3"]


class SurfaceCanonicalizer(MeshDeformer):
    """INSTA's backward warp: points and directions are mapped by the deformation gradient of the nearest triangle.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64; close the mouth cavity first (`headfields.heads.mouth.closing.close_mouth`).
        blend_neighbors: average with the triangles across the three edges, which removes discontinuities at edges.
        formula: formula of the average. `"published"`: the deformation gradients are averaged, each with weight
            exp(−β‖x − centroid‖), β = 4. `"released"`, as the released code: the frames are averaged on each side
            (weights 4 and, for the nearest triangle itself, 1, both measured from the observed point, so a head that
            moves with its camera is another picture) and the posed one is inverted afterwards.
        blended_faces: (F,) mask of the triangles that blend; all of them if None (INSTA's code: its face region).
        scaling: see `headfields.ops.triangle_frames.deformation_gradients`; with `"affine"` a point of a triangle is
            mapped to the same point of its canonical one, however far the triangle is stretched. `scaled_faces` (F,)
            limits it (INSTA's code: `"area"` in the eye region).
        shell: meters; a point farther than this from the surface is not valid, and rays are sampled only within it.
            Our own choice: INSTA samples its whole box and learns the empty space from random backgrounds.
        behind: length of a ray behind its first intersection, meters; None: no limit. Our own choice: deeper samples
            are occluded, and would be half of all samples early in training.
        padding: meters added around the canonical mesh for `bounds`.

    Differentiable in points and vertices to second order, except across the change of the nearest triangle.

    Raises:
        ValueError: an argument is out of range or of a shape that does not fit; later, a state of another topology.

    Source: INSTA (Zielonka et al. 2023), section 3.2.
    """

    gives_faces = True
    _ring: Tensor
    _scaled: Tensor | None

    def __init__(
        self,
        canonical_vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        blend_neighbors: bool = True,
        formula: BlendFormula = "published",
        blended_faces: Bool[Tensor, " f"] | None = None,
        scaling: Scaling = "none",
        scaled_faces: Bool[Tensor, " f"] | None = None,
        shell: float = 0.045,
        padding: float | None = None,
        behind: float | None = 0.03,
    ) -> None:
        super().__init__(canonical_vertices, faces, shell, padding, behind)
        if formula not in ("published", "released"):
            raise ValueError(f"SurfaceCanonicalizer: formula is {formula!r}; expected 'published' or 'released'")
        for name, mask in (("blended_faces", blended_faces), ("scaled_faces", scaled_faces)):
            if mask is not None and mask.shape != faces.shape[:1]:
                raise ValueError(
                    f"SurfaceCanonicalizer: {name} has shape {tuple(mask.shape)}; expected ({len(faces)},)"
                )
        neighbors = edge_neighbors(self.faces)
        own = torch.arange(len(faces), device=faces.device)[:, None]
        if blended_faces is not None:
            neighbors = torch.where(blended_faces[:, None], neighbors, -1)
        self.register_buffer("_ring", torch.cat([own, neighbors], dim=1), persistent=False)
        self.register_buffer("_scaled", None if scaled_faces is None else scaled_faces.clone(), persistent=False)
        self.blend_neighbors = blend_neighbors
        self.formula = formula
        self.follows_head = not (blend_neighbors and formula == "released")
        self.scaling: Scaling = scaling

    def extra_repr(self) -> str:
        return f"{len(self.faces)} faces, blend={self.formula if self.blend_neighbors else None}, shell={self.shell} m"

    def prepare(self, state: HeadState) -> PosedSurface:
        vertices, bvh = state.vertices, self.posed(state)
        gradients = deformation_gradients(vertices, self.canonical_vertices, self.faces, self.scaling)
        if self._scaled is not None and self.scaling != "none":
            rigid = deformation_gradients(vertices, self.canonical_vertices, self.faces, "none")
            gradients = torch.where(self._scaled[:, None, None], gradients, rigid)
        frames = None
        if self.blend_neighbors and self.formula == "released":
            # L_posed with its scale, so that L_canonical L_posed⁻¹ is the gradient above.
            canonical_linear = triangle_frames(self.canonical_vertices, self.faces)[..., :3]
            linear = inverse_3x3(gradients[..., :3]) @ canonical_linear
            frames = torch.cat([linear, vertices[:, self.faces[:, 0], :, None]], dim=-1)
        centroids = vertices[:, self.faces].mean(dim=-2)
        return PosedSurface(bvh, gradients, centroids, frames, self.box_around(vertices))

    def forward(
        self,
        points: Float[Tensor, "m 3"],
        directions: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        prepared: PosedSurface,
    ) -> Canonical:
        nearest = prepared.bvh.closest(points, frame, max_distance=self.shell)
        valid = nearest.face >= 0
        face = nearest.face.clamp_min(0)
        if self.blend_neighbors and self.formula == "released":
            matrix = self._blend_released(points, face, frame, prepared)
            moved = (matrix[..., :3] @ points[..., None])[..., 0] + matrix[..., 3]
            turned = torch.nn.functional.normalize((matrix[..., :3] @ directions[..., None])[..., 0], dim=-1)
        else:
            ring = self._ring if self.blend_neighbors else self._ring[:, :1]
            moved, turned = blended_map(
                points, directions, face, frame, prepared.gradients, prepared.centroids, ring, sharpness=4.0
            )
        return Canonical(
            points=moved, directions=turned, posed_points=points, frame=frame, valid=valid,
            face=nearest.face, barycentric=nearest.barycentric, distance=nearest.distance,
        )  # fmt: skip

    def _blend_released(self, points: Tensor, face: Tensor, frame: Tensor, prepared: PosedSurface) -> Tensor:
        ring = self._ring[face]
        index = ring.clamp_min(0)
        posed_index = frame[:, None] * len(self.faces) + index
        sharpness = points.new_tensor([1.0, 4.0, 4.0, 4.0])
        centroids = self.canonical_vertices[self.faces].mean(dim=-2)
        canonical_frames = triangle_frames(self.canonical_vertices, self.faces)
        posed_weights = ring_weights(points, prepared.centroids.flatten(0, 1)[posed_index], ring, sharpness)
        canonical_weights = ring_weights(points, centroids[index], ring, sharpness)
        assert prepared.frames is not None
        posed = torch.einsum("mk,mkij->mij", posed_weights, prepared.frames.flatten(0, 1)[posed_index])
        canonical = torch.einsum("mk,mkij->mij", canonical_weights, canonical_frames[index])
        linear = canonical[..., :3] @ inverse_3x3(posed[..., :3])
        return torch.cat([linear, canonical[..., 3:] - linear @ posed[..., 3:]], dim=-1)
