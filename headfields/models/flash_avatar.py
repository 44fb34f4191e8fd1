"""FlashAvatar (Xiang et al. 2024): Gaussians seeded over the mesh, moved by a small network of the expression."""

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.decoders import SplatDecoder
from headfields.deformers import TriangleBinding
from headfields.encoders import FrameCode, Frequency
from headfields.models.preset import expression_width_of, preset
from headfields.networks.gaussians import Gaussians
from headfields.networks.surface_splats import may_have_hair, surface_splats
from headfields.records import Template
from headfields.renderers import SplatRenderer


@preset
def flash_avatar(
    template: Template,
    expression_width: int | None = None,
    count: int = 14000,
    degree: int = 1,
    hidden: int = 64,
    layers: int = 3,
    bands: int = 6,
    hair: float = 0.0,
) -> SplatAvatar:
    """FlashAvatar on a template, assembled from public parts.

    A fixed number of Gaussians rides on the mesh; a network of the encoded canonical position and the expression adds
    to position, rotation and scale. Own choice: Gaussians are seeded evenly by area on the mesh, where the paper takes
    the texels of a UV map; they follow their triangle's rotation and size too, where the paper's follow the
    surface point alone; expressions that training never shows have no effect; and all sizes are for a CPU.

    Args:
        template: the canonical mesh, with the mouth closed or with an interior.
        expression_width: number of expression values, the first ones, that the network reads; None: those that the
            template's states have, up to the paper's 100, which it has beside jaw, eyes and lids.
        count: number of Gaussians.
        degree: degree of the spherical harmonics of the color.
        hidden, layers: width and number of hidden layers of the network.
        bands: octaves of the encoding of the canonical position.
        hair: meters above the mesh in which hair may be; `headfields train` measures it in the mattes.

    Source: FlashAvatar, sections 3.2 and 3.3.
    """
    expression_width = expression_width_of("flash_avatar", template, expression_width, 100)
    deformer = TriangleBinding(template.canonical_vertices, template.faces)
    hairy = may_have_hair(template, hair)
    start, face = surface_splats(template.canonical_vertices, template.faces, count, height=hair, above=hairy)
    decoder = SplatDecoder(
        ("position", "log_scale", "quaternion"), hidden, layers, gains={"position": 0.3}, zero_inputs=expression_width
    )
    return SplatAvatar(
        gaussians=Gaussians.of(*deformer.attach(start, face), degree=degree),
        deformer=deformer,
        renderer=SplatRenderer(),
        encoder=Frequency(bands),
        condition=FrameCode("expression", expression_width),
        decoder=decoder,
        template=template,
    )
