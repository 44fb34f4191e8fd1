"""Gaussians as samples of a Markov chain: relocation, growth and noise (3DGS-MCMC), instead of density control."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.losses.base import check_positive
from headfields.networks.gaussians import Gaussians
from headfields.ops.rotations import rotation_from_quaternion
from headfields.records.device_copy import send
from headfields.training.densification import check_moments, gaussians_of, step_generator

__all__ = ["MCMC", "relocated"]

_MOST_COPIES = 51
"""At most so many Gaussians come to lie in one place (the size of the released code's table of binomials)."""
_STEEP = 100.0
"""k of the switch of the noise (paper, section 3.2)."""


class MCMC:
    """A callback of `Trainer` that moves Gaussians which show nothing to where others are, and shakes them.

    - Every step, noise is added to positions: lr · `noise` · σ(−100 (o − 0.005)) · Σ η, η of unit variance, so that
      opaque Gaussians stay. lr is the present learning rate of the positions.
    - Every `every` steps, after `start` and before `stop`, Gaussians of opacity at most `least_opacity` move to others,
      drawn in proportion to opacity, and 5 % more are added in the same way, up to `most`. Where N Gaussians come to
      lie, their opacity becomes 1 − (1 − o)^(1/N) and their scales shrink (equation 9), so that the image stays nearly
      the same. They inherit the triangle of the one they move to. Both start with moments of zero (in the released code
      a Gaussian that has moved keeps its own).

    Give the losses `headfields.losses.SplatOpacity()` and `SplatExtent()` to the trainer with it: they make Gaussians
    that are not needed vanish.

    The formula of the noise has a length in it. The paper's constant, 5e5, is for scenes of a few units; here `unit`
    meters count as one: noise in a deformer's coordinates, of k meters, is that of the scene k / unit times as large.

    Deterministic: random numbers depend on `seed` and the step alone. A resumed run equals an unbroken one.

    Args:
        start, stop, every: the steps after which Gaussians move.
        most: number of Gaussians at the end.
        growth: share that is added each time.
        least_opacity: in (0, 1).
        noise: factor of the noise; 0 for none.
        unit: meters. 0.05, which makes a head a scene of six units, is our own choice.
        seed: of all its random numbers.

    Attributes:
        last: what the last call did: "relocated", "added", "count".

    Raises:
        ValueError: an argument is out of range. Later: the avatar has no Gaussians.
        TypeError: later: an optimizer whose moments are not rows of the parameters, or do not start at zero.

    Source: Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain Monte Carlo", sections 3.2 to 3.4; steps,
    growth and noise of its released code.
    """

    def __init__(
        self,
        *,
        start: int = 500,
        stop: int = 25_000,
        every: int = 100,
        most: int = 100_000,
        growth: float | int = 0.05,
        least_opacity: float | int = 0.005,
        noise: float | int = 5e5,
        unit: float | int = 0.05,
        seed: int = 0,
    ) -> None:
        check_positive("MCMC", every=every, most=most, unit=unit, least_opacity=least_opacity)
        if start < 0 or stop < start or growth < 0 or not noise >= 0 or least_opacity >= 1:
            raise ValueError(
                f"MCMC: start={start}, stop={stop}, growth={growth}, noise={noise}, least_opacity={least_opacity}; "
                "expected 0 <= start <= stop, no negative growth or noise, and an opacity"
            )
        self.start, self.stop, self.every, self.most, self.seed = start, stop, every, most, seed
        self.growth, self.least_opacity, self.noise, self.unit = growth, least_opacity, noise, unit
        self.last: dict[str, int] = {}
        self._sizes = torch.zeros(0)

    def on_start(self, trainer: Any) -> None:
        """Checks the trainer."""
        self._allocate(gaussians_of("MCMC", trainer))

    def _allocate(self, gaussians: Gaussians) -> None:
        """Memory for the units of the Gaussians' coordinates, which a step writes to."""
        self._sizes = torch.zeros(len(gaussians), device=gaussians.position.device)

    def on_launch(self, trainer: Any, rendering: Any, taken: Bool[Tensor, ""], step: int) -> None:
        """Keeps the units of the Gaussians' coordinates; 0, which is no noise, if the optimizer has not taken the
        step."""
        sizes, processes = _coordinates(rendering), trainer.processes
        if processes.several:  # the mean over the frames of all
            frames = sizes.new_full((1,), float(len(rendering.rasterized.radii)))
            sums = processes.sum(torch.cat([sizes * frames, frames]))
            sizes = sums[:-1] / sums[-1]
        self._sizes.copy_(torch.where(taken, sizes, 0.0))

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """Moves Gaussians where that is due, and adds the noise."""
        step = trainer.progress.step
        if outcome.not_finite:
            return
        gaussians, optimizer = trainer.avatar.gaussians, trainer.optimizer
        generator = step_generator(self.seed, step)
        if self.noise:
            self._shake(gaussians, _rate(optimizer, gaussians.position), self._sizes, generator)
            self._sizes.zero_()
        if self.start < step < self.stop and step % self.every == 0:
            check_moments("MCMC", optimizer, gaussians)
            self._move(gaussians, optimizer, generator)
            trainer.resized()
            self._allocate(gaussians)

    @torch.no_grad()
    def _shake(
        self, gaussians: Gaussians, rate: float | Tensor, size: Float[Tensor, " n"], generator: torch.Generator
    ) -> None:
        """Adds the noise in the coordinates of the deformer, `size` meters a unit."""
        position = gaussians.position
        turn = rotation_from_quaternion(gaussians.quaternion)
        spread = turn * gaussians.log_scale.exp()[:, None]
        draws = send(torch.randn(len(gaussians), 3, generator=generator), position.device).to(position)
        covered = (spread @ (spread.mT @ draws[..., None]))[..., 0]
        free = torch.sigmoid(-_STEEP * (gaussians.opacity_logit.sigmoid() - self.least_opacity))
        factor = rate * self.noise * (size / self.unit).square() * free
        position += torch.nan_to_num(factor[:, None] * covered, posinf=0.0, neginf=0.0)

    @torch.no_grad()
    def _move(self, gaussians: Gaussians, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        opacity = gaussians.opacity_logit.sigmoid()
        dead = (opacity <= self.least_opacity).nonzero()[:, 0]
        alive = (opacity > self.least_opacity).nonzero()[:, 0]
        moved = len(dead) if len(alive) else 0
        if moved:
            goals = alive[_sample(opacity[alive], moved, generator)]
            index = torch.arange(len(gaussians), device=goals.device)
            index[dead] = goals
            self._settle(gaussians, optimizer, index, goals)
            opacity = gaussians.opacity_logit.sigmoid()
        count = len(gaussians)
        added = max(min(self.most, math.floor((1 + self.growth) * count)) - count, 0)
        if added and len(alive):
            goals = _sample(opacity, added, generator)
            self._settle(gaussians, optimizer, torch.cat([torch.arange(count, device=goals.device), goals]), goals)
        self.last = {"relocated": moved, "added": len(gaussians) - count, "count": len(gaussians)}

    def _settle(self, gaussians: Gaussians, optimizer: torch.optim.Optimizer, index: Tensor, goals: Tensor) -> None:
        """Takes the rows `index`, and gives those that lie in one place their share of its opacity and their scales."""
        copies = 1 + torch.bincount(goals, minlength=len(gaussians))
        opacity, shrink = relocated(gaussians.opacity_logit.sigmoid(), copies)
        opacity = opacity.clamp(self.least_opacity, 1 - torch.finfo(torch.float32).eps)
        several = copies > 1
        logit = torch.where(several, torch.logit(opacity.double()).float(), gaussians.opacity_logit)
        log_scale = gaussians.log_scale + torch.where(several, shrink.log(), 0.0)[:, None]
        gaussians.take(index, several[index], optimizer, opacity_logit=logit[index], log_scale=log_scale[index])


def relocated(
    opacity: Float[Tensor, " n"], copies: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Opacity of each of N coincident Gaussians that together look like one, and the factor of their scales.

    Equation 9 of Kheradmand et al. 2024: o' = 1 − (1 − o)^(1/N), and the scales are those of one times
    o / Σ_{j=1..N} C(N, j) (−1)^(j−1) o'^j / √j, the paper's double sum with the sum over i carried out. It keeps the
    light that a line through the center lets through, and the integral across it.

    Args:
        opacity: (N,) in [0, 1].
        copies: (N,) from 1 on, 51 at most (more count as 51, as in the released code).

    Returns:
        Opacities (N,) and factors (N,), computed in float64; 1 for a single copy.

    >>> import torch
    >>> from headfields.training.mcmc import relocated
    >>> [round(float(value), 4) for value in relocated(torch.tensor([0.75]), torch.tensor([2]))]
    [0.5, 0.9111]
    """
    number = copies.clamp(1, _MOST_COPIES).double()
    whole = opacity.double()
    # log1p and expm1, because an opacity of 1e-3 in 51 parts has few digits left in 1 - o
    part = -torch.expm1(torch.log1p(-whole.clamp_max(1 - 1e-12)) / number)
    total = torch.zeros_like(part)
    binomial = torch.ones_like(part)
    for j in range(1, int(number.max()) + 1 if len(number) else 1):
        binomial = binomial * (number - j + 1).clamp_min(0) / j
        total = total + (-1) ** (j - 1) * binomial * part**j / math.sqrt(j)
    factor = torch.where((total > 0) & (number > 1), whole / total.clamp_min(1e-300), 1.0)
    return part.to(opacity.dtype), factor.to(opacity.dtype)


def _sample(weights: Float[Tensor, " n"], count: int, generator: torch.Generator) -> Int[Tensor, " c"]:
    """Rows drawn with replacement in proportion to their weights: by inversion, which has no limit of rows."""
    steps = weights.double().cpu().cumsum(0)
    draws = torch.rand(count, generator=generator, dtype=torch.float64) * steps[-1]
    return torch.searchsorted(steps, draws, right=True).clamp_max(len(steps) - 1).to(weights.device)


def _rate(optimizer: torch.optim.Optimizer, parameter: Tensor) -> float | Tensor:
    """The learning rate of a parameter: a number, or, where steps are captured, a tensor of the device."""
    for group in optimizer.param_groups:
        if any(each is parameter for each in group["params"]):
            return group["lr"]
    return 0.0  # positions are frozen


@torch.no_grad()
def _coordinates(rendering: Any) -> Float[Tensor, " n"]:
    """Meters (N,) that the unit of each Gaussian's coordinates has in posed space, mean over frames."""
    posed, attached = rendering.splats.scales.norm(dim=-1), rendering.attached.scales.norm(dim=-1)
    size = posed / attached.clamp_min(1e-30)
    return size if size.ndim == 1 else size.mean(0)
