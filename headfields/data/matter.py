"""How far matter stands off the tracked mesh, measured in the mattes: hair, a bun, a beard, a hat."""

import torch
from torch import Tensor

from headfields.data.capture import Capture
from headfields.data.labels import labels_of
from headfields.ops.triangle_bvh import TriangleBVH

__all__ = ["matter_extent"]

_BODY = labels_of("cloth", "neck")


def matter_extent(capture: Capture, frames: int = 12, outside: float | int = 0.002, most: float | int = 0.3) -> float:
    """The distance from the tracked mesh within which nearly all rays through the matte pass, meters.

    For the shell around the mesh in which rays are sampled: hair outside it cannot be learned. A ray's matter lies
    somewhere along it, so the mattes bound the extent from below. Pixels with a label of cloth or neck do not count,
    nor, in a capture without labels, those below the mesh in the image, which are a body.

    Args:
        capture: its training frames are measured, evenly spaced ones.
        frames: number of them.
        outside: share of the pixels that may lie farther away, as mattes have errors.
        most: largest result, meters.

    Returns:
        Meters, rounded up by at most a fifth; 0 if no pixel counts. No gradient.
    """
    split = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    selected = split[torch.linspace(0, max(len(split) - 1, 0), min(frames, len(split))).round().long()]
    faces = capture.template.faces
    tree: TriangleBVH | None = None
    views: list[tuple[TriangleBVH, Tensor, Tensor]] = []
    count = 0
    for frame in selected.tolist():
        vertices, camera = capture.state(frame).vertices, capture.camera(frame)
        tree = TriangleBVH(faces, vertices[0]) if tree is None else tree
        pixel = _pixels_of_the_head(capture, frame, camera.project(vertices)[0][..., 1].max())
        rays = camera.rays(pixel)
        views.append((tree.posed(vertices), rays.origins, rays.directions))
        count += len(pixel)
    margin = min(0.005, float(most))
    while count:
        views = [(bvh, *_beyond(bvh, origins, directions, margin)) for bvh, origins, directions in views]
        if sum(len(origins) for _, origins, _ in views) <= outside * count or margin >= most:
            return margin
        margin = min(margin * 2 ** (1 / 4), float(most))
    return 0.0


def _pixels_of_the_head(capture: Capture, frame: int, lowest: Tensor) -> Tensor:
    """Row and column (N, 2) of the matte's pixels that are not body."""
    alpha, label = capture.image(frame)[..., 3], capture.label(frame)
    head = alpha > 0.5
    if label is None:
        head &= torch.arange(len(alpha))[:, None] <= lowest
    else:
        head &= ~torch.isin(label.int(), torch.tensor(_BODY, dtype=torch.int32))
    return head.nonzero()


def _beyond(bvh: TriangleBVH, origins: Tensor, directions: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The rays that nowhere come within the margin of the mesh."""
    index = torch.zeros(len(origins), dtype=torch.long)
    near, far = bvh.interval(origins, directions, margin, index)
    return origins[near >= far], directions[near >= far]
