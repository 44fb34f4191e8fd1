"""Balanced sampling of frames by the yaw from which they show the head.

3VP Avatar (Nehvi et al. 2024) balances frames; bins and weights are our own choice.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.data.head_frame import head_pose, rigid_vertices
from headfields.ops.vertex_geometry import vertex_areas
from headfields.records import Camera, HeadState, Template

__all__ = ["view_yaw", "yaw_balanced_weights", "yaw_bins"]

_UPPER, _UPPER_PART = 0.16, 0.6
"""Meters, and part of the mesh's height, below its top that are the upper head: down to the nose, without the jaw."""
_LEAST = 12
"""Vertices that a robust fit needs; a coarser mesh is fitted as a whole."""
_SAMPLE = 24
"""Frames over which rigid vertices are sought."""


@runtime_checkable
class PosedCapture(Protocol):
    """What balancing reads of a `Capture`, or of a capture of one's own: cameras, posed meshes and their template."""

    splits: Any

    @property
    def template(self) -> Template:
        """The canonical mesh."""

    def state(self, frames: Any, /) -> HeadState:
        """Vertices of the given frames."""

    def camera(self, frames: Any, /) -> Camera:
        """Cameras of the given frames."""


def view_yaw(
    capture: PosedCapture,
    frames: Int[Tensor, " b"] | Sequence[int] | None = None,
    vertices: Bool[Tensor, " v"] | None = None,
) -> Float[Tensor, " b"]:
    """The yaw of each frame's camera around the head: 0 before the face, π/2 at the head's left, ±π behind it.

    The head's pose in a frame is the rigid motion that takes the head of the template's canonical mesh to the frame's,
    by a robust fit that disregards what moves otherwise (`headfields.data.head_frame.head_pose`). So it does not matter
    whether the capture keeps head motion in the vertices or in the cameras, nor whether jaw, lids, neck and body move.
    The yaw is the angle about y of the direction from the head's center to the camera, in the canonical frame (y up,
    face toward +z).

    Args:
        capture: the capture.
        frames: (B,) frame indices; None: all.
        vertices: (V,) mask of the template's vertices that are the head; None: those of the uppermost 16 cm of the mesh
            (of at most three fifths of its height) that move rigidly with one another over a sample of the frames.

    Returns:
        (B,) radians in [−π, π]. No gradient.

    Raises:
        ValueError: the mask has another number of vertices, or marks fewer than three.
        IndexError, CaptureError: as `Capture.state`.
    """
    template = capture.template
    canonical = template.canonical_vertices
    area = vertex_areas(canonical, template.faces)
    if vertices is None:
        vertices = _skull(capture, area)
    if vertices.shape != canonical.shape[:1] or int(vertices.sum()) < 3:
        raise ValueError(
            f"view_yaw: vertices has shape {tuple(vertices.shape)} and marks {int(vertices.sum())}; expected "
            f"({len(canonical)},) with at least three"
        )
    indices = capture.splits["all"] if frames is None else torch.as_tensor(frames, dtype=torch.long)
    head = canonical[vertices].double()
    yaw = []
    for chunk in indices.split(64):  # so that not all meshes are in memory at once
        posed = capture.state(chunk).vertices[:, vertices].double()
        pose = head_pose(posed, head, area=area[vertices])
        center = capture.camera(chunk).center.double() - pose[:, :3, 3]
        toward = (pose[:, :3, :3].mT @ center[..., None])[..., 0] - head.mean(dim=0)
        yaw.append(torch.atan2(toward[:, 0], toward[:, 2]))
    return torch.cat(yaw).float() if yaw else torch.zeros(0)


def _skull(capture: PosedCapture, area: Float[Tensor, " v"]) -> Bool[Tensor, " v"]:
    """Mask (V,) of the vertices that move with the skull, found without labels: y is up, so the head is uppermost."""
    canonical = capture.template.canonical_vertices
    height = canonical[:, 1]
    low, high = (float(value) for value in height[area > 0].aminmax()) if bool((area > 0).any()) else (0.0, 0.0)
    upper = height >= high - min(_UPPER, _UPPER_PART * (high - low))
    if int(upper.sum()) < _LEAST:
        return torch.ones_like(upper)
    every = capture.splits["all"]
    frames = every[torch.linspace(0, len(every) - 1, min(_SAMPLE, len(every))).round().long().unique()]
    posed = capture.state(frames).vertices[:, upper]
    out = torch.zeros_like(upper)
    out[upper] = rigid_vertices(posed, canonical[upper], area[upper])
    return out


def yaw_balanced_weights(
    capture: PosedCapture,
    bins: int = 12,
    split: str = "train",
    strength: float | int = 1.0,
    vertices: Bool[Tensor, " v"] | None = None,
) -> Float[Tensor, " f"]:
    """Sampling weights of frames that balance the directions from which the head is seen.

    The circle of `view_yaw` is divided into bins. The weight of a frame is (1 / number of the split's frames in its
    bin) to the power of `strength`. For `Trainer(frame_weights=...)`.

    Args:
        capture: the capture.
        bins: number of bins; the first is centered on the front.
        split: the split whose frames are counted; a frame outside it gets the weight that its bin has.
        strength: strength from 0, equal weights for all frames, to 1, equal weights for all bins that have frames.
        vertices: vertices as for `view_yaw`.

    Returns:
        (F,) one per frame of the capture, with a mean of 1 over the split.

    Raises:
        ValueError: bins is below 1, strength not in [0, 1], or there is no such split or no frame in it.
    """
    if bins < 1 or not 0 <= strength <= 1:
        raise ValueError(f"yaw_balanced_weights: bins={bins}, strength={strength}; expected at least 1, and 0 to 1")
    if not len(capture.splits.get(split, ())):
        raise ValueError(
            f"yaw_balanced_weights: the split {split!r} is empty; the capture has {', '.join(sorted(capture.splits))}"
        )
    bin_index = yaw_bins(view_yaw(capture, vertices=vertices), bins)
    members = torch.as_tensor(capture.splits[split])
    counts = torch.bincount(bin_index[members], minlength=bins)
    weights = counts[bin_index].clamp_min(1).float() ** -float(strength)
    return weights / weights[members].mean()


def yaw_bins(yaw: Float[Tensor, " b"], bins: int) -> Int[Tensor, " b"]:
    """The bin (B,) of each yaw in radians, of `bins` around the circle; bin 0 is centered on the front.

    >>> import torch
    >>> from headfields.data.balance import yaw_bins
    >>> yaw_bins(torch.tensor([-0.1, 0.0, 1.6, 3.1]), bins=4).tolist()
    [0, 0, 1, 2]
    """
    turn = yaw / (2 * math.pi) * bins
    return (turn + 0.5).floor().long() % bins
