"""Templates from posed images: a proxy mesh is refined to them and gets its texture out of them."""

from headfields.templates.bake import BakedTexture, bake_texture
from headfields.templates.exposure import view_gains
from headfields.templates.images import PosedImages, read_posed_images
from headfields.templates.make import MadeTemplate, make_template, save_textured, template_pictures
from headfields.templates.refine import RefinedMesh, RefineOptions, refine_mesh

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
    "save_textured",
    "template_pictures",
    "view_gains",
]
