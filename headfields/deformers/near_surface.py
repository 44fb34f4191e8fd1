"""Posed space near the tracked mesh, without canonicalization: for fields anchored to the posed mesh."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.mesh_deformer import MeshDeformer
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Canonical, HeadState


@dataclass(frozen=True)
class NearMesh:
    """A BVH of the frames' meshes, and the box around their shells, from `NearSurface.prepare`."""

    bvh: TriangleBVH
    box: Float[Tensor, "2 3"]


class NearSurface(MeshDeformer):
    """The identity, with rays sampled only near the posed mesh.

    MonoAvatar's space: its features are on the vertices of the posed mesh, so nothing is canonicalized. Unlike
    `SurfaceCanonicalizer` it makes no closest-triangle query per sample, so it is cheap; points between the ends of a
    ray's interval are valid even if they are farther from the mesh than the shell.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        shell: rays are sampled only within this distance of the surface, meters.
        behind: length of a ray behind its first intersection, meters; None: no limit.
        padding: meters added around the canonical mesh for `bounds`, which should contain the head in all its poses if
            the encoder covers a box; the shell if None.

    Differentiable in the points (the identity) to any order; not in the vertices, which say only where samples are.

    Raises:
        ValueError: an argument is out of range; later, a state of another topology.

    Source: MonoAvatar (Bai et al. 2023), section 3. The paper does not give near and far; shell and behind are our own
    choice.
    """

    follows_head = moves_points = False

    def __init__(
        self,
        canonical_vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        shell: float = 0.045,
        behind: float | None = 0.03,
        padding: float | None = None,
    ) -> None:
        super().__init__(canonical_vertices, faces, shell, padding, behind)

    def extra_repr(self) -> str:
        return f"{len(self.faces)} faces, shell={self.shell} m"

    def prepare(self, state: HeadState) -> NearMesh:
        return NearMesh(self.posed(state), self.box_around(state.vertices))

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: NearMesh,
    ) -> Canonical:  # fmt: skip
        valid = torch.ones(len(points), dtype=torch.bool, device=points.device)
        return Canonical(points=points, directions=directions, posed_points=points, frame=frame, valid=valid)
