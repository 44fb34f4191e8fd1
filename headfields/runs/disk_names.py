"""Names in files that version 0.1.0 spelled in British English: written as they were, so that its runs can be resumed.

Options of a run, columns of a log and errors of a fit are named for fields of the library, which are American now.
"""

from typing import Any

__all__ = ["from_disk", "to_disk"]

_DISK = {"color": "colour", "color_weight": "colour_weight"}
_LIBRARY = {disk: name for name, disk in _DISK.items()}


def to_disk(content: Any) -> Any:
    """JSON content whose keys are named as they are in files; lists and dictionaries are copied, at every depth.

    >>> from headfields.runs.disk_names import to_disk
    >>> to_disk({"weights": [{"color": 1.0, "mask": 2.0}]})
    {'weights': [{'colour': 1.0, 'mask': 2.0}]}
    """
    return _renamed(content, _DISK)


def from_disk(content: Any) -> Any:
    """The inverse of `to_disk`; keys that are American already stay."""
    return _renamed(content, _LIBRARY)


def _renamed(content: Any, names: dict[str, str]) -> Any:
    if isinstance(content, dict):
        return {names.get(key, key): _renamed(value, names) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_renamed(value, names) for value in content]
    return content
