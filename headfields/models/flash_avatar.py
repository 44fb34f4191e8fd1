"""FlashAvatar (Xiang et al. 2024): Gaussians seeded over the mesh, moved by a network of expression, jaw, eyes,
lids."""

from collections.abc import Sequence

import torch

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.decoders import SplatDecoder
from headfields.deformers import TriangleBinding
from headfields.deformers.triangle_binding import Follows
from headfields.encoders import Frequency
from headfields.encoders.frame_inputs import FrameParameters
from headfields.models.preset import expression_width_of, preset
from headfields.networks.gaussians import Gaussians
from headfields.networks.surface_splats import may_have_hair, surface_splats
from headfields.ops.rasterize_gaussians import Backend
from headfields.records import Template
from headfields.renderers import SplatRenderer


@preset
def flash_avatar(
    template: Template,
    expression_width: int | None = None,
    joints: Sequence[int] = (),
    eyelids: bool = False,
    count: int = 14000,
    degree: int = 1,
    degree_every: int | None = None,
    hidden: int = 64,
    layers: int = 3,
    bands: int = 6,
    hair: float = 0.0,
    follows: Follows = "similarity",
    bounded: bool = False,
    round_start: bool = False,
    backend: Backend = "headfields",
) -> SplatAvatar:
    """FlashAvatar on a template, assembled from public parts.

    A fixed number of Gaussians rides on the mesh; a network of the encoded canonical position and of the tracker's
    parameters adds to position, rotation and scale. Own choice: Gaussians are seeded evenly by area on the mesh, where
    the paper takes the texels of a UV map of 128²; expressions that training never shows have no effect, unless
    `bounded`; and the defaults of sizes, `follows` and `round_start` are for a CPU. The recipe `released` has the
    paper's; docs/training.md says what differs there.

    Args:
        template: the canonical mesh, with the mouth closed or with an interior.
        expression_width: number of expression values, the first ones, that the network reads; None: those that the
            template's states have, up to the paper's 100.
        joints: indices of joints whose rotations it reads too, six numbers each, as (2, 3, 4): jaw and eyes of FLAME.
            `headfields train` passes those of the capture.
        eyelids: whether it reads the state's code `"eyelids"`, as `headfields train` sets it.
        count: number of Gaussians.
        degree: degree of the spherical harmonics of the color; the released code's is 3.
        degree_every: steps after which training adds a degree, from 0 on; the released code's is 500. None: all from
            the start.
        hidden, layers: width and number of hidden layers of the network; the released code's are 256 and 6.
        bands: octaves of the encoding of the canonical position; the released code's are 8.
        hair: meters above the mesh in which hair may be; `headfields train` measures it in the mattes.
        follows: what Gaussians take of their triangle's motion, as for `headfields.deformers.TriangleBinding`; the
            paper's follow the surface point alone, "translation".
        bounded: whether offsets are tanh(x), as in the released code; the base position is then no parameter.
        round_start: whether Gaussians start as balls of opacity 0.1 that touch, as in the released code, and not as
            flat ones of opacity 0.5.
        backend: whose kernels draw: see `headfields.renderers.SplatRenderer`.

    Source: FlashAvatar, sections 3.2 and 3.3; its released code (github.com/USTC3DV/FlashAvatar-code),
    src/deform_model.py and scene/gaussian_model.py: 120 numbers of the frame, expression 100, jaw 6, eyes 12, lids 2.
    """
    width = expression_width_of("flash_avatar", template, expression_width, 100)
    deformer = TriangleBinding(template.canonical_vertices, template.faces, follows=follows)
    hairy = may_have_hair(template, hair)
    start, face = surface_splats(template.canonical_vertices, template.faces, count, height=hair, above=hairy)
    if round_start:
        spacing = start.scales[:, :1] / 0.6  # of neighbors: `surface_splats` has 0.6 of it in the plane
        start = start.replace(scales=spacing.expand(-1, 3), opacities=torch.full_like(start.opacities, 0.1))
    driven_by = FrameParameters({"expression": width} | ({"eyelids": 2} if eyelids else {}), joints)
    decoder = SplatDecoder(
        ("position", "log_scale", "quaternion"), hidden, layers,
        gains={} if bounded else {"position": 0.3}, zero_inputs=0 if bounded else driven_by.width, bounded=bounded,
    )  # fmt: skip
    gaussians = Gaussians.of(*deformer.attach(start, face), degree=degree, degree_every=degree_every)
    gaussians.position.requires_grad_(not bounded)
    return SplatAvatar(
        gaussians=gaussians,
        deformer=deformer,
        renderer=SplatRenderer(backend=backend),
        encoder=Frequency(bands),
        condition=driven_by,
        decoder=decoder,
        template=template,
    )
