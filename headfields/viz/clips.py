"""Images and videos for a notebook: grids of pictures, clips that play in the cell, turntables of an avatar."""

import base64
import html
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from headfields.avatar.composition import Composition
from headfields.mesh.mesh import Mesh
from headfields.parts import Rendering
from headfields.records import Camera, HeadState
from headfields.records.display import Displayed
from headfields.viz.images import encoded, save_image, to_uint8
from headfields.viz.mesh import draw_mesh, view_camera
from headfields.viz.page.page import Page, page_html
from headfields.viz.video import write_video

__all__ = ["Clip", "Grid", "show", "turn_angles", "turntable"]

_SIDE = 256
_MOST_FRAMES = 2000


@dataclass(frozen=True, eq=False)
class Clip(Displayed):
    """Frames of a video; a notebook plays it in the cell.

    Attributes:
        frames: each (H, W, 3) of 8 bits, all of one size.
        fps: frames per second.
    """

    frames: tuple[UInt8[np.ndarray, "h w 3"], ...]
    fps: float | int = 25

    def __repr__(self) -> str:
        height, width = self.frames[0].shape[:2] if self.frames else (0, 0)
        return f"Clip({len(self.frames)} frames of {width}x{height} pixels, {self.fps:g} a second)"

    def save(self, path: Path | str) -> Path:
        """Writes an mp4 or a GIF, as `headfields.viz.write_video`."""
        return write_video(path, self.frames, self.fps)

    def html(self) -> str:
        """The video within the page, without a file."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.save(Path(folder) / "clip.mp4")
            content = base64.b64encode(path.read_bytes()).decode()
        if path.suffix == ".gif":
            return f'<img src="data:image/gif;base64,{content}">'
        return f'<video controls autoplay loop muted playsinline src="data:video/mp4;base64,{content}"></video>'


@dataclass(frozen=True, eq=False)
class Grid(Displayed):
    """Pictures and clips in rows; a notebook shows them with their captions.

    Attributes:
        tiles: images (H, W, 3) of 8 bits, clips, or pages.
        captions: one for each tile, or none.
        columns: tiles in a row.
        width: of a tile on the page, pixels; None: as large as it is.
    """

    tiles: tuple[UInt8[np.ndarray, "_ _ 3"] | Clip | Page, ...]
    captions: tuple[str, ...] = ()
    columns: int = 4
    width: int | None = None

    def __repr__(self) -> str:
        return f"Grid({len(self.tiles)} tiles)"

    def html(self) -> str:
        """The grid as a table, with the images within it."""
        style = "" if self.width is None else f' style="width:{self.width}px"'
        cells = []
        for index, tile in enumerate(self.tiles):
            if isinstance(tile, Page):
                body = tile.html()
            elif isinstance(tile, Clip):
                body = tile.html().replace("<video ", f"<video{style} ").replace("<img ", f"<img{style} ")
            else:
                body = f'<img{style} src="data:image/png;base64,{base64.b64encode(encoded(tile)).decode()}">'
            caption = f"<div>{html.escape(self.captions[index])}</div>" if self.captions else ""
            cells.append(f'<td style="text-align:left;vertical-align:top">{caption}{body}</td>')
        rows = (cells[i : i + self.columns] for i in range(0, len(cells), self.columns))
        if len(cells) == 1 and isinstance(self.tiles[0], Page):  # as wide as the notebook
            return f"{html.escape(self.captions[0]) if self.captions else ''}{self.tiles[0].html()}"
        return "<table>" + "".join(f"<tr>{''.join(row)}</tr>" for row in rows) + "</table>"

    def save(self, path: Path | str) -> Path:
        """Writes the images of the grid as one picture, without captions; of a clip its first frame, no pages."""
        tiles = [tile for tile in self.tiles if not isinstance(tile, Page)]
        images = [tile.frames[0] if isinstance(tile, Clip) else tile for tile in tiles]
        height, width = (max((image.shape[axis] for image in images), default=1) for axis in (0, 1))
        rows = math.ceil(len(images) / self.columns) or 1
        sheet = np.full((rows * height, min(self.columns, max(len(images), 1)) * width, 3), 255, np.uint8)
        for index, image in enumerate(images):
            row, column = divmod(index, self.columns)
            top, left = row * height, column * width
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        return save_image(path, sheet)


def show(
    *items: Any, captions: Sequence[str] = (), columns: int = 4, width: int | None = None, fps: float | int = 25
) -> Grid:
    """Images, renderings, meshes and videos side by side, in the cell of a notebook.

    Args:
        items: images (H, W), (H, W, 3) or (H, W, 4), floats in [0, 1] or 8 bits; a batch (N, H, W, C) or a list of
            images plays as a video; a `Rendering` of an image; a `Mesh`, from the front; a `Clip`, as of `turntable`;
            an avatar of Gaussians, as the page of its `to_html`, which moves without a kernel.
        captions: one for each item, or none.
        columns: items in a row.
        width: of an item on the page, pixels; None: as large as it is.
        fps: frames per second of videos.

    Returns:
        The grid, which the notebook shows if it is a cell's last value (else: `display(...)`); `save` writes it.

    Raises:
        TypeError: an item is none of these.
        ValueError: an image has another shape, or there are captions for other than all items.

    >>> import torch, headfields as hf
    >>> hf.viz.show(torch.zeros(8, 8, 3), torch.ones(5, 8, 8, 3), captions=["black", "white, moving"])
    Grid(2 tiles)
    """
    if captions and len(captions) != len(items):
        raise ValueError(f"show: there are {len(captions)} captions for {len(items)} items; pass one for each, or none")
    if columns < 1:
        raise ValueError(f"show: columns is {columns}; expected at least 1")
    return Grid(tuple(_tile(item, fps) for item in items), tuple(captions), columns, width)


def _tile(item: Any, fps: float | int) -> np.ndarray | Clip | Page:
    if isinstance(item, Clip | Page):
        return item
    if isinstance(item, Composition):
        return Page(page_html(item))
    if isinstance(item, Rendering):
        if item.rgb.ndim != 3:
            raise ValueError(
                f"show: a rendering of rays {tuple(item.rgb.shape)} is no image; reshape rgb to (H, W, 3), or render "
                "with Avatar.render"
            )
        return to_uint8(item.rgb)
    if isinstance(item, Mesh):
        return to_uint8(draw_mesh(item, "front", mesh_look(item), size=_SIDE))
    if isinstance(item, list | tuple) or (isinstance(item, Tensor | np.ndarray) and item.ndim == 4):
        if not len(item):
            raise ValueError("show: a video without frames; pass at least one image")
        return Clip(tuple(to_uint8(frame) for frame in item), fps)
    if isinstance(item, Tensor | np.ndarray):
        return to_uint8(item)
    raise TypeError(
        f"show: an item is a {type(item).__name__}; expected images, lists of images, a Rendering, a Mesh, a Clip or "
        "an avatar of Gaussians"
    )


def mesh_look(mesh: Mesh) -> Any:
    """The look of `draw_mesh` that shows what the mesh has: its texture, its colors, or clay."""
    if mesh.texture is not None and mesh.uv is not None:
        return "texture"
    return "clay" if mesh.colors is None else "colors"


def turn_angles(count: int, degrees: float | int) -> Iterator[float]:
    """The yaw (degrees) of each of `count` frames: all around from 360 degrees on, below to both sides and back."""
    for index in range(count):
        turn = index / count
        yield degrees * (turn if degrees >= 360 else math.sin(2 * math.pi * turn) / 2)


@torch.no_grad()
def turntable(
    avatar: Any,
    state: HeadState,
    count: int = 48,
    degrees: float | int = 360,
    size: int = _SIDE,
    camera: Camera | None = None,
    fps: float | int = 16,
    background: float | int = 1.0,
) -> Clip:
    """A video of an avatar in one state while the camera circles it; a notebook plays it.

    Args:
        avatar: anything with an avatar's `render(camera, state, background)`.
        state: one frame.
        count: number of frames.
        degrees: the whole angle; below 360 the camera swings to both sides and back.
        size: height and width, pixels, without a camera.
        camera: the first camera; None: in front of the head.
        fps: frames per second.
        background: gray behind the head in [0, 1].

    Raises:
        ValueError: the state has not one frame, or count is not between 1 and 2000.
    """
    if len(state) != 1:
        raise ValueError(f"turntable: state has {len(state)} frames; index one, state[0]")
    if not 1 <= count <= _MOST_FRAMES:
        raise ValueError(f"turntable: count is {count}; expected 1 to {_MOST_FRAMES} frames")
    vertices = state.vertices[0]
    if camera is None:
        camera = view_camera(vertices, size=size)
    center = 0.5 * (vertices.amin(0) + vertices.amax(0))
    device = vertices.device
    images = (
        avatar.render(camera.orbited(center.cpu(), angle).to(device), state, background).rgb
        for angle in turn_angles(count, degrees)
    )
    return Clip(tuple(to_uint8(image) for image in images), fps)
