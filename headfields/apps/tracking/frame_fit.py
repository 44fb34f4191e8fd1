"""The fit of one frame, as the frame loop uses it; each tracker's subclass adds the values that it fits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FrameFit"]


@dataclass(frozen=True)
class FrameFit(ABC):
    """The fit of one frame, kept in a file.

    Attributes:
        frame: index in the capture.
        errors: fit errors of the frame, by name.
    """

    frame: int
    errors: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes the fit to a safetensors file, atomically."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Any:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds something else.
        """
