"""An avatar: a deformer, an encoder (and conditions), a decoder, a renderer, tables of codes; its field of frames."""

import contextlib
import difflib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.annotated import is_readable
from headfields.deformers.chain import Chain
from headfields.deformers.inverse import invert
from headfields.encoders.vertex_source import cached_vertex_features
from headfields.files.reading import brief, reading
from headfields.networks.latent_table import LatentTable
from headfields.ops.background import background_pixels, check_ray_background
from headfields.parts import (
    Decoder,
    Deformer,
    Encoder,
    Field,
    Part,
    Renderer,
    Rendering,
    Sampler,
    SizedPart,
    check_part,
    sizes_of,
    undefined_methods,
)
from headfields.precision import full_precision
from headfields.records import (
    Camera,
    Canonical,
    Correction,
    Features,
    FieldValues,
    HeadState,
    Inverse,
    Rays,
    Template,
    check_meters,
)
from headfields.saved_checks import load_state, unsound
from headfields.saving import read_parts, write_parts

_PARTS = {
    "deformer": True, "encoder": True, "decoder": True, "renderer": True, "condition": False, "codes": False
}  # fmt: skip
"""The parts in an avatar's file, and whether each is needed."""

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
        values = self.decoder(self._features(canonical), canonical, self._decoder_prepared, color)
        _check_values(self.decoder, values, len(canonical), color)
        return values.map(_single_precision)

    def _features(self, canonical: Canonical) -> Features:
        """The features of all encoders; those of the last condition as shared rows where it has such."""
        encoders = self._encoders
        encoder, prepared = encoders[-1]
        shared = encoder.shared(canonical, prepared) if len(encoders) > 1 else None
        own = [_encoded(*each, canonical) for each in (encoders if shared is None else encoders[:-1])]
        return Features(own[0] if len(own) == 1 else torch.cat(own, dim=-1), *(shared or ()))

    def density(self, canonical: Canonical) -> Float[Tensor, " m"]:
        return self.avatar.renderer.density(self.decode(canonical, color=False))

    def color(self, values: FieldValues, canonical: Canonical) -> FieldValues:
        if values.geometry is None or (self.decoder.color_needs_normals and values.canonical_normal is None):
            return values.replace(rgb=self.decode(canonical).rgb)
        return values.replace(rgb=_single_precision(self.decoder.color(values, canonical, self._decoder_prepared)))

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
            directions = points.new_tensor([0.0, 0.0, -1.0]).expand_as(points)
        if torch.is_grad_enabled() if create_graph is None else create_graph:
            return self._differentiated(points, directions, frame, color, True)
        chunks = []
        with _frozen(self.avatar):
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
            values = values.replace(gradient=gradient, normal=_unit(gradient), canonical_normal=_unit(inner))
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
            values = self.color(values.replace(canonical_normal=_unit(inner)), canonical)
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


def _encoded(encoder: Encoder, prepared: Any, canonical: Canonical) -> Float[Tensor, "m width"]:
    features: Any = encoder(canonical, prepared)
    expected = (len(canonical), encoder.width)
    if not isinstance(features, Tensor) or features.shape != expected:
        what = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise ValueError(
            f"{type(encoder).__name__}.forward has returned {what}; expected features of shape {expected}: one row for "
            "each point, and as many as its width says"
        )
    return features


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


def _check_rendering(renderer: Renderer, rendering: Any, count: int) -> Rendering:
    name = type(renderer).__name__
    if not isinstance(rendering, Rendering):
        raise TypeError(f"{name}.forward has returned a {type(rendering).__name__}; expected headfields.Rendering")
    if len(rendering.rgb) != count:
        raise ValueError(f"{name}.forward has returned {len(rendering.rgb)} colors for {count} rays")
    return rendering


