"""Programs made of the primitives: capturing, tracking, rigging, texturing, retargeting, priors, export and the viewer.

Nothing in the library's core imports them.
"""

import importlib
from typing import Any

__all__ = ["capturing", "export", "priors", "retargeting", "rigging", "texturing", "tracking", "viewer"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"headfields.apps.{name}")
    raise AttributeError(f"module 'headfields.apps' has no attribute {name!r}; it has {', '.join(__all__)}")
