"""A drawn recording: a disc with 68 points on its rim that wanders over a background, with its matte."""

import numpy as np

HEIGHT, WIDTH = 96, 128


def drawn_frame(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3), matte (H, W) and landmarks (68, 2) of a frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    center = np.array([60.0 + index, 48.0])
    inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 < 12**2
    image = np.where(inside[..., None], np.uint8([220, 150, 120]), np.uint8([40, 60, 90]))
    image[:8, :8] = [250, 20, 20]  # tells up from down and left from right
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = center + 12 * np.stack([np.cos(angle), np.sin(angle)], -1)
    return image.astype(np.uint8), (255 * inside).astype(np.uint8), points.astype(np.float32)
