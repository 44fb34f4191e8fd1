"""INSTA (Zielonka et al. 2023): an instant volumetric head avatar on a tracked mesh."""

from headfields.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import SurfaceCanonicalizer
from headfields.encoders import HashGrid, RegionGate
from headfields.records import Template
from headfields.renderers import OccupancySampler, VolumeRenderer


def insta(
    template: Template,
    expression_width: int = 64,
    levels: int = 16,
    features: int = 8,
    log2_table_size: int = 18,
    finest_resolution: int = 2048,
) -> Avatar:
    """The avatar of INSTA on a template: assembled from public parts, with the released configuration's sizes.

    Args:
        template: the canonical mesh; `regions["mouth"]` gates the expression, `regions["face"]` blends neighbours.
        expression_width: how many expression values the mouth sees, the first ones. INSTA takes 16 of FLAME's, which
            are sorted by variance; captures whose values are not (ARKit's names, say) need all of theirs, so the
            default is higher. It cannot be more than the capture has.
        levels, features, log2_table_size, finest_resolution: of the hash grid.

    Source: INSTA, section 3, and its released configuration.
    """
    if "mouth" not in template.regions:
        raise ValueError(
            f"insta: the template has regions {sorted(template.regions)}; 'mouth' is needed to gate the expression"
        )
    return Avatar(
        deformer=SurfaceCanonicalizer(
            template.canonical_vertices, template.faces, blended_faces=template.regions.get("face")
        ),
        encoder=HashGrid(levels, features, log2_table_size, base_resolution=16, finest_resolution=finest_resolution),
        condition=RegionGate("expression", faces=template.regions["mouth"], width=expression_width),
        decoder=NeRFDecoder(hidden=64, direction_degree=4),
        renderer=VolumeRenderer(sampler=OccupancySampler()),
        template=template,
    )
