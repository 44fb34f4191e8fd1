"""Old names of the detectors, which are in `headfields.apps.capturing.detectors`."""

from typing import TYPE_CHECKING

from headfields.old_names import deprecated_names

__all__ = []

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
