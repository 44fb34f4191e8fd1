"""A frame as the rig tracker sees it: a pyramid of images, mattes and distances to their outlines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.frame_source import FrameSource
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.data.errors import CaptureError
from headfields.data.untracked import UntrackedRecording
from headfields.records import Camera, Record

__all__ = ["Level", "RigObservation", "outline", "rig_observation", "signed_distance"]


@dataclass(frozen=True)
class Level(Record):
    """A frame at one size.

    Attributes:
        rgb: (H, W, 3) over white.
        gradient: (H, W, 3, 2) of rgb by x and y, per pixel.
        inside: (H, W) whether the matte covers the pixel and its neighbors; colors count there.
        mask: (H, W) matte above 0.5.
        distance: (H, W) to its outline, pixels, negative inside.
        slope: (H, W, 2) of the distance.
        outline: (Q, 2) pixel centers (x, y) just inside the outline, where it is the template's.
        camera: the lens, at the origin; that of another view in the space of the first one's.
        free: (H, W) where the person is not the template (hair, clothes): neither colors nor overlap count.
        open: (H, W) whether the nearest outline is of such matter: the template may end inside of it.
    """

    rgb: Float[Tensor, "h w 3"]
    gradient: Float[Tensor, "h w 3 2"]
    inside: Bool[Tensor, "h w"]
    mask: Bool[Tensor, "h w"]
    distance: Float[Tensor, "h w"]
    slope: Float[Tensor, "h w 2"]
    outline: Float[Tensor, "q 2"]
    camera: Camera
    free: Bool[Tensor, "h w"]
    open: Bool[Tensor, "h w"]

    def overlap(self, mask: Bool[Tensor, "h w"]) -> float:
        """Intersection over union of a silhouette and the matte, where the person is the template."""
        counts = ~self.free
        both, either = mask & self.mask & counts, (mask | self.mask) & counts
        return float(both.sum() / either.sum().clamp_min(1))


@dataclass(frozen=True)
class RigObservation:
    """A frame, as tracking compares it with the rig.

    Attributes:
        levels: the image pyramid, coarse to fine.
        landmarks: (68, 2) pixels of the full image, NaN where unknown.
        camera: camera of the full image; at the origin, or that of another view in the space of the first one's.
        others: the same moment from other cameras.
        number: of the camera in its recording.
        cameras: how many the recording has.
    """

    levels: tuple[Level, ...]
    landmarks: Float[Tensor, "68 2"]
    camera: Camera
    others: tuple["RigObservation", ...] = ()
    number: int = 0
    cameras: int = 1

    @property
    def landmark_count(self) -> int:
        """The number of known landmarks, in the view that has most."""
        return max(int(view.landmarks.isfinite().all(dim=1).sum()) for view in self.views)

    @property
    def views(self) -> tuple["RigObservation", ...]:
        """The frame itself and the other cameras' pictures of it."""
        return (self, *self.others)

    def others_at(self, row: int) -> list[tuple["RigObservation", Level]]:
        """The other cameras' pictures, each with its level of that index."""
        return [(other, other.levels[row]) for other in self.others]


def rig_observation(
    source: FrameSource, frame: int, options: RigTrackingOptions, free_labels: Sequence[int] = ()
) -> RigObservation:
    """Reads a frame, from all cameras of a recording that has several; a camera whose frame fails is left out.

    Args:
        source: the capture or recording.
        frame: its index.
        options: sizes of the levels.
        free_labels: labels of what the template lacks.

    Raises:
        FrameFailure: "unreadable", or "mask" if the matte has too few pixels, from every camera.
    """
    if not isinstance(source, UntrackedRecording) or not source.others:
        return _observation(source, frame, options, free_labels, None)
    views: list[RigObservation] = []
    failure: FrameFailure | None = None
    for number, other in enumerate(source.cameras):
        placed = torch.from_numpy(source.camera_in_first(other, frame)).float()
        try:
            view = _observation(other, frame, options, free_labels, placed)
            views.append(replace(view, number=number, cameras=len(source.cameras)))
        except FrameFailure as error:
            failure = failure or error
    if not views:
        assert failure is not None
        raise failure
    return replace(views[0], others=tuple(views[1:]))


