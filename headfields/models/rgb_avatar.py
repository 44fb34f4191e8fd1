"""RGBAvatar (Li et al. 2025): few blendshapes of Gaussians, mixed by a small network of expression and pose."""

from collections.abc import Sequence

import torch

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.deformers import TriangleBinding
from headfields.models.preset import expression_width_of, preset
from headfields.networks.field_basis import BlendCoefficients
from headfields.networks.gaussians import Gaussians
from headfields.networks.surface_splats import may_have_hair, surface_splats
from headfields.records import Template
from headfields.renderers import SplatRenderer

_SPREAD = 1e-3
"""Standard deviation of the blendshapes at the start: at zero neither they nor their coefficients would learn."""


@preset
def rgb_avatar(
    template: Template,
    expression_width: int | None = None,
    joints: Sequence[int] = (),
    count: int = 14000,
    blendshapes: int = 20,
    degree: int = 0,
    hidden: int = 64,
    hair: float = 0.0,
) -> SplatAvatar:
    """RGBAvatar on a template, assembled from public parts.

    Each Gaussian has `blendshapes` offsets of position, rotation and color, which a network mixes for each frame: as
    few shapes as the motion needs, instead of one for each of the tracker's. Own choice: the Gaussians ride on
    triangles (GaussianAvatars), and are seeded by area; coefficients of the neutral face are zero; shapes mix from the
    first step on; the paper's training while the video streams in is not here.

    Args:
        template: the canonical mesh.
        expression_width: number of expression values, the first ones, that drive the blendshapes; 0: none; None: those
            that the template's states have, up to 100.
        joints: indices of joints whose rotations drive them too, as (2,), the jaw of FLAME.
        count: number of Gaussians.
        blendshapes: K. The paper's is 20.
        degree: degree of the spherical harmonics of the color.
        hidden: width of the mapping network.
        hair: meters above the mesh in which hair may be; `headfields train` measures it in the mattes.

    Source: RGBAvatar, section 3; what the offsets change: the released code.
    """
    width = expression_width_of("rgb_avatar", template, expression_width, 100)
    deformer = TriangleBinding(template.canonical_vertices, template.faces)
    hairy = may_have_hair(template, hair)
    start, face = surface_splats(template.canonical_vertices, template.faces, count, height=hair, above=hairy)
    gaussians = Gaussians.of(*deformer.attach(start, face), degree=degree, blendshapes=blendshapes)
    assert gaussians.blendshape_table is not None
    torch.nn.init.normal_(gaussians.blendshape_table, std=_SPREAD)
    return SplatAvatar(
        gaussians=gaussians,
        deformer=deformer,
        renderer=SplatRenderer(),
        blendshapes=BlendCoefficients({"expression": width} if width else {}, joints, blendshapes, hidden),
        template=template,
    )
