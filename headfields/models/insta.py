"""INSTA (Zielonka et al. 2023): instant volumetric head avatars on a tracked mesh."""

from typing import Any, Literal

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import SurfaceCanonicalizer
from headfields.deformers.surface import BlendFormula
from headfields.encoders import FrameCode, HashGrid, RegionGate
from headfields.models.preset import expression_width_of, preset
from headfields.networks import LatentTable
from headfields.ops.triangle_frames import Scaling
from headfields.records import Template
from headfields.renderers import OccupancySampler, VolumeRenderer

INSTA_RELEASED: dict[str, Any] = {
    "expression_width": 16, "features": 8, "log2_table_size": 18, "finest_resolution": 2048, "extent": 1.0,
    "grid_resolution": 128, "step": 3**0.5 / 1024, "rows": "float16",
}  # fmt: skip
"""Arguments of `insta` for the sizes of the released configuration, which was made for a GPU."""


@preset
def insta(
    template: Template,
    expression_width: int | None = None,
    levels: int = 16,
    features: int = 4,
    log2_table_size: int = 17,
    finest_resolution: int = 1024,
    extent: float | None = None,
    grid_resolution: int = 64,
    step: float = 0.0025,
    scaling: Scaling = "none",
    formula: BlendFormula = "published",
    shell: float = 0.045,
    behind: float | None = 0.03,
    people: int = 0,
    person_width: int = 16,
    rows: Literal["float32", "float16"] = "float32",
) -> Avatar:
    """INSTA on a template, assembled from public parts. Default sizes are our own choice, for minutes on a CPU;
    `insta(template, **hf.training.recipe_of("insta", "released").arguments)` is the released configuration, of which
    `INSTA_RELEASED` has the sizes.

    Args:
        template: the canonical mesh; `regions["mouth"]` gates the expression, `regions["face"]` blends neighbors.
        expression_width: number of expression values, the first ones, that condition the mouth. INSTA uses 16 of
            FLAME's, which are sorted by variance; expressions that are not (ARKit's blendshapes, say) need all values,
            so None, the default, takes those that the template's states have, up to 64.
        levels, features, log2_table_size, finest_resolution, extent, rows: options of `HashGrid`.
        grid_resolution, step: options of `OccupancySampler`, whose grid over posed space is INSTA's; the step in
            meters.
        scaling: how a triangle's change of size scales space: `"length"` is our reading of the paper's Λ, for all
            faces; `"area"` the released code's, for the faces of the region `"eyes"`; `"none"`, the default, only turns
            it; `"affine"` maps triangles onto triangles (see `headfields.ops.triangle_frames.deformation_gradients`).
        formula: formula by which neighbors are averaged; see `SurfaceCanonicalizer`.
        shell: meters around the mesh in which matter is looked for. Long hair, a bun or a beard need more; `headfields
            train` measures it in the mattes (`headfields.data.hair_extent.matter_extent`).
        behind: meters behind the first surface along a ray in which matter is looked for; None: no limit.
        people: number of people who share grid and networks, each with a code `"person"` that `HeadState.identity`
            chooses, as `JoinedCaptures` fills it; 0 for one person without a code, as published. Our own extension.
        person_width: width of that code.

    Raises:
        ValueError: people is negative; the template has no region `"mouth"`, or none `"eyes"` for the scaling `"area"`;
            its states have fewer expression values than `expression_width`, or none.

    Source: INSTA, section 3, and its released configuration.
    """
    if "mouth" not in template.regions:
        raise ValueError(
            f"insta: the template has regions {sorted(template.regions)}; 'mouth' is needed to gate the expression: "
            "add segmentation labels to the capture, or name its faces with load_capture(regions={'mouth': ...})"
        )
    if scaling == "area" and "eyes" not in template.regions:
        raise ValueError(
            f"insta: the template has regions {sorted(template.regions)}; the scaling 'area' is for its region 'eyes'"
        )
    expression_width = expression_width_of("insta", template, expression_width, 64)
    if not expression_width:
        raise ValueError(
            "insta: expression_width is 0, and the mouth needs an expression; add the capture's coefficients "
            "(exp_path), or compose an hf.Avatar without a condition"
        )
    if people < 0:
        raise ValueError(f"insta: people is {people}; expected their number, or 0 for one without a code")
    gate = RegionGate("expression", faces=template.regions["mouth"], width=expression_width)
    return Avatar(
        deformer=SurfaceCanonicalizer(
            template.canonical_vertices,
            template.faces,
            formula=formula,
            scaling=scaling,
            blended_faces=template.regions.get("face"),
            shell=shell,
            behind=behind,
            scaled_faces=template.regions["eyes"] if scaling == "area" else None,
        ),
        encoder=HashGrid(levels, features, log2_table_size, 16, finest_resolution, extent, rows=rows),
        condition=[gate, FrameCode("person", person_width)] if people else gate,
        decoder=NeRFDecoder(hidden=64, direction_degree=4),
        renderer=VolumeRenderer(sampler=OccupancySampler("posed", grid_resolution, step, warmup=48)),
        template=template,
        codes={"person": LatentTable(people, person_width, by="identity")} if people else None,
    )
