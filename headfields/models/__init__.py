"""Presets: each a function of a screenful that assembles public parts into a published model."""

from headfields.models.baselines import TexturedMesh, static_field
from headfields.models.insta import INSTA_RELEASED, insta
from headfields.models.monoavatar import monoavatar

__all__ = ["INSTA_RELEASED", "TexturedMesh", "insta", "monoavatar", "static_field"]
