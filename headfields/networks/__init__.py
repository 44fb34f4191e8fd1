"""Networks, latent tables and anchors: components of deformers, encoders and decoders."""

from headfields.networks.anchor_placement import head_anchors
from headfields.networks.anchors import AnchoredCode, Anchors
from headfields.networks.ensemble import Ensemble
from headfields.networks.field_basis import BasisFields, BlendCoefficients
from headfields.networks.gaussians import Gaussians
from headfields.networks.latent_table import LatentTable
from headfields.networks.mlp import MLP
from headfields.networks.surface_splats import surface_splats
from headfields.networks.unet import MapDecoder, ResidualUNet

__all__ = [
    "MLP",
    "AnchoredCode",
    "Anchors",
    "BasisFields",
    "BlendCoefficients",
    "Ensemble",
    "Gaussians",
    "LatentTable",
    "MapDecoder",
    "ResidualUNet",
    "head_anchors",
    "surface_splats",
]
