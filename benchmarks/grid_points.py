"""Points that the hash grid is measured at: at random in the cube, and along the rays of an image."""

import torch
from torch import Tensor

from benchmarks import shapes


def random_points(count: int) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1))


def along_rays(count: int) -> Tensor:
    """64 samples a ray, in a cube of 1 m around the head."""
    origins, directions = (torch.from_numpy(x) for x in shapes.camera_rays(256))
    rows = torch.linspace(0.3, 0.7, count // 64) * len(origins)
    ray = rows.long()
    distance = torch.linspace(0.8, 1.2, 64)
    points = origins[ray, None] + distance[:, None] * directions[ray, None]
    return (points.reshape(-1, 3) + 0.5).contiguous()
