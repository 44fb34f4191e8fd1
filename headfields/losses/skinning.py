"""A prior on learned skinning weights: near the mesh's own, over its surface.

Off the surface only the images constrain the field. Our own choice; SNARF has a prior on the weights of a few points of
its bones, early in training.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headfields.deformers.skinning_weights import SkinningWeights
from headfields.losses.base import check_positive, zero_of
from headfields.parts import Rendering
from headfields.records import PixelBatch


@dataclass(frozen=True)
class SkinningPrior:
    """Mean over the surface of the squared difference between a field's weights and the mesh's, summed over joints.

    Attributes:
        weight: factor of the loss in the total.
        points: drawn over the canonical mesh, uniformly by area.
        name: column in the log.

    Raises:
        ValueError: points is not positive; when called, the avatar has no `SkinningWeights`.
    """

    weight: float | int = 0.1
    points: int = 1024
    name: str = "skinning"

    def __post_init__(self) -> None:
        check_positive("SkinningPrior", points=self.points)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `batch` is ignored. Gradients flow to the fields' logits."""
        parts = () if rendering.field is None else rendering.field.avatar.modules()
        fields = [part for part in parts if isinstance(part, SkinningWeights)]
        if not fields:
            raise ValueError(
                f"{self.name} loss: the avatar has no SkinningWeights, or was not rendered in training mode; leave the "
                "loss out, or use a deformer that has them"
            )
        loss = zero_of(rendering)
        for field in fields:
            loss = loss + field.deviation(self.points)
        return loss
