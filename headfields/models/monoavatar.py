"""MonoAvatar (Bai et al. 2023): features of a convolutional network over the texture map, anchored to the mesh."""

from typing import Any, Literal

from headfields.avatar import Avatar
from headfields.data import unwrapped
from headfields.decoders import RadianceHead
from headfields.deformers import Chain, ErrorWarp, NearSurface
from headfields.encoders import UVCodeFeatures, UVDisplacementFeatures, VertexFeatures, VertexSource
from headfields.records import Template
from headfields.renderers import CoarseToFineRenderer, OccupancySampler, VolumeRenderer

LEVELS, MAPS = (8, 16, 32, 64, 128, 256), {"width": 64, "resolution": 256}
"""Channels of the network over the texture map, fine to coarse; features a vertex and side of the map: the paper's."""

SMALL_LEVELS, SMALL_MAPS = (16, 32, 64), {"width": 32, "resolution": 64}
SMALL_NETWORKS = {"bands": 6, "hidden": 64, "layers": 2, "merged_layers": 2}
SMALL_WARP = {"hidden": 64, "layers": 3, "start": 200, "coarse_to_fine": 2_000}
"""Our own choice of sizes for minutes on a CPU."""


def monoavatar(
    template: Template,
    frames: int,
    variant: Literal["D", "C"] = "D",
    expression_width: int = 64,
    small: bool = False,
    source: VertexSource | None = None,
    **warp: Any,
) -> Avatar:
    """MonoAvatar on a template, assembled from public parts, with the paper's sizes.

    Args:
        template: the canonical (neutral) mesh. Without texture coordinates it is unwrapped.
        frames: how many frames the capture has (`len(capture)`): each has a code of the error-correction warp.
        variant: `"D"` reads displacements of the vertices, `"C"` the expression code: the paper's Ours-D and Ours-C.
        expression_width: numbers in the expression code, for `"C"`; what the capture has.
        small: smaller networks, and rays marched through an occupancy grid in the place of the coarse network, for
            minutes on a CPU; our own choice.
        source: vertex features in the place of either variant's.
        warp: further arguments of `ErrorWarp`: its `start` and `coarse_to_fine` are 5,000 and 80,000 of the paper's
            400,000 steps, and 200 and 2,000 if `small`.

    Raises:
        ValueError: variant is neither, or as the parts.

    Source: MonoAvatar, section 3 and supplement. The shell around the mesh in which rays are sampled is our own choice.
    """
    if variant not in ("D", "C"):
        raise ValueError(f"monoavatar: variant is {variant!r}; expected 'D' (displacements) or 'C' (codes)")
    template = unwrapped(template)
    levels, maps = (SMALL_LEVELS, SMALL_MAPS) if small else (LEVELS, MAPS)
    if source is None and variant == "D":
        source = UVDisplacementFeatures(template, channels=levels, **maps)
    elif source is None:
        source = UVCodeFeatures(template, {"expression": expression_width}, channels=levels[::-1], **maps)
    near = NearSurface(template.canonical_vertices, template.faces)
    renderer = (
        VolumeRenderer(OccupancySampler("posed", step=0.0025, warmup=48))
        if small
        else CoarseToFineRenderer(VertexFeatures(source), RadianceHead(), coarse=64, fine=64)
    )
    return Avatar(
        deformer=Chain(near, ErrorWarp(near.bounds(), frames, **({**SMALL_WARP, **warp} if small else warp))),
        encoder=VertexFeatures(source, **(SMALL_NETWORKS if small else {})),
        decoder=RadianceHead(),
        renderer=renderer,
        template=template,
    )
