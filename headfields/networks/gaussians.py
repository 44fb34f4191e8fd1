"""The Gaussians of an avatar: who holds their parameters, and how rows are kept, copied, split and dropped."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.ops._checks import check_integer, check_shape
from headfields.part_base import Part
from headfields.records import Splats

DC = 0.28209479177387814
"""The spherical harmonic of degree 0, 1 / (2 √π): `color` is a color less 0.5, divided by it."""


class Gaussians(Part):
    """N Gaussians, as numbers that an optimizer may move freely, and the triangle that each is attached to.

    Every parameter and buffer has one row for each Gaussian. Called, it gives a `headfields.Splats` in the coordinates
    that a deformer's `pose` takes: rotations of any length, `exp(log_scale)`, `sigmoid(opacity_logit)`.

    >>> import headfields as hf
    >>> gaussians = hf.networks.Gaussians(100, degree=1)
    >>> gaussians().harmonics.shape
    torch.Size([100, 4, 3])

    The number of rows may change while training (`take`). A file has the number that there were when it was written.

    Args:
        count: N.
        degree: degree of the spherical harmonics of the color, 0 to 3.
        blendshapes: K, number of blendshapes that each Gaussian has.
        degree_every: in training mode colors begin with degree 0 and gain one after each so many steps (3DGS: 1,000);
            None: all degrees from the first step on.
        blend_from: in training mode blendshapes have no effect before this step.
        anchored: whether each has a point of its triangle, `barycentric`, that its coordinates begin at.

    Attributes:
        position: (N, 3) in the coordinates of the deformer.
        log_scale: (N, 3) logarithms of the standard deviations.
        quaternion: (N, 4) rotations, (w, x, y, z).
        opacity_logit: (N,).
        color: (N, 3) coefficient of degree 0: the color is 0.5 + 0.2821 color.
        harmonics: (N, (degree + 1)² − 1, 3) coefficients of higher degrees.
        blend_position, blend_quaternion, blend_color: (N, 3, K), (N, 4, K) and (N, 3, K) if K > 0, else None: what a
            coefficient of 1 adds to position, quaternion and color.
        face: (N,) the triangle that each is attached to; -1: none.
        barycentric: (N, 3) if anchored, else None.

    Differentiable to any order.

    Raises:
        TypeError: a number is no integer.
        ValueError: a number is out of range.
    """

    face: Tensor
    barycentric: Tensor | None
    blend_position: nn.Parameter | None
    blend_quaternion: nn.Parameter | None
    blend_color: nn.Parameter | None

    def __init__(
        self,
        count: int,
        degree: int = 0,
        blendshapes: int = 0,
        degree_every: int | None = None,
        blend_from: int = 0,
        anchored: bool = False,
    ) -> None:
        super().__init__()
        for name, number in (
            ("count", count), ("degree", degree), ("blendshapes", blendshapes), ("blend_from", blend_from)
        ):  # fmt: skip
            if not hasattr(number, "__index__") or isinstance(number, bool):
                raise TypeError(f"Gaussians: {name} is {number!r}; expected an integer")
        if count < 0 or not 0 <= degree <= 3 or blendshapes < 0 or blend_from < 0:
            raise ValueError(
                f"Gaussians: count={count}, degree={degree}, blendshapes={blendshapes}, blend_from={blend_from}; "
                "expected no negative number, and a degree of 0 to 3"
            )
        if degree_every is not None and not degree_every >= 1:
            raise ValueError(f"Gaussians: degree_every is {degree_every}; expected a number of steps, or None")
        quaternion = torch.zeros(count, 4)
        quaternion[:, 0] = 1.0
        self.position = nn.Parameter(torch.zeros(count, 3))
        self.log_scale = nn.Parameter(torch.zeros(count, 3))
        self.quaternion = nn.Parameter(quaternion)
        self.opacity_logit = nn.Parameter(torch.zeros(count))
        self.color = nn.Parameter(torch.zeros(count, 3))
        self.harmonics = nn.Parameter(torch.zeros(count, (degree + 1) ** 2 - 1, 3))
        for name in BLENDED:
            table = nn.Parameter(torch.zeros(count, *WIDTHS[name], blendshapes)) if blendshapes else None
            self.register_parameter(f"blend_{name}", table)
        self.register_buffer("face", torch.full((count,), -1))
        self.register_buffer("barycentric", torch.full((count, 3), 1 / 3) if anchored else None)
        self.degree_every, self.blend_from = degree_every, blend_from
        self.blends = blend_from == 0  # whether training has reached the step from which blendshapes mix
        self._learned = self.harmonics.shape[1]  # coefficients of the degrees that training has reached

    @property
    def rate_groups(self) -> dict[str, str]:
        """The name under which the trainer takes a learning rate for each parameter: its own."""
        return {name: name for name, _ in self.named_parameters(recurse=False)}

    def at_step(self, step: int) -> None:
        if self.degree_every is not None:
            degree = min(step // self.degree_every, 3)
            self._learned = min((degree + 1) ** 2 - 1, self.harmonics.shape[1])
        self.blends = step >= self.blend_from

    @property
    def blendshapes(self) -> int:
        """K."""
        return 0 if self.blend_position is None else self.blend_position.shape[-1]

    def __len__(self) -> int:
        """N."""
        return self.position.shape[0]

    def extra_repr(self) -> str:
        degree = round((1 + self.harmonics.shape[1]) ** 0.5) - 1
        shapes = f", {self.blendshapes} blendshapes" if self.blendshapes else ""
        return f"{len(self)} of degree {degree}{shapes}"

    def forward(self, offsets: Mapping[str, Float[Tensor, "..."]] | None = None) -> Splats:
        """The Gaussians, in the coordinates of the deformer.

        Args:
            offsets: what is added to parameters, by their names, before they become rotations, scales and opacities:
                (N, ...) or (B, N, ...) for B frames, of `position`, `log_scale`, `quaternion`, `opacity_logit` and
                `color`.

        Returns:
            (N, ...), or (B, N, ...) if some offset is of B frames; as `harmonics`.

        Raises:
            ValueError: offsets of another name.
        """
        offsets = offsets or {}
        unknown = [name for name in offsets if name not in WIDTHS]
        if unknown:
            raise ValueError(f"Gaussians: offsets of {unknown}; expected some of {', '.join(WIDTHS)}")
        own = {name: getattr(self, name) for name in (*WIDTHS, "harmonics")}
        if any(offset.ndim > own[name].ndim and len(offset) == 1 for name, offset in offsets.items()):
            own = {name: value[None] for name, value in own.items()}  # a view's gradient adds up nothing
        position, log_scale, quaternion, opacity, color = (
            own[name] + offsets[name] if name in offsets else own[name] for name in WIDTHS
        )
        harmonics = color[..., None, :]
        further = own["harmonics"][..., : self._learned, :] if self.training else own["harmonics"]
        if further.shape[-2]:
            rest = further.expand(*color.shape[:-1], *further.shape[-2:])
            harmonics = torch.cat([harmonics, rest], dim=-2)
        batch = max((part.shape[:-2] for part in (position, log_scale, quaternion, color)), key=len)
        batch = max(batch, opacity.shape[:-1], key=len)
        return Splats(
            position.expand(*batch, *self.position.shape),
            quaternion.expand(*batch, *self.quaternion.shape),
            log_scale.exp().expand(*batch, *self.log_scale.shape),
            opacity.sigmoid().expand(*batch, *self.opacity_logit.shape),
            harmonics=harmonics.expand(*batch, *harmonics.shape[-3:]),
            barycentric=None if self.barycentric is None else self.barycentric.expand(*batch, -1, -1),
        )

    def blended(self, coefficients: Float[Tensor, "b k"]) -> dict[str, Float[Tensor, "..."]]:
        """What the blendshapes add to each Gaussian in B frames: offsets for `forward`, (B, N, ...) by name; none in
        training before `blend_from`.

        Raises:
            ValueError: there are no blendshapes.
        """
        if not self.blendshapes:
            raise ValueError("Gaussians.blended: there are no blendshapes; build it with blendshapes=K")
        if self.training and not self.blends:
            return {}
        # Shapes last: one matrix product reads and derives each table as it lies, where another order would be copied.
        tables = {name: getattr(self, f"blend_{name}") for name in BLENDED}
        return {
            name: nn.functional.linear(coefficients, table.flatten(0, 1)).unflatten(-1, table.shape[:2])
            for name, table in tables.items()
        }

    @classmethod
    @torch.no_grad()
    def of(
        cls, splats: Splats, face: Int[Tensor, " n"] | None = None, degree: int = 0, blendshapes: int = 0,
        degree_every: int | None = None, blend_from: int = 0,
    ) -> "Gaussians":  # fmt: skip
        """Gaussians with these values, in the coordinates of a deformer (`Deformer.attach` gives both arguments).

        Scales below 1e-12 and opacities outside [1e-6, 1 - 1e-6] are moved there; coefficients of higher degrees than
        `degree` are dropped.

        Args:
            splats: (N, ...).
            face: (N,) their triangles; none if None.
            degree, blendshapes, degree_every, blend_from: as for the class.
        """
        anchored = splats.barycentric is not None
        made = cls(splats.count, degree, blendshapes, degree_every, blend_from, anchored).to(splats.means.device)
        if made.barycentric is not None and splats.barycentric is not None:
            made.barycentric.copy_(splats.barycentric)
        made.position.copy_(splats.means)
        made.log_scale.copy_(splats.scales.clamp_min(1e-12).log())
        made.quaternion.copy_(nn.functional.normalize(splats.quaternions, dim=-1))
        made.opacity_logit.copy_(splats.opacities.logit(1e-6))
        if splats.colors is not None:
            made.color.copy_((splats.colors - 0.5) / DC)
        elif splats.harmonics is not None:
            made.color.copy_(splats.harmonics[:, 0])
            rest = splats.harmonics[:, 1 : 1 + made.harmonics.shape[1]]
            made.harmonics[:, : rest.shape[1]] = rest
        if face is not None:
            made.face.copy_(face)
        return made

    @torch.no_grad()
    def take(
        self,
        index: Int[Tensor, " m"],
        fresh: Bool[Tensor, " m"] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **values: Float[Tensor, "..."],
    ) -> None:
        """Makes M rows of the present N: row i becomes a copy of row `index[i]`, its triangle included.

        Keeps, drops, clones and splits in one. The parameters are new objects, without gradients, which take the place
        of the old ones in the optimizer; within a trainer, call `Trainer.resized` afterwards.

        Args:
            index: (M,) rows to copy, in the order wanted; a row may come several times or not at all.
            fresh: (M,) rows whose moments in the optimizer start at zero; the others keep those of the row that they
                copy. None: none.
            optimizer: the optimizer of the parameters.
            values: new values of some parameters or buffers, (M, ...), by name, in place of the copies.

        Raises:
            IndexError: there is no such row.
            ValueError: a value has another shape, or there is no such parameter.
        """
        check_integer("Gaussians.take", "index", index)
        check_shape("Gaussians.take", "index", index, "M")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(
                f"Gaussians.take: index has rows {int(index.min())} to {int(index.max())}, and there are {len(self)}"
            )
        own: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        count = len(index)
        for name, value in values.items():
            expected = None if name not in own else (count, *own[name].shape[1:])
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"Gaussians.take: {name} has shape {tuple(value.shape)}; expected "
                    + (f"{expected}" if expected else f"one of {', '.join(own)}")
                )
        for name, tensor in own.items():
            rows = values[name].detach().to(tensor).clone() if name in values else tensor.detach()[index]
            if not isinstance(tensor, nn.Parameter):
                setattr(self, name, rows)
                continue
            made = nn.Parameter(rows, requires_grad=tensor.requires_grad)
            setattr(self, name, made)
            if optimizer is not None:
                _exchange(optimizer, tensor, made, index, fresh)
        self.arguments["count"] = count

    @torch.no_grad()
    def adopt_sizes(self, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Takes as many rows as saved tensors have; their values are loaded afterwards."""
        count = len(tensors["position"]) if "position" in tensors else len(self)
        if count != len(self):
            self.take(torch.zeros(count, dtype=torch.long), optimizer=optimizer)


