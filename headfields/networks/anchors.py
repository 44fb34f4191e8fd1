"""Anchors of a person's head, predicted from the geometry code, and the layout of codes with a part per anchor."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.networks.mlp import hidden_layers
from headfields.ops._checks import check_shape
from headfields.part_base import Part
from headfields.records import HeadState


class Anchors(Part):
    """Anchor positions: a mean plus an offset predicted from the global part of the geometry code.

    a = ā + MLP(z_global). Symmetric pairs come first, left and right alternating (2i and 2i + 1 mirror each other),
    then those in the middle. It also defines the space that the anchored networks compute in: (x - center) · scale.

    The deformer and the decoder of an avatar share one `Anchors`; it is saved once.

    Args:
        mean: (A, 3) mean positions in canonical space, meters.
        pairs: number of symmetric pairs; A - 2 · pairs anchors are in the middle.
        global_width, local_width: width of the global part of the codes, and of each member's part.
        hidden, layers: units and number of the network's hidden layers.
        center: (3,) of the networks' space, meters; the origin if None.
        scale: units of that space per meter. MonoNPHM's is FLAME's in meters times four.
        vertices: (A,) vertices of a template that are the anchors (`head_anchors`), if any; kept for landmarks.
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
        self.code_widths = {code: self.layout.width}
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("center", torch.zeros(3) if center is None else center.detach().float().clone())
        check_shape("Anchors", "center", self.center, "3")
        if vertices is not None:
            check_shape("Anchors", "vertices", vertices, f"{len(mean)}")
            vertices = vertices.detach().long().clone()
        self.register_buffer("vertices", vertices)
        widths = [global_width, *hidden_layers(hidden, layers)]
        self.network = nn.Sequential()
        for before, after in itertools.pairwise(widths):
            self.network += nn.Sequential(nn.Linear(before, after), nn.ReLU())
        self.network.append(nn.Linear(widths[-1], 3 * len(mean)))
        # A code of zeros, where auto-decoders start, gives the mean anchors. Hidden layers keep their biases: without
        # them a ReLU has no gradient there, and the network would never learn to tell people apart.
        with torch.no_grad():
            nn.init.zeros_(self.network[-1].bias)  # type: ignore[arg-type]
            self.network[-1].bias.sub_(self.network(torch.zeros(1, global_width))[0])  # type: ignore[operator]

    def __len__(self) -> int:
        """Number of anchors."""
        return self.mean.shape[0]

    def forward(self, code: Float[Tensor, "b width"]) -> Float[Tensor, "b a 3"]:
        """The anchors (B, A, 3), meters, of B geometry codes: whole codes, or their global parts.

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
        """The anchors (B, A, 3) of the people of B frames, meters."""
        return self(self.layout.of_state(type(self).__name__, self.code, state))

    def normalized(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points (..., 3), meters, mapped to the networks' space."""
        return (points - self.center) * self.scale


@dataclass(frozen=True)
class AnchoredCode:
    """Layout of a code of an ensemble of local networks: [global | member 0 | member 1 | ... | global member].

    Members are the anchors in order, symmetric pairs first (2i and 2i + 1 mirror each other), then those in the middle,
    and last the global member, which has a local part too.

    >>> import torch
    >>> layout = AnchoredCode(pairs=2, middle=1, global_width=8, local_width=4)
    >>> shared, local = layout.split(torch.zeros(3, layout.width))
    >>> layout.members, layout.width, shared.shape, local.shape
    (6, 32, torch.Size([3, 8]), torch.Size([3, 6, 4]))

    Attributes:
        pairs, middle: number of symmetric pairs of anchors, and of anchors in the middle.
        global_width, local_width: width of the global part, and of each member's part.

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
        """Number of members, with the global one."""
        return 2 * self.pairs + self.middle + 1

    @property
    def width(self) -> int:
        """Width of a code."""
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
        """Mean (...,) over all pairs of the distance ‖z_left - z_right‖ of their parts; 0 for a symmetric person.

        As in MonoNPHM's released code. The gradient of a symmetric pair is zero.

        Raises:
            ValueError: the code has another width.
        """
        _, local = self.split(code)
        paired = local[..., : 2 * self.pairs, :].unflatten(-2, (self.pairs, 2))
        if not self.pairs:
            return code.new_zeros(code.shape[:-1])
        return (paired[..., 0, :] - paired[..., 1, :]).norm(dim=-1).mean(dim=-1)

    def of_state(self, part: str, name: str, state: HeadState) -> Float[Tensor, "b width"]:
        """The code called `name` of a state; `part` is the name of its reader, for messages.

        Raises:
            ValueError: the state has no such code, or one of another width.
        """
        code = state.need(part, name, self.width)
        if code.shape[-1] != self.width:
            raise ValueError(
                f"{part}: the code {name!r} of the HeadState has {code.shape[-1]} numbers; expected {self.width} "
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
