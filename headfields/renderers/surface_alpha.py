"""Opacity of signed distances along a ray: NeuS, MonoNPHM's unclamped variant, and VolSDF."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headfields.ops.surface_alpha import laplace_density, neus_alpha, unclamped_alpha
from headfields.part_base import Part
from headfields.renderers.sharpness import LearnedSharpness, ScheduledSharpness, Sharpness


class SurfaceAlpha(Part):
    """Opacities of ray intervals from signed distances.

    Subclasses define `forward` and `density`, and `optical_depth` if it differs from NeuS's.

    Args:
        sharpness: sharpness of the surface, 1/m; learned or by a schedule.

    Raises:
        TypeError: sharpness is not a `Sharpness`.
    """

    def __init__(self, sharpness: Sharpness) -> None:
        super().__init__()
        if not isinstance(sharpness, Sharpness):
            raise TypeError(
                f"{type(self).__name__}: sharpness is a {type(sharpness).__name__}; expected a "
                "headfields.renderers.sharpness.Sharpness, LearnedSharpness or ScheduledSharpness"
            )
        self.sharpness = sharpness

    def forward(
        self, distance: Float[Tensor, " m"], slope: Float[Tensor, " m"], length: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """Opacities (M,) of M intervals.

        Args:
            distance: (M,) at the middles, meters.
            slope: (M,) derivative of the distance along the ray.
            length: (M,) of the intervals, meters.
        """
        raise NotImplementedError

    def density(self, distance: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, at `distance` (M,) of a ray orthogonal to the surface; for samplers."""
        raise NotImplementedError

    def optical_depth(
        self, before: Float[Tensor, " m"], after: Float[Tensor, " m"], length: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """The optical depth (M,) of a segment of a ray with two distances (M,) at its ends and `length` (M,), meters.

        For early stops. The default is NeuS's: log Φ(before) - log Φ(after), or 0 where that is negative.
        """
        sharpness = self.sharpness()
        return functional.relu(functional.logsigmoid(sharpness * before) - functional.logsigmoid(sharpness * after))


class NeuSAlpha(SurfaceAlpha):
    """NeuS's unbiased opacity; see `headfields.ops.neus_alpha`.

    Args:
        sharpness: learned by default.
        anneal_steps: steps over which the clamp of the slope fades in, linearly (NeuS: 50,000 of 300,000 with a mask,
            0 without).

    The density for samplers is sharpness · sigmoid(-sharpness · distance): NeuS's equation 10 for a ray orthogonal to
    the surface.

    Raises:
        TypeError: sharpness is not a `Sharpness`.
        ValueError: anneal_steps is negative.

    Source: Wang et al. 2021, "NeuS", section 3.1.
    """

    anneal: Tensor

    def __init__(self, sharpness: Sharpness | None = None, anneal_steps: int = 0) -> None:
        super().__init__(LearnedSharpness() if sharpness is None else sharpness)
        if anneal_steps < 0:
            raise ValueError(f"NeuSAlpha: anneal_steps is {anneal_steps}; it must not be negative")
        self.anneal_steps = anneal_steps
        self.register_buffer("anneal", torch.tensor(0.0 if anneal_steps else 1.0))

    def at_step(self, step: int) -> None:
        self.anneal.fill_(min(step / self.anneal_steps, 1.0) if self.anneal_steps else 1.0)

    def forward(
        self, distance: Float[Tensor, " m"], slope: Float[Tensor, " m"], length: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        return neus_alpha(distance, slope, length, self.sharpness(), self.anneal)

    def density(self, distance: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        return _logistic_density(distance, self.sharpness())


class UnclampedAlpha(SurfaceAlpha):
    """The opacity of MonoNPHM's tracker; see `headfields.ops.surface_alpha.unclamped_alpha`.

    Args:
        sharpness: MonoNPHM's schedule by default.
        epsilon: `epsilon` of `unclamped_alpha`.

    The density for samplers is that of `NeuSAlpha`.

    Raises:
        TypeError: sharpness is not a `Sharpness`.
        ValueError: epsilon is not positive.

    Source: Giebenhain et al. 2024, "MonoNPHM", released code.
    """

    def __init__(self, sharpness: Sharpness | None = None, epsilon: float | int = 1e-5) -> None:
        super().__init__(ScheduledSharpness() if sharpness is None else sharpness)
        if not epsilon > 0:
            raise ValueError(f"UnclampedAlpha: epsilon is {epsilon}; it must be positive")
        self.epsilon = epsilon

    def forward(
        self, distance: Float[Tensor, " m"], slope: Float[Tensor, " m"], length: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        return unclamped_alpha(distance, slope, length, self.sharpness(), self.epsilon)

    def density(self, distance: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        return _logistic_density(distance, self.sharpness())


class VolSDFDensity(SurfaceAlpha):
    """VolSDF's density, which does not depend on the ray's direction; see
    `headfields.ops.surface_alpha.laplace_density`.

    The paper learns β with a lower bound; here the sharpness 1 / β is a `Sharpness`, as for the other two, which keeps
    β positive (our own choice).

    Args:
        sharpness: 1 / β, learned by default.

    Raises:
        TypeError: sharpness is not a `Sharpness`.

    Source: Yariv et al. 2021, "VolSDF", section 3.1.
    """

    def __init__(self, sharpness: Sharpness | None = None) -> None:
        super().__init__(LearnedSharpness() if sharpness is None else sharpness)

    def forward(
        self, distance: Float[Tensor, " m"], slope: Float[Tensor, " m"], length: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        return -torch.expm1(-self.density(distance) * length)

    def density(self, distance: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        return laplace_density(distance, self.sharpness())

    def optical_depth(
        self, before: Float[Tensor, " m"], after: Float[Tensor, " m"], length: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        return 0.5 * (self.density(before) + self.density(after)) * length


def _logistic_density(distance: Float[Tensor, " m"], sharpness: Tensor) -> Float[Tensor, " m"]:
    return sharpness * torch.sigmoid(-sharpness * distance)
