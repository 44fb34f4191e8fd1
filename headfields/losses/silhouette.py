"""Losses on silhouettes: opacity against the matte, and the distance between a mesh's outline and the matte's.

Antialiased coverage has a gradient only within half a pixel of the outline: right at the end of a fit, and useless
where mesh and image are several pixels apart. `silhouette_distance` has one at any distance; docs/mesh_rendering.md
measures when to use which. It is our own choice.
"""

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.losses.base import check_positive, check_rays, mean_over_rays
from headfields.ops._checks import check_floating, check_same_device, check_shape
from headfields.ops.antialias import Crossings
from headfields.ops.uv import bilinear_weights
from headfields.parts import Rendering
from headfields.records import Batch, Record


@dataclass(frozen=True)
class OpacityLoss:
    """Squared difference between opacity and matte, mean over rays (our own choice; INSTA has no such term).

    INSTA learns emptiness from random backgrounds alone. With few rays per step this term learns it sooner; a weight of
    0.01 to 0.1 pays where training is short.

    Attributes:
        weight: factor of the loss in the total.
        name: column in the log.
    """

    weight: float | int = 0.1
    name: str = "opacity"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss; gradients flow to `rendering.opacity`."""
        check_rays(self.name, rendering, batch)
        return mean_over_rays((rendering.opacity - batch.alpha).square(), batch)


@dataclass(frozen=True)
class SoftJaccard:
    """One minus the overlap of opacity and matte: s (1 - (I + s) / (U + s)), I = Σ o a, U = Σ (o + a - o a) over rays.

    Relative to the head's area, unlike `OpacityLoss`: missing a tenth of a small head costs as much as missing a tenth
    of a large one.

    Attributes:
        smooth: s, in rays (MonoNPHM: 5).
        weight: factor of the loss in the total (MonoNPHM's tracker: 25, then 10).
        name: column in the log.

    Raises:
        ValueError: smooth is not positive.

    Source: MonoNPHM (Giebenhain et al. 2024), released code.
    """

    smooth: float | int = 5.0
    weight: float | int = 1.0
    name: str = "silhouette"

    def __post_init__(self) -> None:
        check_positive("SoftJaccard", smooth=self.smooth)

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss, from 0 to s; gradients flow to `rendering.opacity`."""
        check_rays(self.name, rendering, batch)
        intersection = (rendering.opacity * batch.alpha).sum()
        union = rendering.opacity.sum() + batch.alpha.sum() - intersection
        return self.smooth * (1 - (intersection + self.smooth) / (union + self.smooth))


@dataclass(frozen=True)
class ObservedSilhouette(Record):
    """The outline of a matte and the distance to it, made once per image by `observe_silhouette`. No gradient.

    Attributes:
        signed_distance: (H, W) of pixel centers to the outline, pixels, negative inside.
        outline: (P, 2) points of the outline in pixels (x right, y down), about one per pixel of its length.
    """

    signed_distance: Float[Tensor, "h w"]
    outline: Float[Tensor, "p 2"]


def observe_silhouette(
    matte: Float[Tensor, "h w"], ignore: Bool[Tensor, "h w"] | None = None, level: float = 0.5
) -> ObservedSilhouette:
    """Finds the outline of a matte at subpixel accuracy, and every pixel's distance to it.

    The outline passes where the matte, linear between neighboring centers, crosses `level`; the border of the image is
    not part of it. A matte without an outline has infinite distances and adds nothing to `silhouette_distance`.

    Args:
        matte: (H, W) in [0, 1].
        ignore: (H, W) pixels next to which there is no outline: where the mesh ends and the body continues.
        level: matte value of the outline, in (0, 1).

    Raises:
        TypeError: matte is not floating point.
        ValueError: a shape does not fit, or level is not in (0, 1).
    """
    op = "observe_silhouette"
    check_floating(op, "matte", matte)
    check_shape(op, "matte", matte, "H W")
    if not 0 < level < 1:
        raise ValueError(f"{op}: level is {level}; expected a number in (0, 1)")
    image = matte.detach().double().cpu().numpy()
    ignored = np.zeros(image.shape, bool)
    if ignore is not None:
        check_shape(op, "ignore", ignore, f"{matte.shape[0]} {matte.shape[1]}")
        ignored = ignore.cpu().numpy()
    points = []
    for axis in (0, 1):
        before, after = (image[:-1], image[1:]) if axis == 0 else (image[:, :-1], image[:, 1:])
        beside_ignored = (ignored[:-1] | ignored[1:]) if axis == 0 else (ignored[:, :-1] | ignored[:, 1:])
        row, column = np.nonzero(((before >= level) != (after >= level)) & ~beside_ignored)
        fraction = (level - before[row, column]) / (after[row, column] - before[row, column])
        crossing = np.stack([column + 0.5, row + 0.5], -1)
        crossing[:, 1 - axis] += fraction
        points.append(crossing)
    outline = np.concatenate(points)
    distance = np.full(image.shape, np.inf)
    if len(outline):
        rows, columns = np.indices(image.shape)
        distance = scipy.spatial.cKDTree(outline).query(np.stack([columns + 0.5, rows + 0.5], -1).reshape(-1, 2))[0]
        distance = distance.reshape(image.shape)
    signed = np.where(image >= level, -distance, distance)
    return ObservedSilhouette(
        torch.from_numpy(signed).float().to(matte.device), torch.from_numpy(outline).float().to(matte.device)
    )


def silhouette_distance(
    crossings: Crossings, observed: ObservedSilhouette, scale: float | int = 4.0, both_ways: bool = True
) -> Float[Tensor, ""]:
    """Distance between a mesh's outline and a matte's, in pixels: squared up to `scale` and linear beyond.

    One way, points of the rendered outline read the distance field of the matte; the other way, each point of the
    matte's outline takes the nearest point of the rendered one. The first alone allows an outline that shrinks onto a
    part of the observed one, the second alone one with extra parts. Each is a mean over points that are about a pixel
    apart.

    Differentiable to any order in `crossings.point`, and so in vertices and camera; which points are nearest is found
    without a graph. Zero, with a gradient of zero, where either has no outline.

    Args:
        crossings: crossings of `MeshRendering`, or `headfields.ops.antialias.silhouette_crossings`; only those against
            the background count.
        observed: outline of an image of the same size.
        scale: scale of the distance, pixels.
        both_ways: whether to add the second way.

    Raises:
        ValueError: scale is not positive, or devices differ.
    """
    if not scale > 0:
        raise ValueError(f"silhouette_distance: scale is {scale}; expected a positive number of pixels")
    check_same_device("silhouette_distance", crossings=crossings.point, observed=observed.outline)
    points = crossings.point[crossings.outer]
    if not len(points) or not len(observed.outline):
        return crossings.point.sum() * 0
    height, width = observed.signed_distance.shape
    uv = torch.stack([points[:, 0] / width, 1 - points[:, 1] / height], -1)
    texel, weight = bilinear_weights(uv, height, width)
    field = observed.signed_distance.reshape(-1).to(points)
    loss = _huber((field[texel] * weight).sum(-1).square(), scale)
    if not both_ways:
        return loss
    tree = scipy.spatial.cKDTree(points.detach().double().cpu().numpy())
    _, nearest = tree.query(observed.outline.double().cpu().numpy())
    gap = points[torch.from_numpy(nearest).to(points.device)] - observed.outline.to(points)
    return loss + _huber(gap.square().sum(-1), scale)


def _huber(squared: Tensor, scale: float) -> Float[Tensor, ""]:
    """Mean of d² / 2 up to `scale` and scale · (d − scale / 2) beyond."""
    far = squared > scale**2
    distance = torch.where(far, squared, scale**2).sqrt()
    return torch.where(far, scale * (distance - scale / 2), squared / 2).mean()
