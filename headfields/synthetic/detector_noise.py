"""Errors of what detectors find in images: landmarks off their place, mattes off the outline."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headfields.synthetic.scene.noise import value_noise

__all__ = ["DetectorNoise"]

_BACKGROUND = 0.5
_DEVIATION = 0.35
"""Standard deviation of `value_noise`, about."""


@dataclass(frozen=True)
class DetectorNoise:
    """Errors of landmarks and mattes that change slowly from frame to frame. Sizes are our own choice.

    Attributes:
        landmarks: standard deviation of each coordinate, as a fraction of the image's side.
        matte: the same of the displacement of the matte's outline.
        patch: size of a patch of the matte that errs alike, as a fraction of the image's side.
        correlation: seconds in which the errors change.
        seed: seed of the errors.

    Raises:
        ValueError: a number is not positive.
    """

    landmarks: float | int = 0.01
    matte: float | int = 0.008
    patch: float | int = 0.12
    correlation: float | int = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.landmarks, self.matte) < 0 or min(self.patch, self.correlation) <= 0 or self.seed < 0:
            raise ValueError(f"DetectorNoise: {self}; expected sizes and a seed of at least 0, and positive scales")

    def detected(
        self, image: UInt8[np.ndarray, "h w 4"], landmarks: Float[np.ndarray, "68 2"] | None, seconds: float
    ) -> tuple[UInt8[np.ndarray, "h w 4"], Float[np.ndarray, "68 2"] | None]:
        """The image with an erring matte, gray background where it takes too much, and erring landmarks.

        Args:
            image: straight alpha.
            landmarks: pixels, NaN where hidden.
            seconds: time of the frame.
        """
        height, width = image.shape[:2]
        time = seconds / self.correlation
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        place = torch.stack([x / self.patch, y / self.patch, torch.full_like(x, time)], -1).reshape(-1, 3)
        shift = torch.stack([self._noise(place, axis) for axis in range(2)], -1).reshape(height, width, 2) * self.matte
        rgba = torch.from_numpy(image).float().movedim(-1, 0)[None] / 255
        grid = torch.stack([x, y], -1) + shift
        alpha = torch.nn.functional.grid_sample(
            rgba[:, 3:], 2 * grid[None] - 1, padding_mode="border", align_corners=False
        )
        true = rgba[:, 3:]
        color = torch.where(true > 0, rgba[:, :3] * true + _BACKGROUND * (1 - true), torch.tensor(_BACKGROUND))
        out = (torch.cat([color, alpha], 1)[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy()
        if landmarks is None:
            return out, None
        index = torch.arange(len(landmarks)) * 7.31
        rows = torch.stack([index, torch.zeros(len(index)), torch.full((len(index),), time)], -1)
        error = torch.stack([self._noise(rows, 2 + axis) for axis in range(2)], -1).numpy()
        return out, (landmarks + error * self.landmarks * max(height, width)).astype(landmarks.dtype)

    def _noise(self, points: Float[Tensor, "n 3"], channel: int) -> Float[Tensor, " n"]:
        """Smooth noise of unit standard deviation, about; lattices of unit cells."""
        values = value_noise(points, 1.0, seed=1000 * self.seed + 17 * channel + 3)
        return values / _DEVIATION
