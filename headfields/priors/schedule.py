"""How learning rates and weights change over a run, as fractions of it, so that a short run has the same shape."""

from dataclasses import dataclass

__all__ = ["PriorSchedule"]

_EPOCHS = 2500  # of the released checkpoint
_HALVINGS = tuple(epoch / _EPOCHS for epoch in (350, 700, 1050, 1300, 1550, 1800, 2050, 2300))


@dataclass(frozen=True)
class PriorSchedule:
    """Learning rates and when they change; the defaults are those of MonoNPHM's released code, 2,500 epochs long.

    Attributes:
        networks: AdamW's rate for deformer and decoder.
        decay: AdamW's weight decay.
        identity: Adam's rate for the codes of shape and appearance.
        expression: Adam's rate for those of expressions.
        halvings: fractions of the run at which all rates are halved.
        correspondence_until: fraction of the run after which correspondences count less.
        correspondence_after: by what factor.
        clip: the gradient of each network is cut to this norm.
        warm_up: fraction of the run over which rates rise from nothing; the published code has none.
    """

    networks: float | int = 5e-4
    decay: float | int = 5e-4
    identity: float | int = 2e-3
    expression: float | int = 1e-2
    halvings: tuple[float, ...] = _HALVINGS
    correspondence_until: float | int = 750 / _EPOCHS
    correspondence_after: float | int = 0.25
    clip: float | int = 1.0
    warm_up: float | int = 0.0

    def __post_init__(self) -> None:
        for name in ("networks", "identity", "expression", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"PriorSchedule: {name} is {getattr(self, name)}; expected a positive number")
        for fraction in (*self.halvings, self.correspondence_until, self.warm_up):
            if not 0 <= fraction <= 1:
                raise ValueError(f"PriorSchedule: {fraction} is not a fraction of the run, in [0, 1]")

    def factor(self, fraction: float | int) -> float:
        """What the learning rates are multiplied by when `fraction` of the run is over."""
        risen = min(fraction / self.warm_up, 1.0) if self.warm_up else 1.0
        return risen * 0.5 ** sum(fraction >= halving for halving in self.halvings)

    def correspondence(self, fraction: float | int) -> float:
        """What the weight of correspondences is multiplied by when `fraction` of the run is over."""
        return 1.0 if fraction <= self.correspondence_until else float(self.correspondence_after)
