"""A frame as the tracker with a prior sees it: reduced image, matte, per-pixel weights, camera and landmarks."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.frame_source import FrameSource
from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.apps.tracking.prior.landmarks import LandmarkDetector
from headfields.apps.tracking.prior.options import EnergyWeights, PriorTrackingOptions
from headfields.data.errors import CaptureError
from headfields.data.labels import labels_of
from headfields.records import Camera, Rays, Record
from headfields.records.device_copy import send

__all__ = ["FACER_LABELS", "LabelClasses", "PriorObservation", "RayBatch", "frame_landmarks", "prior_observation"]


@dataclass(frozen=True)
class LabelClasses:
    """Segmentation labels grouped as ignored, hair and mouth interior; the defaults are INSTA's.

    Attributes:
        ignored: regions that the prior does not model or that occlude it: cloth, necklace, and neck (captures label
            shoulders as neck). These pixels have zero weight in both terms, as does the background below the lowest
            weighted pixel.
        hair: hair and hat.
        mouth: interior of the mouth.

    >>> from headfields.apps.tracking.prior.observation import LabelClasses
    >>> LabelClasses().without_hair().ignored
    (90, 100, 110, 70, 80)
    """

    ignored: tuple[int, ...] = labels_of("cloth", "neck")
    hair: tuple[int, ...] = labels_of("hair")
    mouth: tuple[int, ...] = labels_of("mouth_interior")

    def without_hair(self) -> "LabelClasses":
        """The classes for a prior without hair: hair is ignored."""
        return LabelClasses((*self.ignored, *self.hair), (), self.mouth)


FACER_LABELS = LabelClasses(ignored=(3, 18), hair=(14, 16), mouth=(11,))
"""Labels of MonoNPHM's preprocessing (facer): 3 cloth, 18 necklace, 14 hair, 16 hat, 11 inside of the mouth. As in its
tracker, the neck (1) counts. That tracker takes cloth for background in the mask term; here it has no weight in either
term. To it a hat is head; here it is hair, which a prior may lack."""

LABEL_CLASSES = {"insta": LabelClasses(), "facer": FACER_LABELS}
"""By the naming of labels that a source has as `label_names`; "insta" if it has none."""


@dataclass(frozen=True)
class RayBatch(Record):
    """N rays with the straight color and matte of their pixels, and the pixels' weights in the two terms."""

    rays: Rays
    rgb: Float[Tensor, "n 3"]
    alpha: Float[Tensor, " n"]
    color_weight: Float[Tensor, " n"]
    mask_weight: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.alpha)


