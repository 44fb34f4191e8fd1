"""Protocol of the recordings that trackers read: cameras, images, labels and landmarks by frame."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from headfields.records import Camera

__all__ = ["FrameSource"]


@runtime_checkable
class FrameSource(Protocol):
    """A recording that can be tracked; `headfields.data.Capture` is one."""

    @property
    def name(self) -> str:
        """Name of the recording."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images, pixels."""
        ...

    @property
    def frame_names(self) -> Sequence[str]:
        """Name of each frame."""
        ...

    def __len__(self) -> int: ...
    def camera(self, frames: Any) -> Camera:
        """Cameras of frames."""
        ...

    def image(self, frame: int) -> Float[Tensor, "h w 4"]:
        """Color and matte, straight alpha, sRGB in [0, 1]."""
        ...

    def label(self, frame: int) -> Tensor | None:
        """Segmentation labels (H, W), or None."""
        ...

    def landmarks(self, frame: int) -> Tensor | None:
        """68 landmarks (68, 2) in pixels, NaN where unknown, or None."""
        ...
