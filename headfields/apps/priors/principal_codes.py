"""Initial codes of registered meshes: principal components of their shape, color and expression."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.avatar.avatar import Avatar
from headfields.models.mononphm import code_widths

__all__ = ["principal_codes"]

_SIZE = {"geometry": 0.1, "appearance": 0.2, "expression": 0.04}
"""The mean of ‖z‖² of the initial codes."""


def principal_codes(avatar: Avatar, scans: MeshScans) -> PriorCodes:
    """Initial codes of S registered meshes of one topology, for `PriorTrainer(initial_codes=...)`.

    Geometry codes are principal components of the neutral meshes, appearance codes those of their colors, and
    expression codes those of vertex offsets from the same person's neutral mesh. Each component is scaled to the square
    root of its standard deviation, so that small motion (eyelids) is not lost next to large motion (jaw). Components
    fill the global part of anchored codes; the local parts start at zero. All vertices have the same weight.

    Our own choice. Published codes start at zero, and networks need thousands of epochs to find what these codes
    contain from the start, above all that one face of two people has one expression code.

    Args:
        avatar: a model made by `headfields.models.mononphm`.
        scans: registered meshes.

    Returns:
        Codes of all scans; geometry and appearance are equal within a person.

    Raises:
        TypeError: the avatar has no anchors.
    """
    layout, widths = anchors_of(avatar).layout, code_widths(avatar)
    neutral = scans.vertices[scans.neutral]
    offsets = scans.vertices - neutral[scans.person]
    values = {"geometry": neutral, "appearance": scans.rgb, "expression": offsets}
    shared = layout.global_width
    counts = {"geometry": shared, "appearance": shared, "expression": widths["expression_code"]}
    width = counts | {"geometry": layout.width, "appearance": layout.width}
    codes = {name: _padded(_components(x, counts[name], _SIZE[name]), width[name]) for name, x in values.items()}
    return PriorCodes(codes["geometry"][scans.person], codes["appearance"][scans.person], codes["expression"])


def _components(values: Float[Tensor, "n v c"], count: int, size: float) -> Float[Tensor, "n k"]:
    """The first K <= count principal components of N samples, scaled to a mean ‖z‖² of `size`."""
    flat = (values - values.mean(0)).flatten(1).double()
    # dual form: there are far fewer samples than values in each
    power, directions = torch.linalg.eigh(flat @ flat.T)
    power, directions = power.flip(0)[:count], directions.flip(1)[:, :count]
    nonzero = power > 1e-9 * power.sum().clamp_min(1e-300)
    power, directions = power[nonzero], directions[:, nonzero]
    codes = directions * power.pow(0.25)
    return (codes * (size * len(codes) / codes.square().sum().clamp_min(1e-300)).sqrt()).float()


def _padded(codes: Float[Tensor, "n k"], width: int) -> Float[Tensor, "n w"]:
    return torch.nn.functional.pad(codes, (0, width - codes.shape[1]))
