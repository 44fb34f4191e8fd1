"""Balanced sampling: of frames by where the head is seen from, of pixels by what they show."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.data.capture import Capture
from headfields.ops.rigid import fit_rigid


def view_yaw(
    capture: Capture,
    frames: Int[Tensor, " b"] | Sequence[int] | None = None,
    vertices: Bool[Tensor, " v"] | None = None,
) -> Float[Tensor, " b"]:
    """Where each frame's camera stands around the head: 0 before the face, π/2 at the head's left, ±π behind it.

    The head's pose in a frame is the rigid motion that brings the template's canonical mesh nearest to the frame's,
    so it does not matter whether the capture keeps it in the vertices or in the camera. Of the direction from the
    head's center to the camera, in the canonical frame (y up, face toward +z), this is the angle about y.

    Args:
        capture: whose frames.
        frames: (B,) which; None: all.
        vertices: (V,) mask of the template's vertices that are the head; None: those of its region `"face"`, or all if
            it has none. On a body give the head's, or its turning is not seen.

    Returns:
        (B,) radians in [−π, π]. No gradient.

    Raises:
        ValueError: the mask is of another number of vertices, or marks fewer than three.
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
    wanted = capture.splits["all"] if frames is None else torch.as_tensor(frames, dtype=torch.long)
    rest = canonical[vertices].double()
    found = []
    for some in wanted.split(64):  # so that not all meshes are in memory at once
        posed = capture.state(some).vertices[:, vertices].double()
        rotation, shift = fit_rigid(rest, posed)
        center = capture.camera(some).center.double() - shift
        toward = (rotation.mT @ center[..., None])[..., 0] - rest.mean(dim=0)
        found.append(torch.atan2(toward[:, 0], toward[:, 2]))
    return torch.cat(found).float() if found else torch.zeros(0)


def yaw_balanced_weights(
    capture: Capture,
    bins: int = 12,
    split: str = "train",
    strength: float | int = 1.0,
    vertices: Bool[Tensor, " v"] | None = None,
) -> Float[Tensor, " f"]:
    """Weights with which frames are drawn so that each direction the head is seen from counts alike.

    The circle of `view_yaw` is cut into bins, and a frame's weight is 1 over the number of the split's frames in its
    bin, to the power of `strength`. For `Trainer(frame_weights=...)`. That 3VP Avatar balances is known; how is our own
    choice.

    Args:
        capture: whose frames.
        bins: of the circle; the first one's middle is the front.
        split: whose frames are counted; other frames have the weight that they would have among them.
        strength: 1: all bins that have frames count alike; 0: all frames do; between: between.
        vertices: as `view_yaw`.

    Returns:
        (F,) one for each of the capture's frames, with a mean of 1 over the split.

    Raises:
        ValueError: bins is below 1, strength not in [0, 1], or there is no such split or no frame in it.
    """
    if bins < 1 or not 0 <= strength <= 1:
        raise ValueError(f"yaw_balanced_weights: bins={bins}, strength={strength}; expected at least 1, and 0 to 1")
    if not len(capture.splits.get(split, ())):
        raise ValueError(
            f"yaw_balanced_weights: the split {split!r} is empty; the capture has {', '.join(sorted(capture.splits))}"
        )
    place = yaw_bins(view_yaw(capture, vertices=vertices), bins)
    chosen = torch.as_tensor(capture.splits[split])
    counts = torch.bincount(place[chosen], minlength=bins)
    weights = counts[place].clamp_min(1).float() ** -float(strength)
    return weights / weights[chosen].mean()


def yaw_bins(yaw: Float[Tensor, " b"], bins: int) -> Int[Tensor, " b"]:
    """The bin (B,) of each yaw, radians, of `bins` around the circle; the middle of bin 0 is the front."""
    turn = yaw / (2 * math.pi) * bins
    return (turn + 0.5).floor().long() % bins
