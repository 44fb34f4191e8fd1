"""FLAME (Li et al. 2017): the head model, its published files, and their conversion to one npz."""

from headfields.heads.flame.assets import Extras, read_masks
from headfields.heads.flame.convert import Conversion, convert_flame
from headfields.heads.flame.model import FlameHead

__all__ = [
    "Conversion",
    "Extras",
    "FlameHead",
    "convert_flame",
    "read_masks",
]
