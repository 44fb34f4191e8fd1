"""A synthetic scan of the procedural head: the outermost point per direction, one skin with sealed lips and lids."""

import pytest
import torch
import trimesh

from headfields.mesh import Mesh
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.synthetic.head.texture import procedural_head_texture

CENTER = torch.tensor([0.0, -0.03, 0.0])


def sealed_scan(head, place, subdivisions=5):
    """The scan of a head with vertices `place`. It has holes where rays enter the gap between the lips."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    directions = torch.from_numpy(sphere.vertices.copy()).float()
    faces = torch.from_numpy(sphere.faces.copy()).long()
    tree = TriangleBVH(head.faces, place)
    far = CENTER + 0.5 * directions  # the first hit from outside is the outermost one
    hit = tree.raycast(far, -directions)
    texture = torch.from_numpy(procedural_head_texture(256)).float()
    corners = head.uv[head.uv_faces[hit.face.clamp_min(0)]]
    uv = (hit.barycentric[..., None] * corners).sum(1)
    vertices = far - torch.where(hit.face >= 0, hit.distance, 0.0)[:, None] * directions
    # No neck below the chin's level at the back, where rays leave through its opening or see it edge-on.
    keep = (hit.face >= 0) & (vertices[:, 1] > -0.175) & (hit.distance < 0.5)
    faces = faces[keep[faces].all(1)]
    used, index = faces.unique(return_inverse=True)
    return Mesh(vertices[used], index.reshape(-1, 3), uv=uv[used], uv_faces=index.reshape(-1, 3), texture=texture)


@pytest.fixture(scope="session")
def sealed(head):
    return sealed_scan(head, head.template_vertices)
