"""Learning-rate and weight schedule of a prior, in fractions of the run, so that short runs have the same shape."""

from dataclasses import dataclass

__all__ = ["PriorSchedule"]

_EPOCHS = 2500  # epochs of the released checkpoint
_HALVINGS = tuple(epoch / _EPOCHS for epoch in (350, 700, 1050, 1300, 1550, 1800, 2050, 2300))


@dataclass(frozen=True)
class PriorSchedule:
    """Learning rates and their changes; the defaults are those of MonoNPHM's released code, 2,500 epochs long.

    Attributes:
        networks: AdamW's rate for deformer and decoder.
        decay: AdamW's weight decay.
        identity: Adam's rate for geometry and appearance codes.
        expression: Adam's rate for expression codes.
        halvings: fractions of the run at which all rates are halved.
        correspondence_until: fraction of the run after which the weight of correspondences changes.
        correspondence_after: factor of that weight from then on.
        clip: bound on the gradient norm of each network.
        warm_up: fraction of the run over which rates rise linearly from 0; the published code has none.

    >>> from headfields.apps.priors.schedule import PriorSchedule
    >>> schedule = PriorSchedule(halvings=(0.5, 0.75))
    >>> [schedule.factor(fraction) for fraction in (0.0, 0.5, 0.75)]
    [1.0, 0.5, 0.25]
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
        """The factor of the learning rates when `fraction` of the run is done."""
        warm_up = min(fraction / self.warm_up, 1.0) if self.warm_up else 1.0
        return warm_up * 0.5 ** sum(fraction >= halving for halving in self.halvings)

    def correspondence(self, fraction: float | int) -> float:
        """The factor of the weight of correspondences when `fraction` of the run is done."""
        return 1.0 if fraction <= self.correspondence_until else float(self.correspondence_after)
