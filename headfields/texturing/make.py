"""From posed images and a proxy mesh to a textured template, its file and pictures of it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.unwrap import unwrap
from headfields.records import Record
from headfields.renderers.mesh import MeshRenderer
from headfields.texturing.bake import BakedTexture, bake_texture
from headfields.texturing.exposure import even_out
from headfields.texturing.images import PosedImages
from headfields.texturing.refine import RefineOptions, refine_mesh
from headfields.viz.images import save_image, side_by_side
from headfields.viz.mesh import draw_mesh, view_camera

__all__ = ["MadeTemplate", "make_template", "template_pictures"]


@dataclass(frozen=True)
class MadeTemplate(Record):
    """What `make_template` gives.

    Attributes:
        mesh: the textured template, in the frame of the cameras.
        baked: its texture, with what was seen of it and the views' gains.
        moved: (V,) how far refinement moved each vertex, meters.
        loss: (steps,) of the refinement.
    """

    mesh: Mesh
    baked: BakedTexture
    moved: Float[Tensor, " v"]
    loss: Float[Tensor, " s"]


def make_template(
    images: PosedImages,
    proxy: Mesh,
    resolution: int = 1024,
    refine: int = 0,
    options: RefineOptions | None = None,
    even_exposure: bool = True,
    progress: bool = False,
) -> MadeTemplate:
    """Bakes a texture for a proxy mesh out of posed images, after refining its shape if asked.

    Args:
        images: of a subject that stands still, from around.
        proxy: its mesh in the frame of the cameras; a texture of its own is not looked at. Without texture coordinates
            it gets some (`headfields.ops.unwrap`).
        resolution: side of the texture, texels.
        refine: steps of `refine_mesh`; 0 leaves the shape as it is.
        options: of the refinement.
        even_exposure: whether differences of brightness between views are taken out.
        progress: whether to show bars.

    Raises:
        ValueError: the proxy has no faces, or as `bake_texture` and `refine_mesh`.
    """
    if not len(proxy.faces):
        raise ValueError("make_template: the proxy has no faces; a mesh is needed, not points")
    uv, uv_faces = proxy.uv, proxy.uv_faces
    if uv is None or uv_faces is None:
        uv, uv_faces = unwrap(proxy.vertices, proxy.faces)
    vertices, loss = proxy.vertices.float(), torch.zeros(0)
    if refine:
        found = refine_mesh(images, vertices, proxy.faces, uv, uv_faces, refine, options, progress=progress)
        vertices, loss = found.vertices, found.loss
    baked = bake_texture(
        images, vertices, proxy.faces, uv, uv_faces, resolution, even_exposure=even_exposure, progress=progress
    )
    mesh = Mesh(vertices, proxy.faces, uv=uv, uv_faces=uv_faces, texture=baked.texture)
    return MadeTemplate(mesh, baked, (vertices - proxy.vertices).norm(dim=-1), loss)


def template_pictures(
    made: MadeTemplate, images: PosedImages, folder: str | Path, views: int = 6, size: int = 320
) -> UInt8[Tensor, "h w 3"]:
    """Writes `views.png` (captured, baked, difference, for views spread over the set), `turntable.png` (the template
    from eight sides), `texture.png` and `seen.png` (how sure the texture is; black is filled).

    Args:
        made: the template.
        images: those that it was made from.
        folder: made if it is not there.
        views: how many images to compare with.
        size: width of a picture, pixels.

    Returns:
        (H, W, 3) `views.png`.
    """
    folder, mesh = Path(folder), made.mesh
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
            shown = even_out(plain.clamp(0, 1), made.baked.gains[index]) * alpha + 1 - alpha
            drawn = renderer(mesh.vertices, camera).over(1.0)
            gap = (1 - 3 * (shown - drawn).abs()).clamp(0, 1)
            column = side_by_side([torch.cat([shown, drawn, gap])], [images.names[index]])
            columns.append(torch.from_numpy(column))
        sheet = torch.cat(columns, 1)
        save_image(folder / "views.png", sheet)
        turns = [
            draw_mesh(mesh, view_camera(mesh.vertices, yaw, size=size), "texture", None, samples=2, mark_backfaces=True)
            for yaw in range(0, 360, 45)
        ]
        save_image(folder / "turntable.png", torch.cat([torch.cat(turns[:4], 1), torch.cat(turns[4:], 1)]))
    save_image(folder / "texture.png", made.baked.texture)
    save_image(folder / "seen.png", (made.baked.confidence / made.baked.confidence.max().clamp(min=1e-6)).sqrt())
    return sheet
