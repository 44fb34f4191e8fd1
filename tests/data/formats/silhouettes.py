"""Mattes and pictures of a mesh, drawn from points over its faces."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.records import Camera


def matte(vertices: Float[Tensor, "v 3"], faces: Tensor, view: np.ndarray, intrinsics: np.ndarray, size) -> np.ndarray:
    """(H, W) uint8, 255 where a camera (world to camera, OpenCV axes) sees a point of the mesh."""
    corners = vertices.float()[faces]
    steps = torch.tensor([(i, j, 4 - i - j) for i in range(5) for j in range(5 - i)]) / 4
    points = torch.einsum("pk,fkc->fpc", steps, corners).reshape(1, -1, 3)
    camera = Camera(torch.from_numpy(view).float()[None], torch.from_numpy(intrinsics).float()[None], size)
    pixels = camera.project(points)[0][0]
    inside = ((pixels >= 0) & (pixels < torch.tensor([size[1], size[0]]))).all(1)
    column, row = pixels[inside].long().T
    mask = np.zeros(size, np.uint8)
    mask[row.numpy(), column.numpy()] = 255
    return mask


def picture(mask: np.ndarray, gray: int) -> np.ndarray:
    """(H, W, 3) uint8: gray where the matte is, white elsewhere."""
    return np.where(mask[..., None] > 0, np.uint8(gray), np.uint8(255)).repeat(3, -1)
