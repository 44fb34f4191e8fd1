"""Presets: each a function of a screenful that assembles public parts into a published model."""

from headfields.models.baselines import TexturedMesh, static_field
from headfields.models.insta import INSTA_RELEASED, insta

__all__ = ["INSTA_RELEASED", "TexturedMesh", "insta", "static_field"]
