"""Texturing: a proxy mesh is refined to posed images and gets its texture from them."""

from typing import TYPE_CHECKING

from headfields.apps.texturing.images import read_posed_images
from headfields.apps.texturing.proxy import texture_proxy
from headfields.old_names import deprecated_names

__all__ = [
    "read_posed_images",
    "texture_proxy",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
