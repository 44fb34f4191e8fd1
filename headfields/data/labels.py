"""INSTA's segmentation labels: their numbers and names, and the regions of a head that they make up.

The numbers are those of the label images that INSTA's data release ships (Zielonka et al., CVPR 2023). A region is a
tuple of label numbers under a name that losses, samplers and metrics take.
"""

import enum
import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

__all__ = ["PARSERS", "REGION_LABELS", "Label", "label_lookup", "labels_from_parser", "labels_of"]


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


_LEFT_RIGHT_CELEBA = (
    Label.LEFT_EYE, Label.RIGHT_EYE, Label.LEFT_BROW, Label.RIGHT_BROW, Label.LEFT_EAR, Label.RIGHT_EAR,
)  # fmt: skip
PARSERS: Mapping[str, tuple[Label, ...]] = {
    "celebamask": (
        Label.BACKGROUND, Label.SKIN, Label.NOSE, Label.GLASSES, *_LEFT_RIGHT_CELEBA, Label.MOUTH_INTERIOR,
        Label.UPPER_LIP, Label.LOWER_LIP, Label.HAIR, Label.HAT, Label.EARRING, Label.NECKLACE, Label.NECK, Label.CLOTH,
    ),
    "bisenet": (
        Label.BACKGROUND, Label.SKIN, Label.LEFT_BROW, Label.RIGHT_BROW, Label.LEFT_EYE, Label.RIGHT_EYE, Label.GLASSES,
        Label.LEFT_EAR, Label.RIGHT_EAR, Label.EARRING, Label.NOSE, Label.MOUTH_INTERIOR, Label.UPPER_LIP,
        Label.LOWER_LIP, Label.NECK, Label.NECKLACE, Label.CLOTH, Label.HAIR, Label.HAT,
    ),
    "farl-celebm": (
        Label.BACKGROUND, Label.NECK, Label.SKIN, Label.CLOTH, Label.RIGHT_EAR, Label.LEFT_EAR, Label.RIGHT_BROW,
        Label.LEFT_BROW, Label.RIGHT_EYE, Label.LEFT_EYE, Label.NOSE, Label.MOUTH_INTERIOR, Label.LOWER_LIP,
        Label.UPPER_LIP, Label.HAIR, Label.GLASSES, Label.HAT, Label.EARRING, Label.NECKLACE,
    ),
    "farl-lapa": (
        Label.BACKGROUND, Label.SKIN, Label.RIGHT_BROW, Label.LEFT_BROW, Label.RIGHT_EYE, Label.LEFT_EYE, Label.NOSE,
        Label.UPPER_LIP, Label.MOUTH_INTERIOR, Label.LOWER_LIP, Label.HAIR,
    ),
}  # fmt: skip
"""Label numbers of face parsers: entry i is what number i is here.

- `"celebamask"`: the annotations of CelebAMask-HQ (Lee et al., CVPR 2020), in the order of its `g_mask.py`.
- `"bisenet"`: the BiSeNet of face-parsing.PyTorch, which is trained on them in an order of its own
  (`prepropess_data.py`).
- `"farl-celebm"`, `"farl-lapa"`: FaRL (Zheng et al., CVPR 2022) as facer runs it, `farl/celebm/448` and
  `farl/lapa/448`, by its `label_names`. LaPa has no neck, clothes or ears: they are background or skin there.

Left and right are taken to be the person's; the sources do not say whose they are. No region of `REGION_LABELS` parts
them."""


def labels_from_parser(image: Integer[np.ndarray, "h w"], parser: str) -> UInt8[np.ndarray, "h w"]:
    """A face parser's label image in INSTA's numbering, as captures have it.

    Args:
        image: (H, W) numbers of the parser's classes.
        parser: key of `PARSERS`.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: there is no such parser, or the image has a number that it has not.

    >>> import numpy as np
    >>> from headfields.data.labels import labels_from_parser
    >>> labels_from_parser(np.array([[0, 1], [10, 17]]), "bisenet").tolist()
    [[0, 250], [150, 80]]
    """
    if parser not in PARSERS:
        raise ValueError(f"labels_from_parser: there is no parser {parser!r}; expected one of {', '.join(PARSERS)}")
    table = np.array(PARSERS[parser], np.uint8)
    numbers = np.asarray(image)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= len(table)):
        raise ValueError(
            f"labels_from_parser: image has numbers from {numbers.min()} to {numbers.max()}; {parser} has 0 to "
            f"{len(table) - 1}: is it a picture of the labels in colors, or of another parser ({', '.join(PARSERS)})?"
        )
    return table[numbers]


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