def _check_definition(name: str, part: Part) -> None:
    """Raises TypeError unless the part, and those within it, define what their nouns require."""
    for inner in part.modules():
        if not isinstance(inner, Part):
            continue
        kind = type(inner).__name__
        missing = undefined_methods(inner)
        if missing:
            raise TypeError(
                f"Avatar: {name}: {kind} does not define {' or '.join(missing)}; headfields.parts.{_noun(inner)} "
                "says what it gets and returns"
            )
        if isinstance(inner.needs, str):
            raise TypeError(f"Avatar: {kind}.needs is the string {inner.needs!r}; expected names: ({inner.needs!r},)")
        if isinstance(inner, Decoder) and inner.gives not in ("density", "distance"):
            raise ValueError(f"Avatar: {kind}.gives is {inner.gives!r}; expected 'density' or 'distance'")


def _noun(part: Part) -> str:
    nouns = (Deformer, Encoder, Decoder, Renderer, Sampler)
    return next((noun.__name__ for noun in nouns if isinstance(part, noun)), Part.__name__)


def _check_width(encoder: Encoder) -> None:
    width = getattr(encoder, "width", None)
    if not isinstance(width, int) or isinstance(width, bool) or width < 0:
        raise ValueError(
            f"Avatar: {type(encoder).__name__}.width is {width!r}; expected the number of its features, set in its "
            "constructor or in build"
        )


def _check_devices(avatar: "Avatar", device: torch.device) -> None:
    """Raises ValueError unless all tensors are on the deformer's device; those of new parts may be on the CPU yet."""
    for name, part in avatar.named_modules():
        if not isinstance(part, Part):
            continue
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.device != device and (part.composed or tensor.device.type != "cpu"):
                raise ValueError(
                    f"Avatar: {name}, a {type(part).__name__}, is on {tensor.device} and the deformer "
                    f"{type(avatar.deformer).__name__} on {device}; move one of them with .to(device) first"
                )


@contextlib.contextmanager
def _unbuilt_on_error(avatar: "Avatar") -> Iterator[None]:
    """After an error within the block, the parts that were new are new again."""
    new = [part for part in avatar.modules() if isinstance(part, SizedPart) and part.built_for is None]
    try:
        yield
    except BaseException:
        for part in new:
            part.built_for = None
        raise


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


