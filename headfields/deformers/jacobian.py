"""How a deformer's points move with theirs: Jacobians, of single deformers and of chains."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.parts import Deformer


def jacobian(
    deformer: Deformer, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
    """A deformer's canonical points, and the derivative of each by its own posed point: J[m, i, j] = ∂x_cᵢ / ∂xⱼ.

    Asked of the deformer itself if it has a way of its own (a method `jacobian` of the same arguments, as `ErrorWarp`,
    `SkinningRoots` and `Chain` have); else three backward passes.

    Args:
        deformer: any whose points are differentiable in its posed points.
        points: (M, 3) in posed space, meters; M = 0 is legal.
        frame: (M,) the row of the state that each point belongs to.
        prepared: what its `prepare` made of the state.

    Differentiable as often as the deformer is, less once.
    """
    own = getattr(deformer, "jacobian", None)
    if own is not None:
        return own(points, frame, prepared)
    directions = points.new_tensor([0.0, 0.0, -1.0]).expand_as(points)  # points do not depend on them
    return point_jacobian(lambda x: deformer(x, directions, frame, prepared).points, points)


def point_jacobian(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "m 3"]
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
    """A map of points, each of its own, and its derivative at each, by three backward passes.

    Args:
        function: (M, 3) to (M, 3); row m of its result may depend on row m of its argument alone.
        points: (M, 3).

    Returns:
        The mapped points (M, 3), and J[m, i, j] = ∂fᵢ / ∂xⱼ (M, 3, 3); with a graph where gradients are on.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = points if points.requires_grad else points.detach().requires_grad_()
        there = function(x)
        rows = [
            torch.autograd.grad(
                there[:, axis].sum(), x, create_graph=keep, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            for axis in range(3)
        ]
    stacked = torch.stack(rows, dim=1)
    return (there, stacked) if keep else (there.detach(), stacked.detach())
