"""The identity deformer, of a static scene in a box."""

from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.ray_box import ray_box
from headfields.parts import Deformer
from headfields.records import Canonical, HeadState, Rays


class Static(Deformer):
    """Canonical space is posed space; every point in the box is valid.

    Args:
        box: (2, 3) minimum and maximum corners, meters.

    Differentiable to any order.

    Raises:
        TypeError: `box` is no tensor.
        ValueError: `box` has another shape, or its minimum is not below its maximum.
    """

    box: Tensor
    follows_head = moves_points = False

    def __init__(self, box: Float[Tensor, "2 3"]) -> None:
        super().__init__()
        if not isinstance(box, Tensor):
            raise TypeError(f"Static: box is a {type(box).__name__}; pass a torch.Tensor (torch.as_tensor makes one)")
        if box.shape != (2, 3) or not bool((box[1] > box[0]).all()):
            raise ValueError(f"Static: box is {box.tolist()}; expected a minimum corner below a maximum corner, (2, 3)")
        self.register_buffer("box", box.detach().float().clone())

    def bounds(self) -> Float[Tensor, "2 3"]:
        return self.box

    def prepare(self, state: HeadState) -> None:
        return None

    def posed_bounds(self, prepared: None) -> Float[Tensor, "2 3"]:
        return self.box

    def near_far(self, rays: Rays, prepared: None) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return ray_box(rays, self.box)

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: None
    ) -> Canonical:
        inside = ((points >= self.box[0]) & (points <= self.box[1])).all(dim=-1)
        return Canonical(points=points, directions=directions, posed_points=points, frame=frame, valid=inside)
