"""Codes of scans, and the state that they make of an avatar; the anchors that a prior's avatar must have."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.networks import Anchors
from headfields.records import HeadState

__all__ = ["PriorCodes", "anchors_of"]


@dataclass(frozen=True)
class PriorCodes:
    """The codes of B scans.

    Attributes:
        geometry, appearance: (B, C) of each scan's person.
        expression: (B, E) of each scan.

    >>> import torch
    >>> from headfields.apps.priors.codes import PriorCodes
    >>> codes = PriorCodes(torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 4))
    >>> {name: tuple(code.shape) for name, code in codes.state().codes.items()}
    {'geometry': (2, 8), 'appearance': (2, 8), 'expression_code': (2, 4)}
    """

    geometry: Float[Tensor, "b g"]
    appearance: Float[Tensor, "b a"]
    expression: Float[Tensor, "b e"]

    def __getitem__(self, rows: slice | Int[Tensor, " k"]) -> "PriorCodes":
        """The codes of some of the scans."""
        return PriorCodes(self.geometry[rows], self.appearance[rows], self.expression[rows])

    def state(self) -> HeadState:
        """B frames with these codes, without vertices."""
        codes = {"geometry": self.geometry, "appearance": self.appearance, "expression_code": self.expression}
        return HeadState(vertices=self.geometry.new_zeros(len(self.geometry), 0, 3), codes=codes)


def anchors_of(avatar: Avatar) -> Anchors:
    """The anchors of an avatar's decoder; they define the units that its networks compute in.

    Raises:
        TypeError: the decoder has none.
    """
    anchors = getattr(avatar.decoder, "anchors", None)
    if not isinstance(anchors, Anchors):
        raise TypeError(
            f"a prior needs a decoder with anchors, and this avatar has {type(avatar.decoder).__name__}; "
            "build it with headfields.models.mononphm"
        )
    return anchors
