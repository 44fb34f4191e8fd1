"""Contact sheets: the frames of a capture with matte, labels, mesh and landmarks in one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from headfields.data.capture import Capture
from headfields.data.labels import Label
from headfields.files.atomic import write_image
from headfields.viz.images import captioned, to_uint8
from headfields.viz.mesh import draw_wireframe

REGION_COLORS = {"face": (90, 160, 255), "eyes": (80, 220, 80), "mouth": (255, 80, 80)}
LABEL_COLORS = {
    Label.BACKGROUND: (255, 255, 255), Label.HAT: (120, 60, 160), Label.HAIR: (110, 80, 50), Label.CLOTH: (90, 90, 110),
    Label.NECKLACE: (220, 200, 60), Label.NECK: (200, 150, 120), Label.LOWER_LIP: (230, 60, 80),
    Label.UPPER_LIP: (190, 40, 90), Label.MOUTH_INTERIOR: (90, 10, 30), Label.NOSE: (255, 200, 120),
    Label.EARRING: (60, 200, 200), Label.RIGHT_EAR: (170, 130, 220), Label.LEFT_EAR: (130, 170, 220),
    Label.GLASSES: (40, 40, 40), Label.RIGHT_EYE: (80, 180, 80), Label.LEFT_EYE: (40, 140, 200),
    Label.RIGHT_BROW: (160, 110, 60), Label.LEFT_BROW: (120, 140, 40), Label.SKIN: (240, 180, 150),
}  # fmt: skip


def contact_sheet(
    capture: Capture, frames: Sequence[int] | None = None, path: Path | str | None = None, tile: int = 256
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a row for each frame: image over white, matte, labels, wireframe colored by region, landmarks.

    It reveals a wrong camera convention, mirrored landmarks, or masks that are off by a frame.

    Args:
        capture: the capture.
        frames: indices; six evenly spaced ones if None.
        path: file to save the picture to, if any.
        tile: width of a tile in pixels.

    Returns:
        (H, W, 3) of 8 bits, without columns for missing data.

    Raises:
        CaptureError: a file of these frames cannot be read.
    """
    if frames is None:
        frames = np.unique(np.linspace(0, len(capture) - 1, min(6, len(capture))).round().astype(int)).tolist()
    rows = [_row(capture, frame, tile) for frame in frames]
    width = max((row.shape[1] for row in rows), default=0)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    sheet = np.concatenate(padded, axis=0) if padded else np.empty((0, 0, 3), np.uint8)
    if path is not None:
        write_image(path, sheet)
    return sheet


def _row(capture: Capture, frame: int, tile: int) -> np.ndarray:
    rgba = capture.image(frame)
    factor = tile / capture.size[1]
    color = _resized(to_uint8(rgba), tile, smooth=True)
    tiles = [captioned(color, f"{frame}: {capture.frame_names[frame]}")]
    tiles.append(captioned(_resized(to_uint8(rgba[..., 3]), tile, smooth=True), "matte"))
    label = capture.label(frame)
    if label is not None:
        table = np.full((256, 3), 255, np.uint8)
        table[1:] = (255, 0, 255)  # unknown labels
        for number, shade in LABEL_COLORS.items():
            table[number] = shade
        tiles.append(captioned(_resized(table[label.numpy()], tile, smooth=False), "labels"))
    camera = capture.camera([frame]).scaled(factor)
    pixels, depth = (value[0] for value in camera.project(capture.state([frame]).vertices))
    template = capture.template
    shades = [(150, 150, 150)] * len(template.faces)
    for name, shade in REGION_COLORS.items():
        for face in template.regions.get(name, torch.zeros(0, dtype=torch.bool)).nonzero()[:, 0].tolist():
            shades[face] = shade
    faded = (color * 0.6 + 255 * 0.4).astype(np.uint8)
    mesh = draw_wireframe(faded, pixels, depth, list(zip(template.faces.tolist(), shades, strict=True)))
    tiles.append(captioned(mesh, "mesh"))
    points = capture.landmarks(frame)
    if points is not None:
        picture = Image.fromarray(color)
        draw = ImageDraw.Draw(picture)
        for x, y in (points[points.isfinite().all(dim=1)] * factor).tolist():
            draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=(0, 220, 0))
        tiles.append(captioned(np.array(picture), "landmarks"))
    return np.concatenate(tiles, axis=1)


def _resized(image: np.ndarray, width: int, smooth: bool) -> np.ndarray:
    height = round(image.shape[0] * width / image.shape[1])
    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.array(Image.fromarray(image).resize((width, height), kind))
