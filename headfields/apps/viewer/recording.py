"""Videos of what the viewer shows: the motion from one camera, or one frame from a camera that circles it."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from headfields.apps.viewer.scene import Scene, View
from headfields.records import Camera
from headfields.viz.images import encoded
from headfields.viz.video import write_video

__all__ = ["Path", "encoded_image", "encoded_video", "video_views"]

Path = Literal["the motion", "a turntable"]


def video_views(
    scene: Scene, view: View, camera: Camera, path: Path, seconds: float | int, fps: int
) -> list[tuple[View, Camera]]:
    """The view and the camera of each frame of a video.

    Args:
        scene: its motions and its center.
        view: what is set up.
        camera: the first camera.
        path: every frame of the view's motion, or a whole turn of the camera about the vertical axis.
        seconds: length of a turntable.
        fps: frames per second.
    """
    if path == "the motion":
        return [(replace(view, frame=frame), camera) for frame in range(scene.motions[view.motion].count)]
    count = max(round(seconds * fps), 1)
    return [(view, camera.orbited(scene.center, 360 * i / count)) for i in range(count)]


def encoded_image(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A PNG."""
    return encoded(image)


def encoded_video(
    frames: Iterator[UInt8[np.ndarray, "h w 3"]], count: int, fps: int, progress: Callable[[float], None]
) -> bytes:
    """An mp4, or a GIF without ffmpeg.

    Args:
        frames: (H, W, 3), all of one size.
        count: how many there are, for `progress`, which gets the fraction that is drawn.
        fps: frames per second.
    """

    def counted() -> Iterator[np.ndarray]:
        for done, frame in enumerate(frames):
            progress(done / max(count, 1))
            yield frame

    with tempfile.TemporaryDirectory() as folder:
        return write_video(FilePath(folder) / "video.mp4", counted(), fps).read_bytes()