@dataclass(frozen=True)
class PriorObservation(Record):
    """One frame, reduced in size.

    Attributes:
        camera: camera in the space of the prior, under the head pose that tracking starts from.
        rgb: (H, W, 3) straight color.
        alpha: (H, W) matte.
        color_weight, mask_weight: (H, W) weight of each pixel in the two terms.
        landmarks: (68, 2) in pixels of the reduced image, NaN where unknown.
        inside, outside: row-major pixel indices on the head, and off it but near the head.
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
        """Rays through random pixels.

        Args:
            count: number of rays.
            foreground: fraction of them on the head; 1 if there are no pixels off it.
            random: random number generator on the CPU.
        """
        on_head = round(count * foreground) if len(self.outside) else count
        pixel = torch.cat(
            [
                group[torch.randint(len(group), (group_count,), generator=random)]
                for group, group_count in ((self.inside, on_head), (self.outside, count - on_head))
            ]
        )
        pixel = send(pixel, self.rgb.device)
        width = self.camera.size[1]
        rays = self.camera.rays(torch.stack([pixel // width, pixel % width], dim=1))

        def at(image: Tensor) -> Tensor:
            return image.flatten(0, 1)[pixel]

        return RayBatch(rays, at(self.rgb), at(self.alpha), at(self.color_weight), at(self.mask_weight))

    def on(self, device: torch.device) -> "PriorObservation":
        """The frame with images and camera on a device; pixel indices stay on the CPU, where they are drawn."""
        return self.to(device).replace(inside=self.inside, outside=self.outside)


def prior_observation(
    source: FrameSource,
    frame: int,
    reference: Float[Tensor, "l 3"],
    landmark_index: Int64[Tensor, " l"],
    bounds: tuple[Float[Tensor, "3"], float],
    options: PriorTrackingOptions,
    classes: LabelClasses | None = None,
    landmarks: Float[Tensor, "68 2"] | None = None,
    weights: EnergyWeights | None = None,
) -> PriorObservation:
    """Reads and checks one frame.

    Starts from the capture's pose unless its landmark error exceeds twice that of the best-fitting pose, which is then
    used.

    Args:
        source: the capture.
        frame: its index.
        reference: (L, 3) landmarks of the prior's mean head, meters.
        landmark_index: (L,) index of each among the 68.
        bounds: center (3,) and radius of the ball that holds the prior's heads, meters.
        options: sizes and limits.
        classes: meaning of labels; `LabelClasses()` if None.
        landmarks: (68, 2) the frame's landmarks in pixels, NaN where unknown; None if there are none.
        weights: weights of hair and the inside of the mouth; as published if None.

    Raises:
        FrameFailure: the frame cannot be used; its `reason` says why.
    """
    try:
        camera, image = _single(source.camera([frame])), source.image(frame)
        label = source.label(frame)
    except (CaptureError, OSError, ValueError) as error:
        raise FrameFailure("unreadable", str(error)) from error
    target = torch.full((68, 2), torch.nan) if landmarks is None else landmarks.float()
    known = torch.isfinite(target[landmark_index]).all(dim=1)
    if len(landmark_index) and float(known.float().mean()) < max(options.landmark_share, 1e-9):
        count = "none" if landmarks is None else f"{int(known.sum())} of {len(landmark_index)}"
        raise FrameFailure(
            "landmarks",
            f"the frame has {count} of the prior's landmarks; at least {options.landmark_share:.0%} are needed. Write "
            "them to the capture, or pass a detector",
        )
    start = _start_pose(camera, target[landmark_index], reference, known)
    factor = min(1.0, options.image_height / source.size[0])
    reduced = camera.scaled(factor).replace(world_to_camera=start)
    height, width = reduced.size
    alpha = image[..., 3]
    color_weight, mask_weight = (
        _reduced(weight[..., None], (height, width))[..., 0]
        for weight in _weights(alpha, label, classes or LabelClasses(), weights or EnergyWeights())
    )
    rgba = _reduced(torch.cat([image[..., :3] * image[..., 3:], alpha[..., None]], dim=-1), (height, width))
    rgb = rgba[..., :3] / rgba[..., 3:].clamp_min(1e-3)
    color_weight = color_weight * (rgba[..., 3] > 0.5)
    inside = (rgba[..., 3] > 0.5) & ((color_weight > 0) | (mask_weight > 0))
    if int(inside.sum()) < options.mask_pixels:
        raise FrameFailure(
            "mask",
            f"the matte shows {int(inside.sum())} pixels of a head at {width} x {height} pixels; at least "
            f"{options.mask_pixels} are needed",
        )
    near = _near_ball(reduced, *bounds)
    if not bool((near & inside).any()):
        raise FrameFailure("camera", "the head projects outside the image; check the frame's pose")
    scale = torch.tensor([width / source.size[1], height / source.size[0]])
    return PriorObservation(
        camera=reduced, rgb=rgb.clamp(0, 1), alpha=rgba[..., 3], color_weight=color_weight, mask_weight=mask_weight,
        landmarks=target * scale, inside=(near & inside).flatten().nonzero()[:, 0],
        outside=(near & ~inside & (mask_weight > 0)).flatten().nonzero()[:, 0],
        to_capture=torch.linalg.inv(camera.world_to_camera.double()).float() @ start,
    )  # fmt: skip


def frame_landmarks(
    source: FrameSource, frame: int, detector: LandmarkDetector | None = None
) -> Float[Tensor, "68 2"] | None:
    """The landmarks of a frame in pixels, from the capture's files or a detector; None if there are none.

    Args:
        source: the capture.
        frame: its index.
        detector: used in place of the files.

    Raises:
        FrameFailure: a file cannot be read, or the detector returns an array of another shape.
    """
    try:
        if detector is None:
            return source.landmarks(frame)
        image = source.image(frame)
    except (CaptureError, OSError, ValueError) as error:
        raise FrameFailure("unreadable", str(error)) from error
    rgb = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    landmarks = detector((rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    if landmarks is None:
        return None
    if landmarks.shape != (68, 2):
        raise FrameFailure("landmarks", f"the detector returned an array of shape {landmarks.shape}; expected (68, 2)")
    return torch.from_numpy(np.asarray(landmarks, np.float32))


def _single(camera: Camera) -> Camera:
    """A batch of one camera without its batch axis."""
    return camera.require_pinhole("tracking").replace(
        world_to_camera=camera.world_to_camera.reshape(4, 4), intrinsics=camera.intrinsics.reshape(3, 3)
    )


def _start_pose(
    camera: Camera, landmarks: Float[Tensor, "l 2"], reference: Float[Tensor, "l 3"], known: Bool[Tensor, " l"]
) -> Float[Tensor, "4 4"]:
    """The pose (prior's space to camera) that a frame starts from."""
    captured = camera.world_to_camera
    if int(known.sum()) < 6:
        return captured
    try:
        best, least_error = landmark_pose(reference, landmarks, camera, known)
    except (ValueError, torch.linalg.LinAlgError):
        return captured
    pixels, depth = camera.project(reference)
    error = (pixels - landmarks)[known].square().sum(dim=1).mean().sqrt()
    near = bool((depth > 0).all()) and float(error) <= 2 * float(least_error) + 1e-3
    return captured if near else best


def _weights(
    alpha: Float[Tensor, "h w"], label: Tensor | None, classes: LabelClasses, weights: EnergyWeights
) -> tuple[Tensor, Tensor]:
    """Weights (H, W) of pixels in the color term and in the mask term."""
    color, mask = torch.ones_like(alpha), torch.ones_like(alpha)
    if label is None:
        return color, mask
    label = label.int()

    def among(values: tuple[int, ...]) -> Tensor:
        return torch.isin(label, torch.tensor(values, dtype=torch.int32))

    color[among(classes.mouth)] = weights.mouth
    mask[among(classes.hair)] = weights.hair
    ignored = among(classes.ignored)
    color[ignored], mask[ignored] = 0, 0
    # A prior's neck is open and unconstrained below; if the neck is ignored, so are the rows below it.
    weighted_rows = ((alpha > 0.5) & ~ignored).any(dim=1).nonzero()
    below = int(weighted_rows[-1]) + 1 if len(weighted_rows) else len(mask)
    if bool(ignored[below:].any()):
        mask[below:] = 0
    return color, mask


def _reduced(image: Float[Tensor, "h w c"], size: tuple[int, int]) -> Float[Tensor, "i j c"]:
    if tuple(image.shape[:2]) == size:
        return image
    batch = image.movedim(-1, 0)[None]
    return torch.nn.functional.interpolate(batch, size, mode="area")[0].movedim(0, -1)


def _near_ball(camera: Camera, center: Float[Tensor, "3"], radius: float) -> Bool[Tensor, "h w"]:
    """The pixels whose rays meet the ball in front of the camera."""
    rays = camera.rays()
    to_center = center - rays.origins
    along = (to_center * rays.directions).sum(dim=-1)
    offset = to_center - along[:, None] * rays.directions
    return ((offset.norm(dim=-1) < radius) & (along > 0)).view(camera.size)
