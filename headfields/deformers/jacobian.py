"""Jacobians of deformers: derivatives of canonical points with respect to posed points."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.parts import Deformer
from headfields.records.device_copy import any_directions


def jacobian(
    deformer: Deformer, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
    """A deformer's canonical points and their Jacobians in the posed points: J[m, i, j] = ∂x_cᵢ / ∂xⱼ.

    Uses the deformer's method `jacobian` (with the same arguments) if it has one, as `ErrorWarp`, `SkinningRoots` and
    `Chain` do; otherwise three backward passes.

    >>> import torch
    >>> from headfields.deformers import Static
    >>> box, points = torch.tensor([[-1.0] * 3, [1.0] * 3]), torch.zeros(2, 3)
    >>> canonical, derivative = jacobian(Static(box), points, torch.tensor([0, 0]), None)
    >>> canonical.shape, derivative[0].diagonal()
    (torch.Size([2, 3]), tensor([1., 1., 1.]))

    Args:
        deformer: a deformer whose canonical points are differentiable in its posed points.
        points: (M, 3) in posed space, meters; M = 0 is legal.
        frame: (M,) each point's row of the state.
        prepared: the result of its `prepare`.

    Differentiable once less than the deformer.
    """
    own = getattr(deformer, "jacobian", None)
    if own is not None:
        return own(points, frame, prepared)
    directions = any_directions(points)  # points do not depend on them
    return point_jacobian(lambda x: deformer(x, directions, frame, prepared).points, points)


def point_jacobian(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "m 3"]
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
    """A pointwise map and its derivative at each point, by three backward passes.

    Args:
        function: map from (M, 3) to (M, 3); row m of its result depends only on row m of its argument.
        points: (M, 3).

    Returns:
        The image points (M, 3), and J[m, i, j] = ∂fᵢ / ∂xⱼ (M, 3, 3); with a graph where gradients are on.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = points if points.requires_grad else points.detach().requires_grad_()
        image = function(x)
        rows = [
            torch.autograd.grad(
                image[:, axis].sum(),
                x,
                create_graph=create_graph,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )[0]
            for axis in range(3)
        ]
    stacked = torch.stack(rows, dim=1)
    return (image, stacked) if create_graph else (image.detach(), stacked.detach())
