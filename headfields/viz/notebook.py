"""What a notebook shows for the library's objects: a small table, and a picture where one is quick to draw."""

import base64
import html
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headfields.avatar.composition import Composition
from headfields.avatar.splat_avatar import SplatAvatar
from headfields.data.capture import Capture
from headfields.mesh.mesh import Mesh
from headfields.part_base import Part
from headfields.parts import Rendering
from headfields.records import HeadState
from headfields.records.base import Record
from headfields.viz.clips import Clip, Grid, mesh_look
from headfields.viz.heat import heat
from headfields.viz.images import encoded, to_uint8
from headfields.viz.mesh import draw_mesh, view_camera
from headfields.viz.page.model import can_be_shown
from headfields.viz.page.page import Page, page_html

__all__ = ["html_of", "png_of"]

SIDE = 128
"""Height of a picture, pixels."""
MOST_FACES = 400_000
"""Meshes with more faces have no picture: it would take seconds."""
SECONDS = 0.5
"""Time that the picture of an avatar may take; a first one of 16 x 16 pixels tells."""
_FRAMES = 5


def html_of(value: Any) -> str:
    """The HTML of an object of the library: name, table, picture; of an avatar of Gaussians its page, which moves."""
    if isinstance(value, Clip | Grid | Page):
        return value.html()
    if isinstance(value, SplatAvatar) and value.preview is not None and can_be_shown(value):
        return f"{Page(page_html(value)).html()}{_table(value)}"
    picture = _picture(value)
    image = ""
    if picture is not None:
        image = f'<img src="data:image/png;base64,{base64.b64encode(encoded(picture)).decode()}">'
    return _table(value, image)


def _table(value: Any, image: str = "") -> str:
    """Name, picture and lines."""
    name = html.escape(type(value).__name__)
    cell = "<td style='text-align:left'>{}</td>"
    rows = "".join(
        f"<tr>{cell.format(html.escape(key))}{cell.format(html.escape(text))}</tr>"
        for key, text in _rows(value).items()
    )
    return f"<div><b>{name}</b>{image and '<br>'}{image}<table>{rows}</table></div>"


def png_of(value: Any) -> bytes | None:
    """The picture of an object alone; None where there is none."""
    if isinstance(value, Clip):
        return encoded(value.frames[0]) if value.frames else None
    if isinstance(value, Grid | Page):
        return None
    picture = _picture(value)
    return None if picture is None else encoded(picture)


def _rows(value: Any) -> dict[str, str]:
    """The lines of the table."""
    if isinstance(value, Mesh):
        rows = {"vertices": f"{len(value.vertices):,}", "faces": f"{len(value.faces):,}"}
        usable = value.vertices[value.vertices.isfinite().all(-1)]
        if len(usable):
            extent = (usable.amax(0) - usable.amin(0)).tolist()
            rows["extent"] = " x ".join(f"{side:.3g}" for side in extent) + " m"
        has = [name for name in ("colors", "normals", "uv", "texture") if getattr(value, name) is not None]
        return {**rows, "has": ", ".join(has) or "nothing else"}
    if isinstance(value, Record):
        rows = {}
        for each in fields(value):
            entry = getattr(value, each.name)
            if isinstance(entry, Tensor):
                rows[each.name] = _shape(entry)
            elif isinstance(entry, Mapping):
                rows |= {f"{each.name}: {key}": _shape(tensor) for key, tensor in entry.items()}
        return rows
    if isinstance(value, Capture):
        size = f"{value.size[1]} x {value.size[0]} pixels"
        splits = ", ".join(f"{name} {len(frames)}" for name, frames in value.splits.items())
        rows = {"name": value.name, "images": size, "frames": splits}
        rows["mesh"] = f"{len(value.recording.canonical.vertices):,} vertices, mouth: {value.mouth}"
        rows["expression coefficients"] = str(value.expression_width or "none")
        return rows | ({"warnings": "; ".join(value.warnings)} if value.warnings else {})
    if isinstance(value, Composition):
        return _parts(value)
    rows = {name: f"{len(getattr(value, name)):,}" for name in ("people", "scans")}  # a prior, which stands above
    widths = {name: getattr(value, name).shape[1] for name in ("geometry", "appearance", "expression")}
    return {**rows, "codes": ", ".join(f"{name} {width}" for name, width in widths.items()), **_parts(value.avatar)}


def _shape(tensor: Tensor) -> str:
    device = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}{device}"


