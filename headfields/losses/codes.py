"""Gaussian prior of latent codes."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headfields.losses.base import check_positive, check_rays, field_of
from headfields.parts import Rendering
from headfields.records import PixelBatch


@dataclass(frozen=True)
class CodePrior:
    """Keeps a code z of the state small: the mean of ‖z‖² over the frames of the step (auto-decoders).

    Up to constants, weight · ‖z‖² is −log p of a normal prior of variance 1 / (2 · weight) per number of the code.

    Attributes:
        code: its name in `HeadState.codes`; that of a table of the avatar's `codes`, say.
        weight: factor of the loss in the total.

    Differentiable to any order.

    Raises:
        ValueError: weight is not positive; when called, the state has no such code, or the avatar renders in
            evaluation mode.

    Source: Park et al. 2019, "DeepSDF", section 4.2; its weight is 1e-4.
    """

    code: str
    weight: float | int = 1e-4

    def __post_init__(self) -> None:
        check_positive("CodePrior", weight=self.weight)

    @property
    def name(self) -> str:
        """Column in the log."""
        return f"{self.code}_prior"

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; gradients flow to the codes of the step's frames alone."""
        check_rays(self.name, rendering, batch)
        codes = field_of(self.name, rendering).state.need(f"{self.name} loss", self.code)
        return codes.square().sum() / max(len(codes), 1)
