"""An avatar: a deformer, an encoder (and conditions), a decoder, a renderer, tables of codes; its field of frames."""

import math
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.avatar.composition import (
    Composition,
    check_definition,
    check_devices,
    check_fit,
    check_width,
    conditions_of,
    explained,
    features_of,
    given_conditions,
    sizes_of,
    unbuilt_on_error,
    warn_of_inverse,
)
from headfields.avatar.views import render_views
from headfields.deformers.inverse import invert
from headfields.encoders.vertex_source import cached_vertex_features
from headfields.networks.latent_table import LatentTable
from headfields.ops.background import background_pixels, check_ray_background
from headfields.ops.srgb import BRIGHTEST
from headfields.ops.vectors import smooth_unit
from headfields.part_base import Part
from headfields.parts import Decoder, Deformer, Encoder, Field, Renderer, Rendering, check_part
from headfields.records import (
    Camera,
    Canonical,
    Correction,
    FieldValues,
    HeadState,
    Inverse,
    Rays,
    Template,
    check_meters,
)
from headfields.records.annotated import is_readable
from headfields.records.device_copy import any_directions
from headfields.records.precision import full_precision

_CHUNK = 1 << 13
"""Points at a time of `signed_distance` without a graph to keep: until its gradient is computed, a point needs up to
100 kB of activations (an ensemble of 13 networks)."""


