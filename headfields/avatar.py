"""An avatar: one deformer, one encoder (and a condition), one decoder, one renderer."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields._gradients import distance_with_gradient, with_canonical_normals
from headfields.deformers.inverse import Inverse, invert
from headfields.encoders.vertex_source import asked_once
from headfields.parts import Correction, Decoder, Deformer, Encoder, Part, Renderer
from headfields.records import Camera, Canonical, FieldValues, HeadState, Rays, Rendering, Template


class Field:
    """An avatar bound to the frames of one call: whatever depends on them alone has been computed.

    Samplers and renderers see the avatar through this. Under `torch.autocast` encoders and decoders compute in the low
    precision; deformers do not (bfloat16 knows a point of a head to half a millimeter), and what the decoder gives is
    float32 again.

    Args:
        avatar: the avatar.
        state: B frames; `Avatar.field` checks first that the parts find in it what they need.
    """

    def __init__(self, avatar: "Avatar", state: HeadState) -> None:
        self.avatar = avatar
        self.state = state
        with _full_precision(state.vertices):
            self._deformer = avatar.deformer.prepare(state)
        with asked_once():
            self._encoders = [encoder.prepare(state) for encoder in avatar.encoders]
            self._decoder = avatar.decoder.prepare(state)
            self.renderer_ready = [encoder.prepare(state) for encoder in avatar.renderer.encoders]

    def near_far(self, rays: Rays) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval (N,), (N,) of each of N rays in posed space that can hold matter, meters; near >= far: none."""
        with _full_precision(rays.origins):
            return self.avatar.deformer.near_far(rays, self._deformer)

    def posed_bounds(self) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that holds all matter of these frames, meters."""
        return self.avatar.deformer.posed_bounds(self._deformer)

    def canonicalize(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"]
    ) -> Canonical:
        """Posed points (M, 3), meters, and unit directions (M, 3), each of state row `frame` (M,), to canonical space.

        Differentiable as the deformer is.
        """
        with _full_precision(points):
            return self.avatar.deformer(points, directions, frame, self._deformer)

    def invert(self, points: Float[Tensor, "n 3"], frame: Int[Tensor, " n"], **options: Any) -> Inverse:
        """Where canonical points (N, 3), meters, lie in state rows `frame` (N,): landmarks and meshes, posed.

        Args:
            points, frame: as above.
            options: of `headfields.deformers.invert`, which says how, and what of it is differentiable.
        """
        with _full_precision(points):
            return invert(self.avatar.deformer, self._deformer, points, frame, **options)

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], jacobians: bool = False
    ) -> list[Correction]:
        """What the deformer's learned corrections do at posed points (M, 3) of state rows `frame` (M,); for losses.

        `jacobians` asks for their Jacobians too. Empty while they are off.

        Raises:
            ValueError: the deformer has none.
        """
        deformer = self.avatar.deformer
        if not deformer.corrects:
            raise ValueError(
                f"the avatar's deformer {type(deformer).__name__} has no learned correction; "
                "put a headfields.deformers.ErrorWarp into its Chain, or leave the losses on it out"
            )
        with _full_precision(points):
            return deformer.corrections(points, frame, self._deformer, jacobians)

    def decode(self, canonical: Canonical, color: bool = True) -> FieldValues:
        """Density (1/m) or distance (m), and color, at M canonical points; `valid` is not looked at.

        `color=False` leaves the color out, which occupancy and meshing do not need.
        """
        decoder, parts = self.avatar.decoder, list(zip(self.avatar.encoders, self._encoders, strict=True))
        if color and decoder.takes_normals:
            return with_canonical_normals(self, canonical)
        shared = parts[-1][0].shared(canonical, parts[-1][1]) if decoder.takes_shared and len(parts) > 1 else None
        features = [encoder(canonical, ready) for encoder, ready in (parts if shared is None else parts[:-1])]
        joined = features[0] if len(features) == 1 else torch.cat(features, dim=-1)
        more = self._further()
        if decoder.takes_canonical:
            more["canonical"] = canonical
        return decoder(joined, canonical.directions, color, *(shared or ()), **more).map(_widened)

    def density(self, canonical: Canonical) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, at M canonical points, as samplers want it: of distances, what the renderer makes."""
        return self.avatar.renderer.density(self.decode(canonical, color=False))

    def color(self, values: FieldValues, canonical: Canonical) -> FieldValues:
        """`values`, decoded without color at the M points `canonical`, with their color.

        Cheaper than `decode` again where the decoder can go on from `values.geometry`; with it where it cannot.
        """
        decoder = self.avatar.decoder
        if values.geometry is None or (decoder.takes_normals and values.canonical_normal is None):
            return values.replace(rgb=self.decode(canonical).rgb)
        normals = (values.canonical_normal,) if decoder.takes_normals else ()
        rgb = decoder.color(values.geometry, canonical.directions, *normals, **self._further())
        return values.replace(rgb=_widened(rgb))

    def _further(self) -> dict[str, Any]:
        return {"prepared": self._decoder} if self.avatar.decoder.takes_canonical else {}

    def signed_distance(
        self,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        directions: Float[Tensor, "m 3"] | None = None,
        color: bool = False,
        create_graph: bool | None = None,
    ) -> tuple[Canonical, FieldValues]:
        """Signed distances at M posed points, with their exact gradients through decoder, encoders and deformer.

        Works under `torch.no_grad` too, where the points are taken in pieces, because a graph is held for each.

        Args:
            points: (M, 3) in posed space, meters; M = 0 is legal.
            frame: (M,) the row of the state that each point belongs to.
            directions: (M, 3) unit viewing directions in posed space, for colors; (0, 0, -1) if left out.
            color: whether the color is wanted at all points; without, pass the result to `color` where it is.
            create_graph: whether distances and gradients are differentiable themselves, as an eikonal loss, light on
                normals, or NeuS's opacity asks for: second derivatives, through every part. As gradients are enabled,
                if None.

        Returns:
            The canonical points; look at `valid`. And values with `distance` (M,), meters, `gradient` (M, 3) by the
            posed points, `normal` (M, 3), the gradient normalized, `canonical_normal`, the decoder's `geometry`, and
            with `color` also `rgb`.

        Raises:
            ValueError: the decoder gives no distance.
        """
        decoder = self.avatar.decoder
        if decoder.gives != "distance":
            raise ValueError(
                f"Field.signed_distance: {type(decoder).__name__} gives {decoder.gives}; use a decoder of distances "
                "(headfields.decoders.NeuSDecoder), or canonicalize and decode for the density"
            )
        if directions is None:
            directions = points.new_tensor([0.0, 0.0, -1.0]).expand_as(points)
        graph = torch.is_grad_enabled() if create_graph is None else create_graph
        return distance_with_gradient(self, points, directions, frame, color, graph)


