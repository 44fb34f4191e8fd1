"""The four nouns (Deformer, Encoder, Decoder, Renderer) and `Sampler`: what an avatar is composed of; and what stands
between them, `Field` and `Rendering`.

A part declares what it needs of the `HeadState` (`needs`) and, for encoders, the width of its output (`width`), so that
a composition that cannot work fails when it is built.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.old_names import deprecated_names
from headfields.part_base import Part, SizedPart, undefined
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
    Splats,
)

__all__ = ["Decoder", "Deformer", "Encoder", "Field", "Renderer", "Rendering", "Sampler", "check_part"]


class Deformer(Part):
    """Canonicalizes points: posed space to canonical space; and, where `poses` is True, poses Gaussians: the way back.

    Gaussians have coordinates of the deformer's own, in which they are constant while the head moves: those of a
    triangle, say, or those of canonical space. `attach` gives them for Gaussians in canonical space, `rest` is its
    inverse, and `pose` takes them to posed space.

    Attributes:
        poses: True if it defines `attach`, `rest` and `pose`.
        ambient_width: number of hyper-coordinates in `Canonical.ambient`.
        gives_faces: True if `Canonical.face` is filled.
        face_count: F, the number of faces that `Canonical.face` indexes, for checks; None: unknown.
        corrects: True if it has learned corrections, which losses read with `corrections`.
        follows_head: False if canonical space, its weights or the orientation of Gaussians have the axes of posed
            space, whatever the head does: a head that turns together with its camera is then another picture, and
            belongs in one frame (`load_capture(head_frame=)`), of which `Trainer` warns.
        moves_points: False if points stay where they are, and only which rays and points count is decided.
    """

    poses: bool = False
    follows_head: bool = True
    moves_points: bool = True
    ambient_width: int = 0
    gives_faces: bool = False
    face_count: int | None = None
    corrects: bool = False
    _required = ("bounds", "posed_bounds", "near_far", "forward")

    def bounds(self) -> Float[Tensor, "2 3"]:
        """Corners (minimum, maximum) of the axis-aligned box in canonical space that encoders cover, meters."""
        undefined(self, "bounds")

    def posed_bounds(self, prepared: Any) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that contains the head in all prepared frames, meters."""
        undefined(self, "posed_bounds")

    def near_far(self, rays: Rays, prepared: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval of each ray that can contain matter.

        Args:
            rays: N rays in posed space.
            prepared: the result of `prepare`.

        Returns:
            near, far (N,), meters along the ray; near >= far on a ray without such an interval.
        """
        undefined(self, "near_far")

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
        undefined(self, "forward")

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

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        """Gaussians in canonical space, in the deformer's coordinates, and the triangles that they are attached to.

        Args:
            splats: (N, ...) in canonical space, meters.
            face: (N,) the triangles, if they are chosen; the nearest ones if None.

        Returns:
            (N, ...), and (N,) indices of triangles, -1 for a deformer without.
        """
        undefined(self, "attach")

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        """Gaussians in canonical space, meters: the inverse of `attach`.

        Args:
            splats: (..., N, ...) in the deformer's coordinates.
            face: (N,) their triangles.
        """
        undefined(self, "rest")

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: Any) -> Splats:
        """Gaussians in the posed space of B frames: centers, rotations and scales; N = 0 is legal.

        Args:
            splats: (N, ...), the same in all frames, or (B, N, ...), in the deformer's coordinates.
            face: (N,) their triangles.
            prepared: the result of `prepare`.

        Returns:
            (B, N, ...), meters.
        """
        undefined(self, "pose")

    def walk(
        self, position: Float[Tensor, "n 3"], face: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n 3"], Int[Tensor, " n"]] | None:
        """Called before each training step: positions and triangles of Gaussians that have left their triangles.

        None, the default: Gaussians stay with their triangles.
        """
        return None


class Encoder(SizedPart):
    """Turns canonical points (and the state) into features.

    Attributes:
        width: number of features per point.
        needs_faces: True if the encoder reads `Canonical.face` or `barycentric`, which not every deformer gives.
        face_count: F, the number of faces that it was made for, for checks; None: any.
        most_ambient: the largest number of hyper-coordinates that it can read; None: any, or it ignores them.
    """

    width: int
    needs_faces: bool = False
    face_count: int | None = None
    most_ambient: int | None = None
    _required = ("forward",)

    def build(self, bounds: Float[Tensor, "2 3"], ambient_width: int) -> None:
        """Called by `Avatar`, before `width` is read; only the first call has an effect.

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
        undefined(self, "forward")

    def shared(self, canonical: Canonical, prepared: Any) -> tuple[Float[Tensor, "k width"], Int[Tensor, " m"]] | None:
        """The features of `forward` as rows (K, width) that points share, and the row (M,) of each point.

        Encoders of values that depend on the frame alone override this; as the last encoder of an avatar they then
        reach the decoder as `Features.shared`. None, the default: each point has features of its own.
        """
        return None


class Decoder(SizedPart):
    """Turns features and directions into density or signed distance, and color.

    Attributes:
        gives: `"density"` or `"distance"`; the renderer turns it into weights.
        color_needs_normals: True if `color` reads `FieldValues.canonical_normal`. `forward` then never gives a color;
            the field computes the normals first and calls `color`.
    """

    gives: str = "density"
    color_needs_normals: bool = False
    _required = ("forward",)

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        """Called by `Avatar`, after the encoders are built; only the first call has an effect.

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
        undefined(self, "forward")

    def color(self, values: FieldValues, canonical: Canonical, prepared: Any) -> Float[Tensor, "m 3"]:
        """The color (M, 3) of M points from `values.geometry`; M = 0 is legal.

        Args:
            values: the result of `forward` at these points; with `canonical_normal` if `color_needs_normals`.
            canonical: the M points.
            prepared: the result of `prepare`.
        """
        raise NotImplementedError(f"{type(self).__name__}.color is not defined, but its values have a geometry")


class Field(ABC):
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

    @abstractmethod
    def near_far(self, rays: Rays) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval (N,), (N,) of each ray that can contain matter, meters; near >= far: there is none."""

    @abstractmethod
    def posed_bounds(self) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that contains the head in all frames, meters."""

    @abstractmethod
    def canonicalize(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"]
    ) -> Canonical:
        """Maps posed points to canonical space, differentiable as the deformer is.

        Args:
            points: (M, 3) in posed space, meters.
            directions: (M, 3) unit viewing directions in posed space.
            frame: (M,) each point's row of the state.
        """

    @abstractmethod
    def invert(self, points: Float[Tensor, "n 3"], frame: Int[Tensor, " n"], **options: Any) -> Inverse:
        """Posed positions of canonical points, for landmarks and meshes.

        Args:
            points: (N, 3) in canonical space, meters.
            frame: (N,) the row of the state in which each is posed.
            options: options of `headfields.deformers.invert`, which states what is differentiable.
        """

    @abstractmethod
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

    @abstractmethod
    def decode(self, canonical: Canonical, color: bool = True) -> FieldValues:
        """Density (1/m) or signed distance (m), and color, at M canonical points; `canonical.valid` is not consulted.

        Args:
            canonical: the M points.
            color: False leaves the color out, for occupancy and meshing.
        """

    @abstractmethod
    def density(self, canonical: Canonical) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, at M canonical points, for samplers; of distances, by `Renderer.density`."""

    @abstractmethod
    def color(self, values: FieldValues, canonical: Canonical) -> FieldValues:
        """`values`, decoded without color at the M points `canonical`, completed with the color.

        Cheaper than `decode` if the decoder fills `values.geometry`; otherwise decodes again.
        """

    @abstractmethod
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
        splats: the Gaussians in posed space, of an avatar of Gaussians.
        attached: the same in the coordinates of the deformer.
        rasterized: the result of `headfields.ops.rasterize_gaussians`, in training mode, for density control.
        means2d_offset, means2d_absgrad: (B, N, 2) zeros whose gradient, after the backward pass, is that by the
            projected centers, and the sum of its magnitudes over pixels.
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
    splats: Splats | None = None
    attached: Splats | None = None
    rasterized: Any = None
    means2d_offset: Float[Tensor, "b n 2"] | None = None
    means2d_absgrad: Float[Tensor, "b n 2"] | None = None


class Sampler(SizedPart):
    """Chooses the sample positions along rays."""

    _required = ("forward",)

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called through the renderer with the corners (2, 3) of the canonical box, meters; has effect once."""

    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        """Samples of N rays in posed space; N = 0 and M = 0 are legal.

        Args:
            rays: N rays, meters.
            field: the field of the rays' frames.

        Returns:
            M samples sorted by ray and distance, without those at invalid points, and their canonical points.
        """
        undefined(self, "forward")

    def padded(self, rays: Rays, field: Field, buffers: Any) -> tuple[Samples, Canonical]:
        """As `forward`, into buffers of a fixed size (`headfields.renderers.padded`), without a wait for the device.

        Samplers that have no such form leave this out.
        """
        undefined(self, "padded")

    def observe(self, canonical: Canonical, density: Float[Tensor, " m"]) -> None:
        """Called by the renderer in training with the density (M,), 1/m, detached, at M points of this sampler."""

    def due(self, step: int) -> bool:
        """Whether `update` has to be called before this training step."""
        return False

    def update(self, field: Field, step: int) -> None:
        """Called, through the renderer, before each `step` that is due, with the field of its frames."""


class Renderer(SizedPart):
    """Renders rays through a field.

    A renderer may have encoders and decoders of its own: the avatar builds the encoders and checks what both need, and
    the renderer prepares them, in `prepare`, whose result is `Field.renderer_prepared`.

    Attributes:
        takes: the fields it can render: a tuple of `Decoder.gives` values.
    """

    takes: tuple[str, ...] = ("density",)
    _required = ("forward",)

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """The renderer's own encoders."""
        return ()

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        """The renderer's own decoders."""
        return ()

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called by `Avatar`, last, with the corners `bounds` (2, 3) of the canonical box, meters; has effect once."""

    def forward(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        """Renders N rays; N = 0 is legal.

        Args:
            rays: rays in posed space, meters.
            field: the field of the rays' frames.
            background: (N, 3) color behind each ray, sRGB in [0, 1].
        """
        undefined(self, "forward")

    def draw_pieces(
        self, pieces: Sequence[slice], draw: Callable[[slice], "Rendering"], device: torch.device
    ) -> "list[Rendering]":
        """`draw` of each piece of an image's rays; a renderer may prepare something for each, and draw a piece again.

        Args:
            pieces: the rays of each.
            draw: calls the renderer with them.
            device: that of the state.
        """
        return [draw(piece) for piece in pieces]

    def due(self, step: int) -> bool:
        """Whether `update` has to be called before this training step."""
        return False

    def update(self, field: Field, step: int) -> None:
        """Called by the trainer before each step that is due, e.g. to update an occupancy grid."""

    def density(self, values: FieldValues) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, for samplers; a renderer of distances converts them."""
        if values.density is None:
            raise ValueError(
                f"{type(self).__name__}.density: the decoder gives no density; define it in the renderer, as "
                "headfields.renderers.SurfaceRenderer does for distances"
            )
        return values.density


def check_part(owner: str, name: str, value: Any, noun: type[Part]) -> None:
    """Raises TypeError, naming the argument `name` of `owner`, unless `value` is an instance of `noun`."""
    if isinstance(value, noun):
        return
    expected = f"expected a headfields {noun.__name__}"
    if isinstance(value, type):
        raise TypeError(f"{owner}: {name} is the class {value.__name__}; {expected}, so call it: {value.__name__}(...)")
    kind = type(value).__name__
    if isinstance(value, Sampler) and noun is Renderer:
        expected += f", and {kind} is its sampler: headfields.renderers.VolumeRenderer({kind}(...))"
    elif isinstance(value, Deformer | Encoder | Decoder | Sampler | Renderer):
        other = next(base for base in (Deformer, Encoder, Decoder, Sampler, Renderer) if isinstance(value, base))
        expected += f", and {kind} is a {other.__name__}"
    raise TypeError(f"{owner}: {name} is {'None' if value is None else f'a {kind}'}; {expected}")


if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
