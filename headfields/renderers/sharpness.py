"""Sharpness of the surface in opacities of signed distances (NeuS's s): learned, or by a schedule."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.part_base import Part


class Sharpness(Part):
    """The sharpness s of a `SurfaceAlpha`, 1/m: NeuS's logistic Φ(x) = sigmoid(s x) of a signed distance x.

    Subclasses define `forward`, without arguments.
    """

    def forward(self) -> Float[Tensor, ""]:
        """The current sharpness, 1/m, positive."""
        raise NotImplementedError


class LearnedSharpness(Sharpness):
    """A trained parameter v with sharpness exp(10 v), as NeuS parametrizes it.

    Args:
        initial: initial sharpness, 1/m. NeuS starts at e³ = 20 in a sphere of radius 1 around the object, which is
            about 100 to 200 1/m for a head.

    Raises:
        ValueError: initial is not positive.

    Source: Wang et al. 2021, "NeuS", released code.
    """

    rate_group = "sharpness"

    def __init__(self, initial: float | int = 150.0) -> None:
        super().__init__()
        if not 0 < initial < math.inf:
            raise ValueError(f"LearnedSharpness: initial is {initial} 1/m; it must be positive")
        self.exponent = nn.Parameter(torch.tensor(math.log(initial) / 10))

    def forward(self) -> Float[Tensor, ""]:
        return torch.exp(10 * self.exponent)


class ScheduledSharpness(Sharpness):
    """initial · growth^⌊step / every⌋, at most `final`; the step is the trainer's.

    MonoNPHM's tracker goes from e³ by e^1.5 every 25 steps to e⁸, in units of a quarter of a meter, which the defaults
    are in meters. `growth=1` is a constant.

    Args:
        initial: initial sharpness, 1/m.
        final: its upper limit, 1/m.
        growth: factor, at least 1.
        every: steps between two changes.

    Raises:
        ValueError: an argument is out of range.

    Source: Giebenhain et al. 2024, "MonoNPHM", released code.
    """

    now: Tensor

    def __init__(
        self,
        initial: float | int = 4 * math.exp(3),
        final: float | int = 4 * math.exp(8),
        growth: float | int = math.exp(1.5),
        every: int = 25,
    ) -> None:
        super().__init__()
        if not (0 < initial <= final < math.inf and growth >= 1 and every >= 1):
            raise ValueError(
                f"ScheduledSharpness: initial={initial}, final={final}, growth={growth}, every={every}; expected "
                "0 < initial <= final, growth at least 1 and every at least 1"
            )
        self.initial = initial
        self.final = final
        self.growth = growth
        self.every = every
        self.register_buffer("now", torch.tensor(float(initial)))

    def extra_repr(self) -> str:
        return f"{self.initial:g} to {self.final:g} 1/m, times {self.growth:g} every {self.every} steps"

    def at_step(self, step: int) -> None:
        exponent = (step // self.every) * math.log(self.growth)
        self.now.fill_(
            self.final if exponent > math.log(self.final / self.initial) else self.initial * math.exp(exponent)
        )

    def forward(self) -> Float[Tensor, ""]:
        return self.now
