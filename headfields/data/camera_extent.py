"""How far apart the cameras of a capture stand: the length that 3D Gaussian Splatting measures a scene by."""

from typing import Any

import torch

__all__ = ["camera_extent"]

_MARGIN = 1.1
"""Of the released code of 3DGS, scene/dataset_readers.py, `getNerfppNorm`."""


def camera_extent(capture: Any) -> float:
    """1.1 times the largest distance of the cameras of the training frames from their mean, meters.

    Cameras are in the head's frame where the capture's are, so that a head that turns before one camera has an extent.

    Args:
        capture: with `splits` and `camera`.

    Source: 3D Gaussian Splatting (Kerbl et al. 2023), released code, scene/dataset_readers.py, `getNerfppNorm`, as in
    GaussianAvatars' (all frames of all cameras there, where each camera of a rig counts as often as it has frames).
    """
    frames = torch.as_tensor(capture.splits["train"], dtype=torch.long)
    if not len(frames):
        return 0.0
    world_to_camera = capture.camera(frames).world_to_camera
    rotation, shift = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3]
    centers = -(rotation.mT @ shift[..., None])[..., 0]
    return float(_MARGIN * (centers - centers.mean(0)).norm(dim=-1).max())
