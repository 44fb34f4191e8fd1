"""Runs: folder, lock, interrupts, checkpoints, progress and random generators of a long job."""

from typing import TYPE_CHECKING

from headfields.old_names import deprecated_names

__all__ = []

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
