"""Batches of a step, drawn by all processes alike: frames, and rays, patches or images of them; the share of each."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headfields.data.device_pixels import DrawnPixels
from headfields.records import Batch, PixelBatch
from headfields.training.frames import draw_frames
from headfields.training.processes import Processes


class BatchSource:
    """Draws the batch of a step.

    Args:
        capture: has `sample_pixels`, `sample_patches` if there are patches, and `sample_images` for whole images.
        processes: all draw the same batch; each takes its share.
        frames: (F,) the training frames.
        frame_weights: (F,) how often each is drawn; uniformly if None.
        frames_per_step: number of frames of a step.
        background: behind the pixels.
        pixel_weights: sampling weights of single rays by label or region.
        patch: side of patches in pixels; None for none.
        patches_per_step: number of patches of a step, of all processes.
        whole_images: whether the frames are drawn whole; the arguments on rays and patches have no meaning then.

    Attributes:
        frames, frames_per_step: as above; `take_frames` changes the frames.

    Raises:
        TypeError: the capture cannot draw patches, or a number is not whole.
        ValueError: the patches cannot be divided among the processes, or are larger than the image; or there are more
            processes than whole images in a step.
    """

    def __init__(
        self,
        capture: Any,
        processes: Processes,
        frames: Int64[Tensor, " f"],
        frame_weights: Float[Tensor, " f"] | None,
        frames_per_step: int,
        background: str,
        pixel_weights: Mapping[int | str, float | int] | None,
        patch: int | None,
        patches_per_step: int,
        whole_images: bool = False,
    ) -> None:
        self._capture, self._processes = capture, processes
        self.frames, self._frame_weights, self.frames_per_step = frames, frame_weights, frames_per_step
        self._background = background
        self._by_label = {} if pixel_weights is None else {"weights": pixel_weights}
        self._side, self._patches = (0, 0) if patch is None else (patch, patches_per_step)
        self._whole_images = whole_images
        if whole_images and not hasattr(capture, "sample_images"):
            raise TypeError(
                f"Trainer: the avatar renders whole images, and {type(capture).__name__} has no sample_images; see "
                "headfields.data.Capture.sample_images"
            )
        if whole_images and frames_per_step < processes.count:
            raise ValueError(
                f"Trainer: frames_per_step is {frames_per_step} with {processes.count} processes, each of which "
                "renders whole images of a step; pass at least as many"
            )
        if patch is None:
            return
        if not hasattr(capture, "sample_patches"):
            raise TypeError(
                f"Trainer: patch is {patch}, and {type(capture).__name__} has no sample_patches; see "
                "headfields.data.Capture.sample_patches"
            )
        if not 1 <= patch <= min(capture.size) or patches_per_step < 1:
            raise ValueError(
                f"Trainer: patch is {patch} and patches_per_step {patches_per_step}; expected a side of 1 to "
                f"{min(capture.size)} pixels, as images are {tuple(capture.size)}, and at least one patch"
            )
        if patches_per_step % processes.count:
            raise ValueError(
                f"Trainer: patches_per_step is {patches_per_step} with {processes.count} processes, each of which "
                "renders whole patches; pass a multiple"
            )

    def take_frames(self, frames: Int64[Tensor, " f"], weights: Float[Tensor, " f"] | None) -> None:
        """Draws from other frames from now on, with these weights (F,) in place of the ones before."""
        self.frames, self._frame_weights = frames, weights

    def drawn_from(self) -> tuple[Any, ...]:
        """What `draw` depends on besides its arguments: other objects after `take_frames`."""
        return self.frames, self._frame_weights

    @property
    def patch_rays(self) -> int:
        """Rays of all patches of a step."""
        return self._patches * self._side**2

    @property
    def draws_rays_alone(self) -> bool:
        """Whether a batch is single rays, neither patches nor images."""
        return not self._patches and not self._whole_images

    def draw_indices(self, rays: int, generator: torch.Generator) -> tuple[DrawnPixels, Int64[Tensor, " b"], int, int]:
        """What `draw` gives, of single rays of a `headfields.data.Capture`, before they are looked up."""
        drawn = draw_frames(self.frames, self._frame_weights, self.frames_per_step, generator)
        background: dict[str, Any] = {"background": self._background}
        *indices, frames = self._capture.draw_indices(drawn, rays, generator, **background, **self._by_label)
        share = self._processes.share(len(indices[0]))
        row, pixel, colors = (each[share] for each in indices)
        pixels = DrawnPixels(row, pixel, colors, frames, self._capture.camera(frames))
        return pixels, frames, share.start, len(indices[0])

    def draw(self, rays: int, generator: torch.Generator) -> tuple[Batch, Int64[Tensor, " b"], int, int]:
        """This process's share of a batch.

        Args:
            rays: rays of all processes, those of patches among them.
            generator: a CPU generator, at the same state on all processes.

        Returns:
            The share; the frames that its `frame` indexes; the number of rays (or images) of the processes before this
            one; and the number of rays (or images) of all.
        """
        drawn = draw_frames(self.frames, self._frame_weights, self.frames_per_step, generator)
        background: dict[str, Any] = {"background": self._background}
        if self._whole_images:
            images, frames = self._capture.sample_images(drawn, generator, **background)
            own = self._processes.share(len(images))
            whole = not self._processes.several
            return (images if whole else images[own]), (frames if whole else frames[own]), own.start, len(images)
        patches: PixelBatch | None = None
        if self._patches:
            patches, _ = self._capture.sample_patches(drawn, self._patches, self._side, generator, **background)
            rays = max(rays - self.patch_rays, 0)
        batch, frames = self._capture.sample_pixels(drawn, rays, generator, **background, **self._by_label)
        share = self._processes.share(len(batch))
        if patches is None:
            return (batch[share] if self._processes.several else batch), frames, share.start, len(batch)
        area, own = self.patch_rays // self._patches, self._processes.share(self._patches)
        first, total = own.start * area + share.start, len(patches) + len(batch)
        count = own.stop - own.start
        patches = patches[own.start * area : own.stop * area].replace(
            patch_rays=torch.arange(count * area).reshape(count, self._side, self._side)
        )
        return PixelBatch.cat([patches, batch[share]]), frames, first, total