WIDTHS = {"position": (3,), "log_scale": (3,), "quaternion": (4,), "opacity_logit": (), "color": (3,)}
"""The parameters that offsets may change, in the order of a row of all offsets, and the shape of a Gaussian's row."""

ROW = sum(shape[0] if shape else 1 for shape in WIDTHS.values())
"""Numbers in a row of all offsets."""

BLENDED = ("position", "quaternion", "color")
"""What blendshapes change: as in RGBAvatar's released code (model/gaussian.py, `_xyz_b`, `_rotation_b`,
`_feature_b`)."""


def _exchange(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, index: Tensor, fresh: Tensor | None
) -> None:
    """Puts `new` in the place of `old` in the optimizer, with the moments of its rows."""
    for group in optimizer.param_groups:
        group["params"] = [new if each is old else each for each in group["params"]]
    state = optimizer.state.pop(old, None)
    if state is None:
        return
    for key, moment in state.items():
        if isinstance(moment, Tensor) and moment.shape == old.shape:
            state[key] = moment[index]
            if fresh is not None:
                state[key][fresh] = 0
    optimizer.state[new] = state


def offsets_of(rows: Float[Tensor, "*batch n w"], names: Any = tuple(WIDTHS)) -> dict[str, Float[Tensor, "..."]]:
    """Offsets by name of rows that have those of the parameters `names` one after the other."""
    widths = [WIDTHS[name][0] if WIDTHS[name] else 1 for name in names]
    parts = rows.split(widths, dim=-1)
    return {name: part if WIDTHS[name] else part[..., 0] for name, part in zip(names, parts, strict=True)}
