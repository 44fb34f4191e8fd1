"""What small networks of a frame read: coefficients, codes, and rotations of joints, as one row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.rotations import rotation_matrices
from headfields.records import HeadState

__all__ = ["FrameInputs", "Rotations"]

Rotations = Literal["matrix", "6d"]


@dataclass(frozen=True)
class FrameInputs:
    """The inputs of a network for each frame of a state, one after the other.

    Attributes:
        condition: names of fields (or codes) of the `HeadState`, with the number of values of each that are used, the
            first ones.
        joints: indices of joints whose rotations follow.
        rotations: `"matrix"`: R − I, nine numbers, zero at rest. `"6d"`: the first two rows of R, six numbers (Zhou et
            al. 2019), as metrical-tracker stores and FlashAvatar and RGBAvatar read them.

    Raises:
        ValueError: there are no inputs, or one is out of range.
    """

    condition: Mapping[str, int] = field(default_factory=dict)
    joints: Sequence[int] = ()
    rotations: Rotations = "matrix"

    def check(self, owner: str) -> None:
        """Raises ValueError, in the name of `owner`, where the numbers cannot be."""
        if not self.condition and not self.joints:
            raise ValueError(f'{owner}: condition and joints are empty; pass {{"expression": E}}, or joints')
        for name, width in self.condition.items():
            if width < 1:
                raise ValueError(f"{owner}: condition[{name!r}] is {width}; it must be at least 1")
        if any(joint < 0 for joint in self.joints):
            raise ValueError(f"{owner}: joints is {tuple(self.joints)}; none may be negative")
        if self.rotations not in get_args(Rotations):
            raise ValueError(f"{owner}: rotations is {self.rotations!r}; expected 'matrix' or '6d'")

    @property
    def width(self) -> int:
        """Number of values of a frame."""
        return sum(self.condition.values()) + (9 if self.rotations == "matrix" else 6) * len(self.joints)

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields and codes of the state that are read."""
        return (*self.condition, *(("pose",) if self.joints else ()))

    def of(self, owner: str, state: HeadState) -> Float[Tensor, "b width"]:
        """The rows of B frames; differentiable in the state.

        Raises:
            ValueError: the state lacks a field, or one is too narrow; the message begins with `owner`.
        """
        parts = []
        for name, width in self.condition.items():
            values = state.need(owner, name, width)
            if values.ndim != 2 or values.shape[1] < width:
                raise ValueError(
                    f"{owner}: condition has {width} values of {name!r}, and the state's has shape "
                    f"{tuple(values.shape)}; pass at most its width"
                )
            parts.append(values[:, :width])
        if self.joints:
            pose = state.need(owner, "pose")
            if max(self.joints) >= pose.shape[1]:
                raise ValueError(
                    f"{owner}: joints is {tuple(self.joints)}, and the state's pose has {pose.shape[1]} joints"
                )
            chosen = torch.stack([pose[:, joint] for joint in self.joints], 1)  # a GPU waits for a list of indices
            turns = rotation_matrices(chosen)
            if self.rotations == "matrix":
                turns = turns - torch.eye(3, dtype=turns.dtype, device=turns.device)
            else:
                turns = turns[..., :2, :]
            parts.append(turns.flatten(1))
        return torch.cat(parts, dim=-1)
