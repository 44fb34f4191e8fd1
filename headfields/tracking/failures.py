"""What a frame can fail by. Tracking names it, leaves the frame out and goes on."""

__all__ = ["FrameFailure"]


class FrameFailure(Exception):
    """A frame cannot be tracked.

    Args:
        message: why, for people.

    Attributes:
        reason: one word: "unreadable", "mask", "landmarks", "camera", "inverse" or "diverged".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
