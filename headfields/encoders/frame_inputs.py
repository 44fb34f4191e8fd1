"""Expression, lids and joints of a frame as features of all its points."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from headfields.networks.frame_inputs import FrameInputs, Rotations
from headfields.parts import Encoder
from headfields.records import Canonical, HeadState


class FrameParameters(Encoder):
    """The tracker's parameters of the frame as features, the same at every point: what drives an avatar.

    Args:
        condition: names of fields (or codes) of the `HeadState`, with the number of values of each that are used, the
            first ones: `{"expression": 100, "eyelids": 2}`.
        joints: indices of joints whose rotations follow: `(2, 3, 4)` are FLAME's jaw and eyes.
        rotations: `"matrix"`: R − I, nine numbers; `"6d"`: the first two rows of R.

    Differentiable in the state.

    Raises:
        ValueError: there are no inputs, or one is out of range; in `prepare`, the state lacks one.

    Source: FlashAvatar (Xiang et al. 2024), released code, src/deform_model.py: expression (100), jaw (6), eyes (12)
    and lids (2), 120 numbers.
    """

    def __init__(self, condition: Mapping[str, int], joints: Sequence[int] = (), rotations: Rotations = "6d") -> None:
        super().__init__()
        self.inputs = FrameInputs(dict(condition), tuple(joints), rotations)
        self.inputs.check(type(self).__name__)
        self.needs, self.code_widths = self.inputs.needs, dict(condition)
        self.width = self.inputs.width

    def extra_repr(self) -> str:
        return f"{dict(self.inputs.condition)}, joints={self.inputs.joints}, width={self.width}"

    def prepare(self, state: HeadState) -> Float[Tensor, "b width"]:
        return self.inputs.of(type(self).__name__, state)

    def forward(self, canonical: Canonical, prepared: Float[Tensor, "b width"]) -> Float[Tensor, "m width"]:
        return prepared.index_select(0, canonical.frame)

    def shared(
        self, canonical: Canonical, prepared: Float[Tensor, "b width"]
    ) -> tuple[Float[Tensor, "b width"], Int[Tensor, " m"]]:
        return prepared, canonical.frame
