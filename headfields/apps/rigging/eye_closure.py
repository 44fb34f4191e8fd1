"""Detection of closed eyes from the brightness of a scan's texture between the lids."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH

__all__ = ["eyes_look_closed"]

_FLAT = 0.10  # standard deviation of brightness; closed lids have about half of it, open eyes about twice


def eyes_look_closed(mesh: Mesh, landmarks: Float[Tensor, "l 3"], first: int = 0) -> bool:
    """Whether brightness between the lids varies as little as on skin; False without a texture.

    Args:
        mesh: the scan.
        landmarks: (L, 3) iBUG-68 landmarks `first` to 67 of a body aligned with the scan.
        first: iBUG-68 index of the first landmark: 0 or 17.
    """
    if mesh.texture is None or mesh.uv is None or mesh.uv_faces is None:
        return False
    deviations = []
    tree = TriangleBVH(mesh.faces, mesh.vertices.float())
    for start in (36, 42):
        lids = landmarks[start - first : start - first + 6]
        center = lids.mean(0)
        rings = [center + scale * (lids - center) for scale in (0.0, 0.25, 0.5, 0.7)]
        nearest = tree.closest(torch.cat(rings).float())
        uv = (nearest.barycentric[..., None] * mesh.uv[mesh.uv_faces[nearest.face]]).sum(1)
        deviations.append(float(sample_texture(mesh.texture, uv).mean(-1).std()))
    return sum(deviations) / 2 < _FLAT
