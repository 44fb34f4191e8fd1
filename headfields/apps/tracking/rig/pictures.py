"""The picture of a frame tracked with a rig: image, lit template, difference, overlay; and errors measured on it."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from headfields.apps.tracking.pictures import draw_points, tile
from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.observation import RigObservation, outline
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.metrics.image import decibels
from headfields.renderers.lighting import sh_basis
from headfields.viz.images import side_by_side

__all__ = ["rig_picture"]


@torch.no_grad()
def rig_picture(
    body: TrackedBody, surface: RigSurface, observation: RigObservation, pose: BodyPose, light: Float[Tensor, "9 3"]
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
    """Image | template | difference | image with the outlines of template (red) and matte (blue) and landmarks; a row
    for each camera of the recording, blank where it lacks the frame.

    Args:
        body, surface: the template.
        observation: the frame.
        pose, light: the fit.

    Returns:
        The picture; `"psnr"` in dB over pixels of the matte that the template covers, `"iou"`, and the mean landmark
        distance `"landmarks_px"` in pixels of the image; means over the views.
    """
    rows, errors = zip(*(_row(body, surface, view, pose, light) for view in observation.views), strict=True)
    width = max(row.shape[1] for row in rows)
    drawn = {
        view.number: np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for view, row in zip(observation.views, rows, strict=True)
    }
    blank = np.full_like(next(iter(drawn.values())), 255)
    names = {name: None for each in errors for name in each}
    return np.concatenate([drawn.get(number, blank) for number in range(observation.cameras)]), {
        name: float(np.mean([each[name] for each in errors if name in each])) for name in names
    }


def _row(
    body: TrackedBody, surface: RigSurface, observation: RigObservation, pose: BodyPose, light: Float[Tensor, "9 3"]
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
    level = observation.levels[-1]
    posed = body.posed(pose)
    visible = surface.visible(posed, level.camera)
    rendered = torch.ones_like(level.rgb)
    rendered[visible.mask] = (visible.albedo * (sh_basis(visible.normals) @ light)).clamp(0, 1)
    both = visible.mask & level.inside & ~level.free
    squared = (rendered - level.rgb).square().mean(dim=-1)[both]
    errors = {
        "psnr": decibels(float(squared.mean()), most=100.0) if len(squared) else 0.0,
        "iou": level.overlap(visible.mask),
    }
    overlay = 0.7 * level.rgb + 0.3
    overlay[outline(level.mask)] = overlay.new_tensor([0.15, 0.35, 1.0])
    overlay[outline(visible.mask)] = overlay.new_tensor([0.9, 0.1, 0.1])
    picture = Image.fromarray(tile(overlay))
    detected = observation.landmarks
    known = detected.isfinite().all(dim=1)
    if bool(known.any()) and body.landmark_count == 68:
        points = body.landmark_points(pose)
        projected = observation.camera.project(points[None].cpu())[0].reshape(-1, 2)
        errors["landmarks_px"] = float((projected - detected)[known].norm(dim=1).mean())
        factor = picture.width / observation.camera.size[1]
        draw_points(picture, detected[known] * factor, (0, 190, 0))
        draw_points(picture, projected[known] * factor, (230, 120, 0))
    difference = (0.5 + 2 * (level.rgb - rendered)).clamp(0, 1)
    tiles = [torch.from_numpy(tile(image)) for image in (level.rgb, rendered, difference)]
    names = ("truth", f"template {errors['psnr']:.1f} dB", "difference", f"outlines {errors['iou']:.3f}")
    return side_by_side([*tiles, torch.from_numpy(np.array(picture))], names), errors
