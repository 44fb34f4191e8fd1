"""Errors of captures that cannot be read, or lack what was asked for."""


class CaptureError(ValueError):
    """A capture cannot be read. The message names the folder or file, the frame and the field, and the remedy."""


class NoOpenMouthError(CaptureError):
    """`mouth="interior"`, and the tracked mesh has no open mouth that an inside could be built in."""
