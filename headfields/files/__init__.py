"""Array files, safetensors and pickles, read without running code from them."""

from typing import TYPE_CHECKING

from headfields.files.unpickler import load_pickle, load_torch
from headfields.old_names import deprecated_names

__all__ = [
    "load_pickle",
    "load_torch",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
