"""RGBAvatar (Li et al. 2025): few blendshapes of Gaussians, mixed by a small network of what the tracker says."""

from collections.abc import Sequence

import torch

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.deformers import TriangleBinding
from headfields.models.preset import expression_width_of, preset
from headfields.networks.field_basis import BlendCoefficients
from headfields.networks.gaussians import Gaussians
from headfields.networks.surface_splats import may_have_hair, surface_splats
from headfields.ops.rasterize_gaussians import Backend
from headfields.records import Template
from headfields.renderers import SplatRenderer

_NOISE = {"position": 1e-5, "quaternion": 1e-3, "color": 1e-3}
"""Standard deviations of blendshapes at the start (meters for positions), where the network's output is zero: if both
were, neither would learn."""


@preset
def rgb_avatar(
    template: Template,
    expression_width: int | None = None,
    joints: Sequence[int] = (),
    eyelids: bool = False,
    count: int = 14000,
    blendshapes: int = 20,
    degree: int = 0,
    hidden: int = 128,
    hair: float = 0.0,
    centered: bool = True,
    blend_from: int = 0,
    scale: float | None = None,
    opacity: float = 0.5,
    backend: Backend = "headfields",
) -> SplatAvatar:
    """RGBAvatar on a template, assembled from public parts.

    Each Gaussian has `blendshapes` offsets of position, rotation and color, which a network mixes for each frame: as
    few shapes as the motion needs, instead of one for each of the tracker's. Gaussians follow the rotation of their
    triangle and the point of it that they are attached to, in meters, without its size. Own choice: they are seeded by
    area, where the released code takes the texels of a map of 256², 60,353 for FLAME; the paper's training while the
    video streams in is not here.

    Args:
        template: the canonical mesh.
        expression_width: number of expression values, the first ones, that drive the blendshapes; 0: none; None: those
            that the template's states have, up to 100.
        joints: indices of joints whose rotations drive them too, six numbers each, as (1, 2, 3, 4): neck, jaw and eyes
            of FLAME. `headfields train` passes those of the capture.
        eyelids: whether the state's code `"eyelids"` drives them too, as `headfields train` sets it.
        count: number of Gaussians.
        blendshapes: K. The paper's is 20.
        degree: degree of the spherical harmonics of the color.
        hidden: width of the two hidden layers of the mapping network; the released code's is 128.
        hair: meters above the mesh in which hair may be; `headfields train` measures it in the mattes.
        centered: our own choice: coefficients of the neutral face are zero, an expression that training never shows has
            no effect, and blendshapes start as noise. False: as in the released code blendshapes start at zero, and the
            network with PyTorch's initial values.
        blend_from: step of training from which shapes mix; the released code's is 3,000 images.
        scale, opacity: standard deviation in meters, of balls, and opacity of Gaussians at the start; the released
            code's are 0.0008 (0.8 mm) and 0.5. None: flat ones that cover the surface.
        backend: whose kernels draw: see `headfields.renderers.SplatRenderer`.

    Source: RGBAvatar, section 3; its released code (github.com/gapszju/RGBAvatar): dataset/flame_dataset.py for what
    drives the network (expression 100, neck, jaw and eyes 6 each, lids 2, translation 3: 129 numbers; the translation
    is that of the cameras here, so it is left out), model/gaussian.py for the network and what blendshapes change,
    model/binding.py for the start.
    """
    width = expression_width_of("rgb_avatar", template, expression_width, 100)
    deformer = TriangleBinding(template.canonical_vertices, template.faces, follows="rotation")
    hairy = may_have_hair(template, hair)
    start, face = surface_splats(
        template.canonical_vertices, template.faces, count, height=hair, above=hairy, opacity=opacity
    )
    if scale is not None:
        start = start.replace(scales=torch.full_like(start.scales, scale))
    gaussians = Gaussians.of(
        *deformer.attach(start, face), degree=degree, blendshapes=blendshapes, blend_from=blend_from
    )
    if centered:
        for name, noise in _NOISE.items():
            torch.nn.init.normal_(getattr(gaussians, f"blend_{name}"), std=noise)
    driven_by = ({"expression": width} if width else {}) | ({"eyelids": 2} if eyelids else {})
    return SplatAvatar(
        gaussians=gaussians,
        deformer=deformer,
        renderer=SplatRenderer(backend=backend),
        blendshapes=BlendCoefficients(driven_by, joints, blendshapes, hidden, rotations="6d", centered=centered),
        template=template,
    )
