"""The protocol of detectors: what a frame of a plain recording is asked for before a head is fitted to it."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

__all__ = ["Detector"]


@runtime_checkable
class Detector(Protocol):
    """Landmarks, matte and labels of an image; each method may return None for "I do not know".

    Any object with these three methods is one. `DetectionFiles` reads what another program has written,
    `MediaPipeFaces`, `MediaPipeSegmenter` and `OnnxDetector` run a model file of the user's.
    """

    def landmarks(
        self, image: UInt8[np.ndarray, "h w 3"]
    ) -> Float[np.ndarray, "l 2"] | Float[np.ndarray, "k l 2"] | None:
        """68 landmarks in iBUG's order or MediaPipe's 478, pixels (x right, y down; the first pixel's center is at
        (0.5, 0.5)), NaN where unknown; of several faces, (K, L, 2); None if there is no face.

        Args:
            image: (H, W, 3) sRGB, 8 bits.
        """
        ...

    def matte(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"] | None:
        """How much of each pixel the person covers, 0 to 255; None if unknown.

        Args:
            image: (H, W, 3) sRGB, 8 bits.
        """
        ...

    def labels(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"] | None:
        """Segmentation labels in INSTA's numbering (`headfields.data.labels.Label`); None if unknown.

        Args:
            image: (H, W, 3) sRGB, 8 bits.
        """
        ...
