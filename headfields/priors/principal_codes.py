"""Where the codes of registered meshes start: at the principal components of what the meshes are."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.avatar import Avatar
from headfields.models.mononphm import code_widths
from headfields.priors.codes import PriorCodes, anchors_of
from headfields.priors.scans import MeshScans

__all__ = ["principal_codes"]

_SIZE = {"geometry": 0.1, "appearance": 0.2, "expression": 0.04}
"""The mean of ‖z‖² that codes start with."""


def principal_codes(avatar: Avatar, scans: MeshScans) -> PriorCodes:
    """Codes of S scans to train from, where meshes share a topology; `PriorTrainer(starts=...)`.

    Shape is the principal components of the neutral meshes, appearance those of their colors, expression those of what
    a scan's vertices are off its person's neutral ones. A component's deviation is the root of its own share, so that
    eyelids, which move little, are not lost beside the jaw. Components fill the global part of anchored codes; the
    anchors' own start at zero and are learned. Vertices count alike: where triangles are small, more of them.

    Our own choice: published codes start at zero, and the networks find out over thousands of epochs what these say at
    once, the same face of two people above all, which has the same expression code here from the start.

    Args:
        avatar: as `headfields.models.mononphm` makes it; says how wide codes are.
        scans: registered meshes.

    Returns:
        Codes of all scans, those of a person's scans alike in shape and appearance.

    Raises:
        TypeError: the avatar has no anchors.
    """
    layout, widths = anchors_of(avatar).layout, code_widths(avatar)
    neutral = scans.vertices[scans.neutral]
    moved = scans.vertices - neutral[scans.person]
    values = {"geometry": neutral, "appearance": scans.rgb, "expression": moved}
    shared = layout.global_width
    room = {"geometry": shared, "appearance": shared, "expression": widths["expression_code"]}
    width = room | {"geometry": layout.width, "appearance": layout.width}
    found = {name: _padded(_components(x, room[name], _SIZE[name]), width[name]) for name, x in values.items()}
    return PriorCodes(found["geometry"][scans.person], found["appearance"][scans.person], found["expression"])


def _components(values: Float[Tensor, "n v c"], count: int, size: float) -> Float[Tensor, "n k"]:
    """The first components, K <= count of them, of N sets of values, scaled to a mean ‖z‖² of `size`."""
    flat = (values - values.mean(0)).flatten(1).double()
    # of as many rows as there are scans, which are far fewer than numbers in each
    power, directions = torch.linalg.eigh(flat @ flat.T)
    power, directions = power.flip(0)[:count], directions.flip(1)[:, :count]
    real = power > 1e-9 * power.sum().clamp_min(1e-300)
    power, directions = power[real], directions[:, real]
    codes = directions * power.pow(0.25)
    return (codes * (size * len(codes) / codes.square().sum().clamp_min(1e-300)).sqrt()).float()


def _padded(codes: Float[Tensor, "n k"], width: int) -> Float[Tensor, "n w"]:
    return torch.nn.functional.pad(codes, (0, width - codes.shape[1]))
