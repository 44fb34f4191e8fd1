"""Networks, latent tables and anchors: components of deformers, encoders and decoders."""

from typing import TYPE_CHECKING

from headfields.networks.anchor_placement import head_anchors
from headfields.networks.anchors import Anchors
from headfields.networks.field_basis import BlendCoefficients
from headfields.networks.gaussians import Gaussians
from headfields.networks.latent_table import LatentTable
from headfields.networks.mlp import MLP
from headfields.networks.surface_splats import surface_splats
from headfields.old_names import deprecated_names

__all__ = [
    "MLP",
    "Anchors",
    "BlendCoefficients",
    "Gaussians",
    "LatentTable",
    "head_anchors",
    "surface_splats",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
