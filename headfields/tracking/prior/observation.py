"""What tracking sees of a frame: its reduced image with what each pixel counts, its camera and its landmarks."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.labels import labels_of
from headfields.records import Camera, Rays, Record
from headfields.tracking.failures import FrameFailure
from headfields.tracking.frame_source import FrameSource
from headfields.tracking.landmark_pose import landmark_pose
from headfields.tracking.prior.landmarks import LandmarkDetector
from headfields.tracking.prior.options import EnergyWeights, PriorTrackingOptions

__all__ = ["FACER_LABELS", "LabelClasses", "PriorObservation", "RayBatch", "find_landmarks", "prior_observation"]


@dataclass(frozen=True)
class LabelClasses:
    """What segmentation labels say a pixel is; numbers of INSTA's labels by default.

    Attributes:
        ignored: of what the prior does not hold, and what hides it: cloth, necklace; and the neck, which a capture's
            shoulders are labeled as. They count neither in colors nor in the mask, and neither does the background
            beside them, below all that counts.
        hair: hair and hat.
        mouth: the inside of the mouth.
    """

    ignored: tuple[int, ...] = labels_of("cloth", "neck")
    hair: tuple[int, ...] = labels_of("hair")
    mouth: tuple[int, ...] = labels_of("mouth_interior")

    def without_hair(self) -> "LabelClasses":
        """The same for a prior that has no hair: it is ignored."""
        return LabelClasses((*self.ignored, *self.hair), (), self.mouth)


FACER_LABELS = LabelClasses(ignored=(3, 1), hair=(10,), mouth=(11,))
"""Numbers of the labels that MonoNPHM's preprocessing writes: 0 background, 1 neck, 3 cloth, 10 hair, 11 mouth."""


@dataclass(frozen=True)
class RayBatch(Record):
    """N rays with what they should see: straight color, matte, and what they count."""

    rays: Rays
    rgb: Float[Tensor, "n 3"]
    alpha: Float[Tensor, " n"]
    color_weight: Float[Tensor, " n"]
    mask_weight: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.alpha)


