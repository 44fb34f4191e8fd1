"""Distillation: images that a trained avatar draws, from cameras all around, as a capture for an avatar of Gaussians.

What a volume takes a second to draw, Gaussians that were fitted to its images draw in milliseconds.
"""

import math
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from headfields.data.image_files import decode_image
from headfields.files.atomic import write_image
from headfields.losses.base import check_positive
from headfields.metrics.image import psnr
from headfields.ops.rotations import rotation_matrices
from headfields.records import Camera, HeadState, ImageBatch
from headfields.runs.interrupts import InterruptFlag
from headfields.training.evaluation import picture
from headfields.training.frames import device_of, render_frame

__all__ = ["TeacherViews", "loss_of_quality", "view_sheet"]

_HELD_OUT = 8
"""Every eighth view is held out, to say how well the student repeats its teacher."""
_OWN = 4
"""Every fourth view keeps the camera of its frame: that is where the capture can tell what is right."""
_STEPS = 1 / 1.32471795724474602596, 1 / 1.32471795724474602596**2
"""Yaw and pitch advance by these parts of their range from view to view: Roberts's sequence R2, evenly spread."""


class TeacherViews:
    """Images of a teacher over the states of its capture, with the methods of a `headfields.data.Capture` that training
    and evaluation of an avatar of Gaussians use.

    View i shows training frame i · F // N of the capture. Every fourth view is seen by the camera of its frame; the
    others by that camera carried around the middle of the head, by up to half of `degrees` to either side and half of
    `pitch` up and down, in an even sequence without random numbers. Every eighth view is in the splits "test" and
    "val", the others are "train".

    Args:
        teacher: an avatar of any kind, in evaluation mode or not.
        capture: the capture that it was trained on: states, cameras and template.
        count: N, number of views.
        degrees: range of yaw, 360 for all around. What the capture does not show, the teacher has made up.
        pitch: range of pitch, degrees.
        size: the shorter side of the images in pixels, at most; those of the capture, if they are smaller.
        folder: where `draw` keeps the images as PNG; None keeps them in memory alone.

    Attributes:
        name, size, template, splits: as those of a capture; `path` is None.

    Raises:
        ValueError: a number is not positive, or the capture has no training frames.
    """

    path = None
    if_mattes_are_empty = "the teacher draws next to nothing where the head is: train it longer, then distill it again"
    """What to do then, in the words of `headfields.training`'s warning."""

    def __init__(
        self,
        teacher: Any,
        capture: Any,
        count: int = 120,
        degrees: float | int = 120.0,
        pitch: float | int = 30.0,
        size: int = 256,
        folder: Path | str | None = None,
    ) -> None:
        check_positive("TeacherViews", count=count, size=size)
        if not 0 <= degrees <= 360 or not 0 <= pitch < 180:
            raise ValueError(
                f"TeacherViews: degrees is {degrees} and pitch {pitch}; expected 0 to 360, and 0 to less than 180"
            )
        train = torch.as_tensor(capture.splits.get("train", ()), dtype=torch.long)
        if not len(train):
            raise ValueError(f"TeacherViews: capture {capture.name!r} has no training frames (split 'train')")
        self._teacher, self._capture = teacher, capture
        self._folder = None if folder is None else Path(folder)
        self._frames = train[torch.arange(count) * len(train) // count]
        factor = min(1.0, size / min(capture.size))
        cameras = [
            _carried(capture, int(frame), *_angles(view, float(degrees), float(pitch)))
            for view, frame in enumerate(self._frames)
        ]
        self._cameras = Camera.cat([camera if factor == 1 else camera.scaled(factor) for camera in cameras])
        self._images: list[UInt8[Tensor, "h w 4"] | None] = [None] * count
        self.name = f"views of {capture.name}"
        self.size, self.template = self._cameras.size, capture.template
        views = torch.arange(count)
        held_out = views % _HELD_OUT == _HELD_OUT - 1
        held_out[-1] |= count > 1 and not bool(held_out.any())
        self.splits = {"train": views[~held_out], "val": views[held_out], "test": views[held_out], "all": views}

    def __len__(self) -> int:
        return len(self._frames)

    def draw(self, bar: bool = False) -> bool:
        """Draws the images that are neither in memory nor in the folder. Ctrl-C ends it after an image.

        Args:
            bar: show a progress bar on stderr.

        Returns:
            Whether all are drawn.

        Raises:
            CaptureError: an image in the folder is broken.
            OSError: an image cannot be written.
        """
        device = device_of(self._teacher)
        missing = [view for view in range(len(self)) if self._images[view] is None]
        with InterruptFlag() as interrupt:
            for view in tqdm(missing, unit="view", file=sys.stderr, disable=not bar, dynamic_ncols=True):
                if interrupt:
                    return False
                path = None if self._folder is None else self._folder / f"{view:05d}.png"
                if path is not None and path.exists():
                    pixels = decode_image(path, self.name, f"view {view}", "rgba", self.size)
                else:
                    pixels = _straight(render_frame(self._teacher, self, view, 0.0, device))
                    if path is not None:
                        write_image(path, pixels)
                self._images[view] = torch.from_numpy(np.array(pixels))
        return True

    def state(self, frames: Any) -> HeadState:
        """The states of B views."""
        return self._capture.state(self._frames[torch.as_tensor(frames, dtype=torch.long)])

    def camera(self, frames: Any) -> Camera:
        """The cameras of B views."""
        return self._cameras[torch.as_tensor(frames, dtype=torch.long)]

    def image(self, frame: int) -> Float[Tensor, "h w 4"]:
        """One view, sRGB with straight alpha.

        Raises:
            RuntimeError: it is not drawn.
        """
        pixels = self._images[frame]
        if pixels is None:
            raise RuntimeError(f"TeacherViews: view {frame} is not drawn; call draw first")
        return pixels.float() / 255

    def sample_images(
        self,
        frames: Any,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
    ) -> tuple[ImageBatch, Int64[Tensor, " b"]]:
        """Whole views, as `headfields.data.Capture.sample_images`."""
        rows = torch.as_tensor(frames, dtype=torch.long)
        images = torch.stack([self.image(int(row)) for row in rows])
        gray = {"white": 1.0, "black": 0.0}
        color = (
            torch.full((len(rows), 3), gray[background])
            if background in gray
            else torch.rand(len(rows), 3, generator=generator)
        )
        return ImageBatch(self.camera(rows), images[..., :3], images[..., 3], color), rows


def loss_of_quality(
    teacher: Any, student: Any, views: TeacherViews, capture: Any, frames: list[int], background: float | int = 1.0
) -> dict[str, float | int | None]:
    """What a student has lost: its PSNR against its teacher, and that of both against a capture.

    Args:
        teacher, student: the two avatars.
        views: its split "test" is compared with the student.
        capture: the ground truth.
        frames: frames of the capture, none of which the views should show; may be empty.
        background: gray in [0, 1] behind all images.

    Returns:
        Means in dB: `psnr_teacher` of the student against held-out views; `psnr_of_teacher` and `psnr_of_student`
        against the frames, and `lost`, their difference; None without views or frames. `views` and `frames` are the
        numbers of images.
    """
    held_out = views.splits["test"].tolist()
    repeated = _mean_psnr(student, views, held_out, background)
    before, after = (_mean_psnr(avatar, capture, frames, background) for avatar in (teacher, student))
    lost = None if before is None or after is None else before - after
    return {
        "psnr_teacher": repeated, "psnr_of_teacher": before, "psnr_of_student": after, "lost": lost,
        "views": len(held_out), "frames": len(frames),
    }  # fmt: skip


def view_sheet(student: Any, views: TeacherViews, rows: int = 4) -> Float[Tensor, "h w 3"]:
    """Held-out views one below the other: teacher | student | error, evenly spaced ones in the order of their yaw."""
    chosen = sorted(views.splits["test"].tolist(), key=lambda view: float(views.camera([view]).center[0, 0]))
    chosen = [chosen[i * len(chosen) // min(rows, len(chosen))] for i in range(min(rows, len(chosen)))]
    return torch.cat([picture(student, views, view)[0].cpu() for view in chosen])


def _mean_psnr(avatar: Any, capture: Any, frames: list[int], background: float | int) -> float | None:
    values, device = [], device_of(avatar)
    for frame in frames:
        image = render_frame(avatar, capture, frame, background, device).rgb.clamp(0, 1).cpu()
        rgba = capture.image(frame).cpu()
        value = psnr(image, rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:]))
        values += [] if value is None else [value]
    return sum(values) / len(values) if values else None


def _angles(view: int, degrees: float, pitch: float) -> tuple[float, float]:
    if view % _OWN == 0:
        return 0.0, 0.0
    place = view - view // _OWN  # among those that are carried: the sequence is even if none is left out
    yaw, tilt = ((0.5 + place * step) % 1 - 0.5 for step in _STEPS)
    return yaw * degrees, tilt * pitch


def _carried(capture: Any, frame: int, yaw: float, pitch: float) -> Camera:
    """The camera (1,) of a frame, carried around the middle of its head."""
    index = torch.tensor([frame])
    camera, vertices = capture.camera(index), capture.state(index).vertices[0]
    if not yaw and not pitch:
        return camera
    center = ((vertices.amin(0) + vertices.amax(0)) / 2).to(camera.world_to_camera)
    tilt = rotation_matrices(camera.world_to_camera.new_tensor([math.radians(pitch), 0, 0]))
    # In the camera's own axes a turn about its x axis through the head's middle is one of the head before it.
    local = camera.world_to_camera[0, :3, :3] @ center + camera.world_to_camera[0, :3, 3]
    turn = torch.eye(4).to(camera.world_to_camera)
    turn[:3, :3] = tilt
    turn[:3, 3] = local - tilt @ local
    return camera.replace(world_to_camera=turn @ camera.world_to_camera).orbited(center, yaw)


def _straight(rendering: Any) -> UInt8[np.ndarray, "h w 4"]:
    """A rendering over black as 8 bits with straight alpha."""
    alpha = rendering.opacity.clamp(0, 1)[..., None]
    color = torch.where(alpha > 0, rendering.rgb / alpha.clamp_min(1e-6), 0.0)
    rgba = torch.cat([color, alpha], dim=-1).nan_to_num().clamp(0, 1)
    return (rgba * 255).round().to(torch.uint8).cpu().numpy()
