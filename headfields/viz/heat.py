"""Heat maps: colors of values, and the scale that says what they mean."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_HEAT = (
    (0.16, 0.11, 0.42), (0.22, 0.36, 0.86), (0.14, 0.63, 0.96), (0.12, 0.84, 0.71), (0.41, 0.93, 0.36),
    (0.79, 0.89, 0.20), (0.98, 0.68, 0.17), (0.92, 0.36, 0.08), (0.52, 0.04, 0.04),
)  # fmt: skip
"""Colors at equal steps: lightness rises to the middle and falls again, hue turns once from blue to red."""


def heat(values: Float[Tensor, " n"], limit: float | int) -> Float[Tensor, "n 3"]:
    """Heat-map colors (N, 3), sRGB, of values (N,) from 0 (dark blue) to `limit` and beyond (dark red); gray for NaN.

    >>> import torch, headfields as hf
    >>> hf.viz.heat(torch.tensor([0.0, 2.0, float("nan")]), limit=1.0).round(decimals=1).tolist()[2]
    [0.6000000238418579, 0.6000000238418579, 0.6000000238418579]
    """
    share = (values.detach().float() / limit).clamp(0, 1)
    stops = torch.tensor(_HEAT, device=values.device)
    place = share.nan_to_num(0.0) * (len(stops) - 1)
    below = place.long().clamp(max=len(stops) - 2)
    colors = torch.lerp(stops[below], stops[below + 1], (place - below)[:, None])
    return torch.where(share.isnan()[:, None], 0.6, colors)


def heat_legend(
    height: int, limit: float | int, unit: str = "mm", factor: float | int = 1e3
) -> UInt8[np.ndarray, "h w 3"]:
    """A bar of `heat`'s colors with its numbers, as an image of 8 bits.

    Args:
        height: pixels.
        limit: the value at the red end.
        unit: unit of the numbers.
        factor: units per unit of the values; 1000 writes meters in millimeters.
    """
    height = max(height, 40)
    bar = heat(torch.linspace(limit, 0.0, height - 20), limit).mul(255).round().byte().numpy()
    canvas = np.full((height, 76, 3), 255, np.uint8)
    canvas[10:-10, 6:22] = bar[:, None]
    image = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for share in (0.0, 0.5, 1.0):
        text = f"{'>' if share == 1 else ''}{share * limit * factor:g} {unit}"
        draw.text((26, 10 + (1 - share) * (height - 21) - 5), text, fill=(0, 0, 0), font=font)
    return np.array(image)
