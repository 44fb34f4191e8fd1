"""MonoAvatar (Bai et al. 2023): features of a convolutional network over the UV map, anchored to the mesh."""

from typing import Any, Literal

import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import RadianceHead
from headfields.deformers import Chain, ErrorWarp, NearSurface
from headfields.encoders import (
    BlendedTableFeatures,
    SubdividedFeatures,
    UVCodeFeatures,
    UVDisplacementFeatures,
    VertexFeatures,
    VertexSource,
)
from headfields.mesh.subdivision import subdivide
from headfields.mesh.unwrapping import FEATURE_WEIGHTS, unwrap_template
from headfields.models.preset import expression_width_of, preset
from headfields.records import Template
from headfields.renderers import CoarseToFineRenderer, OccupancySampler, VolumeRenderer

Sizes = Literal["paper", "cpu", "cpu-0.3"]

SIZES: dict[Sizes, dict[str, dict[str, Any]]] = {
    "paper": {
        "D": {"width": 64, "resolution": 256, "channels": (8, 16, 32, 64, 128, 256), "position_bands": None},
        "C": {"width": 64, "resolution": 256, "channels": (256, 128, 64, 32, 16, 8), "position_bands": None},
        "anchored": {},  # the defaults of the parts are the paper's
        "warp": {},
    },
    "cpu": {
        # At 192² a map of `FEATURE_WEIGHTS` loses less than 15 % of the anchors' variance at mouth and eyes.
        "D": {"width": 32, "resolution": 192, "channels": (8, 16, 32, 64)},
        "C": {"width": 32, "resolution": 192, "channels": (64, 32, 16, 8), "position_bands": 6},
        "tables": {"tables": 4},
        "edges": {"longest": 0.004, "rounds": 2},
        "anchored": {"bands": 6, "hidden": 64, "layers": 2, "merged_layers": 2},
        "warp": {
            "hidden": 32, "layers": 2, "head_layers": 1, "start": 1_000, "coarse_to_fine": 4_000, "code_std": 1.0,
            "centered": True,
        },
    },
    "cpu-0.3": {
        "D": {"width": 32, "resolution": 128, "channels": (16, 32, 64, 64)},
        "C": {"width": 32, "resolution": 128, "channels": (64, 64, 32, 16)},
        "anchored": {"bands": 6, "hidden": 64, "layers": 2, "merged_layers": 2},
        "warp": {"hidden": 64, "layers": 3, "start": 200, "coarse_to_fine": 2_000},
    },
}  # fmt: skip
"""Sizes by name: of the two networks over the UV map, the tables of features, the longest edge between anchors at mouth
and eyes, the networks of the anchored features, and the warp."""


