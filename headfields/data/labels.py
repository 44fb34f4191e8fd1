"""INSTA's segmentation labels: their numbers and names, and the regions of a head that they make up.

The numbers are those of the label images that INSTA's data release ships (Zielonka et al., CVPR 2023). A region is a
tuple of label numbers under a name that losses, samplers and metrics take.
"""

import enum
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["REGION_LABELS", "Label", "label_lookup", "labels_of"]


class Label(enum.IntEnum):
    """A label number. Left and right are those of the person."""

    BACKGROUND = 0
    HAT = 70
    HAIR = 80
    CLOTH = 90
    NECKLACE = 100
    NECK = 110
    LOWER_LIP = 120
    UPPER_LIP = 130
    MOUTH_INTERIOR = 140
    NOSE = 150
    EARRING = 160
    RIGHT_EAR = 170
    LEFT_EAR = 180
    GLASSES = 190
    RIGHT_EYE = 200
    LEFT_EYE = 210
    RIGHT_BROW = 230
    LEFT_BROW = 240
    SKIN = 250


def _numbers(*labels: Label) -> tuple[int, ...]:
    return tuple(int(label) for label in labels)


REGION_LABELS: Mapping[str, tuple[int, ...]] = {
    "background": _numbers(Label.BACKGROUND),
    "mouth": _numbers(Label.LOWER_LIP, Label.UPPER_LIP, Label.MOUTH_INTERIOR),
    "mouth_interior": _numbers(Label.MOUTH_INTERIOR),
    "eyes": _numbers(Label.RIGHT_EYE, Label.LEFT_EYE),
    "brows": _numbers(Label.RIGHT_BROW, Label.LEFT_BROW),
    "nose": _numbers(Label.NOSE),
    "skin": _numbers(Label.SKIN),
    "face": _numbers(Label.NOSE, Label.GLASSES, Label.RIGHT_BROW, Label.LEFT_BROW, Label.SKIN),
    "ears": _numbers(Label.EARRING, Label.RIGHT_EAR, Label.LEFT_EAR),
    "neck": _numbers(Label.NECKLACE, Label.NECK),
    "cloth": _numbers(Label.CLOTH),
    "hair": _numbers(Label.HAT, Label.HAIR),
}
"""Label numbers by region. `"mouth"` is lips and interior, `"face"` the rest of the face without mouth and eyes."""


def labels_of(*regions: str) -> tuple[int, ...]:
    """Label numbers of the regions, in their order, each once.

    Args:
        regions: keys of `REGION_LABELS`.

    Raises:
        ValueError: there is no such region.

    >>> from headfields.data.labels import labels_of
    >>> labels_of("mouth", "eyes")
    (120, 130, 140, 200, 210)
    """
    for region in regions:
        if region not in REGION_LABELS:
            raise ValueError(f"labels_of: there is no region {region!r}; regions are {', '.join(REGION_LABELS)}")
    return tuple(dict.fromkeys(label for region in regions for label in REGION_LABELS[region]))


def label_lookup(weights: Mapping[int | str, float | int]) -> Float[Tensor, "256"]:
    """The weight (256,) of every possible label: 1 unless `weights` has another.

    Args:
        weights: weights by label (0 to 255) or by region, a key of `REGION_LABELS`. Later entries overwrite earlier
            ones.

    Raises:
        ValueError: there is no such region or label, or a weight is negative or not finite.

    >>> from headfields.data.labels import label_lookup
    >>> lookup = label_lookup({"mouth": 4, 250: 0.5})
    >>> lookup[[120, 140, 200, 250]].tolist()
    [4.0, 4.0, 1.0, 0.5]
    """
    table = torch.ones(256)
    for key, weight in weights.items():
        labels = REGION_LABELS.get(key) if isinstance(key, str) else (key,)
        if labels is None or not all(0 <= label < 256 for label in labels):
            raise ValueError(
                f"pixel_weights: there is no region or label {key!r}; regions are {', '.join(REGION_LABELS)}, and "
                "labels 0 to 255"
            )
        if not 0 <= weight < math.inf:
            raise ValueError(f"pixel_weights: the weight of {key!r} is {weight}; expected 0 or more")
        table[list(labels)] = float(weight)
    return table
