"""How far a rendered outline is from an observed one, for errors larger than what antialiased coverage can tell.

Antialiased coverage has a gradient within half a pixel of the outline alone: right at the end of a fit, and useless
where mesh and image are several pixels apart. The distances here pull from any distance. Which of the two is wanted
when, and why, is measured in docs/mesh_rendering.md.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape
from headfields.ops.antialias import Crossings
from headfields.ops.uv import bilinear_weights
from headfields.records import Record

__all__ = ["ObservedSilhouette", "observe_silhouette", "silhouette_distance"]


@dataclass(frozen=True)
class ObservedSilhouette(Record):
    """What `silhouette_distance` needs of a matte, made once an image by `observe_silhouette`. No gradient.

    Attributes:
        signed_distance: (H, W) of pixel centers to the outline, pixels, negative inside.
        outline: (P, 2) points of the outline in pixels (x right, y down), about one a pixel of its length.
    """

    signed_distance: Float[Tensor, "h w"]
    outline: Float[Tensor, "p 2"]


def observe_silhouette(
    matte: Float[Tensor, "h w"], ignore: Bool[Tensor, "h w"] | None = None, level: float = 0.5
) -> ObservedSilhouette:
    """Finds the outline of a matte, to a part of a pixel, and every pixel's distance to it.

    The outline passes where the matte, linear between neighboring centers, crosses `level`; the border of the image is
    no outline. A matte without an outline has infinite distances, and `silhouette_distance` leaves it out.

    Args:
        matte: (H, W) in [0, 1].
        ignore: (H, W) pixels beside which the outline means nothing: where the body goes on and the mesh does not.
        level: in (0, 1).

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
    skip = np.zeros(image.shape, bool)
    if ignore is not None:
        check_shape(op, "ignore", ignore, f"{matte.shape[0]} {matte.shape[1]}")
        skip = ignore.cpu().numpy()
    points = []
    for axis in (0, 1):
        before, after = (image[:-1], image[1:]) if axis == 0 else (image[:, :-1], image[:, 1:])
        skipped = (skip[:-1] | skip[1:]) if axis == 0 else (skip[:, :-1] | skip[:, 1:])
        row, column = np.nonzero(((before >= level) != (after >= level)) & ~skipped)
        part = (level - before[row, column]) / (after[row, column] - before[row, column])
        place = np.stack([column + 0.5, row + 0.5], -1)
        place[:, 1 - axis] += part
        points.append(place)
    outline = np.concatenate(points)
    distance = np.full(image.shape, np.inf)
    if len(outline):
        rows, columns = np.indices(image.shape)
        distance = cKDTree(outline).query(np.stack([columns + 0.5, rows + 0.5], -1).reshape(-1, 2))[0]
        distance = distance.reshape(image.shape)
    signed = np.where(image >= level, -distance, distance)
    return ObservedSilhouette(
        torch.from_numpy(signed).float().to(matte.device), torch.from_numpy(outline).float().to(matte.device)
    )


def silhouette_distance(
    crossings: Crossings, observed: ObservedSilhouette, scale: float | int = 4.0, both_ways: bool = True
) -> Float[Tensor, ""]:
    """How far the outline of a mesh is from that of a matte, in pixels, squared up to `scale` and linear beyond.

    One way, points of the rendered outline read the distance field of the matte's; the other way, each point of the
    matte's outline asks for the nearest of the rendered one. The first alone is content with an outline that shrinks
    onto a part of the observed one, the second alone with one that has parts too many. Each is a mean over points that
    are about a pixel apart. Our own choice.

    Differentiable to any order in `crossings.point`, and so in vertices and camera; which points are nearest is found
    without a graph. Zero, with a gradient of zero, where either has no outline.

    Args:
        crossings: of `MeshRendering`, or `headfields.ops.silhouette_crossings`; those before the background count.
        observed: of an image of the same size.
        scale: pixels.
        both_ways: whether the second way counts too.

    Raises:
        ValueError: scale is not positive, or devices differ.
    """
    if not scale > 0:
        raise ValueError(f"silhouette_distance: scale is {scale}; expected a positive number of pixels")
    check_same_device("silhouette_distance", crossings=crossings.point, observed=observed.outline)
    points = crossings.point[crossings.outer]
    nothing = crossings.point.sum() * 0
    if not len(points) or not len(observed.outline):
        return nothing
    height, width = observed.signed_distance.shape
    uv = torch.stack([points[:, 0] / width, 1 - points[:, 1] / height], -1)
    texel, weight = bilinear_weights(uv, height, width)
    field = observed.signed_distance.reshape(-1).to(points)
    loss = _huber((field[texel] * weight).sum(-1).square(), scale)
    if not both_ways:
        return loss
    tree = cKDTree(points.detach().double().cpu().numpy())
    _, nearest = tree.query(observed.outline.double().cpu().numpy())
    gap = points[torch.from_numpy(nearest).to(points.device)] - observed.outline.to(points)
    return loss + _huber(gap.square().sum(-1), scale)


def _huber(squared: Tensor, scale: float) -> Float[Tensor, ""]:
    """Mean of d² / 2 up to `scale` and scale · (d − scale / 2) beyond."""
    far = squared > scale**2
    distance = torch.where(far, squared, scale**2).sqrt()
    return torch.where(far, scale * (distance - scale / 2), squared / 2).mean()
