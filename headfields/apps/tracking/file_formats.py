"""Formats of the files of a tracking run (`headfields.files.versions`)."""

from headfields.files.versions import FileFormat

__all__ = [
    "ADAPTED_TEMPLATE",
    "CAPTURE_RUN",
    "HEAD_IDENTITY",
    "JOINT_FIT",
    "TRACKED_FRAME",
    "TRACKED_TEMPLATE",
    "TRACKING_RUN",
]


def _format(key: str, name: str) -> FileFormat:
    remedy = "track again into another folder, or resume with the version that began it"
    return FileFormat(f"headfields.{key}", name, 1, remedy)


TRACKING_RUN = _format("tracking_run", "the configuration of a tracking run")
CAPTURE_RUN = _format("capture_run", "the configuration of a run of headfields capture")
TRACKED_FRAME = _format("tracked_frame", "the fit of a prior to a frame")
TRACKED_TEMPLATE = _format("tracked_template", "the fit of a template to a frame")
JOINT_FIT = _format("joint_fit", "a checkpoint of stage 2")
ADAPTED_TEMPLATE = _format("adapted_template", "an adapted template")
HEAD_IDENTITY = _format("head_identity", "the identity of a head")
