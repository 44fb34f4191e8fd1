"""Batches of views: pairs of a camera and a frame, broadcast, and the images of all as one rendering."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headfields.parts import Rendering
from headfields.records import Camera, HeadState, Splats

__all__ = ["render_views"]


def render_views(
    owner: str,
    draw: Callable[[Camera, HeadState, Any], Rendering],
    camera: Camera,
    state: HeadState,
    background: float | int | Tensor | np.ndarray,
) -> Rendering:
    """One image, or B of them: B cameras and B frames, one camera for B frames, or one frame under B cameras.

    Args:
        owner: the method, for messages.
        draw: draws one image (H, W, ...) of a camera, a frame and its background.
        camera: (), (1,) or (B,) cameras.
        state: 1 or B frames.
        background: as `draw` takes it, or (B, H, W, 3).

    Returns:
        A `Rendering` of (H, W, ...) tensors for one camera and one frame, else of (B, H, W, ...).

    Raises:
        TypeError: camera or state are something else, as swapped ones.
        ValueError: the numbers of cameras and frames are neither equal nor one, or there is no frame.
    """
    _check_records(owner, camera, state)
    batch = camera.world_to_camera.shape[:-2]
    if len(batch) > 1:
        raise ValueError(f"{owner}: camera has the batch {tuple(batch)}; expected one camera or (B,)")
    cameras = batch[0] if batch else 1
    if len(state) != cameras and 1 not in (len(state), cameras):
        raise ValueError(f"{owner}: camera has {cameras} views and state {len(state)} frames; expected as many, or one")
    count = len(state) if cameras == 1 else cameras
    several = isinstance(background, Tensor | np.ndarray) and background.ndim == 4
    if several and len(background) != count:  # type: ignore[arg-type]
        raise ValueError(f"{owner}: background has {len(background)} images; expected {count}")  # type: ignore[arg-type]
    if not len(state) or not cameras:
        raise ValueError(f"{owner}: state has {len(state)} frames and camera {cameras} views; expected at least one")
    if count == 1:
        return draw(camera, state, background[0] if several else background)  # type: ignore[index]
    images = []
    for i in range(count):
        view = camera[i] if batch and cameras > 1 else camera
        frame = state[i] if len(state) > 1 else state
        images.append(draw(view, frame, background[i] if several else background))  # type: ignore[index]

    def stacked(name: str) -> Any:
        values = [getattr(image, name) for image in images]
        return None if values[0] is None else torch.stack(values)

    splats = None if images[0].splats is None else Splats.cat([image.splats for image in images])
    return Rendering(
        rgb=stacked("rgb"), opacity=stacked("opacity"), depth=stacked("depth"), normal=stacked("normal"), splats=splats
    )


def _check_records(owner: str, camera: Any, state: Any) -> None:
    """Raises TypeError, with the remedy, unless these are a camera and a state."""
    if isinstance(camera, Camera) and isinstance(state, HeadState):
        return
    if isinstance(camera, HeadState) and isinstance(state, Camera):
        raise TypeError(f"{owner}: camera is a HeadState and state a Camera; they are swapped: render(camera, state)")
    if not isinstance(camera, Camera):
        name, value, kind = "camera", camera, "headfields.Camera, as capture.camera(frame)"
        remedy = "headfields.Camera(world_to_camera, intrinsics, (height, width)) holds a matrix"
    else:
        name, value, kind = "state", state, "headfields.HeadState, as capture.state([frame])"
        remedy = "headfields.HeadState(vertices) holds vertices (B, V, 3)"
    given = "None" if value is None else f"of type {type(value).__name__}"
    raise TypeError(f"{owner}: {name} is {given}; expected a {kind}" + (f"; {remedy}" if _is_array(value) else ""))


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | list | tuple)
