"""Baselines: a field without a deformer, and an unlit mesh with an average texture."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Static
from headfields.encoders import HashGrid
from headfields.models.preset import preset
from headfields.ops.background import background_pixels
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.parts import Rendering
from headfields.records import Camera, HeadState, Template
from headfields.renderers import OccupancySampler, VolumeRenderer


@preset
def static_field(
    template: Template,
    levels: int = 16,
    features: int = 4,
    log2_table_size: int = 17,
    finest_resolution: int = 1024,
    margin: float = 0.045,
    rows: Literal["float32", "float16"] = "float32",
) -> Avatar:
    """The field of `insta` without deformer and condition: a static scene in a box around the canonical mesh.

    Args:
        template: the canonical mesh, of which only the extent is used.
        levels, features, log2_table_size, finest_resolution, rows: options of `HashGrid`.
        margin: meters from the mesh to the faces of the box.

    Source: our own choice of baseline.
    """
    low, high = template.canonical_vertices.amin(0) - margin, template.canonical_vertices.amax(0) + margin
    return Avatar(
        deformer=Static(torch.stack([low, high])),
        encoder=HashGrid(levels, features, log2_table_size, 16, finest_resolution, rows=rows),
        decoder=NeRFDecoder(hidden=64, direction_degree=4),
        renderer=VolumeRenderer(sampler=OccupancySampler("posed", step=0.0025, warmup=48)),
        template=template,
    )


class AverageTexture(nn.Module):
    """The tracked mesh with one color per texel, the mean over the training frames that see it; no light, no hair.

    Texels are bins of the barycentric coordinates, `resolution`² a triangle, so that no UV map is needed.

    Args:
        template: the mesh; triangles that close the mouth are textured like any other.
        resolution: bins along each edge.
    """

    texture: Tensor

    def __init__(self, template: Template, resolution: int = 4) -> None:
        super().__init__()
        if resolution < 1:
            raise ValueError(f"AverageTexture: resolution is {resolution}; it must be at least 1")
        self.resolution = resolution
        self._bvh = TriangleBVH(template.faces, template.canonical_vertices)
        self.register_buffer("texture", torch.full((len(template.faces) * resolution**2, 3), 0.5))

    @torch.no_grad()
    def fit(self, capture: Any, frames: Tensor, progress: bool = False) -> "AverageTexture":
        """Takes the mean color of every texel over the foreground pixels of `frames` (B,) that see it.

        A texel that no frame shows gets the mean of its triangle, and a triangle that none shows the mean of all.

        Args:
            capture: a `headfields.data.Capture`.
            frames: (B,) frame indices.
            progress: show a bar.

        Returns:
            The mesh itself.

        Raises:
            ValueError: no foreground pixel meets the mesh.
        """
        from tqdm import tqdm

        total, device = torch.zeros_like(self.texture), self.texture.device
        count = total[:, 0].clone()
        for frame in tqdm(frames.tolist(), desc="texture", disable=not progress):
            batch = capture.pixels(frame).to(device)
            camera, state = capture.camera([frame])[0].to(device), capture.state([frame]).to(device)
            texel, hit, _ = self._texels(camera, state)
            hit &= batch.alpha > 0.5
            total.index_add_(0, texel[hit], batch.rgb[hit])
            count.index_add_(0, texel[hit], torch.ones(int(hit.sum()), device=device))
        if not bool(count.any()):
            raise ValueError(
                "AverageTexture.fit: no foreground pixel of these frames meets the mesh; check the cameras"
            )
        per_face = self.resolution**2
        face_total, face_count = total.view(-1, per_face, 3).sum(1), count.view(-1, per_face).sum(1)
        mean = total.sum(0) / count.sum()
        face_color = torch.where(face_count[:, None] > 0, face_total / face_count[:, None].clamp_min(1), mean)
        filled = face_color.repeat_interleave(per_face, dim=0)
        self.texture.copy_(torch.where(count[:, None] > 0, total / count[:, None].clamp_min(1), filled))
        return self

    def _texels(self, camera: Camera, state: HeadState) -> tuple[Tensor, Tensor, Tensor]:
        """For each pixel in row-major order: its texel, whether it sees the mesh, and the distance along the ray."""
        rays, device = camera.rays(), state.vertices.device
        if self._bvh.faces.device != device:
            self._bvh = TriangleBVH(self._bvh.faces.to(device), state.vertices)
        hit = self._bvh.posed(state.vertices).raycast(rays.origins, rays.directions)
        bins = (hit.barycentric[:, :2] * self.resolution).long().clamp(0, self.resolution - 1)
        texel = hit.face.clamp_min(0) * self.resolution**2 + bins[:, 0] * self.resolution + bins[:, 1]
        return texel, hit.face >= 0, hit.distance

    @torch.no_grad()
    def render(
        self, camera: Camera, state: HeadState, background: float | int | Tensor = 1.0, chunk: int = 0
    ) -> Rendering:
        """The textured mesh over a background, as `Avatar.render` gives it (`chunk` has no use here)."""
        texel, hit, distance = self._texels(camera, state)
        color = background_pixels("AverageTexture.render", background, camera.size, texel.device)
        rgb = torch.where(hit[:, None], self.texture[texel], color)
        height, width = camera.size
        depth = torch.where(hit, distance, 0.0)
        return Rendering(
            rgb=rgb.view(height, width, 3), opacity=hit.float().view(height, width), depth=depth.view(height, width)
        )
