"""Where the fit of a frame starts: where the frame before ended, or at an expression that the prior knows."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.records import HeadState
from headfields.tracking.landmark_pose import landmark_pose
from headfields.tracking.prior.head import AROUND, PER_FRAME, PriorHead
from headfields.tracking.prior.observation import PriorObservation

__all__ = ["best_start"]

BETTER = 0.8
"""What part of the distance of landmarks an expression of the prior must come to, to be started from."""
FOUND = 0.7
"""What share of the landmarks must be found with an expression, for it to be judged."""
_STEPS, _SEARCHES = 15, 16


@torch.no_grad()
def best_start(
    head: PriorHead, data: PriorObservation, codes: Mapping[str, Float[Tensor, " w"]], count: int
) -> Float[Tensor, " e"]:
    """The expression code to start from, in the units it is fitted in: the given one, or one that fits much better.

    A network may not answer to small changes of the expression everywhere (at a closed mouth it often does not), so
    that a fit that starts there does not move. So some of the prior's own expressions are judged by the distance of the
    landmarks under the pose that brings them nearest. Our own choice.

    Args:
        head: the model.
        data: the frame.
        codes: each (K,), where the fit would start.
        count: how many expressions are looked at.
    """
    given = codes[PER_FRAME]
    marks = head.landmarks
    others = head.free_expressions(count)
    if marks is None or not len(others):
        return given
    target = data.landmarks[marks.number]
    seen = torch.isfinite(target).all(dim=1)
    tried = torch.cat([given[None], others])
    states = [head.state({**codes, PER_FRAME: expression}) for expression in tried]
    together = {name: torch.cat([state.codes[name] for state in states]) for name in head.names}
    field = head.avatar.field(HeadState(tried.new_zeros(len(tried), 0, 3), codes=together))
    points = head.canonical_landmarks(states[0])
    frame = torch.arange(len(tried), device=points.device).repeat_interleave(len(points))
    found = field.invert(points.repeat(len(tried), 1), frame, starts=_SEARCHES, spread=AROUND)
    errors = []
    for posed, there in zip(
        found.points.view(len(tried), -1, 3), found.converged.view(len(tried), -1) & seen, strict=True
    ):
        try:
            error = float(landmark_pose(posed, target, data.camera, there, steps=_STEPS)[1])
        except (ValueError, torch.linalg.LinAlgError):
            error = torch.inf
        errors.append(error if int(there.sum()) >= FOUND * int(seen.sum()) else torch.inf)
    best = min(range(len(errors)), key=errors.__getitem__)
    return tried[best].clone() if errors[best] < BETTER * errors[0] else given
