"""Rasterization of a mesh by ray casting: depth, coverage, faces and interpolated attributes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import face_crosses
from headfields.records import Camera, Record


@dataclass(frozen=True)
class MeshImage(Record):
    """The point of the mesh at each pixel's center; the result of `render_mesh`.

    Attributes:
        depth: (H, W) depth along the optical axis, meters; 0 where the pixel shows nothing.
        mask: (H, W) whether the pixel shows the mesh. No gradient.
        face: (H, W) index of the face, -1 where there is none.
        barycentric: (H, W, 3) on it; 0 where there is none.
        attributes: (H, W, C) interpolated attributes; 0 where there is none.
        normal: (H, W, 3) unit normal of the face, by its winding, in the frame of the vertices; 0 where there is none.
    """

    depth: Float[Tensor, "h w"]
    mask: Bool[Tensor, "h w"]
    face: Int[Tensor, "h w"]
    barycentric: Float[Tensor, "h w 3"]
    attributes: Float[Tensor, "h w c"]
    normal: Float[Tensor, "h w 3"]


def render_mesh(
    bvh: TriangleBVH,
    camera: Camera,
    attributes: Float[Tensor, "v c"] | Float[Tensor, "f 3 c"] | None = None,
    mesh_index: int = 0,
) -> MeshImage:
    """Casts one ray through the center of each pixel and interpolates attributes at its hit; faces have two sides.

    Differentiable to second order in the vertices of the last `bvh.refit`, the camera and the attributes. Coverage is
    not: a pixel at the outline jumps, as in any point-sampled rasterizer (`antialias` adds its gradient).

    Args:
        bvh: the mesh.
        camera: one camera, in the frame of the vertices, z forward.
        attributes: (V, C) values at vertices, or (F, 3, C) at the corners of faces (texture coordinates with seams);
            None for none, C = 0.
        mesh_index: one of the meshes of `bvh`.

    Raises:
        TypeError: attributes are not floating point.
        ValueError: attributes have neither shape, devices differ, or the camera is a batch.
        IndexError: mesh_index is out of range.
    """
    if not 0 <= mesh_index < len(bvh):
        raise IndexError(f"render_mesh: mesh_index is {mesh_index}, but the tree holds {len(bvh)} meshes")
    vertices, faces = bvh.vertices[mesh_index], bvh.faces
    pose = camera.world_to_camera.reshape(-1, 4, 4)
    if pose.shape[0] != 1:
        raise ValueError(f"render_mesh: camera is a batch of {pose.shape[0]}; pass one, camera[0]")
    check_same_device("render_mesh", vertices=vertices, camera=pose, attributes=attributes)
    height, width = camera.size
    rays = camera.rays()
    index = torch.full_like(rays.frame, mesh_index)
    hit = bvh.raycast(rays.origins, rays.directions, index)
    mask = hit.face >= 0
    along_axis = (rays.directions * pose[0, 2, :3].to(rays.directions.dtype)).sum(-1)
    depth = torch.where(mask, torch.where(mask, hit.distance, 0.0) * along_axis, 0.0)
    if attributes is None:
        attributes = vertices.new_zeros(vertices.shape[0], 0)
    check_floating("render_mesh", "attributes", attributes)
    expected = (vertices.shape[0],) if attributes.ndim == 2 else (faces.shape[0], 3)
    if attributes.ndim not in (2, 3) or tuple(attributes.shape[:-1]) != expected:
        raise ValueError(
            f"render_mesh: attributes has shape {tuple(attributes.shape)}; expected ({vertices.shape[0]}, C), one for "
            f"each vertex, or ({faces.shape[0]}, 3, C), one for each corner of each face"
        )
    face = hit.face.clamp(min=0)
    if faces.shape[0]:
        at_corners = attributes[faces[face]] if attributes.ndim == 2 else attributes[face]
        values = (hit.barycentric[..., None] * at_corners).sum(-2)
        normals = face_crosses(vertices, faces)
        # A face that a ray meets has an area; normalizing those alone keeps the others out of the gradient.
        met = torch.where(mask[:, None], normals[face], torch.ones_like(normals[:1]))
        normal = met / met.norm(dim=-1, keepdim=True)
    else:
        values = attributes.reshape(-1, attributes.shape[-1])[:0].sum(0).expand(mask.shape[0], -1)
        normal = vertices[:0].sum() + torch.zeros_like(rays.directions, dtype=vertices.dtype)
    shape = (height, width)
    return MeshImage(
        depth.reshape(shape),
        mask.reshape(shape),
        hit.face.reshape(shape),
        hit.barycentric.reshape(*shape, 3),
        torch.where(mask[:, None], values, 0.0).reshape(*shape, attributes.shape[-1]),
        torch.where(mask[:, None], normal, 0.0).reshape(*shape, 3),
    )
