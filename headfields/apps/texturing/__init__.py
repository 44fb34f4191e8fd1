"""Texturing: a proxy mesh is refined to posed images and gets its texture from them."""

from headfields.apps.texturing.bake import BakedTexture, bake_texture
from headfields.apps.texturing.exposure import view_gains
from headfields.apps.texturing.images import PosedImages, read_posed_images
from headfields.apps.texturing.proxy import TexturedProxy, texture_pictures, texture_proxy
from headfields.apps.texturing.refine import RefinedMesh, RefineOptions, refine_mesh

__all__ = [
    "BakedTexture",
    "PosedImages",
    "RefineOptions",
    "RefinedMesh",
    "TexturedProxy",
    "bake_texture",
    "read_posed_images",
    "refine_mesh",
    "texture_pictures",
    "texture_proxy",
    "view_gains",
]
