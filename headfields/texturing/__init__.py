"""Templates from posed images: a proxy mesh is refined to them and gets its texture out of them."""

from headfields.texturing.bake import BakedTexture, bake_texture
from headfields.texturing.exposure import view_gains
from headfields.texturing.images import PosedImages, read_posed_images
from headfields.texturing.make import MadeTemplate, make_template, template_pictures
from headfields.texturing.refine import RefinedMesh, RefineOptions, refine_mesh

__all__ = [
    "BakedTexture",
    "MadeTemplate",
    "PosedImages",
    "RefineOptions",
    "RefinedMesh",
    "bake_texture",
    "make_template",
    "read_posed_images",
    "refine_mesh",
    "template_pictures",
    "view_gains",
]
