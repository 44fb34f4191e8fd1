"""A picture of each tracked frame: truth, the lit template, the difference, and outlines and landmarks over it."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from headfields.records import Camera
from headfields.renderers.lighting import sh_basis
from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.observation import RigObservation, outline
from headfields.tracking.rig.surface import RigSurface
from headfields.viz.images import side_by_side, to_uint8

__all__ = ["rig_picture"]

_TILE = 256


@torch.no_grad()
def rig_picture(
    body: TrackedBody, surface: RigSurface, observation: RigObservation, pose: BodyPose, light: Float[Tensor, "9 3"]
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
    """Truth | template | difference | truth with the template's outline (red), the matte's (blue) and landmarks.

    Args:
        body, surface: the template. observation: the frame. pose, light: what was found.

    Returns:
        The picture; and `"psnr"` in dB over pixels of the matte that see the template, `"iou"`, and the mean distance
        of landmarks `"landmarks_px"` in pixels of the image.
    """
    level = observation.levels[-1]
    posed = body.posed(pose)
    seen = surface.see(posed, level.camera)
    rendered = torch.ones_like(level.rgb)
    rendered[seen.mask] = (seen.albedo * (sh_basis(seen.normals) @ light)).clamp(0, 1)
    both = seen.mask & level.inside
    squared = (rendered - level.rgb).square().mean(dim=-1)[both]
    errors = {
        "psnr": float(-10 * torch.log10(squared.mean().clamp_min(1e-10))) if len(squared) else 0.0,
        "iou": float((seen.mask & level.mask).sum() / (seen.mask | level.mask).sum().clamp_min(1)),
    }
    overlay = 0.7 * level.rgb + 0.3
    overlay[outline(level.mask)] = overlay.new_tensor([0.15, 0.35, 1.0])
    overlay[outline(seen.mask)] = overlay.new_tensor([0.9, 0.1, 0.1])
    picture = Image.fromarray(_tile(overlay))
    marks = observation.landmarks
    known = marks.isfinite().all(dim=1)
    rig = body.rig
    if bool(known.any()) and rig.landmark_faces is not None and len(rig.landmark_faces) == 68:
        points = rig.landmarks(posed.local[None])[0]
        lens = Camera(torch.eye(4), observation.camera.intrinsics, observation.camera.size)
        found = lens.project(points[None].cpu())[0][0]
        errors["landmarks_px"] = float((found - marks)[known].norm(dim=1).mean())
        factor = picture.width / observation.camera.size[1]
        draw = ImageDraw.Draw(picture)
        for places, color in ((marks[known], (0, 190, 0)), (found[known], (230, 120, 0))):
            for x, y in (places * factor).tolist():
                draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=color)
    difference = (0.5 + 2 * (level.rgb - rendered)).clamp(0, 1)
    tiles = [torch.from_numpy(tile) for tile in (_tile(level.rgb), _tile(rendered), _tile(difference))]
    names = ("truth", f"template {errors['psnr']:.1f} dB", "difference", f"outlines {errors['iou']:.3f}")
    return side_by_side([*tiles, torch.from_numpy(np.array(picture))], names), errors


def _tile(image: Float[Tensor, "h w 3"]) -> UInt8[np.ndarray, "i j 3"]:
    factor = max(round(_TILE / image.shape[0]), 1)
    size = (factor * image.shape[1], factor * image.shape[0])
    return np.array(Image.fromarray(to_uint8(image)).resize(size, Image.Resampling.NEAREST))
