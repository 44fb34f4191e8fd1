"""Names in files of runs that version 0.1.0 spelled in British English.

Options of a run, columns of a log and errors of a fit are named for fields of the library, which are American now. On
disk they keep the old names (`to_disk`, `from_disk`), so that runs of that version can be resumed. Values in the
config.json of `headfields train` are written American and read in both spellings (`american_config`).
"""

from typing import Any

__all__ = ["american_config", "from_disk", "to_disk"]

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


def american_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a run of `headfields train`, with the values that version 0.1.0 spelled in British English.

    >>> from headfields.runs.disk_names import american_config
    >>> american_config({"head_frame": "normalise", "arguments": {"blend": "colour"}})
    {'head_frame': 'normalize', 'arguments': {'blend': 'color'}}
    """
    config = dict(config)
    if config.get("head_frame") == "normalise":
        config["head_frame"] = "normalize"
    arguments = config.get("arguments")
    if isinstance(arguments, dict) and arguments.get("blend") == "colour":
        config["arguments"] = {**arguments, "blend": "color"}
    return config


def _renamed(content: Any, names: dict[str, str]) -> Any:
    if isinstance(content, dict):
        return {names.get(key, key): _renamed(value, names) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_renamed(value, names) for value in content]
    return content