@preset
def monoavatar(
    template: Template,
    frames: int,
    variant: Literal["D", "C"] = "D",
    expression_width: int | None = None,
    small: bool = False,
    source: VertexSource | None = None,
    start: int | None = None,
    coarse_to_fine: int | None = None,
    sizes: Sizes | None = None,
    pose_width: int = 0,
    shell: float = 0.045,
    behind: float | None = 0.03,
) -> Avatar:
    """MonoAvatar on a template, assembled from public parts, with the paper's sizes.

    Args:
        template: the canonical (neutral) mesh. Without texture coordinates it is unwrapped, with most of the map for
            mouth and eyes (`headfields.mesh.unwrapping.FEATURE_WEIGHTS`); its own are kept.
        frames: number of frames of the capture (`len(capture)`), each with a code of the error-correction warp.
        variant: `"D"` reads displacements of the vertices, `"C"` the code of expression and pose: the paper's Ours-D
            and Ours-C.
        expression_width: width of the capture's expression code, for `"C"`; None: that of the template's states.
        small: the same as `sizes="cpu-0.3"`, for runs of earlier versions.
        source: vertex features in place of those of the variant.
        start, coarse_to_fine: first step of the warp, and steps over which its encoding fades in. If None, those of
            the sizes: 5,000 and 80,000 of the paper's 400,000; with `"cpu"` 1,000 and 4,000.
        sizes: `"paper"`, the default; or `"cpu"`, for minutes on a CPU: smaller networks, learned tables that the
            network over the map blends (`BlendedTableFeatures`), more anchors at mouth and eyes, a warp whose mean is
            zero, and ray marching through an occupancy grid in place of the coarse network. The last is our own
            choice; `"cpu-0.3"` are the sizes of version 0.3.
        pose_width: number of the pose's coefficients, 3 for each joint, for `"C"`; 0 if the capture records none.
        shell: meters around the mesh in which matter is looked for, as in `insta`; `headfields train` measures it.
        behind: meters behind the first surface along a ray in which matter is looked for; None: no limit.

    Raises:
        ValueError: variant is neither, small and sizes disagree, or as the parts.

    Source: MonoAvatar, section 3 and supplement. The shell around the mesh in which rays are sampled is our own choice.
    """
    if variant not in ("D", "C"):
        raise ValueError(f"monoavatar: variant is {variant!r}; expected 'D' (displacements) or 'C' (codes)")
    if small and sizes not in (None, "cpu-0.3"):
        raise ValueError(f"monoavatar: small=True means sizes='cpu-0.3', and sizes is {sizes!r}; leave small out")
    sizes = sizes or ("cpu-0.3" if small else "paper")
    if sizes not in SIZES:
        raise ValueError(f"monoavatar: sizes is {sizes!r}; expected one of {', '.join(SIZES)}")
    parts = SIZES[sizes]
    template = unwrap_template(template, weights=FEATURE_WEIGHTS)
    if source is None:
        fields = {}
        if variant == "C":
            most = template.expression_width or 0
            fields = {"expression": expression_width_of("monoavatar", template, expression_width, most)}
            fields = {name: width for name, width in (*fields.items(), ("pose", pose_width)) if width}
        source = vertex_source(template, variant, fields, sizes)
    schedule = {"start": start, "coarse_to_fine": coarse_to_fine}
    warp = {**parts["warp"], **{name: value for name, value in schedule.items() if value is not None}}
    near = NearSurface(template.canonical_vertices, template.faces, shell=shell, behind=behind)
    renderer = (
        CoarseToFineRenderer(VertexFeatures(source), RadianceHead(), coarse=64, fine=64)
        if sizes == "paper"
        else VolumeRenderer(OccupancySampler("posed", step=0.0025, warmup=48))
    )
    return Avatar(
        deformer=Chain(near, ErrorWarp(near.bounds(), frames, **warp)),
        encoder=VertexFeatures(source, **parts["anchored"]),
        decoder=RadianceHead(),
        renderer=renderer,
        template=template,
    )


def vertex_source(
    template: Template, variant: Literal["D", "C"], fields: dict[str, int], sizes: Sizes = "paper"
) -> VertexSource:
    """The vertex features of a variant of `monoavatar`, on a template with texture coordinates.

    Args:
        template: the template.
        variant: `"D"` or `"C"`.
        fields: names and widths of the code of `"C"`.
        sizes: as in `monoavatar`.
    """
    parts = SIZES[sizes]
    network = dict(parts[variant])
    tables: int = parts.get("tables", {}).get("tables", 0)
    width = network["width"]
    network["width"] += tables
    fine = None
    if "edges" in parts and {"mouth", "eyes"} & template.regions.keys():
        region = torch.stack([template.regions[name] for name in ("mouth", "eyes") if name in template.regions]).any(0)
        fine = subdivide(template, region, **parts["edges"])
        template = fine.template
    source: VertexSource = (
        UVDisplacementFeatures(template, **network) if variant == "D" else UVCodeFeatures(template, fields, **network)
    )
    if tables:
        source = BlendedTableFeatures(source, width, tables)
    return source if fine is None else SubdividedFeatures(source, fine.index, fine.weights)
