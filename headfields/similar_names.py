"""The nearest of known names, for messages about one that is unknown. Imports no PyTorch: the command line needs it."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` if a known name is near, else nothing."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1) or [each for each in names if each.lower() == name.lower()]
    return f"; did you mean {near[0]}?" if near else ""
