"""A proxy mesh textured from posed images, and pictures of the result."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headfields.apps.texturing.bake import BakedTexture, bake_texture
from headfields.apps.texturing.exposure import even_out
from headfields.apps.texturing.images import PosedImages
from headfields.apps.texturing.refine import RefineOptions, refine_mesh
from headfields.mesh.mesh import Mesh
from headfields.ops.unwrap import unwrap
from headfields.records import Record
from headfields.renderers.mesh import MeshRenderer
from headfields.viz.images import save_image, side_by_side
from headfields.viz.mesh import draw_mesh, view_camera

__all__ = ["TexturedProxy", "texture_pictures", "texture_proxy"]


@dataclass(frozen=True)
class TexturedProxy(Record):
    """A textured proxy mesh.

    Attributes:
        mesh: mesh in the frame of the cameras.
        baked: its texture, the visibility of its texels, and the views' exposure gains.
        moved: (V,) distance by which refinement moved each vertex, meters.
        loss: (steps,) of the refinement.
    """

    mesh: Mesh
    baked: BakedTexture
    moved: Float[Tensor, " v"]
    loss: Float[Tensor, " s"]


def texture_proxy(
    images: PosedImages,
    proxy: Mesh,
    resolution: int = 1024,
    refine: int = 0,
    options: RefineOptions | None = None,
    even_exposure: bool = True,
    progress: bool = False,
) -> TexturedProxy:
    """Bakes a texture for a proxy mesh from posed images, optionally after refining its shape.

    Args:
        images: images of a still subject, from all around.
        proxy: its mesh in the frame of the cameras; its own texture is ignored. Without texture coordinates it is
            unwrapped (`headfields.ops.unwrap`).
        resolution: side of the texture, texels.
        refine: steps of `refine_mesh`; 0 leaves the shape as it is.
        options: options of the refinement.
        even_exposure: whether to divide out differences of exposure between views.
        progress: whether to show progress bars.

    Raises:
        ValueError: the proxy has no faces, or as `bake_texture` and `refine_mesh`.
    """
    if not len(proxy.faces):
        raise ValueError("texture_proxy: the proxy has no faces; a mesh is needed, not points")
    uv, uv_faces = proxy.uv, proxy.uv_faces
    if uv is None or uv_faces is None:
        uv, uv_faces = unwrap(proxy.vertices, proxy.faces)
    vertices, loss = proxy.vertices.float(), torch.zeros(0)
    if refine:
        refined = refine_mesh(images, vertices, proxy.faces, uv, uv_faces, refine, options, progress=progress)
        vertices, loss = refined.vertices, refined.loss
    baked = bake_texture(
        images, vertices, proxy.faces, uv, uv_faces, resolution, even_exposure=even_exposure, progress=progress
    )
    mesh = Mesh(vertices, proxy.faces, uv=uv, uv_faces=uv_faces, texture=baked.texture)
    return TexturedProxy(mesh, baked, (vertices - proxy.vertices).norm(dim=-1), loss)


def texture_pictures(
    textured: TexturedProxy, images: PosedImages, folder: str | Path, views: int = 6, size: int = 320
) -> UInt8[Tensor, "h w 3"]:
    """Writes `views.png` (captured, baked and difference for evenly spaced views), `turntable.png` (the mesh from eight
    sides), `texture.png` and `seen.png` (confidence of the texels; black ones are filled in).

    Args:
        textured: the textured mesh.
        images: the images that it was textured from.
        folder: output folder; created if missing.
        views: number of images to compare with.
        size: width of a picture, pixels.

    Returns:
        (H, W, 3) `views.png`.
    """
    folder, mesh = Path(folder), textured.mesh
    renderer = MeshRenderer(mesh.faces, mesh.uv, mesh.uv_faces, mesh.texture)
    columns = []
    with torch.no_grad():
        for row in range(min(views, len(images))):
            index = row * len(images) // min(views, len(images))
            camera, color, matte = images.view(index)
            factor = size / camera.size[1]
            camera = camera.scaled(factor)
            packed = torch.cat([color * matte[..., None], matte[..., None]], -1).movedim(-1, 0)[None]
            packed = torch.nn.functional.interpolate(packed, camera.size, mode="area" if factor < 1 else "bilinear")[0]
            alpha = packed[3, ..., None]
            plain = packed[:3].movedim(0, -1) / alpha.clamp(min=1e-3)
            captured = even_out(plain.clamp(0, 1), textured.baked.gains[index]) * alpha + 1 - alpha
            baked = renderer(mesh.vertices, camera).over(1.0)
            gap = (1 - 3 * (captured - baked).abs()).clamp(0, 1)
            column = side_by_side([torch.cat([captured, baked, gap])], [images.names[index]])
            columns.append(torch.from_numpy(column))
        sheet = torch.cat(columns, 1)
        save_image(folder / "views.png", sheet)
        turns = [
            draw_mesh(mesh, view_camera(mesh.vertices, yaw, size=size), "texture", None, samples=2, mark_backfaces=True)
            for yaw in range(0, 360, 45)
        ]
        save_image(folder / "turntable.png", torch.cat([torch.cat(turns[:4], 1), torch.cat(turns[4:], 1)]))
    save_image(folder / "texture.png", textured.baked.texture)
    confidence = textured.baked.confidence
    save_image(folder / "seen.png", (confidence / confidence.max().clamp(min=1e-6)).sqrt())
    return sheet
