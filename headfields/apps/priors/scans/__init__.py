"""Scans of many people and expressions, and the sampling of training points from them."""

from typing import TYPE_CHECKING

from headfields.apps.priors.scans.store import load_scans, save_scans
from headfields.old_names import deprecated_names

__all__ = [
    "load_scans",
    "save_scans",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
