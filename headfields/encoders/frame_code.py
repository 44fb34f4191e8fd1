"""The code of a frame as features of all its points: appearance codes and the like."""

from jaxtyping import Float, Int
from torch import Tensor

from headfields.parts import Encoder
from headfields.records import Canonical, HeadState


class FrameCode(Encoder):
    """A code (or field) of the state as features, the same at every point of a frame.

    As the condition of an avatar whose `codes` has a latent table of this name, it is a learned code per frame, person
    or sequence (Martin-Brualla et al. 2021, "NeRF in the Wild"; there it reaches the color alone).

    Args:
        code: its name in `HeadState.codes`, or that of a field of shape (B, W).
        width: number of values; of a field such as `expression`, the first ones of W.

    Differentiable in the code (linear).

    Raises:
        ValueError: width is below 1; in `prepare`, the state lacks the code, it has another width, or the field has
            fewer values.
    """

    def __init__(self, code: str, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"FrameCode: width is {width}; it must be at least 1")
        self.needs = (code,)
        self.code_widths = {code: width}
        self.code, self.width = code, width

    def extra_repr(self) -> str:
        return f"{self.code!r}, width={self.width}"

    def prepare(self, state: HeadState) -> Float[Tensor, "b width"]:
        values = state.need("FrameCode", self.code, self.width)
        fits = values.ndim == 2 and values.shape[1] >= self.width
        if not fits or (self.code in state.codes and values.shape[1] != self.width):
            raise ValueError(
                f"FrameCode: the state's {self.code!r} has shape {tuple(values.shape)}; expected (B, {self.width}); "
                "build the part with the width of the code"
            )
        return values[:, : self.width]

    def forward(self, canonical: Canonical, prepared: Float[Tensor, "b width"]) -> Float[Tensor, "m width"]:
        return prepared.index_select(0, canonical.frame)

    def shared(
        self, canonical: Canonical, prepared: Float[Tensor, "b width"]
    ) -> tuple[Float[Tensor, "b width"], Int[Tensor, " m"]]:
        return prepared, canonical.frame
