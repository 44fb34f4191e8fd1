"""Whether a scan's eyes are shut, by what its texture shows between the lids."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH

__all__ = ["eyes_look_closed"]

_FLAT = 0.10  # standard deviation of brightness: shut lids have about half of it, eyes with iris and white twice


def eyes_look_closed(mesh: Mesh, landmarks: Float[Tensor, "l 3"], first: int = 0) -> bool:
    """Whether brightness between the lids varies as little as skin does; False without a texture.

    Args:
        mesh: the scan.
        landmarks: (L, 3) a body's landmarks laid over it, the last of iBUG's 68.
        first: iBUG's number of the first of them.
    """
    if mesh.texture is None or mesh.uv is None or mesh.uv_faces is None:
        return False
    spread = []
    tree = TriangleBVH(mesh.faces, mesh.vertices.float())
    for start in (36, 42):
        lids = landmarks[start - first : start - first + 6]
        middle = lids.mean(0)
        rings = [middle + share * (lids - middle) for share in (0.0, 0.25, 0.5, 0.7)]
        found = tree.closest(torch.cat(rings).float())
        at = (found.barycentric[..., None] * mesh.uv[mesh.uv_faces[found.face]]).sum(1)
        spread.append(float(sample_texture(mesh.texture, at).mean(-1).std()))
    return sum(spread) / 2 < _FLAT