def _observation(
    source: FrameSource, frame: int, options: RigTrackingOptions, free_labels: Sequence[int],
    placed: Float[Tensor, "4 4"] | None,
) -> RigObservation:  # fmt: skip
    """A camera's picture of a frame; `placed` is the camera's pose, at the origin if None."""
    try:
        image = source.image(frame)
        captured = source.camera([frame])
        landmarks = source.landmarks(frame)
        label = source.label(frame) if free_labels else None
    except (CaptureError, OSError, ValueError) as error:
        raise FrameFailure("unreadable", str(error)) from error
    lens = captured.require_pinhole("tracking").intrinsics.reshape(-1, 3, 3)[0].float()
    camera = Camera(torch.eye(4) if placed is None else placed, lens, (int(image.shape[0]), int(image.shape[1])))
    covered = int((image[..., 3] > 0.5).sum())
    if covered < options.mask_pixels:
        raise FrameFailure(
            "mask", f"the matte has {covered} pixels; at least {options.mask_pixels} are needed. Check that the"
            " background is masked out"
        )  # fmt: skip
    if landmarks is None:
        landmarks = torch.full((68, 2), torch.nan)
    sides = [min(side, max(camera.size)) for side in options.levels]
    free = None if label is None else torch.isin(label.long(), torch.tensor(list(free_labels)))
    return RigObservation(tuple(_level(image, camera, side, free) for side in sides), landmarks.float(), camera)


def _level(image: Float[Tensor, "h w 4"], camera: Camera, side: int, free: Bool[Tensor, "h w"] | None) -> Level:
    reduced = camera.scaled(side / max(camera.size))
    matte = image[..., 3:]
    channels = torch.cat([image[..., :3] * matte + 1 - matte, matte], -1)
    if reduced.size != camera.size:
        channels = torch.nn.functional.interpolate(
            channels.movedim(-1, 0)[None], reduced.size, mode="bilinear", antialias=True, align_corners=False
        )[0].movedim(0, -1)
    mask = channels[..., 3] > 0.5
    hidden = torch.zeros_like(mask)
    if free is not None:
        hidden = (
            torch.nn.functional.adaptive_avg_pool2d(free[None, None].float(), (mask.shape[0], mask.shape[1]))[0, 0]
            > 0.3
        )
    edge, near_free = outline(mask), torch.nn.functional.max_pool2d(hidden[None, None].float(), 5, 1, 2)[0, 0] > 0
    distance = signed_distance(mask)
    across, down = torch.gradient(distance, dim=(1, 0))
    x, y = torch.gradient(channels[..., :3], dim=(1, 0))
    return Level(
        rgb=channels[..., :3].contiguous(), gradient=torch.stack([x, y], -1), inside=distance < -1.0, mask=mask,
        distance=distance, slope=torch.stack([across, down], -1), outline=_centers(edge & ~near_free), camera=reduced,
        free=hidden, open=_nearest(edge, near_free),
    )  # fmt: skip


def _nearest(edge: Bool[Tensor, "h w"], values: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """At each pixel the value of the nearest pixel of the edge."""
    if not bool(edge.any()) or not bool(values.any()):
        return torch.zeros_like(values)
    index = distance_transform_edt(~edge.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(index).long().to(values.device)
    return values[rows, columns]


def signed_distance(mask: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Distance of pixel centers to the mask's outline, negative inside, pixels; the image border is not an outline.

    >>> import torch
    >>> from headfields.apps.tracking.rig.observation import signed_distance
    >>> signed_distance(torch.tensor([[True, True, False, False]])).tolist()
    [[-1.5, -0.5, 0.5, 1.5]]
    """
    inside = mask.cpu().numpy()
    if inside.all() or not inside.any():
        return torch.full(mask.shape, -1e3 if inside.all() else 1e3, device=mask.device)
    signed = distance_transform_edt(~inside) - distance_transform_edt(inside)
    signed = np.where(signed > 0, signed - 0.5, signed + 0.5)
    return torch.from_numpy(signed.astype(np.float32)).to(mask.device)


def outline(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Pixels of the mask with a neighbor outside it; pixels at the image border are not included."""
    padded = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0] > 0.5
    enclosed = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~enclosed


def _centers(mask: Bool[Tensor, "h w"]) -> Float[Tensor, "q 2"]:
    return mask.nonzero().flip(-1).float() + 0.5
