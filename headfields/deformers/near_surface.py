"""Head space as it is, near the tracked mesh: for fields that are anchored to the posed mesh itself."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.mesh import MeshDeformer
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Canonical, HeadState


@dataclass(frozen=True)
class NearMesh:
    """What `NearSurface.prepare` makes of the frames: their meshes in a tree, and the box around their shells."""

    bvh: TriangleBVH
    box: Float[Tensor, "2 3"]


class NearSurface(MeshDeformer):
    """Leaves points where they are, and samples rays only near the posed mesh.

    MonoAvatar's space: its features sit on the vertices of the posed mesh, so nothing is canonicalized. Beside
    `SurfaceCanonicalizer`, no triangle is looked for at the samples, which is what makes this one cheap; points between
    the ends of a ray's interval are valid even where they are farther from the mesh than the shell.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        shell: meters; rays are sampled only where they are nearer than this to the surface. Our own choice: the paper
            says nothing of near and far.
        behind: meters that a ray is followed behind the first triangle it meets; None follows it through the head. Our
            own choice, as in `SurfaceCanonicalizer`.
        padding: meters added around the canonical mesh to make `bounds`, which should hold the head in all its poses if
            the encoder covers a box; the shell if None.

    Differentiable in the points (the identity) to any order; not in the vertices, which say only where samples are.

    Raises:
        ValueError: an argument is out of range; later, a state of another topology.

    Source: MonoAvatar (Bai et al. 2023), section 3; the limits of the rays are our own.
    """

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
