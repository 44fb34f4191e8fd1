"""A picture of each tracked frame: truth, rendering, normals, and what was to be matched; and numbers from it."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from headfields.tracking.prior.fit import PriorFit
from headfields.tracking.prior.head import PriorHead
from headfields.tracking.prior.observation import PriorObservation
from headfields.viz.images import normal_map, side_by_side, to_uint8

__all__ = ["frame_picture"]

_TILE = 256


@torch.no_grad()
def frame_picture(
    head: PriorHead, data: PriorObservation, fit: PriorFit
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
    """Truth | rendering | normals | truth with the matte's outline, given landmarks (green) and found ones (red).

    The head's light and colors are set to the fit's, and its sharpness to where stage 1 ends.

    Args:
        head: the model.
        data: the frame, as tracking sees it.
        fit: what it has found.

    Returns:
        The picture; and `"psnr"` over what counts of the head, in dB, `"iou"` of the masks as far as they count, and
        the mean distance of `"landmarks_px"` in pixels of the reduced image.
    """
    device = head.center.device
    light, matrix, offset = (value.to(device) for value in (fit.light, fit.matrix, fit.offset))
    head.light.coefficients.copy_(light)
    head.affine.matrix.copy_(matrix)
    head.affine.offset.copy_(offset)
    head.sharpen(0.8)
    camera = fit.head_camera.to(device)
    state = head.state({name: value.to(device) for name, value in fit.free.items()})
    seen = head.picture(camera, state)
    alpha = data.alpha[..., None]
    truth = (data.rgb * alpha + 1 - alpha).to(device)
    counts = data.color_weight > 0
    squared = (seen.rgb.clamp(0, 1) - truth).square().mean(dim=-1)[counts]
    hard, target, weight = seen.opacity > 0.5, data.alpha > 0.5, data.mask_weight
    union = (weight * (hard | target)).sum().clamp_min(1e-6)
    errors = {
        "psnr": float(-10 * torch.log10(squared.mean().clamp_min(1e-10))) if len(squared) else float("nan"),
        "iou": float((weight * (hard & target)).sum() / union),
    }
    tiles = [_tile(truth), _tile(seen.rgb), _tile(normal_map(seen, camera))]
    overlay = _tile(0.6 * truth + 0.4)
    factor = overlay.shape[0] / data.camera.size[0]
    picture = Image.fromarray(_outlined(overlay, data.alpha))
    if head.landmarks is not None:
        posed = head.posed_landmarks(head.avatar.field(state))
        found = camera.project(posed.points)[0].cpu()
        given = data.landmarks[head.landmarks.number.to(data.landmarks.device)].cpu()
        both = torch.isfinite(given).all(dim=1) & posed.found.cpu()
        if bool(both.any()):
            errors["landmarks_px"] = float((found - given)[both].norm(dim=1).mean())
        draw = ImageDraw.Draw(picture)
        for points, color in ((given, (0, 190, 0)), (found, (230, 30, 30))):
            for x, y in (points * factor).tolist():
                if np.isfinite(x) and np.isfinite(y):
                    draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=color)
    names = ("truth", f"rendering {errors['psnr']:.1f} dB", "normals", f"mask {errors['iou']:.2f}, landmarks")
    return side_by_side([torch.from_numpy(np.array(tile)) for tile in (*tiles, picture)], names), errors


def _tile(image: Float[Tensor, "h w 3"]) -> np.ndarray:
    height, width = image.shape[:2]
    factor = max(round(_TILE / height), 1)
    return np.array(
        Image.fromarray(to_uint8(image)).resize((factor * width, factor * height), Image.Resampling.NEAREST)
    )


def _outlined(image: np.ndarray, alpha: Tensor) -> np.ndarray:
    """The image with the border of the matte in blue."""
    inside = (alpha > 0.5).cpu().numpy()
    factor = image.shape[0] // inside.shape[0]
    large = inside.repeat(factor, axis=0).repeat(factor, axis=1)
    border = np.zeros_like(large)
    border[1:] |= large[1:] != large[:-1]
    border[:, 1:] |= large[:, 1:] != large[:, :-1]
    out = image.copy()
    out[border] = (40, 90, 255)
    return out
