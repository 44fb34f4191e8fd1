"""Presets: each a function of a screenful that assembles public parts into a published model."""

from headfields.models.baselines import TexturedMesh, static_field
from headfields.models.insta import insta

__all__ = ["TexturedMesh", "insta", "static_field"]
