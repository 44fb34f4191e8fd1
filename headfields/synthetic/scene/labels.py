"""Segmentation labels of the scene, in INSTA's numbering."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from headfields.data.labels import Label
from headfields.heads.flame.model import FlameHead
from headfields.synthetic.scene.anatomy import Anatomy

__all__ = ["brow_labels", "face_labels", "majority", "region_labels", "skin_labels"]


def face_labels(head: FlameHead) -> UInt8[Tensor, " f"]:
    """(F,) label of each face of the head by its region; `skin_labels` refines lips and hair."""
    named = {
        "neck": Label.NECK, "nose": Label.NOSE, "left_ear": Label.LEFT_EAR, "right_ear": Label.RIGHT_EAR,
        "left_eyeball": Label.LEFT_EYE, "right_eyeball": Label.RIGHT_EYE,
    }  # fmt: skip
    return region_labels(head.regions, len(head.faces), named)


def region_labels(
    regions: Mapping[str, Bool[Tensor, " f"]], faces: int, named: Mapping[str, Label]
) -> UInt8[Tensor, " f"]:
    """(F,) label of each face by the regions that are named, as far as there are such; skin elsewhere."""
    out = torch.full((faces,), Label.SKIN, dtype=torch.uint8)
    for name, label in named.items():
        if name in regions:
            out[regions[name]] = label
    return out


def skin_labels(
    base: UInt8[Tensor, " n"], rest: Float[Tensor, "n 3"], lip: Float[Tensor, " n"], anatomy: Anatomy
) -> UInt8[Tensor, " n"]:
    """(N,) labels of points on the skin: that of the face, upper and lower lip, and hair above the hairline.

    Args:
        base: labels of the faces the points lie on.
        rest: the points at rest.
        lip: weight of the red of the lips, in [0, 1].
        anatomy: measures of the same head.
    """
    out = base.clone()
    lips = lip > 0.5
    out[lips] = torch.where(anatomy.above_mouth(rest[lips]), Label.UPPER_LIP, Label.LOWER_LIP).to(torch.uint8)
    plain = (out == Label.SKIN).nonzero()[:, 0]
    points, label = rest[plain], out[plain]
    label[anatomy.hairline(points) > 0.002] = Label.HAIR
    out[plain] = label
    return out


def brow_labels(rest_x: Float[Tensor, " n"]) -> UInt8[Tensor, " n"]:
    """(N,) label of the left or the right brow, by the sign of x at rest."""
    return torch.where(rest_x > 0, Label.LEFT_BROW, Label.RIGHT_BROW).to(torch.uint8)


def majority(labels: Int[Tensor, "p k"], alpha: Float[Tensor, " p"]) -> UInt8[Tensor, " p"]:
    """(P,) most frequent label among the hits of a pixel's K samples, 0 if fewer than half hit; -1 marks a miss."""
    ordered = labels.sort(dim=1, descending=True).values
    same = (ordered[:, :, None] == ordered[:, None, :]).sum(2) * (ordered >= 0)
    best = ordered.gather(1, same.argmax(1, keepdim=True))[:, 0]
    return torch.where(alpha >= 0.5, best, 0).to(torch.uint8)
