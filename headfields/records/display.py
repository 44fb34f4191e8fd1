"""How objects show themselves in a notebook: `_repr_html_` and `_repr_png_`, drawn by `headfields.viz.notebook`.

The classes stand on floors below the pictures. They derive from `Displayed` alone, and the package, which names the
rooms, imports the drawing when a notebook asks for it.
"""

import html
import importlib
from typing import Any

__all__ = ["Displayed"]


class Displayed:
    """Shows itself in a notebook; a picture that cannot be drawn is left out, and an error never reaches the cell."""

    def _repr_html_(self) -> str:
        return _drawn("html_of", self) or f"<pre>{html.escape(_text(self))}</pre>"

    def _repr_png_(self) -> bytes | None:
        return _drawn("png_of", self)


def _drawn(function: str, value: Any) -> Any:
    try:
        return getattr(importlib.import_module("headfields.viz.notebook"), function)(value)
    except Exception:
        return None


def _text(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return object.__repr__(value)
