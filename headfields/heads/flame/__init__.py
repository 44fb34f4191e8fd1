"""FLAME (Li et al. 2017): the head model, its published files, and their conversion to one npz."""

from headfields.heads.flame.assets import FlameAssets
from headfields.heads.flame.convert import FlameConversion, convert_flame
from headfields.heads.flame.model import FlameHead

__all__ = [
    "FlameAssets",
    "FlameConversion",
    "FlameHead",
    "convert_flame",
]
