"""The loss that keeps a learned field of skinning weights near the mesh's."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headfields.deformers.skinning_weights import SkinningWeights
from headfields.records import PixelBatch, Rendering


@dataclass(frozen=True)
class SkinningPrior:
    """Squared difference between a field's weights and the mesh's, summed over joints, its mean over the surface.

    Off the surface nothing holds the field but what is seen. Our own choice; SNARF has a prior on the weights of a few
    points of its bones, early in training.

    Attributes:
        weight: what the trainer multiplies the loss with.
        points: drawn over the canonical mesh, evenly by area.
        name: column in the log.

    Raises:
        ValueError: points is not positive; when called, the avatar has no `SkinningWeights`.
    """

    weight: float | int = 0.1
    points: int = 1024
    name: str = "skinning"

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"SkinningPrior: points is {self.points}; expected at least 1")

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `batch` is not looked at. Gradients flow to the fields' logits."""
        parts = () if rendering.field is None else rendering.field.avatar.modules()
        fields = [part for part in parts if isinstance(part, SkinningWeights)]
        if not fields:
            raise ValueError(
                f"{self.name} loss: the avatar has no SkinningWeights, or was not rendered in training mode; leave the "
                "loss out, or take a deformer that has them"
            )
        loss = rendering.opacity.sum() * 0
        for field in fields:
            loss = loss + field.deviation(self.points)
        return loss