def _warn_of_inverse(camera: Camera, box: Float[Tensor, "2 3"]) -> None:
    """Warns if the head lies outside the image, and would lie inside if world_to_camera were inverted."""
    corners = torch.cartesian_prod(*box.detach().double().cpu().unbind(dim=1))
    pose = camera.world_to_camera.detach().double().cpu().reshape(4, 4)
    lens = camera.intrinsics.detach().double().cpu().reshape(3, 3)
    height, width = camera.size

    def image(pose: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        local = (points @ pose[:3, :3].T + pose[:3, 3]) @ lens.T
        return local[:, :2] / local[:, 2:], local[:, 2]

    pixels, depth = image(pose, corners)
    outside = ((pixels < 0).all(dim=0) | (pixels > pixels.new_tensor([width, height])).all(dim=0)).any()
    if not bool((depth <= 0).all() | (outside & (depth > 0).all())):
        return
    center, depth = image(torch.linalg.inv(pose), corners.mean(dim=0, keepdim=True))
    if bool(((center >= 0) & (center <= center.new_tensor([width, height]))).all() & (depth > 0).all()):
        warnings.warn(
            "Avatar.render: the head lies outside the image, and inside it with the inverse of camera.world_to_camera; "
            "if the matrix is camera-to-world, pass torch.linalg.inv(matrix)",
            stacklevel=4,
        )


def _single_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _unit(vectors: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
    """Vectors (M, 3) of length 1, near 0 for those near 0; smooth everywhere, unlike PyTorch's `normalize`."""
    return vectors * (vectors.square().sum(dim=-1, keepdim=True) + 1e-12).rsqrt()


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Parameters without `requires_grad` within the block: an operation cannot know that the gradient of a table that
    requires one will not be used, and would spend a third of the time of rendering on it."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _gradients(distance: Tensor, by: list[Tensor], graph: bool) -> list[Tensor]:
    """The derivatives of M distances by each of these (M, 3) points, zero where they do not depend on them."""
    inputs = [points for points in by if points.requires_grad]
    gradients = iter(
        torch.autograd.grad(
            distance, inputs, torch.ones_like(distance), create_graph=graph, allow_unused=True, materialize_grads=True
        )
    )
    return [next(gradients) if points.requires_grad else torch.zeros_like(points) for points in by]


class Avatar(nn.Module):
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
        conditions: list[Any] = []
        if condition is not None:
            several = isinstance(condition, Iterable) and not isinstance(condition, Part | type)
            conditions = list(condition) if several else [condition]  # type: ignore[arg-type]
        nouns: tuple[tuple[str, Any, type[Part]], ...] = (
            ("deformer", deformer, Deformer), ("encoder", encoder, Encoder), ("decoder", decoder, Decoder),
            ("renderer", renderer, Renderer), *(("condition", part, Encoder) for part in conditions),
        )  # fmt: skip
        for name, part, noun in nouns:
            check_part("Avatar", name, part, noun)
        if template is not None and not isinstance(template, Template):
            raise TypeError(f"Avatar: template is a {type(template).__name__}; expected a headfields Template, or None")
        for name, part, _ in nouns:
            _check_definition(name, part)
        for part in (encoder, *conditions, *renderer.encoders):
            if part.needs_faces and not deformer.gives_faces:
                raise ValueError(
                    f"Avatar: {type(part).__name__} reads the nearest triangle, which {type(deformer).__name__} does "
                    "not give; use a surface deformer, or a Chain that has one"
                )
            counts = part.face_count, deformer.face_count
            if part.needs_faces and None not in counts and counts[0] != counts[1]:
                raise ValueError(
                    f"Avatar: {type(part).__name__} is made for {counts[0]} faces, and {type(deformer).__name__} has "
                    f"{counts[1]}; make both from one template (template.faces, template.regions)"
                )
            if part.most_ambient is not None and deformer.ambient_width > part.most_ambient:
                raise ValueError(
                    f"Avatar: {type(deformer).__name__} gives {deformer.ambient_width} hyper-coordinates, and "
                    f"{type(part).__name__} reads at most {part.most_ambient}; build the deformer with fewer "
                    f"(ambient={part.most_ambient}), or use another encoder"
                )
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
        self.template = template
        self.codes = nn.ModuleDict()
        if not isinstance(codes, Mapping | None):
            raise TypeError(
                f"Avatar: codes is a {type(codes).__name__}; expected latent tables by the names of the codes, "
                '{"appearance": headfields.networks.LatentTable(len(capture), 8)}'
            )
        for name, table in (codes or {}).items():
            self._add_codes(name, table)
        self.preview: tuple[Camera, HeadState] | None = None
        with _unbuilt_on_error(self):
            self._build(deformer.bounds())

    def _build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Builds the parts that are new for their sizes, on the device of the deformer; checks those that are not."""
        _check_devices(self, bounds.device)
        deformer, renderer = self.deformer, self.renderer
        surface = f"the deformer {type(deformer).__name__}"
        with sizes_of(surface):
            for part in (*self.encoders, *renderer.encoders):
                part.build(bounds, deformer.ambient_width)
                _check_width(part)
        widths = " + ".join(f"{part.width} ({type(part).__name__})" for part in self.encoders)
        with sizes_of(f"{surface} with features {widths}"):
            self.decoder.build(sum(part.width for part in self.encoders), bounds)
        with sizes_of(surface):
            renderer.build(bounds)
        for child in self.children():
            if child is not deformer:
                child.to(bounds.device)
        for module in self.modules():
            if isinstance(module, Part):
                module.composed = True

    def replace(self, **parts: Any) -> "Avatar":
        """An avatar with some parts replaced, which shares the others with this one.

        Shared parts are the same objects: training one avatar trains them in both. `copy.deepcopy` of an avatar gives
        one of its own first. Parts given here are built for this avatar if they are new, and keep their weights if they
        have been in another one. The new avatar and the parts given take this avatar's mode (training or evaluation),
        and the new avatar its `preview`.

        Args:
            parts: arguments of `Avatar` by name: `deformer`, `encoder`, `condition`, `decoder`, `renderer`,
                `template`, `codes`. None removes conditions, the template or the codes.

        Raises:
            TypeError: there is no such argument; further as `Avatar`.
            ValueError: as `Avatar`: the parts do not fit, or a shared one is built for sizes that the new ones change.
        """
        own = self.composition
        unknown = [name for name in parts if name not in own]
        if unknown:
            close = difflib.get_close_matches(unknown[0], own, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise TypeError(f"Avatar.replace: no part is called {unknown[0]!r}; {guess}It takes {', '.join(own)}")
        made = type(self)(**(own | parts))
        shared = {id(part) for part in self.modules()}
        for part in made.modules():
            if id(part) not in shared:
                part.training = self.training
        made.preview = self.preview
        return made

    @property
    def composition(self) -> dict[str, Any]:
        """The arguments that make an avatar of the same parts, by name."""
        return {
            "deformer": self.deformer, "encoder": self.encoder, "decoder": self.decoder, "renderer": self.renderer,
            "condition": list(self.conditions), "template": self.template, "codes": dict(self.codes.items()),
        }  # fmt: skip

    def _add_codes(self, name: str, table: LatentTable) -> None:
        if not isinstance(table, LatentTable):
            raise TypeError(
                f"Avatar: codes[{name!r}] is a {type(table).__name__}; expected a headfields.networks.LatentTable"
            )
        if name in HeadState.__dataclass_fields__ or "." in name or hasattr(self.codes, name):
            raise ValueError(
                f"Avatar: codes has {name!r}, which is a field of HeadState or of a module, or has a dot; "
                "give the code another name, in the part that reads it too"
            )
        readers = [part for part in self.modules() if isinstance(part, Part) and name in part.needs]
        if not readers:
            read = [need for need in self.needs if need not in HeadState.__dataclass_fields__]
            raise ValueError(
                f"Avatar: codes has {name!r}, and no part needs it; the parts need the codes {read or 'of no name'}. "
                "A part of your own names what it reads in its `needs`"
            )
        for part in readers:
            width = part.code_widths.get(name, table.width)
            if width != table.width:
                raise ValueError(
                    f"Avatar: codes[{name!r}] is a LatentTable {table.width} wide, and {type(part).__name__} reads "
                    f"{width} values of it; make the table {width} wide, or the part read {table.width}"
                )
        table.build()
        self.codes[name] = table

    @property
    def encoders(self) -> list[Encoder]:
        """The encoder and the conditions, in the order of their features."""
        return [self.encoder, *self.conditions]

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of `HeadState`, besides the vertices, that some part reads; codes of tables among them."""
        return tuple(dict.fromkeys(name for part in self._prepared_parts for name in part.needs))

    @property
    def _prepared_parts(self) -> tuple[Part, ...]:
        """The parts whose `prepare` reads the state."""
        deformer, renderer = self.deformer, self.renderer
        links = deformer.deformers if isinstance(deformer, Chain) else [deformer]
        return (*links, *self.encoders, self.decoder, renderer, *renderer.encoders, *renderer.decoders)

    def with_codes(self, state: HeadState) -> HeadState:
        """The state with the codes of the avatar's tables, to read or to change; a code that it carries stays.

        In training mode and with gradients enabled, the frames' rows count as trained from now on.

        Raises:
            ValueError, IndexError: as `headfields.networks.LatentTable.of_state`.
        """
        lacking = [name for name in self.codes if name not in state.codes]
        if not lacking:
            return state
        tables: Any = self.codes
        return state.replace(codes={**state.codes, **{name: tables[name].of_state(name, state) for name in lacking}})

    def field(self, state: HeadState) -> Field:
        """The avatar bound to B frames, with the codes of its tables (`with_codes`).

        Raises:
            ValueError: the state lacks what a part needs; the message says which part and which field.
        """
        state = self.with_codes(state)
        for part in self._prepared_parts:
            for name in part.needs:
                state.need(type(part).__name__, name, part.code_widths.get(name))
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
        """An image of one frame, without gradients, in evaluation mode.

        Args:
            camera: one camera (or a batch of one).
            state: one frame.
            background: a gray level, a color (3,) or an image (H, W, 3), sRGB in [0, 1].
            chunk: rays at a time: fewer take less memory and, below the default, longer.

        Returns:
            A `Rendering` of (H, W, ...) tensors, depth in meters along the ray, in the state's dtype, whatever the
            camera's, and under autocast too. A view without the head is legal; a warning says so if the inverse of
            `world_to_camera` would show it.

        Raises:
            TypeError: a background of 8-bit integers.
            ValueError: the state has not one frame, or lacks what a part needs; a background of another size, or
                outside [0, 1]; on the CPU also: vertices that are not finite or not in meters.
        """
        if len(state) != 1:
            raise ValueError(f"Avatar.render: state has {len(state)} frames; index one, state[0]")
        if is_readable(state.vertices):
            check_meters("Avatar.render", "state.vertices", state.vertices)
        color = background_pixels("Avatar.render", background, camera.size, state.vertices.device)
        modes = [(part, part.training) for part in self.modules()]  # parts may differ, a frozen one from the others
        self.eval()
        try:
            field = self.field(state)
            _warn_of_inverse(camera, field.posed_bounds())
            dtype = state.vertices.dtype
            rays = camera.rays().map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
            parts = []
            for begin in range(0, max(len(rays), 1), chunk):
                piece = slice(begin, begin + chunk)
                result = self.renderer(rays[piece], field, color[piece].to(dtype))
                _check_rendering(self.renderer, result, len(rays[piece].frame))
                parts.append(result.replace(samples=None, weights=None))
        finally:
            for part, mode in modes:
                part.training = mode
        height, width = camera.size

        def image(name: str) -> Any:
            pieces = [getattr(part, name) for part in parts]
            return None if pieces[0] is None else torch.cat(pieces).unflatten(0, (height, width))

        return Rendering(rgb=image("rgb"), opacity=image("opacity"), depth=image("depth"), normal=image("normal"))

    def save(
        self,
        path: str | Path,
        tensors: Mapping[str, Tensor] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Writes everything to one safetensors file, atomically: parts, arguments, weights, template, preview.

        Args:
            path: the file; its folder is created.
            tensors: further tensors of the file, as a prior has; no name begins with that of a part or with "state.".
            headers: further entries of its metadata.

        Raises:
            TypeError: a part was built with an argument that cannot be saved; the message names it.
            ValueError: a parameter is not finite or a buffer has NaN, which `load` refuses; the message names it.
        """
        names = unsound(self)
        if names:
            raise ValueError(
                f"Avatar.save: {', '.join(names[:4])} has numbers that are not finite; {path} is not written, because "
                "it could not be loaded"
            )
        parts = self.composition
        if not self.codes:
            parts.pop("codes")
        records = {"template": parts.pop("template"), "preview": self.preview}
        write_parts(path, parts, records, self.state_dict(), tensors, headers)

    @staticmethod
    def load(path: str | Path) -> "Avatar":
        """Reads the avatar in a file of `save`. Import the modules of parts defined outside the library first.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a file of an avatar, an entry of it is not what it should be (a part whose module has
                not been imported, a wrong argument, tables of another size or with NaN), or memory would be needed
                that the tensors of the file do not back. The message names the file and the entry.
        """
        with reading(path, "a file of an avatar"):
            saved = read_parts(path, _PARTS)
            preview = saved.records["preview"]
            pair = isinstance(preview, tuple) and [type(each) for each in preview] == [Camera, HeadState]
            if not (pair or preview is None):
                raise ValueError(f"preview is {brief(preview)}; expected a Camera and a HeadState")
            with saved.allowance:
                avatar = Avatar(**saved.parts, template=saved.records["template"])
                load_state(avatar, saved.state)
            avatar.preview = preview
            return avatar
