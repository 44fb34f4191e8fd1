"""The four nouns (Deformer, Encoder, Decoder, Renderer), the `Part` they derive from, and the `Field` between them.

A part declares what it needs of the `HeadState` (`needs`) and, for encoders, the width of its output (`width`), so that
a composition that cannot work fails when it is built. Its constructor arguments are recorded, so that any composition
of parts, a user's own among them, can be saved to one file and built again.
"""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.records import (
    Canonical,
    Correction,
    Features,
    FieldValues,
    HeadState,
    Inverse,
    Rays,
    Record,
    Samples,
)

_registry: dict[str, type["Part"]] = {}


class Part(nn.Module):
    """A building block of an `Avatar`. Subclasses are looked up by name when an avatar is loaded.

    Attributes:
        needs: the fields of `HeadState` (or names of codes) that the part reads.
        code_widths: the number of values that the part reads of codes, by name, where it knows it when it is built; an
            avatar checks its latent tables against it.
        arguments: the constructor's arguments, by parameter name.
        rate_group: name under which `headfields.training.Trainer` takes one learning rate for all parameters of the
            part; None: each parameter has the rate of tables or of networks, by its own name.
    """

    needs: tuple[str, ...] = ()
    code_widths: Mapping[str, int] = MappingProxyType({})
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
        """Values that depend on the frames alone, computed once per call and passed to `forward` as `prepared`."""
        return None

    def at_step(self, step: int) -> None:
        """Called on every part of an avatar, nested ones included, before each training step; `step` counts from 0.

        For schedules (coarse-to-fine bands, a late start). Keep their values in buffers, so that checkpoints and saved
        avatars have them. Does nothing by default.
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


class Deformer(Part):
    """Canonicalizes points: posed space to canonical space.

    Attributes:
        ambient_width: number of hyper-coordinates in `Canonical.ambient`.
        gives_faces: True if `Canonical.face` is filled.
        corrects: True if it has learned corrections, which losses read with `corrections`.
    """

    ambient_width: int = 0
    gives_faces: bool = False
    corrects: bool = False

    def bounds(self) -> Float[Tensor, "2 3"]:
        """Corners (minimum, maximum) of the axis-aligned box in canonical space that encoders cover, meters."""
        raise NotImplementedError(f"{type(self).__name__}.bounds is not defined")

    def posed_bounds(self, prepared: Any) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that contains the head in all prepared frames, meters."""
        raise NotImplementedError(f"{type(self).__name__}.posed_bounds is not defined")

    def near_far(self, rays: Rays, prepared: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval of each ray that can contain matter.

        Args:
            rays: N rays in posed space.
            prepared: the result of `prepare`.

        Returns:
            near, far (N,), meters along the ray; near >= far on a ray without such an interval.
        """
        raise NotImplementedError(f"{type(self).__name__}.near_far is not defined")

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any
    ) -> Canonical:
        """Maps points and directions to canonical space; M = 0 is legal.

        Args:
            points: (M, 3) in posed space, meters.
            directions: (M, 3) unit directions in posed space.
            frame: (M,) each point's row of the state.
            prepared: the result of `prepare`.

        Returns:
            The canonical points; `valid` is False where the deformer is undefined, and such points are empty space.
        """
        raise NotImplementedError

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any, jacobians: bool = False
    ) -> list[Correction]:
        """The learned corrections at M posed points; an empty list by default, and while they are off.

        Args:
            points: (M, 3) in posed space, meters.
            frame: (M,) each point's row of the state.
            prepared: the result of `prepare`.
            jacobians: whether to compute their Jacobians.
        """
        return []


class Encoder(Part):
    """Turns canonical points (and the state) into features.

    Attributes:
        width: number of features per point.
        needs_faces: True if the encoder reads `Canonical.face`, which not every deformer gives.
        most_ambient: the largest number of hyper-coordinates that it can read; None: any, or it ignores them.
    """

    width: int
    needs_faces: bool = False
    most_ambient: int | None = None

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
            prepared: the result of `prepare`.

        Returns:
            (M, width).
        """
        raise NotImplementedError

    def shared(self, canonical: Canonical, prepared: Any) -> tuple[Float[Tensor, "k width"], Int[Tensor, " m"]] | None:
        """The features of `forward` as rows (K, width) that points share, and the row (M,) of each point.

        Encoders of values that depend on the frame alone override this; as the last encoder of an avatar they then
        reach the decoder as `Features.shared`. None, the default: each point has features of its own.
        """
        return None


class Decoder(Part):
    """Turns features and directions into density or signed distance, and color.

    Attributes:
        gives: `"density"` or `"distance"`; the renderer turns it into weights.
        color_needs_normals: True if `color` reads `FieldValues.canonical_normal`. `forward` then never gives a color;
            the field computes the normals first and calls `color`.
    """

    gives: str = "density"
    color_needs_normals: bool = False

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        """Called once by `Avatar`, after the encoders are built.

        Args:
            width: number of features of a point, of all encoders together.
            bounds: (2, 3) corners of the canonical box, meters; None outside an avatar.
        """

    def forward(self, features: Features, canonical: Canonical, prepared: Any, color: bool = True) -> FieldValues:
        """Values at M points; M = 0 is legal.

        Args:
            features: the encoders' features of M points.
            canonical: the M points, with their unit viewing directions in canonical space.
            prepared: the result of `prepare`.
            color: False leaves `rgb` out, for occupancy and meshing.

        Returns:
            `density` (M,) in 1/m or `distance` (M,) in meters, as `gives` declares, and `rgb` (M, 3) unless left out.

        A decoder that can compute the color later fills `FieldValues.geometry` with the values needed for it and
        defines `color`; a renderer then requests the color of visible samples only.
        """
        raise NotImplementedError

    def color(self, values: FieldValues, canonical: Canonical, prepared: Any) -> Float[Tensor, "m 3"]:
        """The color (M, 3) of M points from `values.geometry`; M = 0 is legal.

        Args:
            values: the result of `forward` at these points; with `canonical_normal` if `color_needs_normals`.
            canonical: the M points.
            prepared: the result of `prepare`.
        """
        raise NotImplementedError(f"{type(self).__name__}.color is not defined, but its values have a geometry")


class Field:
    """An avatar bound to the B frames of one call: what samplers, renderers, losses and mesh extraction query.

    `headfields.Avatar.field` makes one; whatever depends on the frames alone is computed then. Posed points are in the
    space of `state.vertices`, in meters, and each belongs to a row of the state, its `frame`. A sampler or a renderer
    needs no more of an avatar than these methods, so a test may pass a subclass with a formula of its own.

    Attributes:
        avatar: the module that holds all parts, for its mode and for losses that look for a part in it.
        deformer, decoder: two of its parts, for their declared properties.
        state: the B frames.
        renderer_prepared: the result of `Renderer.prepare`.
    """

    avatar: nn.Module
    deformer: Deformer
    decoder: Decoder
    state: HeadState
    renderer_prepared: Any

    def near_far(self, rays: Rays) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval (N,), (N,) of each ray that can contain matter, meters; near >= far: there is none."""
        raise NotImplementedError

    def posed_bounds(self) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that contains the head in all frames, meters."""
        raise NotImplementedError

    def canonicalize(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"]
    ) -> Canonical:
        """Maps posed points to canonical space, differentiable as the deformer is.

        Args:
            points: (M, 3) in posed space, meters.
            directions: (M, 3) unit viewing directions in posed space.
            frame: (M,) each point's row of the state.
        """
        raise NotImplementedError

    def invert(self, points: Float[Tensor, "n 3"], frame: Int[Tensor, " n"], **options: Any) -> Inverse:
        """Posed positions of canonical points, for landmarks and meshes.

        Args:
            points: (N, 3) in canonical space, meters.
            frame: (N,) the row of the state in which each is posed.
            options: options of `headfields.deformers.invert`, which states what is differentiable.
        """
        raise NotImplementedError

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], jacobians: bool = False
    ) -> list[Correction]:
        """The deformer's learned corrections at M posed points, for losses; an empty list while they are off.

        Args:
            points: (M, 3) in posed space, meters.
            frame: (M,) each point's row of the state.
            jacobians: whether to compute their Jacobians.

        Raises:
            ValueError: the deformer has no learned correction.
        """
        raise NotImplementedError

    def decode(self, canonical: Canonical, color: bool = True) -> FieldValues:
        """Density (1/m) or signed distance (m), and color, at M canonical points; `canonical.valid` is not consulted.

        Args:
            canonical: the M points.
            color: False leaves the color out, for occupancy and meshing.
        """
        raise NotImplementedError

    def density(self, canonical: Canonical) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, at M canonical points, for samplers; of distances, by `Renderer.density`."""
        raise NotImplementedError

    def color(self, values: FieldValues, canonical: Canonical) -> FieldValues:
        """`values`, decoded without color at the M points `canonical`, completed with the color.

        Cheaper than `decode` if the decoder fills `values.geometry`; otherwise decodes again.
        """
        raise NotImplementedError

    def signed_distance(
        self,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        directions: Float[Tensor, "m 3"] | None = None,
        color: bool = False,
        create_graph: bool | None = None,
    ) -> tuple[Canonical, FieldValues]:
        """Signed distances at M posed points, with their exact gradients through decoder, encoders and deformer.

        Works under `torch.no_grad` too, in chunks, because each point needs a graph until its gradient is computed.

        Args:
            points: (M, 3) in posed space, meters; M = 0 is legal.
            frame: (M,) each point's row of the state.
            directions: (M, 3) unit viewing directions in posed space, for colors; (0, 0, -1) if None.
            color: whether to compute the color of all points; pass the result to `color` for that of some.
            create_graph: whether distances and gradients are differentiable themselves, through every part: for an
                eikonal loss, light on normals, or NeuS's opacity. None: if gradients are enabled.

        Returns:
            The canonical points, of which those that are not `valid` have no meaning; and values with `distance` (M,)
            in meters, `gradient` (M, 3) by the posed points, `normal` (M, 3), the gradient normalized,
            `canonical_normal`, the decoder's `geometry`, and with `color` also `rgb`.

        Raises:
            ValueError: the decoder gives no distance.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Rendering(Record):
    """Rendering of N rays (from `Avatar.render`, for an image: H, W instead of N).

    Attributes:
        rgb: (N, 3) color over the background, sRGB in [0, 1].
        opacity: (N,) in [0, 1].
        depth: (N,) expected distance along the ray, meters, weighted by opacity (divide to normalize).
        normal: (N, 3) expected normal in posed space, weighted by opacity (normalize for a direction), of fields of
            distances.
        samples, weights: the packed samples and their weights, for losses.
        coarse: the rendering of the same rays by a coarse network, of renderers that train one.
        canonical: the samples in canonical space, in training mode.
        field: the field that was rendered, in training mode, for losses that query it.
        gradient: (M, 3) derivative of the distance by the posed point at the samples, of fields of distances.
    """

    rgb: Float[Tensor, "*n 3"]
    opacity: Float[Tensor, "*n"]
    depth: Float[Tensor, "*n"]
    normal: Float[Tensor, "*n 3"] | None = None
    samples: Samples | None = None
    weights: Float[Tensor, " m"] | None = None
    coarse: "Rendering | None" = None
    canonical: Canonical | None = None
    field: Field | None = None
    gradient: Float[Tensor, "m 3"] | None = None


