"""The four nouns: Deformer, Encoder, Decoder, Renderer, and the `Part` that they share.

A part says what it needs of the `HeadState` (`needs`) and, for encoders, how wide its output is (`width`), so that a
composition that cannot work fails when it is built. Its constructor arguments are recorded, so that any composition
of parts, a user's own among them, can be saved to one file and built again.
"""

import contextlib
import functools
import importlib
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.records import Canonical, FieldValues, HeadState, Rays, Record, Rendering, Samples

_registry: dict[str, type["Part"]] = {}


class Part(nn.Module):
    """A building block of an `Avatar`. Subclasses are found again by name when an avatar is loaded.

    Attributes:
        needs: the fields of `HeadState` (or names of codes) that the part reads.
        arguments: what the constructor was called with, by parameter name.
        rate_group: a name under which `headfields.training.Trainer` takes a learning rate for all parameters of the
            part; None: they are tables or networks by their own names.
    """

    needs: tuple[str, ...] = ()
    rate_group: str | None = None
    arguments: dict[str, Any]
    _wrapped: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _registry[f"{cls.__module__}.{cls.__qualname__}"] = cls
        if "__init__" not in cls.__dict__:
            return
        original = cls.__init__
        signature = inspect.signature(original)

        @functools.wraps(original)
        def recording(self: Part, *args: Any, **kwargs: Any) -> None:
            if not hasattr(self, "_parameters"):  # the outermost constructor, before nn.Module's own
                nn.Module.__init__(self)
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                self.arguments = {name: value for name, value in list(bound.arguments.items())[1:]}
            original(self, *args, **kwargs)

        cls.__init__ = recording  # type: ignore[method-assign]

    def __init__(self) -> None:
        if not hasattr(self, "_parameters"):
            super().__init__()
            self.arguments = {}

    def prepare(self, state: HeadState) -> Any:
        """What depends on the frames alone, computed once a call and handed to `forward` as `prepared`."""
        return None

    def at_step(self, step: int) -> None:
        """Told to every part of an avatar, however deep, before each training step; `step` counts from 0.

        For what changes with training (coarse-to-fine bands, a late start). Keep what follows from it in a buffer, so
        that a checkpoint and a saved avatar have it. By default nothing.
        """


def part_class(name: str) -> type[Part]:
    """The `Part` subclass registered under `module.ClassName`.

    Raises:
        ValueError: no class of that name has been imported.
    """
    if name not in _registry and name.startswith("headfields."):
        with contextlib.suppress(ImportError):
            importlib.import_module(name.rpartition(".")[0])
    if name not in _registry:
        raise ValueError(
            f"{name} is not a part of headfields or of any module imported so far; "
            "import the module that defines it first"
        )
    return _registry[name]


