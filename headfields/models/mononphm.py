"""MonoNPHM (Giebenhain et al. 2024): a morphable head of signed distances, deformed with hyper-coordinates."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.decoders import AnchoredDecoder
from headfields.deformers import HyperDeformer
from headfields.encoders import Coordinates
from headfields.models.preset import checked_arguments
from headfields.networks import Anchors, head_anchors
from headfields.records import Template
from headfields.renderers import SurfaceRenderer, SurfaceSampler, UnclampedAlpha
from headfields.renderers.lighting import ColorAffine, SHLighting

PAPER: dict[str, dict[str, Any]] = {
    "placement": {"pairs": 30, "middle": 5},
    "anchors": {},  # the defaults of the parts are the paper's
    "deformer": {"expression_width": 100},
    "decoder": {},
    "samples": {"coarse": 32, "fine": 32},
}
"""Sizes of the paper: of codes and anchors, of the deformation, of the local networks, samples per ray."""

SMALL: dict[str, dict[str, Any]] = {
    "placement": {"pairs": 14, "middle": 5},
    "anchors": {"global_width": 32, "local_width": 8, "hidden": 32},
    "deformer": {"expression_width": 32, "identity_width": 8, "hidden": 96, "layers": 4, "skip": 2},
    "decoder": {
        "hidden": 64, "layers": 3, "neighbors": 6, "reach": 5,
        "appearance_hidden": 48, "appearance_layers": 2, "appearance_width": 8,
    },
    "samples": {"coarse": 24, "fine": 24},
}  # fmt: skip
"""Sizes for minutes on a CPU."""

_MARGIN = 0.02


@checked_arguments
def mononphm(
    anchors: Anchors | Template,
    small: bool = False,
    ambient: int = 2,
    expression_width: int | None = None,
    appearance: Literal["geometry", "point"] = "geometry",
    radius: float | None = None,
    landmarks: Float[Tensor, "68 3"] | None = None,
) -> Avatar:
    """MonoNPHM, assembled from public parts, with the paper's sizes; its state consists of codes (`code_widths`).

    Args:
        anchors: anchors of the model; or a symmetric head mesh, face toward +z, on which `head_anchors` places them.
        small: smaller networks and codes, for minutes on a CPU; our own choice.
        ambient: number of hyper-coordinates.
        expression_width: width of the expression code. If None: 100, with `small` 32.
        appearance: input of the color networks, see `AnchoredDecoder`.
        radius: radius of the sphere that contains the head, meters. If None: 2 cm more than that around the mesh,
            centered in its box; with `Anchors`, the paper's 0.175 around their center.
        landmarks: (68, 3) on the mesh, for `head_anchors`: anchors at lips, lids and brows. None: spread evenly.

    Raises:
        ValueError: the mesh is not symmetric, landmarks are passed with `Anchors`, or as the parts.

    Source: MonoNPHM, sections 4 and 5; sizes as in its released code.
    """
    sizes = SMALL if small else PAPER
    template = anchors if isinstance(anchors, Template) else None
    if template is None and landmarks is not None:
        raise ValueError("mononphm: landmarks place anchors on a Template; with Anchors, pass None")
    if isinstance(anchors, Template):
        vertices = anchors.canonical_vertices
        chosen = head_anchors(anchors, **sizes["placement"], landmarks=landmarks)
        center = (vertices.amin(dim=0) + vertices.amax(dim=0)) / 2 * torch.tensor([0.0, 1.0, 1.0]).to(vertices)
        radius = float((vertices - center).norm(dim=-1).max()) + _MARGIN if radius is None else radius
        pairs = sizes["placement"]["pairs"]
        anchors = Anchors(vertices[chosen], pairs, center=center, vertices=chosen, **sizes["anchors"])
    deformation = dict(sizes["deformer"])
    if expression_width is not None:
        deformation["expression_width"] = expression_width
    if radius is not None:
        deformation["radius"] = radius
    return Avatar(
        deformer=HyperDeformer(anchors, ambient, **deformation),
        encoder=Coordinates(points=False),
        decoder=AnchoredDecoder(anchors, appearance=appearance, **sizes["decoder"]),
        renderer=SurfaceRenderer(
            SurfaceSampler(**sizes["samples"], rounds=1, sharpness=4 * math.exp(3), keep_coarse=False),
            UnclampedAlpha(),
            lighting=[SHLighting(), ColorAffine()],
        ),
        template=template,
    )


def code_widths(avatar: Avatar) -> dict[str, int]:
    """Widths of the codes that an avatar's deformer and decoder read, by name; for their `LatentTable`s."""
    return {
        name: width
        for part in (avatar.deformer, avatar.decoder)
        for name, width in getattr(part, "code_widths", {}).items()
    }
