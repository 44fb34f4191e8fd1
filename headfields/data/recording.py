"""A recorded sequence as the reader of a layout passes it to `Capture`: arrays per frame and decoders of one frame."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headfields.mesh.mesh import Mesh

__all__ = ["Recording"]


@dataclass
class Recording:
    """Arrays are per frame, in the capture's order.

    Attributes:
        path: the capture's folder.
        size: (height, width) of every image, pixels.
        frame_names: one name per frame, for messages.
        camera_to_world: (F, 4, 4) float64, OpenCV axes, meters.
        intrinsics: (F, 3, 3) float64, pixels.
        splits: split name → frame indices.
        canonical: the canonical mesh.
        decode_image: frame → RGBA (H, W, 4) uint8 with straight alpha, label (H, W) uint8 or None, depth (H, W) uint16
            or None.
        decode_head: frame → vertices (V, 3) float32, expression (E,) float32 or None.
        decode_landmarks: frame → (68, 2) float32 pixels or None.
        has_label, has_depth: whether any frame has them.
        expression_width: E, or None if the capture has no expressions.
        depth_scale: meters per unit of the stored depth.
        report: lines on what the reader tolerated, missed or decided.
        decoded_vertices: frame → vertices (V, 3) of a sample of frames that the reader has decoded already.
    """

    path: Path
    size: tuple[int, int]
    frame_names: list[str]
    camera_to_world: np.ndarray
    intrinsics: np.ndarray
    splits: dict[str, list[int]]
    canonical: Mesh
    decode_image: Callable[[int], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]
    decode_head: Callable[[int], tuple[np.ndarray, np.ndarray | None]]
    decode_landmarks: Callable[[int], np.ndarray | None]
    has_label: bool
    has_depth: bool
    expression_width: int | None
    depth_scale: float = 0.001
    report: list[str] = field(default_factory=list)
    decoded_vertices: dict[int, np.ndarray] = field(default_factory=dict)
