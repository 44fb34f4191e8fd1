"""The anchors of a person, from the global part of the code of their shape."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.ops._checks import check_shape
from headfields.parts import Part
from headfields.records import HeadState


class Anchors(Part):
    """Anchor positions: a mean, and a small network of the global part of the geometry code that moves them.

    a = ā + MLP(z_global). Symmetric pairs come first, left and right in turn (2i and 2i + 1 mirror each other), then
    those in the middle. The part also says what space the networks behind it compute in: (x - center) · scale.

    One `Anchors` is given to both the deformer and the decoder of an avatar; it is saved with it once.

    Args:
        mean: (A, 3) mean positions in canonical space, meters.
        pairs: how many symmetric pairs there are among them; A - 2 · pairs are in the middle.
        global_width, local_width: numbers in the global part of the codes, and in each member's.
        hidden, layers: units and number of the network's hidden layers.
        center: (3,) of the space of the networks, meters; the origin if None.
        scale: units of that space in a meter. MonoNPHM's is FLAME's in meters times four.
        vertices: (A,) which vertices of a template the anchors are, if they are (`head_anchors`); kept for landmarks.
        code: name of the code in `HeadState.codes`.

    Differentiable in code and parameters to any order.

    Raises:
        ValueError: a size is out of range, or shapes do not fit.

    Source: NPHM (Giebenhain et al. 2023), section 4.1; sizes of MonoNPHM (Giebenhain et al. 2024).
    """

    mean: Tensor
    center: Tensor
    vertices: Tensor | None

    def __init__(
        self,
        mean: Float[Tensor, "a 3"],
        pairs: int,
        global_width: int = 64,
        local_width: int = 32,
        hidden: int = 64,
        layers: int = 2,
        center: Float[Tensor, "3"] | None = None,
        scale: float | int = 4.0,
        vertices: Int[Tensor, " a"] | None = None,
        code: str = "geometry",
    ) -> None:
        super().__init__()
        check_shape("Anchors", "mean", mean, "A 3")
        if not 0 <= 2 * pairs <= len(mean) or len(mean) == 0:
            raise ValueError(f"Anchors: {pairs} pairs among {len(mean)} anchors; expected two anchors for each pair")
        if not 0 < scale < torch.inf:
            raise ValueError(f"Anchors: scale is {scale}; expected a positive number of units in a meter")
        self.layout = AnchoredCode(pairs, len(mean) - 2 * pairs, global_width, local_width)
        self.scale = float(scale)
        self.code = code
        self.needs = (code,)
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("center", torch.zeros(3) if center is None else center.detach().float().clone())
        check_shape("Anchors", "center", self.center, "3")
        if vertices is not None:
            check_shape("Anchors", "vertices", vertices, f"{len(mean)}")
            vertices = vertices.detach().long().clone()
        self.register_buffer("vertices", vertices)
        widths = [global_width, *[hidden] * layers]
        self.network = nn.Sequential()
        for before, after in itertools.pairwise(widths):
            self.network += nn.Sequential(nn.Linear(before, after), nn.ReLU())
        self.network.append(nn.Linear(widths[-1], 3 * len(mean)))
        # A code of zeros, where auto-decoders start, has the mean anchors. Hidden layers keep their biases: a ReLU
        # without one has no gradient there, and the network would never learn to tell people apart.
        with torch.no_grad():
            nn.init.zeros_(self.network[-1].bias)  # type: ignore[arg-type]
            self.network[-1].bias.sub_(self.network(torch.zeros(1, global_width))[0])  # type: ignore[operator]

    def __len__(self) -> int:
        """How many anchors there are."""
        return self.mean.shape[0]

    def forward(self, code: Float[Tensor, "b width"]) -> Float[Tensor, "b a 3"]:
        """The anchors (B, A, 3) of B geometry codes (global part, or all of it in front of which it stands), meters.

        Raises:
            ValueError: a code is neither as wide as the global part nor as the layout says.
        """
        if code.ndim != 2 or code.shape[1] not in (self.layout.global_width, self.layout.width):
            raise ValueError(
                f"Anchors: code has shape {tuple(code.shape)}; expected (B, {self.layout.width}), or the global part "
                f"of it, (B, {self.layout.global_width})"
            )
        offset = self.network(code[:, : self.layout.global_width])
        return self.mean + offset.view(-1, len(self), 3) / self.scale

    def prepare(self, state: HeadState) -> Float[Tensor, "b a 3"]:
        """The anchors (B, A, 3) of the frames' people, meters."""
        return self(self.layout.of_state(type(self).__name__, self.code, state))

    def normalized(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points (..., 3) in meters, in the space of the networks."""
        return (points - self.center) * self.scale


@dataclass(frozen=True)
class AnchoredCode:
    """How a code of an ensemble of local networks is laid out: [global | member 0 | member 1 | ... | global member].

    Members are the anchors in order, symmetric pairs first (2i and 2i + 1 mirror each other), then those in the middle,
    and last the global member, which has a local part too.

    Attributes:
        pairs, middle: how many symmetric pairs of anchors there are, and how many anchors in the middle.
        global_width, local_width: numbers in the global part, and in each member's.

    All methods are differentiable to any order.

    Raises:
        ValueError: a number is negative, or there is no member or no number at all.
    """

    pairs: int
    middle: int
    global_width: int = 64
    local_width: int = 32

    def __post_init__(self) -> None:
        if min(self.pairs, self.middle) < 0 or min(self.global_width, self.local_width) < 1:
            raise ValueError(f"{self}: expected no negative count, and widths of at least 1")

    @property
    def members(self) -> int:
        """How many members there are, with the global one."""
        return 2 * self.pairs + self.middle + 1

    @property
    def width(self) -> int:
        """Numbers in a code."""
        return self.global_width + self.members * self.local_width

    def split(self, code: Float[Tensor, "*b width"]) -> tuple[Float[Tensor, "*b shared"], Float[Tensor, "*b n local"]]:
        """The global part (..., G), and those of the members (..., N, L).

        Raises:
            ValueError: the code has another width.
        """
        self._check(code)
        shared, local = code[..., : self.global_width], code[..., self.global_width :]
        return shared, local.unflatten(-1, (self.members, self.local_width))

    def join(self, shared: Float[Tensor, "*b shared"], local: Float[Tensor, "*b n local"]) -> Float[Tensor, "*b width"]:
        """The code (..., width) of a global part (..., G) and members' parts (..., N, L).

        Raises:
            ValueError: a part has another width, or there are not as many members.
        """
        code = torch.cat([shared, local.flatten(-2)], dim=-1)
        self._check(code)
        return code

    def mirror(self, code: Float[Tensor, "*b width"]) -> Float[Tensor, "*b width"]:
        """The code (..., width) with the parts of the members of each pair exchanged.

        Raises:
            ValueError: the code has another width.
        """
        shared, local = self.split(code)
        order = torch.arange(self.members, device=code.device)
        order[: 2 * self.pairs] ^= 1
        return self.join(shared, local[..., order, :])

    def asymmetry(self, code: Float[Tensor, "*b width"]) -> Float[Tensor, "*b"]:
        """The sum (...,) over all pairs of the squared difference of its members' parts: 0 for a symmetric person.

        Raises:
            ValueError: the code has another width.
        """
        _, local = self.split(code)
        paired = local[..., : 2 * self.pairs, :].unflatten(-2, (self.pairs, 2))
        return (paired[..., 0, :] - paired[..., 1, :]).square().sum(dim=(-1, -2))

    def of_state(self, part: str, name: str, state: HeadState) -> Float[Tensor, "b width"]:
        """The code called `name` of a state, which `part` asks for.

        Raises:
            ValueError: the state has no such code, or one of another width.
        """
        code = state.need(part, name)
        if code.shape[-1] != self.width:
            raise ValueError(
                f"{part}: the code {name!r} of the HeadState has {code.shape[-1]} numbers, and {self.width} are wanted "
                f"({self.global_width} and {self.local_width} for each of {self.members} members); make its "
                f"LatentTable {self.width} wide"
            )
        return code

    def _check(self, code: Tensor) -> None:
        if code.shape[-1:] != (self.width,):
            raise ValueError(
                f"AnchoredCode: a code of shape {tuple(code.shape)}; expected (..., {self.width}): {self.global_width} "
                f"and {self.local_width} for each of {self.members} members"
            )
