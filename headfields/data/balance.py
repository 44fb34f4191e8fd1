"""Balanced sampling of frames by the yaw from which they show the head.

3VP Avatar (Nehvi et al. 2024) balances frames; bins and weights are our own choice.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.rigid import fit_rigid
from headfields.records import Camera, HeadState, Template

__all__ = ["view_yaw", "yaw_balanced_weights", "yaw_bins"]


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

    The head's pose in a frame is the rigid motion that takes the template's canonical mesh nearest to the frame's, so
    it does not matter whether the capture keeps head motion in the vertices or in the cameras. The yaw is the angle
    about y of the direction from the head's center to the camera, in the canonical frame (y up, face toward +z).

    Args:
        capture: the capture.
        frames: (B,) frame indices; None: all.
        vertices: (V,) mask of the template's vertices that are the head; None: those of its region `"face"`, or all if
            it has none. For a body pass the head's, or turns of the head alone are missed.

    Returns:
        (B,) radians in [−π, π]. No gradient.

    Raises:
        ValueError: the mask has another number of vertices, or marks fewer than three.
        IndexError, CaptureError: as `Capture.state`.
    """
    template = capture.template
    canonical = template.canonical_vertices
    if vertices is None:
        vertices = torch.ones(len(canonical), dtype=torch.bool)
        if "face" in template.regions and bool(template.regions["face"].any()):
            vertices = torch.zeros(len(canonical), dtype=torch.bool)
            vertices[template.faces[template.regions["face"]].unique()] = True
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
        rotation, shift = fit_rigid(head, posed)
        center = capture.camera(chunk).center.double() - shift
        toward = (rotation.mT @ center[..., None])[..., 0] - head.mean(dim=0)
        yaw.append(torch.atan2(toward[:, 0], toward[:, 2]))
    return torch.cat(yaw).float() if yaw else torch.zeros(0)


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
