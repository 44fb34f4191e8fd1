"""MonoAvatar (Bai et al. 2023): features of a convolutional network over the texture map, anchored to the mesh."""

from typing import Any, Literal

from headfields.avatar import Avatar
from headfields.data import unwrapped
from headfields.decoders import RadianceHead
from headfields.deformers import Chain, ErrorWarp, NearSurface
from headfields.encoders import UVCodeFeatures, UVDisplacementFeatures, VertexFeatures, VertexSource
from headfields.records import Template
from headfields.renderers import CoarseToFineRenderer, OccupancySampler, VolumeRenderer

Variant = Literal["D", "C"]


def monoavatar(
    template: Template,
    frames: int,
    variant: Variant = "D",
    expression_width: int = 64,
    small: bool = False,
    start: int | None = None,
    coarse_to_fine: int | None = None,
) -> Avatar:
    """MonoAvatar on a template, assembled from public parts, with the paper's sizes.

    Args:
        template: the canonical (neutral) mesh. Without texture coordinates it is unwrapped.
        frames: how many frames the capture has (`len(capture)`): each has a code of the error-correction warp.
        variant: `"D"` reads displacements of the vertices, `"C"` the expression code: the paper's Ours-D and Ours-C.
        expression_width: numbers in the expression code, for `"C"`; what the capture has.
        small: our own choice of sizes for minutes on a CPU: a map of 128², four levels, 32 features, networks of two
            layers of 64, six bands, and rays marched through an occupancy grid in the place of the coarse network.
        start, coarse_to_fine: steps after which the warp begins, and over which its encoding opens: 5,000 and 80,000
            of the paper's 400,000 if not given, and 200 and 2,000 if `small`.

    Raises:
        ValueError: variant is neither, or as the parts.

    Source: MonoAvatar, section 3 and supplement. The shell around the mesh in which rays are sampled is our own choice.
    """
    if variant not in ("D", "C"):
        raise ValueError(f"monoavatar: variant is {variant!r}; expected 'D' (displacements) or 'C' (codes)")
    template = unwrapped(template)
    levels: tuple[int, ...] = (8, 16, 32, 64) if small else (8, 16, 32, 64, 128, 256)
    maps: dict[str, Any] = {"width": 32, "resolution": 128} if small else {"width": 64, "resolution": 256}
    source: VertexSource
    if variant == "D":
        source = UVDisplacementFeatures(template, channels=levels, **maps)
    else:
        source = UVCodeFeatures(template, {"expression": expression_width}, channels=levels[::-1], **maps)
    warp: dict[str, Any] = {"start": 5_000 if start is None else start,
                            "coarse_to_fine": 80_000 if coarse_to_fine is None else coarse_to_fine}  # fmt: skip
    if small:
        warp = {"hidden": 64, "layers": 3, "start": 200 if start is None else start,
                "coarse_to_fine": 2_000 if coarse_to_fine is None else coarse_to_fine}  # fmt: skip
    near = NearSurface(template.canonical_vertices, template.faces)
    anchored: dict[str, Any] = {"bands": 6, "hidden": 64, "layers": 2, "merged_layers": 2} if small else {}
    return Avatar(
        deformer=Chain(near, ErrorWarp(near.bounds(), frames, **warp)),
        encoder=VertexFeatures(source, **anchored),
        decoder=RadianceHead(),
        renderer=VolumeRenderer(OccupancySampler("posed", step=0.0025, warmup=48))
        if small
        else CoarseToFineRenderer(VertexFeatures(source), RadianceHead(), coarse=64, fine=64),
        template=template,
    )
