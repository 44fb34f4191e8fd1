"""The error of captures that cannot be read."""


class CaptureError(ValueError):
    """A capture cannot be read. The message names the folder or file, the frame and the field, and the remedy."""