@dataclass(frozen=True)
class PriorObservation(Record):
    """One frame as tracking sees it, reduced in size.

    Attributes:
        camera: for the space of the prior: what it would see if the head's pose were the start.
        rgb: (H, W, 3) straight color.
        alpha: (H, W) matte.
        color_weight, mask_weight: (H, W) what a pixel counts in either term.
        landmarks: (68, 2) in pixels of the reduced image, NaN where there is none.
        inside, outside: pixels (row-major) on the head, and off it where the head could be.
        to_capture: (4, 4) from the space that `camera` sees to the capture's own world.
    """

    camera: Camera
    rgb: Float[Tensor, "h w 3"]
    alpha: Float[Tensor, "h w"]
    color_weight: Float[Tensor, "h w"]
    mask_weight: Float[Tensor, "h w"]
    landmarks: Float[Tensor, "68 2"]
    inside: Int64[Tensor, " n"]
    outside: Int64[Tensor, " m"]
    to_capture: Float[Tensor, "4 4"]

    def batch(self, count: int, foreground: float, random: torch.Generator) -> RayBatch:
        """Rays through random pixels, `foreground` of them on the head.

        Args:
            count: how many.
            foreground: part of them on the head; all of them if nothing is off it.
            random: on the CPU.
        """
        on = round(count * foreground) if len(self.outside) else count
        chosen = [
            group[torch.randint(len(group), (number,), generator=random)]
            for group, number in ((self.inside, on), (self.outside, count - on))
        ]
        pixel = torch.cat(chosen)
        width = self.camera.size[1]
        rays = self.camera.rays(torch.stack([pixel // width, pixel % width], dim=1))
        device = rays.origins.device
        pixel = pixel.to(device)

        def at(image: Tensor) -> Tensor:
            return image.flatten(0, 1)[pixel]

        return RayBatch(rays, at(self.rgb), at(self.alpha), at(self.color_weight), at(self.mask_weight))

    def on(self, device: torch.device) -> "PriorObservation":
        """The same with images and camera on a device; pixel numbers stay where random numbers are."""
        return self.to(device).replace(inside=self.inside, outside=self.outside)


def prior_observation(
    source: FrameSource,
    frame: int,
    reference: Float[Tensor, "l 3"],
    number: Int64[Tensor, " l"],
    bounds: tuple[Float[Tensor, "3"], float],
    options: PriorTrackingOptions,
    classes: LabelClasses | None = None,
    marks: Float[Tensor, "68 2"] | None = None,
    weights: EnergyWeights | None = None,
) -> PriorObservation:
    """Reads and checks one frame.

    The pose that tracking starts from is the capture's, if the prior's landmarks then come to lie nearer to the frame's
    than twice as far as under the pose that fits them best; else that pose.

    Args:
        source: the capture.
        frame: its index.
        reference: (L, 3) landmarks of the prior's mean head, meters.
        number: (L,) their numbers among the 68.
        bounds: center (3,) and radius of the ball that holds the prior's heads, meters.
        options: sizes and bounds.
        classes: what labels mean; `LabelClasses()` if None.
        marks: (68, 2) the frame's landmarks in pixels, NaN where one is not known; none if None.
        weights: what hair and the inside of the mouth count; as published if None.

    Raises:
        FrameFailure: it cannot be used, and why.
    """
    try:
        camera, image = _single(source.camera([frame])), source.image(frame)
        label = source.label(frame)
    except (CaptureError, OSError, ValueError) as error:
        raise FrameFailure("unreadable", str(error)) from error
    found, marks = marks, torch.full((68, 2), torch.nan) if marks is None else marks.float()
    here = torch.isfinite(marks[number]).all(dim=1)
    if len(number) and float(here.float().mean()) < max(options.landmark_share, 1e-9):
        have = "none" if found is None else f"{int(here.sum())} of {len(number)}"
        raise FrameFailure(
            "landmarks",
            f"{have} of the landmarks that the prior knows are there; at least {options.landmark_share:.0%} are "
            "needed. Write them to the capture, or give a detector",
        )
    start = _start(camera, marks[number], reference, here)
    factor = min(1.0, options.image_height / source.size[0])
    small = camera.scaled(factor).replace(world_to_camera=start)
    alpha, weight, mask = (
        image[..., 3],
        *_weights(image[..., 3], label, classes or LabelClasses(), weights or EnergyWeights()),
    )
    height, width = small.size
    rgba = _reduced(torch.cat([image[..., :3] * image[..., 3:], alpha[..., None]], dim=-1), (height, width))
    rgb = rgba[..., :3] / rgba[..., 3:].clamp_min(1e-3)
    weight, mask = (_reduced(x[..., None], (height, width))[..., 0] for x in (weight, mask))
    weight = weight * (rgba[..., 3] > 0.5)
    inside = (rgba[..., 3] > 0.5) & ((weight > 0) | (mask > 0))
    if int(inside.sum()) < options.mask_pixels:
        raise FrameFailure(
            "mask",
            f"the matte shows {int(inside.sum())} pixels of a head at {width} x {height} pixels; at least "
            f"{options.mask_pixels} are needed",
        )
    near = _near_ball(small, *bounds)
    if not bool((near & inside).any()):
        raise FrameFailure(
            "camera", "the head's place is not in the image: the camera looks elsewhere; check the frame's pose"
        )
    scale = torch.tensor([width / source.size[1], height / source.size[0]])
    return PriorObservation(
        camera=small, rgb=rgb.clamp(0, 1), alpha=rgba[..., 3], color_weight=weight, mask_weight=mask,
        landmarks=marks * scale, inside=(near & inside).flatten().nonzero()[:, 0],
        outside=(near & ~inside & (mask > 0)).flatten().nonzero()[:, 0],
        to_capture=torch.linalg.inv(camera.world_to_camera.double()).float() @ start,
    )  # fmt: skip


def _single(camera: Camera) -> Camera:
    """A batch of one without its axis."""
    return camera.replace(
        world_to_camera=camera.world_to_camera.reshape(4, 4), intrinsics=camera.intrinsics.reshape(3, 3)
    )


def find_landmarks(
    source: FrameSource, frame: int, detector: LandmarkDetector | None = None
) -> Float[Tensor, "68 2"] | None:
    """The landmarks of a frame in pixels, from the capture's files or a detector; None if there are none.

    Args:
        source: the capture.
        frame: its index.
        detector: asked in place of the files.

    Raises:
        FrameFailure: a file cannot be read, or the detector gives something else.
    """
    try:
        if detector is None:
            return source.landmarks(frame)
        image = source.image(frame)
    except (CaptureError, OSError, ValueError) as error:
        raise FrameFailure("unreadable", str(error)) from error
    rgb = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    found = detector((rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    if found is None:
        return None
    if found.shape != (68, 2):
        raise FrameFailure("landmarks", f"the detector gave an array of shape {found.shape}; expected (68, 2)")
    return torch.from_numpy(np.asarray(found, np.float32))


def _start(
    camera: Camera, marks: Float[Tensor, "l 2"], reference: Float[Tensor, "l 3"], here: Bool[Tensor, " l"]
) -> Float[Tensor, "4 4"]:
    """The pose (prior's space to camera) that a frame starts from."""
    given = camera.world_to_camera
    if int(here.sum()) < 6:
        return given
    try:
        best, least = landmark_pose(reference, marks, camera, here)
    except (ValueError, torch.linalg.LinAlgError):
        return given
    pixels, depth = camera.project(reference)
    error = (pixels - marks)[here].square().sum(dim=1).mean().sqrt()
    return given if bool((depth > 0).all()) and float(error) <= 2 * float(least) + 1e-3 else best


def _weights(
    alpha: Tensor, label: Tensor | None, classes: LabelClasses, weights: EnergyWeights
) -> tuple[Tensor, Tensor]:
    """What pixels count in colors and in the mask."""
    color, mask = torch.ones_like(alpha), torch.ones_like(alpha)
    if label is None:
        return color, mask
    number = label.int()

    def among(values: tuple[int, ...]) -> Tensor:
        return torch.isin(number, torch.tensor(values, dtype=torch.int32))

    color[among(classes.mouth)] = weights.mouth
    mask[among(classes.hair)] = weights.hair
    ignored = among(classes.ignored)
    color[ignored], mask[ignored] = 0, 0
    # What a prior makes of the place below its open neck is anything: beside a neck that does not count, background
    # does not either.
    counts = ((alpha > 0.5) & ~ignored).any(dim=1).nonzero()
    below = int(counts[-1]) + 1 if len(counts) else len(mask)
    if bool(ignored[below:].any()):
        mask[below:] = 0
    return color, mask


def _reduced(image: Float[Tensor, "h w c"], size: tuple[int, int]) -> Float[Tensor, "i j c"]:
    if tuple(image.shape[:2]) == size:
        return image
    moved = image.movedim(-1, 0)[None]
    return torch.nn.functional.interpolate(moved, size, mode="area")[0].movedim(0, -1)


def _near_ball(camera: Camera, center: Tensor, radius: float) -> Bool[Tensor, "h w"]:
    """Which pixels' rays meet the ball in front of the camera."""
    rays = camera.rays()
    to_center = center - rays.origins
    along = (to_center * rays.directions).sum(dim=-1)
    beside = to_center - along[:, None] * rays.directions
    return ((beside.norm(dim=-1) < radius) & (along > 0)).view(camera.size)
