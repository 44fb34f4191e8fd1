"""Meshes as the viewer draws them itself: an object with an avatar's `render`, for rigs, scans and tracked meshes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.render_mesh import render_mesh
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.parts import Rendering
from headfields.records import Camera, HeadState
from headfields.viz.mesh import CLAY, HEADLIGHT

__all__ = ["MeshPainter"]


class MeshPainter:
    """Draws the mesh of a state with the colors or the texture of a mesh of its topology, as clay without either.

    Args:
        mesh: faces, and colors or texture coordinates and a texture. Its vertices do not matter.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._tree: TriangleBVH | None = None

    @torch.no_grad()
    def render(self, camera: Camera, state: HeadState, background: Any = 1.0) -> Rendering:
        """An image of one frame, as `headfields.Avatar.render` gives it; lit by a light at the camera unless textured.

        Args:
            camera: one camera.
            state: one frame of the mesh's topology.
            background: gray level in [0, 1], or a color (3,).
        """
        vertices = state.vertices[0].float()
        if self._tree is None:
            self._tree = TriangleBVH(self.mesh.faces, vertices)
        tree = self._tree.posed(vertices)
        normals = vertex_normals(vertices, self.mesh.faces)[self.mesh.faces]
        values, textured = self._values()
        image = render_mesh(tree, camera, torch.cat([values, normals], -1))
        normal = torch.nn.functional.normalize(image.attributes[..., -3:], dim=-1)
        color = image.attributes[..., :-3]
        rays = camera.rays().directions.reshape(*camera.size, 3).to(normal)
        if textured:
            assert self.mesh.texture is not None
            color = sample_texture(self.mesh.texture.to(color), color)
        else:
            color = color * HEADLIGHT.brightness(normal, rays, camera)
        behind = torch.as_tensor(background, dtype=torch.float32).expand(3)
        opacity = image.mask.float()
        axis = camera.world_to_camera.reshape(4, 4)[2, :3].to(rays)
        return Rendering(
            rgb=torch.where(image.mask[..., None], color.clamp(0, 1), behind),
            opacity=opacity,
            depth=image.depth / (rays @ axis).clamp_min(1e-6),
            normal=normal * opacity[..., None],
        )

    def _values(self) -> tuple[Float[Tensor, "f 3 c"], bool]:
        """Texture coordinates or colors at the corners of the faces, and which of the two."""
        mesh = self.mesh
        if mesh.texture is not None and mesh.uv is not None:
            return mesh.uv[mesh.faces if mesh.uv_faces is None else mesh.uv_faces], True
        if mesh.colors is not None:
            return mesh.colors[mesh.faces], False
        return torch.full((*mesh.faces.shape, 3), CLAY), False
