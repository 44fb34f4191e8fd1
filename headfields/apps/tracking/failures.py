"""Reasons why a frame cannot be tracked. The frame loop names the reason, leaves the frame out and continues."""

__all__ = ["FrameFailure"]


class FrameFailure(Exception):
    """A frame cannot be tracked.

    Args:
        reason: one word: "unreadable", "mask", "landmarks", "camera", "inverse" or "diverged".
        message: the explanation for the user.

    Attributes:
        reason: reason of the failure.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
