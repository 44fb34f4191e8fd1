"""MonoAvatar (Bai et al. 2023): features of a convolutional network over the UV map, anchored to the mesh."""

from typing import Any, Literal

from headfields.avatar import Avatar
from headfields.decoders import RadianceHead
from headfields.deformers import Chain, ErrorWarp, NearSurface
from headfields.encoders import UVCodeFeatures, UVDisplacementFeatures, VertexFeatures, VertexSource
from headfields.mesh.unwrapping import unwrapped
from headfields.models.preset import preset
from headfields.records import Template
from headfields.renderers import CoarseToFineRenderer, OccupancySampler, VolumeRenderer

PAPER: dict[str, dict[str, Any]] = {
    "D": {"width": 64, "resolution": 256, "channels": (8, 16, 32, 64, 128, 256)},
    "C": {"width": 64, "resolution": 256, "channels": (256, 128, 64, 32, 16, 8)},
    "anchored": {},  # the defaults of the parts are the paper's
    "warp": {},
}
"""Sizes of the paper: of the two networks over the UV map, the vertex features, the warp."""

SMALL: dict[str, dict[str, Any]] = {
    "D": {"width": 32, "resolution": 128, "channels": (16, 32, 64, 64)},
    "C": {"width": 32, "resolution": 128, "channels": (64, 64, 32, 16)},
    "anchored": {"bands": 6, "hidden": 64, "layers": 2, "merged_layers": 2},
    "warp": {"hidden": 64, "layers": 3, "start": 200, "coarse_to_fine": 2_000},
}
"""Sizes for minutes on a CPU."""


@preset
def monoavatar(
    template: Template,
    frames: int,
    variant: Literal["D", "C"] = "D",
    expression_width: int = 64,
    small: bool = False,
    source: VertexSource | None = None,
    start: int | None = None,
    coarse_to_fine: int | None = None,
) -> Avatar:
    """MonoAvatar on a template, assembled from public parts, with the paper's sizes.

    Args:
        template: the canonical (neutral) mesh. Without texture coordinates it is unwrapped.
        frames: number of frames of the capture (`len(capture)`), each with a code of the error-correction warp.
        variant: `"D"` reads displacements of the vertices, `"C"` the expression code: the paper's Ours-D and Ours-C.
        expression_width: width of the capture's expression code, for `"C"`.
        small: smaller networks, and ray marching through an occupancy grid in place of the coarse network, for minutes
            on a CPU; our own choice.
        source: vertex features in place of those of the variant.
        start, coarse_to_fine: first step of the warp, and steps over which its encoding fades in. If None: 5,000 and
            80,000, of the paper's 400,000; with `small` 200 and 2,000.

    Raises:
        ValueError: variant is neither, or as the parts.

    Source: MonoAvatar, section 3 and supplement. The shell around the mesh in which rays are sampled is our own choice.
    """
    if variant not in ("D", "C"):
        raise ValueError(f"monoavatar: variant is {variant!r}; expected 'D' (displacements) or 'C' (codes)")
    template = unwrapped(template)
    sizes = SMALL if small else PAPER
    if source is None and variant == "D":
        source = UVDisplacementFeatures(template, **sizes["D"])
    elif source is None:
        source = UVCodeFeatures(template, {"expression": expression_width}, **sizes["C"])
    schedule = {"start": start, "coarse_to_fine": coarse_to_fine}
    warp = {**sizes["warp"], **{name: value for name, value in schedule.items() if value is not None}}
    near = NearSurface(template.canonical_vertices, template.faces)
    renderer = (
        VolumeRenderer(OccupancySampler("posed", step=0.0025, warmup=48))
        if small
        else CoarseToFineRenderer(VertexFeatures(source), RadianceHead(), coarse=64, fine=64)
    )
    return Avatar(
        deformer=Chain(near, ErrorWarp(near.bounds(), frames, **warp)),
        encoder=VertexFeatures(source, **sizes["anchored"]),
        decoder=RadianceHead(),
        renderer=renderer,
        template=template,
    )
