"""An avatar of Gaussians that ride on a head, and what changes them with its state; loading of avatars of any kind."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.avatar.avatar import Avatar
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
from headfields.avatar.saving import part_names
from headfields.avatar.views import render_views
from headfields.deformers.chain import Chain
from headfields.encoders.vertex_source import cached_vertex_features
from headfields.networks.field_basis import BlendCoefficients
from headfields.networks.gaussians import Gaussians
from headfields.networks.latent_table import LatentTable
from headfields.ops.background import background_pixels
from headfields.ops.barycentric import barycentric_on
from headfields.part_base import Part
from headfields.parts import Decoder, Deformer, Encoder, Rendering, check_part
from headfields.records import Camera, Canonical, HeadState, Splats, Template, check_meters
from headfields.records.annotated import is_readable
from headfields.records.device_copy import any_directions
from headfields.records.precision import full_precision
from headfields.renderers.splats import SplatRenderer


class SplatAvatar(Composition):
    """Composes Gaussians, a deformer that poses them, and a renderer that draws them; and what changes them.

    Two things may change the Gaussians with the state, both in the coordinates of the deformer:

    - A decoder of offsets (`headfields.decoders.SplatDecoder`), of the features of any encoder and conditions at the
      Gaussians' canonical positions: hash grid, frequencies, UV maps, vertex features, expression, codes.
    - Blendshapes: K offsets of each Gaussian, `Gaussians.blend_position` and the like, in the proportions
      that a mapping network makes of expression and joints.

    Args:
        gaussians: the Gaussians.
        deformer: one that `poses`, as `headfields.deformers.TriangleBinding`.
        renderer: the renderer; a `headfields.renderers.SplatRenderer()` if None.
        encoder: features at the Gaussians' canonical positions; given with a decoder, or not at all.
        decoder: features to offsets.
        condition: further encoders, whose features follow the encoder's.
        blendshapes: the mapping network, for Gaussians with blendshapes.
        template: the mesh that the avatar is built on, kept and saved with it.
        codes: latent tables, as for `headfields.Avatar`.

    Attributes:
        preview: a camera and a frame for a picture of the avatar, or None; saved with it.

    Raises:
        TypeError: an argument is another kind of part.
        ValueError: parts do not fit: the deformer does not pose, an encoder comes without a decoder of offsets, the
            Gaussians have another number of blendshapes than the network, or as for `headfields.Avatar`.
    """

    whole_images = True
    """What `forward` renders: whole images of cameras, not rays."""
    _in_file = MappingProxyType({
        "gaussians": True, "deformer": True, "renderer": True, "encoder": False, "decoder": False, "condition": False,
        "blendshapes": False, "codes": False,
    })  # fmt: skip

    @explained
    def __init__(
        self,
        gaussians: Gaussians,
        deformer: Deformer,
        renderer: SplatRenderer | None = None,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        condition: Encoder | Iterable[Encoder] | None = None,
        blendshapes: BlendCoefficients | None = None,
        template: Template | None = None,
        codes: Mapping[str, LatentTable] | None = None,
    ) -> None:
        super().__init__()
        renderer = SplatRenderer() if renderer is None else renderer
        conditions = conditions_of(condition)
        nouns: list[tuple[str, Any, type[Part]]] = [
            ("gaussians", gaussians, Gaussians), ("deformer", deformer, Deformer),
            ("renderer", renderer, SplatRenderer), *(("condition", part, Encoder) for part in conditions),
        ]  # fmt: skip
        optional = (("encoder", encoder, Encoder), ("decoder", decoder, Decoder),
                    ("blendshapes", blendshapes, BlendCoefficients))  # fmt: skip
        nouns += [each for each in optional if each[1] is not None]
        for name, part, noun in nouns:
            check_part("SplatAvatar", name, part, noun)
        for name, part, _ in nouns:
            check_definition(name, part)
        self.gaussians, self.deformer, self.renderer = gaussians, deformer, renderer
        self.encoder, self.decoder, self.blendshapes = encoder, decoder, blendshapes
        self.conditions = nn.ModuleList(conditions)
        self._check()
        self._take(template, codes)
        with unbuilt_on_error(self):
            self._build(deformer.bounds())

    def _check(self) -> None:
        """Raises ValueError unless the parts fit."""
        deformer, decoder, shapes = self.deformer, self.decoder, self.gaussians.blendshapes
        name = type(deformer).__name__
        if not deformer.poses:
            raise ValueError(
                f"SplatAvatar: {name} canonicalizes points, and does not pose Gaussians; use one that does, as "
                "headfields.deformers.TriangleBinding"
            )
        if (decoder is None) == bool(self.encoders):
            raise ValueError(
                "SplatAvatar: encoder and decoder belong together; pass both (a headfields.decoders.SplatDecoder for "
                "offsets), or neither, for Gaussians that the deformer alone moves"
            )
        if decoder is not None and decoder.gives != "offsets":
            raise ValueError(
                f"SplatAvatar: {type(decoder).__name__} gives {decoder.gives}; Gaussians take offsets: use "
                "headfields.decoders.SplatDecoder"
            )
        for part in self.encoders:
            check_fit(part, deformer)
        coefficients = 0 if self.blendshapes is None else self.blendshapes.fields
        if shapes != coefficients:
            raise ValueError(
                f"SplatAvatar: gaussians has {shapes} blendshapes, and the mapping network {coefficients} "
                "coefficients; build both with the same number "
                "(Gaussians(..., blendshapes=K), BlendCoefficients(..., fields=K))"
            )

    def _build(self, bounds: Float[Tensor, "2 3"]) -> None:
        check_devices(self, bounds.device)
        with sizes_of(self, f"the deformer {type(self.deformer).__name__}"):
            for part in self.encoders:
                part.build(bounds, 0)
                check_width(part)
        if self.decoder is not None:
            widths = " + ".join(f"{part.width} ({type(part).__name__})" for part in self.encoders)
            with sizes_of(self, f"the deformer {type(self.deformer).__name__} with features {widths}"):
                self.decoder.build(sum(part.width for part in self.encoders), bounds)
        self._settle(bounds.device)

    @property
    def composition(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("gaussians", "deformer", "renderer", "encoder", "decoder")}
        return {
            **own, "condition": list(self.conditions), "blendshapes": self.blendshapes, "template": self.template,
            "codes": dict(self.codes.items()),
        }  # fmt: skip

    @property
    def condition(self) -> Encoder | list[Encoder] | None:
        """The conditions as they were given: None, one, or several."""
        return given_conditions(self.conditions)

    @property
    def encoders(self) -> list[Encoder]:
        return [*([] if self.encoder is None else [self.encoder]), *self.conditions]

    @property
    def _further_parts(self) -> tuple[Part, ...]:
        return tuple(part for part in (self.decoder, self.blendshapes) if part is not None)

    def splats(self, state: HeadState) -> Splats:
        """The Gaussians of B frames in posed space (B, N, ...), meters.

        Raises:
            ValueError: the state lacks what a part needs; the message says which part and which field.
        """
        return self._posed(state)[0]

    def _posed(self, state: HeadState) -> tuple[Splats, Splats]:
        """The Gaussians of B frames in posed space, and in the coordinates of the deformer."""
        state = self.with_codes(state)
        self.check_needs(state)
        gaussians, deformer = self.gaussians, self.deformer
        with full_precision(state.vertices):
            prepared = deformer.prepare(state)
        offsets: dict[str, Tensor] = {}
        if self.decoder is not None:
            offsets = self._decoded(state, prepared)
        if self.blendshapes is not None:
            blended = gaussians.blended(self.blendshapes(state))
            offsets = {name: offsets[name] + value if name in offsets else value for name, value in blended.items()}
        with full_precision(state.vertices):
            attached = gaussians(offsets)
            return deformer.pose(attached, gaussians.face, prepared), attached

    def _decoded(self, state: HeadState, prepared: Any) -> dict[str, Tensor]:
        """Offsets by the decoder, from the features at the Gaussians as they are without any."""
        assert self.decoder is not None
        gaussians, frames = self.gaussians, len(state)
        with torch.no_grad(), full_precision(state.vertices):
            attached = gaussians()
            rest = self.deformer.rest(attached, gaussians.face).means
            posed = self.deformer.pose(attached, gaussians.face, prepared).means
            barycentric = None
            if self.template_faces is not None and any(encoder.needs_faces for encoder in self.encoders):
                vertices, faces = self.template_faces
                barycentric = barycentric_on(rest, vertices, faces[gaussians.face])
        count = len(gaussians)

        def repeated(tensor: Tensor) -> Tensor:
            return tensor.expand(frames, *tensor.shape).flatten(0, 1)

        points = repeated(rest)
        canonical = Canonical(
            points=points, directions=any_directions(points),
            posed_points=posed.flatten(0, 1), frame=torch.arange(frames, device=points.device).repeat_interleave(count),
            valid=torch.ones(len(points), dtype=torch.bool, device=points.device), face=repeated(gaussians.face),
            barycentric=None if barycentric is None else repeated(barycentric),
        )  # fmt: skip
        with cached_vertex_features():
            encoders = [(encoder, encoder.prepare(state)) for encoder in self.encoders]
            own = self.decoder.prepare(state)
        offsets: Any = self.decoder(features_of(encoders, canonical), canonical, own)
        return {name: value.float().unflatten(0, (frames, count)) for name, value in offsets.items()}

    @property
    def template_faces(self) -> tuple[Tensor, Tensor] | None:
        """Canonical vertices (V, 3) and faces (F, 3) of the deformer's mesh; None if it has none."""
        links = self.deformer.deformers if isinstance(self.deformer, Chain) else [self.deformer]
        for link in links:
            if link.gives_faces:
                return link.canonical_vertices, link.faces  # type: ignore[return-value]
        return None

    def forward(self, camera: Camera, state: HeadState, background: Float[Tensor, "b 3"]) -> Rendering:
        """Renders B images, with gradients to Gaussians, weights, state, cameras and background.

        Args:
            camera: B cameras of one size.
            state: B frames.
            background: (B, 3) color behind each image, sRGB in [0, 1].

        Returns:
            A `Rendering` of (B, H, W, ...), with `splats`; in training mode also with what density control and losses
            on Gaussians read.

        Raises:
            ValueError: the numbers of frames, cameras and colors differ, or the state lacks what a part needs.
        """
        cameras = camera.world_to_camera.reshape(-1, 4, 4).shape[0]
        if cameras != len(state) or background.shape != (cameras, 3):
            raise ValueError(
                f"SplatAvatar: camera has {cameras} cameras, state {len(state)} frames and background the shape "
                f"{tuple(background.shape)}; expected one camera and one color (3,) for each frame"
            )
        posed, attached = self._posed(state)
        color = background[0] if cameras == 1 else background[:, None, None].expand(cameras, *camera.size, 3)
        rendering = self.renderer(posed, camera, color)
        return rendering.replace(attached=attached) if self.training else rendering

    @torch.no_grad()
    def update(self, state: HeadState, step: int) -> None:
        """Called before each training step: `Part.at_step` of every part, and Gaussians walk to other triangles.

        Args:
            state: the B frames of the step.
            step: its number, from 0.
        """
        for part in self.modules():
            if isinstance(part, Part):
                part.at_step(step)
        walked = self.deformer.walk(self.gaussians.position, self.gaussians.face)
        if walked is not None:
            self.gaussians.position.copy_(walked[0])
            self.gaussians.face.copy_(walked[1])

    @torch.no_grad()
    def render(
        self, camera: Camera, state: HeadState, background: float | int | Tensor | np.ndarray = 1.0
    ) -> Rendering:
        """An image of a frame, or B of them, without gradients, in evaluation mode.

        Args:
            camera: one camera, or B of one size.
            state: one frame, or B. One camera sees all frames, and one frame is seen by all cameras.
            background: a gray level, a color (3,), an image (H, W, 3) or one for each (B, H, W, 3), sRGB in [0, 1].

        Returns:
            A `Rendering` of (H, W, ...) tensors, of (B, H, W, ...) for several cameras or frames, depth in meters along
            the ray; `splats` are those of each image, (1, N, ...) or (B, N, ...). A view without the head is legal; a
            warning says so if the inverse of `world_to_camera` would show it.

        Raises:
            TypeError: a background of 8-bit integers.
            ValueError: cameras and frames are not as many, or one; the state lacks what a part needs; a background of
                another size, or outside [0, 1]; on the CPU also: vertices that are not finite or not in meters.
        """
        return render_views("SplatAvatar.render", self._image, camera, state, background)

    def _image(self, camera: Camera, state: HeadState, background: Any) -> Rendering:
        """The image (H, W, ...) of one camera and one frame."""
        vertices = state.vertices
        if is_readable(vertices):
            check_meters("SplatAvatar.render", "state.vertices", vertices)
        color = background_pixels("SplatAvatar.render", background, camera.size, vertices.device)
        warn_of_inverse(camera, torch.stack([vertices.amin(dim=(0, 1)), vertices.amax(dim=(0, 1))]))
        with self.evaluating():
            posed, _ = self._posed(state)
            image = self.renderer(posed, camera, color.unflatten(0, camera.size)[None].to(vertices))
        return Rendering(
            rgb=image.rgb[0], opacity=image.opacity[0], depth=image.depth[0], normal=image.normal[0], splats=posed
        )


def load_avatar(path: str | Path) -> Composition:
    """Reads an avatar of either kind in a file of its `save`: a `SplatAvatar` or an `Avatar`.

    Args:
        path: the file, or the folder of a run that has ended, whose avatar.safetensors it is. `headfields.load_run`
            opens a run that has not, and its capture.

    Errors: as `Avatar.load`.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "avatar.safetensors").is_file():
            if not (path / "config.json").is_file():
                raise FileNotFoundError(
                    f"load_avatar: {path} has no avatar.safetensors and is no folder of a run; pass the --out of "
                    "headfields train (load_run opens a run before its end) or a file of avatar.save; "
                    "headfields.data.load_capture reads a capture"
                )
            raise FileNotFoundError(
                f"load_avatar: {path} has no avatar.safetensors; training writes it at its end; headfields.load_run "
                "opens a run before that, from its checkpoint"
            )
        path = path / "avatar.safetensors"
    return (SplatAvatar if "gaussians" in part_names(path) else Avatar).load(path)
