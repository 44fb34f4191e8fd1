"""Batches of training: pixels drawn from frames, and whole images."""

import itertools
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import torch
from jaxtyping import Float, Int, Int64, Integer
from torch import Tensor

from headfields.records.base import Record
from headfields.records.camera import Camera, Rays


@dataclass(frozen=True)
class PixelBatch(Record):
    """N training pixels: their rays and the values of the capture there.

    Attributes:
        rays: the N rays; `rays.frame` indexes the state given with the batch.
        rgb: (N, 3) straight (not premultiplied) sRGB color in [0, 1].
        alpha: (N,) matte in [0, 1].
        background: (N, 3) the color behind both the rendering and the target.
        label: (N,) integer segmentation label, if the capture has them.
        depth: (N,) z-depth of the tracked mesh along the optical axis in meters, 0 off the mesh.
        depth_scale: (N,) length of ray per unit of z-depth, so depth * depth_scale is a distance along the ray.
        patch_rays: (P, S, S) the rays that form P square images, if any do; losses read them as `patches`. Indexing the
            batch leaves them out; `cat` joins them.
    """

    rays: Rays
    rgb: Float[Tensor, "n 3"]
    alpha: Float[Tensor, " n"]
    background: Float[Tensor, "n 3"]
    label: Integer[Tensor, " n"] | None = None
    depth: Float[Tensor, " n"] | None = None
    depth_scale: Float[Tensor, " n"] | None = None
    patch_rays: Int64[Tensor, "p s s"] | None = None

    def __getitem__(self, index: Any) -> "PixelBatch":
        return Record.__getitem__(self if self.patch_rays is None else self.replace(patch_rays=None), index)

    @classmethod
    def _joined(cls, verb: str, records: "list[PixelBatch]") -> "PixelBatch":
        if all(record.patch_rays is None for record in records):
            return super()._joined(verb, records)
        starts = itertools.accumulate((len(record) for record in records), initial=0)
        pairs = [(record.patch_rays, start) for record, start in zip(records, starts, strict=False)]
        patches = [indices + start for indices, start in pairs if indices is not None]
        if len({indices.shape[1:] for indices in patches}) > 1:
            sizes = sorted({indices.shape[1] for indices in patches})
            raise ValueError(f"{cls.__name__}.{verb}: patches have sides of {sizes} pixels; expected one size")
        return (
            super()
            ._joined(verb, [record.replace(patch_rays=None) for record in records])
            .replace(patch_rays=torch.cat(patches))
        )

    @property
    def target(self) -> Float[Tensor, "n 3"]:
        """The color over the background."""
        return self.rgb * self.alpha[:, None] + self.background * (1 - self.alpha[:, None])

    @property
    def patches(self) -> Int64[Tensor, "p s s"]:
        """(P, S, S) the rays that form P square images: `rendering.rgb[batch.patches]` is (P, S, S, 3).

        Raises:
            ValueError: the batch has single rays alone; indexing with None would take them for an image of one row.
        """
        if self.patch_rays is None:
            raise ValueError(
                "PixelBatch: the batch has no patches, only single rays; pass patch=32 to Trainer, or draw "
                "capture.sample_patches(...)"
            )
        return self.patch_rays

    @property
    def view(self) -> Rays:
        """What an avatar is called with to render the batch: the rays."""
        return self.rays

    @property
    def frame(self) -> Int[Tensor, " n"]:
        """The row of the state of each pixel."""
        return self.rays.frame

    def __len__(self) -> int:
        return self.alpha.shape[0]


@dataclass(frozen=True)
class ImageBatch(Record):
    """B whole training images, for avatars that are rendered image by image, and their cameras.

    It is what `PixelBatch` is for rays, with (B, H, W) in place of (N,): losses read `target`, `alpha` and `label` of
    either, and `patches` to index images with.

    Attributes:
        camera: B cameras, each of its row of the state.
        rgb: (B, H, W, 3) straight (not premultiplied) sRGB color in [0, 1].
        alpha: (B, H, W) matte in [0, 1].
        background: (B, 3) the color behind both the rendering and the target.
        label: (B, H, W) integer segmentation label, if the capture has them.
    """

    camera: Camera
    rgb: Float[Tensor, "b h w 3"]
    alpha: Float[Tensor, "b h w"]
    background: Float[Tensor, "b 3"]
    label: Integer[Tensor, "b h w"] | None = None

    @property
    def target(self) -> Float[Tensor, "b h w 3"]:
        """The color over the background."""
        return torch.lerp(self.background[:, None, None], self.rgb, self.alpha[..., None])

    @property
    def patches(self) -> EllipsisType:
        """Index of the images, as `PixelBatch.patches`: all of them, so that `rendering.rgb[batch.patches]` is
        (B, H, W, 3)."""
        return ...

    @property
    def view(self) -> Camera:
        """What an avatar is called with to render the batch: the cameras."""
        return self.camera

    @property
    def frame(self) -> Int64[Tensor, "b h w"]:
        """The row of the state of each pixel."""
        rows = torch.arange(len(self), device=self.alpha.device)
        return rows[:, None, None].expand(self.alpha.shape)

    def __len__(self) -> int:
        return self.alpha.shape[0]


Batch = PixelBatch | ImageBatch
"""What a step of training shows to the losses."""