def _full_precision(like: Tensor) -> contextlib.AbstractContextManager[None]:
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class Avatar(nn.Module):
    """Composes a deformer, an encoder, a decoder and a renderer, and checks that they fit.

    Args:
        deformer: posed space to canonical space.
        encoder: canonical points to features.
        decoder: features to density or distance, and color.
        renderer: rays through the field.
        condition: further encoders, whose features are put behind the encoder's.
        template: the mesh that the avatar stands on, kept and saved with it.

    Raises:
        TypeError: a part is not of its noun.
        ValueError: parts do not fit, by name: the condition reads faces and the deformer gives none, or the renderer
            does not take what the decoder gives.
    """

    def __init__(
        self,
        deformer: Deformer,
        encoder: Encoder,
        decoder: Decoder,
        renderer: Renderer,
        condition: Encoder | Sequence[Encoder] | None = None,
        template: Template | None = None,
    ) -> None:
        super().__init__()
        conditions = [] if condition is None else [condition] if isinstance(condition, Encoder) else list(condition)
        for name, part, noun in (
            ("deformer", deformer, Deformer), ("encoder", encoder, Encoder), ("decoder", decoder, Decoder),
            ("renderer", renderer, Renderer), *(("condition", part, Encoder) for part in conditions),
        ):  # fmt: skip
            if not isinstance(part, noun):
                raise TypeError(f"Avatar: {name} is a {type(part).__name__}; expected a headfields {noun.__name__}")
        for part in (encoder, *conditions, *renderer.encoders):
            if part.needs_faces and not deformer.gives_faces:
                raise ValueError(
                    f"Avatar: {type(part).__name__} reads the nearest triangle, which {type(deformer).__name__} does "
                    "not give; use a surface deformer, or a Chain that has one"
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
        self.preview: tuple[Camera, HeadState] | None = None
        bounds = deformer.bounds()
        for part in (*self.encoders, *renderer.encoders):
            part.build(bounds, deformer.ambient_width)
        decoder.place(bounds)
        decoder.build(sum(part.width for part in self.encoders))
        renderer.build(bounds)

    @property
    def encoders(self) -> list[Encoder]:
        """The encoder and the conditions, in the order of their features."""
        return [self.encoder, *self.conditions]

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of `HeadState`, besides the vertices, that some part reads."""
        return tuple(dict.fromkeys(name for part in self._readers for name in part.needs))

    @property
    def _readers(self) -> tuple[Part, ...]:
        """The parts that see the state."""
        return (self.deformer, *self.encoders, self.decoder, *self.renderer.encoders)

    def field(self, state: HeadState) -> Field:
        """The avatar bound to B frames.

        Raises:
            ValueError: the state lacks what a part needs; the message says which part and which field.
        """
        for part in self._readers:
            for name in part.needs:
                state.need(type(part).__name__, name)
        return Field(self, state)

    def forward(self, rays: Rays, state: HeadState, background: Float[Tensor, "n 3"]) -> Rendering:
        """Renders N rays, with gradients to weights, state, rays and background as far as the parts have them.

        Args:
            rays: N rays in posed space, meters; `rays.frame` says which row of the state each one sees.
            state: B frames.
            background: (N, 3) color behind each ray, sRGB in [0, 1].

        Returns:
            A `Rendering` of (N, ...) tensors, with the samples and weights for the losses. N = 0 is legal.

        Raises:
            ValueError: the state lacks what a part needs; the message says which part and which field.
        """
        return self.renderer(rays, self.field(state), background)

    @torch.no_grad()
    def update(self, state: HeadState, step: int) -> None:
        """Tells every part the step, and lets what the renderer keeps of the field (an occupancy grid) follow it.

        Called before each training step.

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
        self, camera: Camera, state: HeadState, background: float | Tensor = 1.0, chunk: int = 16384
    ) -> Rendering:
        """An image of one frame, without gradients, in evaluation mode.

        Args:
            camera: one camera (or a batch of one).
            state: one frame.
            background: a gray level or a color (3,), sRGB in [0, 1].
            chunk: rays at a time: fewer take less memory and, below the default, longer.

        Returns:
            A `Rendering` of (H, W, ...) tensors, depth in meters along the ray.

        Raises:
            ValueError: the state has not one frame, or lacks what a part needs.
        """
        if len(state) != 1:
            raise ValueError(f"Avatar.render: state has {len(state)} frames; index one, state[0]")
        was_training = self.training
        self.eval()
        try:
            field = self.field(state)
            rays = camera.rays()
            color = torch.as_tensor(background, dtype=torch.float32, device=rays.origins.device).expand(3)
            parts = []
            for begin in range(0, len(rays), chunk):
                piece = rays[begin : begin + chunk]
                result = self.renderer(piece, field, color.expand(len(piece), 3))
                parts.append(result.replace(samples=None, weights=None))
        finally:
            self.train(was_training)
        height, width = camera.size

        def image(name: str) -> Any:
            pieces = [getattr(part, name) for part in parts]
            return None if pieces[0] is None else torch.cat(pieces).unflatten(0, (height, width))

        return Rendering(rgb=image("rgb"), opacity=image("opacity"), depth=image("depth"), normal=image("normal"))

    def save(self, path: str | Path) -> None:
        """Writes everything to one safetensors file, atomically: parts, arguments, weights, template, preview.

        Args:
            path: the file; its folder is made.

        Raises:
            TypeError: a part was built with an argument that cannot be saved; the message names it.
        """
        from headfields.saving import save_avatar

        save_avatar(self, path)

    @staticmethod
    def load(path: str | Path) -> "Avatar":
        """The avatar in a file that `save` wrote. Parts defined outside the library must be imported before.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not an avatar's, or a part's class has not been imported.
        """
        from headfields.saving import load_avatar

        return load_avatar(path)