class AvatarField(Field):
    """The `Field` of an avatar.

    Under `torch.autocast` encoders and decoders compute in the low precision; deformers do not (bfloat16 resolves a
    point of a head to half a millimeter), and the decoder's output is converted to float32.

    Args:
        avatar: the avatar.
        state: B frames; `Avatar.field` checks first that they have what the parts need.
    """

    avatar: "Avatar"

    def __init__(self, avatar: "Avatar", state: HeadState) -> None:
        self.avatar = avatar
        self.deformer = avatar.deformer
        self.decoder = avatar.decoder
        self.state = state
        with full_precision(state.vertices):
            self._deformer_prepared = avatar.deformer.prepare(state)
        with cached_vertex_features():
            self._encoders = [(encoder, encoder.prepare(state)) for encoder in avatar.encoders]
            self._decoder_prepared = avatar.decoder.prepare(state)
            self.renderer_prepared = avatar.renderer.prepare(state)

    def near_far(self, rays: Rays) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        with full_precision(rays.origins):
            return self.deformer.near_far(rays, self._deformer_prepared)

    def posed_bounds(self) -> Float[Tensor, "2 3"]:
        return self.deformer.posed_bounds(self._deformer_prepared)

    def canonicalize(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"]
    ) -> Canonical:
        with full_precision(points):
            canonical = self.deformer(points, directions, frame, self._deformer_prepared)
        _check_canonical(self.deformer, canonical, len(points))
        if is_readable(canonical.points) and not math.isfinite(float(canonical.points.detach().sum())):
            _check_finite_points(self.deformer, canonical)
        return canonical

    def invert(self, points: Float[Tensor, "n 3"], frame: Int[Tensor, " n"], **options: Any) -> Inverse:
        with full_precision(points):
            return invert(self.deformer, self._deformer_prepared, points, frame, **options)

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], jacobians: bool = False
    ) -> list[Correction]:
        if not self.deformer.corrects:
            raise ValueError(
                f"the avatar's deformer {type(self.deformer).__name__} has no learned correction; "
                "put a headfields.deformers.ErrorWarp into its Chain, or leave the losses on it out"
            )
        with full_precision(points):
            return self.deformer.corrections(points, frame, self._deformer_prepared, jacobians)

    def decode(self, canonical: Canonical, color: bool = True) -> FieldValues:
        if color and self.decoder.color_needs_normals:
            return self._decode_with_normals(canonical)
        values = self.decoder(features_of(self._encoders, canonical), canonical, self._decoder_prepared, color)
        _check_values(self.decoder, values, len(canonical), color)
        if values.rgb is not None:
            _warn_of_bright_colors(self.decoder, values.rgb)
        return values.map(_single_precision)

    def density(self, canonical: Canonical) -> Float[Tensor, " m"]:
        return self.avatar.renderer.density(self.decode(canonical, color=False))

    def color(self, values: FieldValues, canonical: Canonical) -> FieldValues:
        if values.geometry is None or (self.decoder.color_needs_normals and values.canonical_normal is None):
            return values.replace(rgb=self.decode(canonical).rgb)
        rgb = self.decoder.color(values, canonical, self._decoder_prepared)
        _warn_of_bright_colors(self.decoder, rgb)
        return values.replace(rgb=_single_precision(rgb))

    def signed_distance(
        self,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        directions: Float[Tensor, "m 3"] | None = None,
        color: bool = False,
        create_graph: bool | None = None,
    ) -> tuple[Canonical, FieldValues]:
        if self.decoder.gives != "distance":
            raise ValueError(
                f"Field.signed_distance: {type(self.decoder).__name__} gives {self.decoder.gives}; use a decoder of "
                "distances (headfields.decoders.NeuSDecoder), or canonicalize and decode for the density"
            )
        if directions is None:
            directions = any_directions(points)
        if torch.is_grad_enabled() if create_graph is None else create_graph:
            return self._differentiated(points, directions, frame, color, True)
        chunks = []
        for begin in range(0, max(len(points), 1), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            inputs = points[chunk].detach(), directions[chunk].detach(), frame[chunk]
            chunks.append(self._differentiated(*inputs, color, False))
        canonicals, values = zip(*chunks, strict=True)
        return Canonical.cat(canonicals), FieldValues.cat(values)

    def _differentiated(
        self, points: Tensor, directions: Tensor, frame: Tensor, color: bool, graph: bool
    ) -> tuple[Canonical, FieldValues]:
        later = color and self.decoder.color_needs_normals
        with torch.enable_grad():
            if not points.requires_grad:
                points = points.view_as(points).requires_grad_()  # detach would lose a tangent of forward mode
            canonical = self.canonicalize(points, directions, frame)
            values = self.decode(canonical, color=color and not later)
            (distance,) = values.require("distance")
            gradient, inner = _gradients(distance, [points, canonical.points], graph)
            values = values.replace(
                gradient=gradient, normal=smooth_unit(gradient), canonical_normal=smooth_unit(inner)
            )
        if not graph:
            canonical, values = canonical.detach(), values.detach()
        with torch.set_grad_enabled(graph):
            return canonical, self.color(values, canonical) if later else values

    def _decode_with_normals(self, canonical: Canonical) -> FieldValues:
        """Values with color, of a decoder whose color needs normals: derivatives by the canonical points."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = canonical.points
            if not (graph and points.requires_grad):
                points = (points.view_as(points) if graph else points.detach()).requires_grad_()
            canonical = canonical.replace(points=points)
            values = self.decode(canonical, color=False)
            (distance,) = values.require("distance")
            (inner,) = _gradients(distance, [points], graph)
            values = self.color(values.replace(canonical_normal=smooth_unit(inner)), canonical)
        return values if graph else values.detach()


def _check_canonical(deformer: Deformer, canonical: Any, count: int) -> None:
    """Raises TypeError or ValueError unless the deformer has given what it declares, for `count` points."""
    name = type(deformer).__name__
    if not isinstance(canonical, Canonical):
        raise TypeError(f"{name}.forward has returned a {type(canonical).__name__}; expected a headfields.Canonical")
    if len(canonical) != count:
        raise ValueError(f"{name}.forward has returned {len(canonical)} canonical points for {count} posed ones")
    if deformer.gives_faces and canonical.face is None:
        raise ValueError(
            f"{name}.gives_faces is True, and the Canonical of its forward has no face; fill face, barycentric and "
            "distance, or set gives_faces to False"
        )
    width = 0 if canonical.ambient is None else canonical.ambient.shape[1]
    if width != deformer.ambient_width:
        raise ValueError(
            f"{name}.ambient_width is {deformer.ambient_width}, and the Canonical of its forward has {width} "
            "hyper-coordinates in `ambient`; let the two agree"
        )


def _check_values(decoder: Decoder, values: Any, count: int, color: bool) -> None:
    """Raises TypeError or ValueError unless the decoder has given what it declares, for `count` points."""
    name = type(decoder).__name__
    if not isinstance(values, FieldValues):
        raise TypeError(f"{name}.forward has returned a {type(values).__name__}; expected headfields.FieldValues")
    geometry = getattr(values, decoder.gives)
    if geometry is None:
        raise ValueError(
            f"{name}.gives is {decoder.gives!r}, and the FieldValues of its forward have no {decoder.gives}; fill it, "
            "or let gives say what they have"
        )
    if color and values.rgb is None:
        raise ValueError(f"{name}.forward has returned no rgb although color is True; fill it, (M, 3) in [0, 1]")
    if len(geometry) != count:
        raise ValueError(f"{name}.forward has returned {len(geometry)} values for {count} points")


def _warn_of_bright_colors(decoder: Decoder, rgb: Tensor) -> None:
    """Warns of colors that look like bytes, once for each class of decoder; not on a GPU, which would be waited for."""
    name = type(decoder).__name__
    if name in _bright or not rgb.numel() or not is_readable(rgb) or not float(rgb.detach().max()) > BRIGHTEST:
        return
    _bright.add(name)
    warnings.warn(
        f"{name} gives colors above {BRIGHTEST:g}, drawn as white; colors are in [0, 1] (divide bytes by 255)",
        stacklevel=2,
    )


_bright: set[str] = set()


def _check_rendering(renderer: Renderer, rendering: Any, count: int) -> Rendering:
    name = type(renderer).__name__
    if not isinstance(rendering, Rendering):
        raise TypeError(f"{name}.forward has returned a {type(rendering).__name__}; expected headfields.Rendering")
    if len(rendering.rgb) != count:
        raise ValueError(f"{name}.forward has returned {len(rendering.rgb)} colors for {count} rays")
    return rendering


def _check_finite_points(deformer: Deformer, canonical: Canonical) -> None:
    bad = canonical.valid & ~canonical.points.isfinite().all(dim=-1)
    given = canonical.posed_points[bad].isfinite().all(dim=-1)
    if bool(given.any()):
        raise ValueError(
            f"{type(deformer).__name__}: canonical.points is not finite (NaN or infinity) at {int(given.sum())} of "
            f"{len(canonical)} points that are valid; mark points without an image in Canonical.valid (False)"
        )


def _check_rays(rays: Rays, state: HeadState) -> None:
    """Raises unless rays and state have one dtype and, on the CPU, the rays are finite: they would be empty space."""
    if rays.origins.dtype != state.vertices.dtype:
        raise TypeError(
            f"Avatar: rays.origins has dtype {rays.origins.dtype} and state.vertices {state.vertices.dtype}; build "
            "camera and state from tensors of one dtype, float32"
        )
    if is_readable(rays.origins, rays.directions):
        for name in ("origins", "directions"):
            values = getattr(rays, name).detach()
            if not math.isfinite(float(values.sum())):
                bad = int((~values.isfinite().all(dim=-1)).sum())
                raise ValueError(f"Avatar: rays.{name} is not finite (NaN or infinity) in {bad} of {len(rays)} rays")


def _single_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _gradients(distance: Tensor, by: list[Tensor], graph: bool) -> list[Tensor]:
    """The derivatives of M distances by each of these (M, 3) points, zero where they do not depend on them."""
    inputs = [points for points in by if points.requires_grad]
    with full_precision(distance):  # networks keep the precision of their forward pass
        gradients = iter(
            torch.autograd.grad(
                distance, inputs, torch.ones_like(distance), create_graph=graph, allow_unused=True,
                materialize_grads=True,
            )
        )  # fmt: skip
    return [next(gradients) if points.requires_grad else torch.zeros_like(points) for points in by]


class Avatar(Composition):
    """Composes a deformer, an encoder, a decoder and a renderer, and checks that they fit.

    A part is built once, for the sizes of its first avatar: the canonical box, the number of hyper-coordinates, the
    width of the features. In a second avatar of the same sizes it is shared, with its weights (`replace`). New parts
    are moved to the device of the deformer.

    Args:
        deformer: posed space to canonical space.
        encoder: canonical points to features.
        decoder: features to density or distance, and color.
        renderer: rays through the field.
        condition: further encoders, whose features follow the encoder's.
        template: the mesh that the avatar is built on, kept and saved with it.
        codes: latent tables by the names of the codes that they fill in each state that lacks them:
            `{"appearance": headfields.networks.LatentTable(len(capture), 8)}`.

    Attributes:
        preview: a camera and a frame for a picture of the avatar, or None; saved with it.

    Raises:
        TypeError: an argument is another kind of part, or a part lacks a method that its noun requires.
        ValueError: parts do not fit, by name: the condition reads faces and the deformer gives none, the renderer
            does not accept the decoder's output, an encoder reads fewer hyper-coordinates than the deformer gives, no
            part reads a code, or one of another width, a part was built for other sizes, or parts are on several
            devices.
    """

    _in_file = MappingProxyType({
        "deformer": True, "encoder": True, "decoder": True, "renderer": True, "condition": False, "codes": False
    })  # fmt: skip

    @explained
    def __init__(
        self,
        deformer: Deformer,
        encoder: Encoder,
        decoder: Decoder,
        renderer: Renderer,
        condition: Encoder | Iterable[Encoder] | None = None,
        template: Template | None = None,
        codes: Mapping[str, LatentTable] | None = None,
    ) -> None:
        super().__init__()
        conditions = conditions_of(condition)
        nouns: tuple[tuple[str, Any, type[Part]], ...] = (
            ("deformer", deformer, Deformer), ("encoder", encoder, Encoder), ("decoder", decoder, Decoder),
            ("renderer", renderer, Renderer), *(("condition", part, Encoder) for part in conditions),
        )  # fmt: skip
        for name, part, noun in nouns:
            check_part("Avatar", name, part, noun)
        for name, part, _ in nouns:
            check_definition(name, part)
        for part in (encoder, *conditions, *renderer.encoders):
            check_fit(part, deformer)
        if decoder.gives not in renderer.takes:
            raise ValueError(
                f"Avatar: {type(decoder).__name__} gives {decoder.gives}, and {type(renderer).__name__} takes "
                f"{' or '.join(renderer.takes)}; choose a renderer that takes it"
            )
        self.deformer = deformer
        self.encoder = encoder
        self.conditions = nn.ModuleList(conditions)
        self.decoder = decoder
        self.renderer = renderer
        self._take(template, codes)
        with unbuilt_on_error(self):
            self._build(deformer.bounds())

    def _build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Builds the parts that are new for their sizes, on the device of the deformer; checks those that are not."""
        check_devices(self, bounds.device)
        deformer, renderer = self.deformer, self.renderer
        surface = f"the deformer {type(deformer).__name__}"
        with sizes_of(self, surface):
            for part in (*self.encoders, *renderer.encoders):
                part.build(bounds, deformer.ambient_width)
                check_width(part)
        widths = " + ".join(f"{part.width} ({type(part).__name__})" for part in self.encoders)
        with sizes_of(self, f"{surface} with features {widths}"):
            self.decoder.build(sum(part.width for part in self.encoders), bounds)
        with sizes_of(self, surface):
            renderer.build(bounds)
        self._settle(bounds.device)

    @property
    def composition(self) -> dict[str, Any]:
        """The arguments that make an avatar of the same parts, by name."""
        return {
            "deformer": self.deformer, "encoder": self.encoder, "decoder": self.decoder, "renderer": self.renderer,
            "condition": list(self.conditions), "template": self.template, "codes": dict(self.codes.items()),
        }  # fmt: skip

    @property
    def condition(self) -> Encoder | list[Encoder] | None:
        """The conditions as they were given: None, one, or several."""
        return given_conditions(self.conditions)

    @property
    def encoders(self) -> list[Encoder]:
        """The encoder and the conditions, in the order of their features."""
        return [self.encoder, *self.conditions]

    @property
    def _further_parts(self) -> tuple[Part, ...]:
        renderer = self.renderer
        return (self.decoder, renderer, *renderer.encoders, *renderer.decoders)

    def field(self, state: HeadState) -> Field:
        """The avatar bound to B frames, with the codes of its tables (`with_codes`).

        Raises:
            TypeError: the state is of another dtype than the deformer.
            ValueError: the state lacks what a part needs; the message says which part and which field.
        """
        state = self.with_codes(state)
        self.check_needs(state)
        own = (*self.deformer.parameters(), *self.deformer.buffers())
        dtype = next((tensor.dtype for tensor in own if tensor.is_floating_point()), state.vertices.dtype)
        if state.vertices.dtype != dtype:
            raise TypeError(
                f"Avatar: state.vertices has dtype {state.vertices.dtype}, and the deformer "
                f"{type(self.deformer).__name__} {dtype}; build the state from tensors of {dtype}, or convert the "
                "avatar: avatar.double()"
            )
        return AvatarField(self, state)

    def forward(self, rays: Rays, state: HeadState, background: Float[Tensor, "n 3"]) -> Rendering:
        """Renders N rays, with gradients to weights, state, rays and background where the parts are differentiable.

        Args:
            rays: N rays in posed space, meters; `rays.frame` is the row of the state that each one sees.
            state: B frames.
            background: (N, 3) color behind each ray, sRGB in [0, 1].

        Returns:
            A `Rendering` of (N, ...) tensors, with the samples and weights for the losses. N = 0 is legal.

        Raises:
            TypeError: rays and state have two dtypes.
            ValueError: the state lacks what a part needs; the message says which part and which field. A background of
                another shape. On the CPU also: rays that are not finite, and canonical points that are valid and not
                finite; on CUDA, where they are not read, such rays are empty space.
        """
        _check_rays(rays, state)
        check_ray_background("Avatar", background, len(rays))
        return _check_rendering(self.renderer, self.renderer(rays, self.field(state), background), len(rays))

    @torch.no_grad()
    def update(self, state: HeadState, step: int) -> None:
        """Called before each training step: `Part.at_step` of every part, and `Renderer.update` if it is due.

        Args:
            state: the B frames of the step.
            step: its number, from 0.
        """
        for part in self.modules():
            if isinstance(part, Part):
                part.at_step(step)
        if self.renderer.due(step):
            self.renderer.update(self.field(state), step)

    @torch.no_grad()
    def render(
        self, camera: Camera, state: HeadState, background: float | int | Tensor | np.ndarray = 1.0, chunk: int = 16384
    ) -> Rendering:
        """An image of a frame, or B of them, without gradients, in evaluation mode.

        Args:
            camera: one camera, or B of one size.
            state: one frame, or B. One camera sees all frames, and one frame is seen by all cameras.
            background: a gray level, a color (3,), an image (H, W, 3) or one for each (B, H, W, 3), sRGB in [0, 1].
            chunk: rays at a time: fewer take less memory and, below the default, longer.

        Returns:
            A `Rendering` of (H, W, ...) tensors, of (B, H, W, ...) for several cameras or frames, depth in meters along
            the ray, in the state's dtype, whatever the camera's, and under autocast too. A view without the head is
            legal; a warning says so if the inverse of `world_to_camera` would show it.

        Raises:
            TypeError: a background of 8-bit integers.
            ValueError: cameras and frames are not as many, or one; the state lacks what a part needs; a background of
                another size, or outside [0, 1]; on the CPU also: vertices that are not finite or not in meters.
        """

        def draw(camera: Camera, state: HeadState, background: Any) -> Rendering:
            return self._image(camera, state, background, chunk)

        return render_views("Avatar.render", draw, camera, state, background)

    def _image(self, camera: Camera, state: HeadState, background: Any, chunk: int) -> Rendering:
        """The image (H, W, ...) of one camera and one frame."""
        if is_readable(state.vertices):
            check_meters("Avatar.render", "state.vertices", state.vertices)
        color = background_pixels("Avatar.render", background, camera.size, state.vertices.device)
        with self.evaluating():
            field = self.field(state)
            warn_of_inverse(camera, field.posed_bounds())
            dtype = state.vertices.dtype
            rays = camera.rays().map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

            def draw(piece: slice) -> Rendering:
                result = self.renderer(rays[piece], field, color[piece].to(dtype))
                _check_rendering(self.renderer, result, len(rays[piece].frame))
                return result.replace(samples=None, weights=None)

            pieces = [slice(begin, begin + chunk) for begin in range(0, max(len(rays), 1), chunk)]
            parts = self.renderer.draw_pieces(pieces, draw, state.vertices.device)
        height, width = camera.size

        def image(name: str) -> Any:
            pieces = [getattr(part, name) for part in parts]
            return None if pieces[0] is None else torch.cat(pieces).unflatten(0, (height, width))

        return Rendering(rgb=image("rgb"), opacity=image("opacity"), depth=image("depth"), normal=image("normal"))
