"""How far matter stands off the tracked mesh, measured in the mattes: hair, a bun, a beard, a hat."""

import math
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from headfields.data.capture import Capture
from headfields.data.labels import labels_of
from headfields.ops.rigid import fit_rigid
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Camera

__all__ = ["matter_extent"]

_BODY = labels_of("cloth", "neck")
_STEP = 0.01  # meters between the points of a ray
_RAYS = 256  # of a frame, of those off the mesh
_AGREE = 0.8  # of the frames that see a point of the head have matter there
_OFF = 0.005  # meters off the mesh within which a ray needs no more


def matter_extent(capture: Capture, frames: int = 12, outside: float | int = 0.002, most: float | int = 0.3) -> float:
    """The distance from the tracked mesh within which nearly all matter of the head lies, meters.

    For the shell around the mesh in which rays are sampled: hair outside it cannot be learned. A pixel of the matte
    puts matter somewhere along its ray; of the points where the mattes of most other frames have matter too, in
    the head's frame, the one nearest to the mesh is assumed. So a hand that passes does not count, and neither do
    background that is not joined to the head in the image, a matte without background, pixels with a label of cloth or
    neck, and, in a frame without labels, those below the mesh in the image, which are a body.

    Args:
        capture: its training frames are measured, evenly spaced ones.
        frames: number of them.
        outside: share of the pixels that may lie farther away, as mattes have errors.
        most: largest result, meters.

    Returns:
        Meters; 0 if no pixel counts. No gradient.

    Raises:
        ValueError: frames is less than 1, outside is no share, or most is not a positive length.
    """
    if frames < 1:
        raise ValueError(f"matter_extent: frames is {frames}; expected 1 or more")
    if not 0 <= outside <= 1:
        raise ValueError(f"matter_extent: outside is {outside}; expected a share, from 0 to 1")
    if not 0 < most < math.inf:
        raise ValueError(f"matter_extent: most is {most}; expected more than 0 meters, and finite")
    split = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    selected = split[torch.linspace(0, max(len(split) - 1, 0), min(frames, len(split))).round().long()].unique()
    tree = TriangleBVH(capture.template.faces, capture.template.canonical_vertices)
    views = [view for frame in selected.tolist() if (view := _view(capture, frame, tree)) is not None]
    count = sum(int(view.head.sum()) for view in views)
    distances, weights = [torch.zeros(0)], [torch.zeros(0)]
    for view in views:
        distance, weight = _needed(view, views, float(most))
        distances.append(distance)
        weights.append(weight)
    distance, order = torch.cat(distances).sort(descending=True)
    farther = torch.cat(weights)[order].cumsum(0)  # pixels at this distance or beyond
    beyond = distance[farther > outside * count]
    return min(float(beyond[0]), float(most)) if len(beyond) else 0.0


@dataclass(frozen=True)
class _View:
    """A frame: its camera and mesh, where its matte has matter, and which of that may be the head's."""

    camera: Camera
    bvh: TriangleBVH
    rotation: Float[Tensor, "3 3"]
    shift: Float[Tensor, "3"]
    matter: Bool[Tensor, "h w"]
    head: Bool[Tensor, "h w"]


def _view(capture: Capture, frame: int, tree: TriangleBVH) -> _View | None:
    """The frame, or None if its matte is empty, full or elsewhere than the mesh."""
    vertices, camera = capture.state(frame).vertices, capture.camera(frame)
    matter, label = capture.image(frame)[..., 3] > 0.5, capture.label(frame)
    height, width = matter.shape
    if int((~matter).sum()) < 0.01 * height * width:
        return None
    pixel, depth = (value[0] for value in camera.project(vertices))
    column, row = pixel.floor().long().unbind(-1)
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    parts, _ = scipy.ndimage.label(matter.numpy(), np.ones((3, 3)))
    part = torch.from_numpy(parts)
    hits = torch.bincount(part[row[inside], column[inside]].long(), minlength=int(part.max()) + 1)
    joined = (hits > 0.01 * len(pixel)) & (torch.arange(len(hits)) > 0)
    matter = joined[part.long()]
    if label is None or not bool(label.any()):
        head = matter & (torch.arange(height)[:, None] <= pixel[:, 1].max())
    else:
        head = matter & ~torch.isin(label.int(), torch.tensor(_BODY, dtype=torch.int32))
    if not bool(head.any()):
        return None
    rotation, shift = fit_rigid(capture.template.canonical_vertices.double(), vertices.double())
    reach = max(1, round(0.01 * max(height, width)))  # pixels by which mattes of several frames may differ
    wide = functional.max_pool2d(matter[None, None].float(), 2 * reach + 1, 1, reach)[0, 0] > 0
    return _View(camera, tree.posed(vertices), rotation[0].float(), shift[0].float(), wide, head)


def _needed(view: _View, views: list[_View], most: float) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Distance from the mesh of the matter on the rays that pass it, and the number of pixels each ray stands for."""
    pixels = view.head.nonzero()
    rays = view.camera.rays(pixels)
    near, far = view.bvh.interval(rays.origins, rays.directions, _OFF)
    off = (near >= far).nonzero()[:, 0]
    chosen = off[:: max(1, -(-len(off) // _RAYS))]
    origins, directions = rays.origins[chosen], rays.directions[chosen]
    near, far = view.bvh.interval(origins, directions, most)
    counts = ((far - near) / _STEP).clamp_min(0).long()
    ray = torch.arange(len(chosen)).repeat_interleave(counts)
    step = torch.arange(len(ray)) - (counts.cumsum(0) - counts)[ray]
    points = origins[ray] + (near[ray] + (step + 0.5) * _STEP)[:, None] * directions[ray]
    agreed = _agreed(points, view, views)
    distance = view.bvh.closest(points[agreed]).distance
    least = torch.full((len(chosen),), torch.inf).scatter_reduce(0, ray[agreed], distance, "amin")
    held = least[least.isfinite()]
    return held, torch.full_like(held, len(off) / max(len(chosen), 1))


def _agreed(points: Float[Tensor, "m 3"], view: _View, views: list[_View]) -> Bool[Tensor, " m"]:
    """Whether at least half of the frames see a point of the head, given in one frame's space, and the mattes of those
    that do have matter there."""
    canonical = (points - view.shift) @ view.rotation
    matter, visible = torch.zeros(len(points)), torch.zeros(len(points))
    for other in views:
        pixel, depth = (value[0] for value in other.camera.project((canonical @ other.rotation.mT + other.shift)[None]))
        column, row = pixel.floor().long().unbind(-1)
        height, width = other.matter.shape
        inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        visible += inside
        matter += inside & other.matter[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return (matter >= _AGREE * visible) & (visible >= 0.5 * len(views))