class Sampler(Part):
    """Chooses the sample positions along rays."""

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called once, through the renderer, with the corners `bounds` (2, 3) of the canonical box, meters."""

    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        """Samples of N rays in posed space; N = 0 and M = 0 are legal.

        Args:
            rays: N rays, meters.
            field: the field of the rays' frames.

        Returns:
            M samples sorted by ray and distance, without those at invalid points, and their canonical points.
        """
        raise NotImplementedError

    def observe(self, canonical: Canonical, density: Float[Tensor, " m"]) -> None:
        """Called by the renderer in training with the density (M,), 1/m, detached, at M points of this sampler."""

    def due(self, step: int) -> bool:
        """Whether `update` has to be called before this training step."""
        return False

    def update(self, field: Field, step: int) -> None:
        """Called, through the renderer, before each `step` that is due, with the field of its frames."""


class Renderer(Part):
    """Renders rays through a field.

    Attributes:
        takes: the fields it can render: a tuple of `Decoder.gives` values.
        encoders, decoders: the renderer's own encoders and decoders. The avatar builds the encoders and checks what
            both need; the renderer prepares them, in `prepare`, whose result is `Field.renderer_prepared`.
    """

    takes: tuple[str, ...] = ("density",)

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        return ()

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        return ()

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called once by `Avatar`, last, with the corners `bounds` (2, 3) of the canonical box, meters."""

    def forward(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        """Renders N rays; N = 0 is legal.

        Args:
            rays: rays in posed space, meters.
            field: the field of the rays' frames.
            background: (N, 3) color behind each ray, sRGB in [0, 1].
        """
        raise NotImplementedError

    def due(self, step: int) -> bool:
        """Whether `update` has to be called before this training step."""
        return False

    def update(self, field: Field, step: int) -> None:
        """Called by the trainer before each step that is due, e.g. to update an occupancy grid."""

    def density(self, values: FieldValues) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, for samplers; a renderer of distances converts them."""
        assert values.density is not None
        return values.density