def _parts(avatar: Any) -> dict[str, str]:
    """Each part with its class and its number of parameters."""
    rows: dict[str, str] = {}
    for name, part in avatar.composition.items():
        parts = part if isinstance(part, list | tuple) else [part]
        known = [each for each in parts if isinstance(each, Part)]
        if known:
            rows[name] = ", ".join(f"{type(each).__name__} ({_count(each):,} parameters)" for each in known)
    total = sum(parameter.numel() for parameter in avatar.parameters())
    return {**rows, "parameters": f"{total:,}"}


def _count(part: Any) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _picture(value: Any) -> np.ndarray | None:
    for kind, draw in _PICTURES:
        if isinstance(value, kind):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                return draw(value)
    return None


def _mesh(mesh: Mesh) -> np.ndarray | None:
    usable = mesh.vertices.isfinite().all(-1)
    if not len(mesh.faces) or len(mesh.faces) > MOST_FACES or not bool(usable[mesh.faces].all()):
        return None
    sides = [to_uint8(draw_mesh(mesh.to("cpu"), side, mesh_look(mesh), size=SIDE)) for side in ("front", "left")]
    return np.concatenate(sides, axis=1)


def _state(state: HeadState) -> np.ndarray | None:
    """The vertices of the first frames as dots: a state has no faces."""
    tiles = []
    for vertices in state.vertices[:_FRAMES].float().cpu():
        points = vertices[vertices.isfinite().all(-1)]
        if not len(points):
            return None
        pixels, depth = view_camera(points, size=SIDE).project(points)
        image = np.full((SIDE, SIDE), 255, np.uint8)
        near, far = float(depth.min()), float(depth.max())
        order = depth.argsort(descending=True)  # near dots over far ones
        columns, rows = pixels[order].long().clamp(0, SIDE - 1).unbind(-1)
        shade = (depth[order] - near) / max(far - near, 1e-9) * 200
        image[rows.numpy(), columns.numpy()] = shade.byte().numpy()
        tiles.append(image)
    return to_uint8(np.concatenate(tiles, axis=1)) if tiles else None


def _rendering(rendering: Rendering) -> np.ndarray | None:
    if rendering.rgb.ndim != 3 or not rendering.rgb.numel():
        return None
    opacity = rendering.opacity.detach().float().cpu()
    tiles = [to_uint8(rendering.rgb), to_uint8(opacity.clamp(0, 1))]
    depth = rendering.depth.detach().float().cpu() / opacity.clamp_min(1e-6)
    solid = (opacity > 0.5) & depth.isfinite()
    if bool(solid.any()):
        near, far = (float(bound) for bound in depth[solid].aminmax())
        colors = heat((1 - (depth - near) / max(far - near, 1e-6)).flatten(), 1.0).reshape(*depth.shape, 3)
        tiles.append(to_uint8(torch.where(solid[..., None], colors, 1.0)))
    if rendering.normal is not None:
        normal = torch.nn.functional.normalize(rendering.normal.detach().float().cpu(), dim=-1)
        tiles.append(to_uint8(torch.where(solid[..., None], 0.5 + 0.5 * normal, 1.0)))
    return np.concatenate([_sized(tile) for tile in tiles], axis=1)


def _capture(capture: Capture) -> np.ndarray | None:
    if not len(capture):
        return None
    frames = np.unique(np.linspace(0, len(capture) - 1, min(_FRAMES, len(capture))).round().astype(int))
    return np.concatenate([_sized(to_uint8(capture.image(frame))) for frame in frames.tolist()], axis=1)


def _avatar(avatar: Any) -> np.ndarray | None:
    """The preview, where it is quick."""
    if avatar.preview is None:
        return None
    camera, state = avatar.preview
    device = next(avatar.parameters()).device
    camera, state = camera.to(device), state.to(device)
    factor = SIDE / max(camera.size)
    start = time.perf_counter()
    avatar.render(camera.scaled(16 / max(camera.size)), state)
    if (time.perf_counter() - start) * (SIDE / 16) ** 2 > SECONDS * 16:  # a call's own time is most of the first
        return None
    return to_uint8(avatar.render(camera.scaled(min(factor, 1.0)), state).rgb)


def _sized(tile: np.ndarray) -> np.ndarray:
    """The tile at a height of `SIDE` pixels."""
    height, width = tile.shape[:2]
    size = max(round(width * SIDE / max(height, 1)), 1), SIDE
    return np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BILINEAR))


_PICTURES: tuple[tuple[type, Callable[[Any], np.ndarray | None]], ...] = (
    (Mesh, _mesh), (HeadState, _state), (Rendering, _rendering), (Capture, _capture), (Composition, _avatar),
)  # fmt: skip