def part_name(part: Part) -> str:
    """`module.ClassName` of a part, as `part_class` takes it."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


@dataclass(frozen=True)
class Correction(Record):
    """What a learned correction within a deformer does at M points, for losses that keep it small or stiff.

    Attributes:
        before: (M, 3) the points that it is given, meters.
        after: (M, 3) where it takes them.
        jacobian: (M, 3, 3) derivative of `after` by `before`, where it was asked for.
    """

    before: Float[Tensor, "m 3"]
    after: Float[Tensor, "m 3"]
    jacobian: Float[Tensor, "m 3 3"] | None = None

    def __post_init__(self) -> None:
        self._check(before=("M 3", self.before), after=("M 3", self.after), jacobian=("M 3 3", self.jacobian))


class Deformer(Part):
    """Canonicalizes points: posed space to canonical space.

    Attributes:
        ambient_width: number of hyper-coordinates in `Canonical.ambient`.
        gives_faces: True if `Canonical.face` is filled.
        corrects: True if it has learned corrections that losses ask for, with `corrections`.
    """

    ambient_width: int = 0
    gives_faces: bool = False
    corrects: bool = False

    def bounds(self) -> Float[Tensor, "2 3"]:
        """Corners (minimum, maximum) of the axis-aligned box in canonical space that encoders cover, meters."""
        raise NotImplementedError(f"{type(self).__name__}.bounds is not defined")

    def posed_bounds(self, prepared: Any) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that holds all matter of the prepared frames, meters."""
        raise NotImplementedError(f"{type(self).__name__}.posed_bounds is not defined")

    def near_far(self, rays: Rays, prepared: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval of each ray that can hold matter.

        Args:
            rays: N rays in posed space.
            prepared: what `prepare` made of the state.

        Returns:
            near, far (N,), meters along the ray; near >= far where there is none.
        """
        raise NotImplementedError(f"{type(self).__name__}.near_far is not defined")

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any
    ) -> Canonical:
        """Takes points and directions to canonical space; M = 0 is legal.

        Args:
            points: (M, 3) in posed space, meters.
            directions: (M, 3) unit directions in posed space.
            frame: (M,) the row of the state that each point belongs to.
            prepared: what `prepare` made of the state.

        Returns:
            The canonical points; `valid` is False where there is no answer, and such points are empty space.
        """
        raise NotImplementedError

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any, jacobians: bool = False
    ) -> list[Correction]:
        """What the learned corrections do at M posed points; none by default, and none while they are off.

        Args:
            points: (M, 3) in posed space, meters.
            frame: (M,) the row of the state that each point belongs to.
            prepared: what `prepare` made of the state.
            jacobians: whether their Jacobians are wanted.
        """
        return []


class Encoder(Part):
    """Turns canonical points (and the state) into features.

    Attributes:
        width: number of features per point.
        needs_faces: True if the encoder reads `Canonical.face`, which not every deformer gives.
    """

    width: int
    needs_faces: bool = False

    def build(self, bounds: Float[Tensor, "2 3"], ambient_width: int) -> None:
        """Called once by `Avatar`, before `width` is read.

        Args:
            bounds: (2, 3) corners of the canonical box, meters.
            ambient_width: A, the number of the deformer's hyper-coordinates.
        """

    def forward(self, canonical: Canonical, prepared: Any) -> Float[Tensor, "m width"]:
        """Features of each point; M = 0 is legal.

        Args:
            canonical: M points in canonical space.
            prepared: what `prepare` made of the state.

        Returns:
            (M, width).
        """
        raise NotImplementedError

    def shared(self, canonical: Canonical, prepared: Any) -> tuple[Float[Tensor, "k width"], Int[Tensor, " m"]] | None:
        """The features of `forward` as a few rows (K, width) and which of them (M,) each point has, if they are so few.

        Encoders of what depends on the frames alone override this, so that a decoder can take such features in once
        rather than at every point. None, the default: each point has features of its own.
        """
        return None


class Decoder(Part):
    """Turns features and directions into density or signed distance, and color.

    Attributes:
        gives: `"density"` or `"distance"`; what the renderer has to turn into weights.
        takes_shared: True if `forward` has two further arguments, `condition` and `index`: what `Encoder.shared` of the
            last encoder gives, in place of the last columns of the features.
        takes_canonical: True if `forward` has two further arguments, `canonical` and `prepared`: the points themselves,
            and what `prepare` made of the state; and `color` the second of them. The avatar gives them by name.
        takes_normals: True if `color` has a third argument, the unit normals (M, 3) in canonical space. `forward` then
            leaves the color out in any case, and `headfields.Field` asks for it once it has the normals.
    """

    gives: str = "density"
    takes_shared: bool = False
    takes_canonical: bool = False
    takes_normals: bool = False

    def place(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called once by `Avatar`, before `build`, with the corners `bounds` (2, 3) of the canonical box, meters."""

    def build(self, width: int) -> None:
        """Called once by `Avatar` with the width of the features."""

    def forward(
        self, features: Float[Tensor, "m width"], directions: Float[Tensor, "m 3"], color: bool = True
    ) -> FieldValues:
        """Values at M points; M = 0 is legal.

        Args:
            features: (M, width) of the encoders, joined.
            directions: (M, 3) unit directions in canonical space.
            color: False leaves `rgb` out, for occupancy and meshing.

        A decoder that can give the color later, from what it has found for the density, puts that into
        `FieldValues.geometry` and defines `color`; a renderer then asks for the color only of what is seen.
        """
        raise NotImplementedError

    def color(self, geometry: Float[Tensor, "m g"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """The color (M, 3) of `FieldValues.geometry` (M, G), seen along `directions` (M, 3); M = 0 is legal."""
        raise NotImplementedError(f"{type(self).__name__}.color is not defined, but its values have a geometry")


class Sampler(Part):
    """Chooses where along the rays the field is asked."""

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called once, through the renderer, with the corners `bounds` (2, 3) of the canonical box, meters."""

    def forward(self, rays: Rays, field: Any) -> tuple[Samples, Canonical]:
        """Samples of N rays in posed space, asked of a `headfields.Field`; N = 0 and M = 0 are legal.

        Returns:
            M samples sorted by ray and distance, without those at invalid points, and their canonical points.
        """
        raise NotImplementedError

    def observe(self, canonical: Canonical, density: Float[Tensor, " m"]) -> None:
        """Called by the renderer in training: at `canonical`, M of this sampler's points, the field had `density` (M,).

        In 1/m, without a graph.
        """

    def due(self, step: int) -> bool:
        """Whether `update` has something to do before this training step."""
        return False

    def update(self, field: Any, step: int) -> None:
        """Called, through the renderer, before each `step` that is due, with the `headfields.Field` of its frames."""


class Renderer(Part):
    """Renders rays through a field.

    Attributes:
        takes: what it can render: a tuple of `Decoder.gives` values.
        encoders: further encoders, of a renderer with networks of its own. The avatar builds them, and prepares them
            into `Field.renderer_ready`.
    """

    takes: tuple[str, ...] = ("density",)

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        return ()

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called once by `Avatar` with the corners `bounds` (2, 3) of the canonical box, meters."""

    def forward(self, rays: Rays, field: Any, background: Float[Tensor, "n 3"]) -> Rendering:
        """Renders N rays; N = 0 is legal.

        Args:
            rays: in posed space, meters.
            field: the `headfields.Field` of the state they see.
            background: (N, 3) color behind each ray, sRGB in [0, 1].
        """
        raise NotImplementedError

    def due(self, step: int) -> bool:
        """Whether `update` has something to do before this training step."""
        return False

    def update(self, field: Any, step: int) -> None:
        """Called by the trainer before each step that is due, so that e.g. an occupancy grid follows the field."""

    def density(self, values: FieldValues) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, that samplers see at M points; of a renderer of distances, what it takes them for."""
        assert values.density is not None
        return values.density
