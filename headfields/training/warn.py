"""Warnings that point at the program that uses the trainer, not at the trainer."""

import inspect
import warnings


def warn(text: str) -> None:
    """A warning at the nearest caller outside `headfields.training`."""
    frame, depth = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("headfields.training"):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, stacklevel=depth)
