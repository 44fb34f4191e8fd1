"""The picture of a frame tracked with a prior: image, rendering, normals, overlay; and errors measured on it."""

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from headfields.apps.tracking.pictures import draw_points, tile
from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.head import PriorHead
from headfields.apps.tracking.prior.observation import PriorObservation
from headfields.mesh import extract
from headfields.metrics.image import decibels
from headfields.ops import TriangleBVH
from headfields.ops.render_mesh import render_mesh
from headfields.parts import Rendering
from headfields.records import Camera, HeadState
from headfields.renderers import SurfaceRenderer
from headfields.viz.images import normal_map, side_by_side

__all__ = ["frame_picture", "surface_picture"]

CELLS, COARSEST = 64, 16
"""Cells along the longest side of the grids on which the mesh of a picture is extracted."""
STEPS, LARGEST = 3, 0.004
"""Steps from the mesh onto the surface, and the longest, meters: about a cell."""
_SLANT = 0.2  # least cosine between ray and normal by which such a step is divided


@torch.no_grad()
def frame_picture(
    head: PriorHead, observation: PriorObservation, fit: PriorFit
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
    """Image | rendering | normals | image with the matte's outline and the landmarks of frame (green) and fit (red).

    The rendering is that of `surface_picture`; the head's light and color affine are set to the fit's.

    Args:
        head: the model.
        observation: the frame.
        fit: fit of the frame.

    Returns:
        The picture; `"psnr"` in dB over head pixels with a color weight, `"iou"` of the masks with their weights, and
        the mean landmark distance `"landmarks_px"` in pixels of the reduced image.
    """
    device = head.center.device
    sent = fit.to(device)
    head.light.coefficients.copy_(sent.light)
    head.affine.matrix.copy_(sent.matrix)
    head.affine.offset.copy_(sent.offset)
    camera, state = sent.head_camera, head.state(sent.free)
    rendering = surface_picture(head, camera, state)
    alpha = observation.alpha[..., None]
    image = (observation.rgb * alpha + 1 - alpha).to(device)
    squared = (rendering.rgb.clamp(0, 1) - image).square().mean(dim=-1)[observation.color_weight > 0]
    mask, target, weight = rendering.opacity > 0.5, observation.alpha > 0.5, observation.mask_weight
    union = (weight * (mask | target)).sum().clamp_min(1e-6)
    errors = {
        "psnr": decibels(float(squared.mean()), most=100.0) if len(squared) else float("nan"),
        "iou": float((weight * (mask & target)).sum() / union),
    }
    tiles = [tile(image), tile(rendering.rgb), tile(normal_map(rendering, camera))]
    overlay = tile(0.6 * image + 0.4)
    factor = overlay.shape[0] / observation.camera.size[0]
    picture = Image.fromarray(_with_outline(overlay, target))
    if head.landmarks is not None:
        posed = head.posed_landmarks(head.avatar.field(state))
        projected = camera.project(posed.points)[0].cpu()
        detected = observation.landmarks[head.landmarks.number.to(observation.landmarks.device)].cpu()
        both = torch.isfinite(detected).all(dim=1) & posed.converged.cpu()
        if bool(both.any()):
            errors["landmarks_px"] = float((projected - detected)[both].norm(dim=1).mean())
        draw_points(picture, detected * factor, (0, 190, 0))
        draw_points(picture, projected * factor, (230, 30, 30))
    names = ("truth", f"rendering {errors['psnr']:.1f} dB", "normals", f"mask {errors['iou']:.2f}, landmarks")
    return side_by_side([torch.from_numpy(np.array(part)) for part in (*tiles, picture)], names), errors


@torch.no_grad()
def surface_picture(head: PriorHead, camera: Camera, state: HeadState) -> Rendering:
    """An image (H, W) of the surface, lit, over white: opacity is 0 or 1.

    A coarse mesh is rasterized, its points are moved along their rays onto the surface, and color and normal are
    computed there: a sixth of the evaluations of volume rendering.

    Args:
        head: the model, whose light and color affine apply.
        camera: camera in the space of the head.
        state: of one frame.
    """
    renderer = head.avatar.renderer
    assert isinstance(renderer, SurfaceRenderer)
    field = head.avatar.field(state)
    height, width = camera.size
    pixels = height * width
    rgb, normal = (torch.full((pixels, 3), value, device=head.center.device) for value in (1.0, 0.0))
    opacity, depth = (torch.zeros(pixels, device=head.center.device) for _ in range(2))
    mesh = extract(field, resolution=CELLS, coarse=COARSEST, colors=False, normals="mesh", progress=False)
    head.jitter()
    if len(mesh.faces):
        image = render_mesh(TriangleBVH(mesh.faces, mesh.vertices), camera)
        which = image.mask.flatten().nonzero()[:, 0]
        rays = camera.rays(torch.stack([which // width, which % width], dim=1))
        axis = rays.directions @ camera.world_to_camera[2, :3]
        along = image.depth.flatten()[which] / axis
        slope = (image.normal.flatten(0, 1)[which] * rays.directions).sum(dim=1).abs().clamp_min(_SLANT)
        for _ in range(STEPS):
            points = torch.addcmul(rays.origins, rays.directions, along[:, None])
            values = field.decode(field.canonicalize(points, rays.directions, rays.frame), color=False)
            (distance,) = values.require("distance")
            along = along + (distance / slope).clamp(-LARGEST, LARGEST)
        points = torch.addcmul(rays.origins, rays.directions, along[:, None])
        _, values = field.signed_distance(points, rays.frame, rays.directions, color=True)
        color, normals = values.require("rgb", "normal")
        for shading in renderer.shadings:
            color = shading(color, normals, torch.arange(len(which), device=which.device), rays)
        rgb[which], normal[which] = color, normals
        opacity[which], depth[which] = 1.0, along
    return Rendering(
        rgb=rgb.view(height, width, 3), opacity=opacity.view(height, width), depth=depth.view(height, width),
        normal=normal.view(height, width, 3),
    )  # fmt: skip


def _with_outline(image: UInt8[np.ndarray, "h w 3"], mask: Bool[Tensor, "i j"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image with the border of the mask in blue; h is a multiple of i."""
    inside = mask.cpu().numpy()
    factor = image.shape[0] // inside.shape[0]
    enlarged = inside.repeat(factor, axis=0).repeat(factor, axis=1)
    border = np.zeros_like(enlarged)
    border[1:] |= enlarged[1:] != enlarged[:-1]
    border[:, 1:] |= enlarged[:, 1:] != enlarged[:, :-1]
    out = image.copy()
    out[border] = (40, 90, 255)
    return out
