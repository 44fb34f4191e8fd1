"""Presets: each a function of a screenful that assembles public parts into a published model."""

from headfields.models.insta import insta

__all__ = ["insta"]
