"""3VP Avatar (Nehvi et al. 2024): a 360° portrait, deformed coarsely by the tracked mesh and finely by blendfields."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.decoders import BlendedColor, NeRFDecoder
from headfields.deformers import Blendfield, Chain, InverseSkinning, SurfaceCanonicalizer
from headfields.encoders import ColorFields, HashGrid
from headfields.models.preset import expression_width_of, preset
from headfields.networks.field_basis import BlendCoefficients
from headfields.parts import Decoder, Deformer
from headfields.records import Template
from headfields.renderers import OccupancySampler, VolumeRenderer


@preset
def vp360(
    template: Template,
    expression_width: int | None = None,
    joints: Sequence[int] = (),
    fields: int = 8,
    blend: Literal["deformation", "color"] = "deformation",
    kind: Literal["grid", "mlp"] = "grid",
    weights: Float[Tensor, "v j"] | None = None,
    levels: int = 16,
    features: int = 4,
    log2_table_size: int = 17,
    finest_resolution: int = 1024,
    grid_resolution: int = 64,
    step: float = 0.0025,
    shell: float = 0.045,
    behind: float | None = 0.03,
    rows: Literal["float32", "float16"] = "float32",
) -> Avatar:
    """3VP Avatar on a template, assembled from public parts. The paper's numbers are not known: all sizes are our own
    choice, those of `insta` where the two agree.

    Args:
        template: the canonical mesh; triangles of `regions["face"]` blend with their neighbors, as in `insta`.
        expression_width: number of expression values, the first ones, that drive the blendfields; 0: none; None: those
            that the template's states have, up to 64.
        joints: indices of joints whose rotations in `HeadState.pose` drive them: `(2,)` is FLAME's jaw, `(22,)`
            SMPL-X's.
        fields: K, the number of blended fields; 0: the coarse deformation alone.
        blend: `"deformation"`, or `"color"` for the paper's ablation.
        kind: kind of the fields, `"grid"` or `"mlp"`.
        weights: (V, J) skinning weights of the template, for a coarse deformation by inverse skinning with those of the
            nearest triangle (needs `HeadState.joint_transforms`); None: by triangle frames.
        levels, features, log2_table_size, finest_resolution, rows: options of `HashGrid`.
        grid_resolution, step: options of `OccupancySampler`; the step in meters.
        shell: meters around the mesh in which matter is looked for, as in `insta`; `headfields train` measures it.
        behind: meters behind the first surface along a ray in which matter is looked for; None: no limit.

    Raises:
        ValueError: blend is neither; nothing drives the fields; an argument of a part is out of range.

    Source: 3VP Avatar (Nehvi et al. 2024).
    """
    if blend not in ("deformation", "color"):
        raise ValueError(f"vp360: blend is {blend!r}; expected 'deformation' or 'color'")
    vertices, faces = template.canonical_vertices, template.faces
    deformer: Deformer = (
        SurfaceCanonicalizer(vertices, faces, blended_faces=template.regions.get("face"), shell=shell, behind=behind)
        if weights is None
        else InverseSkinning(vertices, faces, weights, shell=shell, behind=behind)
    )
    decoder: Decoder = NeRFDecoder(hidden=64, direction_degree=4)
    condition = None
    if fields:
        width = expression_width_of("vp360", template, expression_width, 64)
        driven_by = {"expression": width} if width else {}
        coefficients = BlendCoefficients(driven_by, joints, fields)
        if blend == "color":
            condition, decoder = ColorFields(coefficients, kind), BlendedColor(decoder)
        else:
            deformer = Chain(deformer, Blendfield(deformer.bounds(), coefficients, kind))
    return Avatar(
        deformer=deformer,
        encoder=HashGrid(levels, features, log2_table_size, 16, finest_resolution, rows=rows),
        condition=condition,
        decoder=decoder,
        # Neck and head move in the meshes here: a grid over posed space would hold the union of all poses, and lose
        # cells that only a rare pose occupies.
        renderer=VolumeRenderer(OccupancySampler("canonical", grid_resolution, step, warmup=48)),
        template=template,
    )
