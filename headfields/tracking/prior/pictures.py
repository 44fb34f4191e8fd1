"""The picture of a frame tracked with a prior: image, rendering, normals, overlay; and errors measured on it."""

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from headfields.tracking.pictures import draw_points, tile
from headfields.tracking.prior.fit import PriorFit
from headfields.tracking.prior.head import PriorHead
from headfields.tracking.prior.observation import PriorObservation
from headfields.viz.images import normal_map, side_by_side

__all__ = ["frame_picture"]


@torch.no_grad()
def frame_picture(
    head: PriorHead, observation: PriorObservation, fit: PriorFit
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
    """Image | rendering | normals | image with the matte's outline and the landmarks of frame (green) and fit (red).

    The head's light and color affine are set to the fit's, and its sharpness to its value at the end of stage 1.

    Args:
        head: the model.
        observation: the frame.
        fit: fit of the frame.

    Returns:
        The picture; `"psnr"` in dB over head pixels with a color weight, `"iou"` of the masks with their weights, and
        the mean landmark distance `"landmarks_px"` in pixels of the reduced image.
    """
    device = head.center.device
    light, matrix, offset = (value.to(device) for value in (fit.light, fit.matrix, fit.offset))
    head.light.coefficients.copy_(light)
    head.affine.matrix.copy_(matrix)
    head.affine.offset.copy_(offset)
    head.sharpen(0.8)
    camera = fit.head_camera.to(device)
    state = head.state({name: value.to(device) for name, value in fit.free.items()})
    rendering = head.picture(camera, state)
    alpha = observation.alpha[..., None]
    image = (observation.rgb * alpha + 1 - alpha).to(device)
    squared = (rendering.rgb.clamp(0, 1) - image).square().mean(dim=-1)[observation.color_weight > 0]
    mask, target, weight = rendering.opacity > 0.5, observation.alpha > 0.5, observation.mask_weight
    union = (weight * (mask | target)).sum().clamp_min(1e-6)
    errors = {
        "psnr": float(-10 * torch.log10(squared.mean().clamp_min(1e-10))) if len(squared) else float("nan"),
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
