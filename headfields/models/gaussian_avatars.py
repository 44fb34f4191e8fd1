"""GaussianAvatars (Qian et al. 2024): Gaussians that ride on the triangles of a tracked mesh."""

import math

import torch

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.deformers import TriangleBinding
from headfields.models.preset import preset
from headfields.networks.gaussians import Gaussians
from headfields.networks.surface_splats import may_have_hair, surface_splats
from headfields.ops.rasterize_gaussians import Backend
from headfields.records import Template
from headfields.renderers import SplatRenderer

_OPACITY = 0.1
"""Of Gaussians that start at the centers of triangles."""


@preset
def gaussian_avatars(
    template: Template,
    count: int | None = 24000,
    degree: int = 2,
    degree_every: int | None = None,
    hair: float = 0.0,
    share_above: float = 0.5,
    antialiased: bool = False,
    low_pass: float = 0.15,
    backend: Backend = "headfields",
) -> SplatAvatar:
    """GaussianAvatars on a template, assembled from public parts.

    The paper starts with one Gaussian at the center of each triangle and grows (`count=None`). The start by default is
    our own choice, for a minute on a CPU: as many as the end needs, evenly by area, and some above the surface for
    hair.

    Args:
        template: the canonical mesh.
        count: number of Gaussians to start with; density control changes it. None: one at the center of each triangle,
            of its size (scale 1), opacity 0.1 and gray, as in the released code (scene/gaussian_model.py,
            `create_from_pcd`); hair and share_above have no meaning then.
        degree: degree of the spherical harmonics of the color. The paper's is 3.
        degree_every: steps after which training adds a degree, from 0 on; the released code's is 1,000. None: all from
            the start.
        hair: meters above the mesh in which hair may be; `headfields train` measures it in the mattes
            (`headfields.data.hair_extent.matter_extent`).
        share_above: share of the Gaussians that start there, if there is a height.
        antialiased, low_pass, backend: see `headfields.renderers.SplatRenderer`. The paper's low-pass is 3DGS's,
            0.3 pixels².

    Source: GaussianAvatars, section 3.2. `headfields train` has its losses and learning rates.
    """
    deformer = TriangleBinding(template.canonical_vertices, template.faces)
    renderer = SplatRenderer(antialiased, low_pass=low_pass, backend=backend)
    if count is None:
        gaussians = Gaussians(len(template.faces), degree, degree_every=degree_every)
        gaussians.face.copy_(torch.arange(len(gaussians)))
        torch.nn.init.constant_(gaussians.opacity_logit, math.log(_OPACITY / (1 - _OPACITY)))
        return SplatAvatar(gaussians=gaussians, deformer=deformer, renderer=renderer, template=template)
    hairy = may_have_hair(template, hair)
    start, face = surface_splats(
        template.canonical_vertices, template.faces, count, height=hair, share_above=share_above, above=hairy
    )
    return SplatAvatar(
        gaussians=Gaussians.of(*deformer.attach(start, face), degree=degree, degree_every=degree_every),
        deformer=deformer,
        renderer=renderer,
        template=template,
    )
