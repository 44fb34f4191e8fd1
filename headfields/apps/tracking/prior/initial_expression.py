"""The expression code that the fit of a frame starts from: the previous frame's, or one of the prior's own scans.

Our own choice; the published tracker always starts from the previous frame.
"""

from collections.abc import Mapping

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.apps.tracking.prior.head import PER_FRAME, SEARCH_DEVIATION, PriorHead
from headfields.apps.tracking.prior.observation import PriorObservation
from headfields.records import HeadState

__all__ = ["initial_expression"]

BETTER = 0.8
"""An expression of the prior is taken if its landmark error is below this fraction of the previous expression's."""
CONVERGED = 0.7
"""Fraction of the landmarks that must be found in posed space for an expression to be compared."""
_POSE_STEPS, _SEARCHES = 15, 16


@torch.no_grad()
def initial_expression(
    head: PriorHead, observation: PriorObservation, codes: Mapping[str, Float[Tensor, " w"]], count: int
) -> Float[Tensor, " e"]:
    """The expression code to start from, in the units it is fitted in.

    A network may not respond to small changes of the expression (at a closed mouth it often does not), and a fit that
    starts there does not move. So some expressions of the prior's scans are compared by the landmark error that is left
    under the best rigid pose.

    Args:
        head: the model.
        observation: the frame.
        codes: each (K,), of the previous frame.
        count: number of expressions to compare.
    """
    previous = codes[PER_FRAME]
    others = head.free_expressions(count)
    if head.landmarks is None or not len(others):
        return previous
    target = observation.landmarks[head.landmarks.number].cpu()
    known = torch.isfinite(target).all(dim=1)
    expressions = torch.cat([previous[None], others])
    states = [head.state({**codes, PER_FRAME: expression}) for expression in expressions]
    batch = {name: torch.cat([state.codes[name] for state in states]) for name in head.names}
    field = head.avatar.field(HeadState(expressions.new_zeros(len(expressions), 0, 3), codes=batch))
    points = head.canonical_landmarks(states[0])
    frame = torch.arange(len(expressions), device=points.device).repeat_interleave(len(points))
    inverse = field.invert(
        repeat(points, "l c -> (n l) c", n=len(expressions)), frame, starts=_SEARCHES, spread=SEARCH_DEVIATION
    )
    posed = rearrange(inverse.points.cpu(), "(n l) c -> n l c", n=len(expressions))
    usable = rearrange(inverse.converged.cpu(), "(n l) -> n l", n=len(expressions)) & known
    camera, errors = observation.camera.to("cpu"), []  # many small steps, each of which is looked at
    for row in range(len(expressions)):
        try:
            error = float(landmark_pose(posed[row], target, camera, usable[row], steps=_POSE_STEPS)[1])
        except (ValueError, torch.linalg.LinAlgError):
            error = torch.inf
        errors.append(error if int(usable[row].sum()) >= CONVERGED * int(known.sum()) else torch.inf)
    best = min(range(len(errors)), key=errors.__getitem__)
    return expressions[best].clone() if errors[best] < BETTER * errors[0] else previous
