"""The one exception of the readers."""


class CaptureError(ValueError):
    """A capture cannot be read: the message names the folder or file, the frame and the field, and what to do."""
