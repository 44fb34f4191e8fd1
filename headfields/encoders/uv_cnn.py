"""MonoAvatar's vertex features: a convolutional network over the UV map, sampled at the vertices."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.encoders.vertex_source import VertexSource, check_widths, state_code
from headfields.networks.unet import MapDecoder, ResidualUNet
from headfields.ops.frequency import frequency_encoding
from headfields.ops.rigid import fit_rigid
from headfields.ops.uv import UVRasterizer
from headfields.records import HeadState, Template

_SLOPE = 0.2
_M = TypeVar("_M", bound=nn.Module)


class UVDisplacementFeatures(VertexSource):
    """Displacements of the vertices from the neutral mesh, through a residual U-Net over the UV map.

    The displacement state.vertices − neutral is rasterized into a UV map of three channels, in units of `unit`, and
    the output map of the U-Net is sampled at each vertex's texture coordinates. Displacements are in the frame of the
    state's vertices. In the library's captures head pose is in the camera, so this is the paper's neck-normalized
    frame; if the vertices contain a head pose, `rigid` names vertices that move with the skull (scalp, ears), by which
    each frame is first aligned to the neutral mesh.

    Without motion, a map of displacements distinguishes texels only by their distance to the map's border.
    An encoding of the neutral vertices' coordinates, scaled to [−1, 1], is therefore added as further channels
    (`position_bands`), which do not depend on the frame.

    Differentiable in weights, vertices and neutral mesh, to the order that PyTorch's convolutions are (second).

    Args:
        template: the mesh with its texture coordinates.
        neutral: (V, 3) vertices of the neutral mesh, meters; the template's canonical vertices if None.
        width: features per vertex.
        channels: channels of the U-Net's levels, fine to coarse; each level halves the map.
        resolution: (H, W) of the map, or one number for both; multiples of 2^(levels − 1).
        padding: texels around charts that are filled from the nearest chart; see `headfields.ops.UVRasterizer`.
        unit: meters that become 1 in the map. An expression moves the skin by millimeters, a jaw by centimeters.
        position_bands: octaves of the encoding of each texel's position; 0: coordinates alone; None: no position, as
            in the paper.
        rigid: (K,) indices of vertices that move rigidly with the head, K ≥ 3; None: no alignment.

    Raises:
        ValueError: the template has no texture coordinates, a size does not fit, or rigid names vertices on one line;
            later, a state with another number of vertices.

    Source: MonoAvatar (Bai et al. 2023), "Ours-D" (ablation: table 2), and the supplement for the sizes: a map of
    256², six levels, 64 features. Not in the paper: the unit, the padding, the position, the rigid alignment.
    """

    neutral: Tensor
    rigid: Tensor | None
    place: Tensor | None

    def __init__(
        self,
        template: Template,
        neutral: Float[Tensor, "v 3"] | None = None,
        width: int = 64,
        channels: Sequence[int] = (8, 16, 32, 64, 128, 256),
        resolution: int | tuple[int, int] = 256,
        padding: float | int = math.inf,
        unit: float = 0.01,
        position_bands: int | None = 6,
        rigid: Int[Tensor, " k"] | None = None,
    ) -> None:
        super().__init__()
        name = "UVDisplacementFeatures"
        _check_sizes(name, width, channels, resolution)
        _check_bands(name, position_bands)
        if not unit > 0:
            raise ValueError(f"{name}: unit is {unit}; expected a length in meters above 0")
        vertices = template.canonical_vertices if neutral is None else neutral
        if vertices.shape != template.canonical_vertices.shape:
            raise ValueError(
                f"{name}: neutral has shape {tuple(vertices.shape)}, and the template's canonical_vertices "
                f"{tuple(template.canonical_vertices.shape)}; both are of the same V vertices"
            )
        self.vertex_count = len(vertices)
        self.width = width
        self.unit = float(unit)
        self.rasterizer = _rasterizer(name, template, resolution, padding)
        self.register_buffer("neutral", vertices.detach().clone(), persistent=False)
        self.follows_head = rigid is not None
        self.register_buffer(
            "rigid", None if rigid is None else _spanning(name, rigid, vertices).clone(), persistent=False
        )
        place = None if position_bands is None else _place(self.rasterizer, vertices, position_bands)
        self.register_buffer("place", place, persistent=False)
        self.network = _channels_last(ResidualUNet(3 if place is None else 3 + place.shape[1], width, channels))

    def extra_repr(self) -> str:
        return f"{self.vertex_count} vertices, width={self.width}, unit={self.unit:g}"

    def displacement(self, state: HeadState) -> Float[Tensor, "b v 3"]:
        """Displacements (B, V, 3) from the neutral mesh, meters, after the rigid alignment if any."""
        vertices = state.vertices
        if self.rigid is not None:
            turn, shift = fit_rigid(self.neutral[self.rigid], vertices[:, self.rigid])
            vertices = (vertices - shift[:, None]) @ turn  # by the inverse
        return vertices - self.neutral

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        self.check_state(state)
        maps = self.rasterizer.vertices_to_map(self.displacement(state) / self.unit)
        return self.rasterizer.map_to_vertices(self.network(maps, self.place))


class UVCodeFeatures(VertexSource):
    """Expression and pose coefficients, decoded by transposed convolutions to a UV map and sampled at the vertices.

    With `position_bands` each level but the coarsest also sees the same encoding of positions on the neutral mesh as
    `UVDisplacementFeatures`: averaged to the level's size, through a convolution, in place of the skips of its U-Net.
    It is computed once for all frames.

    Differentiable in weights and codes, to the order that PyTorch's convolutions are (second).

    Args:
        template: the mesh with its texture coordinates.
        fields: names of fields (or codes) of the `HeadState`, each with its number of coefficients per frame; (B, J, 3)
            poses are flattened, so 3 J. All of them are concatenated to one code.
        width: features per vertex.
        channels: channels of the decoder's levels, coarse to fine; each level doubles the map.
        resolution: (H, W) of the finest, or one number for both; multiples of 2^(levels − 1).
        position_bands: octaves of the encoding of each texel's position; 0: coordinates alone; None: no position, as
            in the paper.

    Raises:
        ValueError: the template has no texture coordinates or a size does not fit; later, a state that lacks a field
            or has another number of coefficients or vertices.

    Source: MonoAvatar (Bai et al. 2023), "Ours-C" of its ablation (table 2): the code is expression and pose. The paper
    gives no sizes for it; these mirror the U-Net of "Ours-D", whose decoder it is, without skips.
    """

    place: Tensor | None

    def __init__(
        self,
        template: Template,
        fields: Mapping[str, int],
        width: int = 64,
        channels: Sequence[int] = (256, 128, 64, 32, 16, 8),
        resolution: int | tuple[int, int] = 256,
        position_bands: int | None = None,
    ) -> None:
        super().__init__()
        name = "UVCodeFeatures"
        _check_sizes(name, width, channels, resolution)
        _check_bands(name, position_bands)
        self.fields = check_widths(name, fields)
        self.needs, self.code_widths = tuple(self.fields), self.fields
        self.vertex_count = len(template.canonical_vertices)
        self.width = width
        self.rasterizer = _rasterizer(name, template, resolution, 0.0 if position_bands is None else math.inf)
        factor = 2 ** (len(channels) - 1)
        height, width_of_map = self.rasterizer.resolution
        self.coarse = (channels[0], height // factor, width_of_map // factor)
        self.first = nn.Linear(sum(self.fields.values()), math.prod(self.coarse))
        self.network = _channels_last(MapDecoder(channels, width, skips=position_bands is not None))
        place = None
        if position_bands is not None:
            place = _place(self.rasterizer, template.canonical_vertices, position_bands)
            self.place_levels = _channels_last(
                nn.ModuleList([nn.Conv2d(place.shape[1], c, 3, padding=1) for c in reversed(channels[1:])])
            )
        self.register_buffer("place", place, persistent=False)

    def extra_repr(self) -> str:
        return f"{self.fields}, {self.vertex_count} vertices, width={self.width}"

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        self.check_state(state)
        code = state_code("UVCodeFeatures", state, self.fields)
        maps = nn.functional.leaky_relu(self.first(code), _SLOPE).unflatten(1, self.coarse)
        maps = maps.contiguous(memory_format=torch.channels_last)
        skips = [skip.expand(len(maps), -1, -1, -1) for skip in self._skips()]
        return self.rasterizer.map_to_vertices(self.network(maps, skips))

    def _skips(self) -> list[Tensor]:
        """Maps (1, C, H, W) of the position at each level but the coarsest, fine to coarse; none without positions."""
        if self.place is None:
            return []
        maps, skips = self.place, []
        for level in self.place_levels:
            skips.append(nn.functional.leaky_relu(level(maps), _SLOPE))
            maps = nn.functional.avg_pool2d(maps, 2)
        return skips


def _channels_last(network: _M) -> _M:
    """Stores weights in the memory format of the maps, so that convolutions copy neither."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _place(rasterizer: UVRasterizer, vertices: Float[Tensor, "v 3"], bands: int) -> Float[Tensor, "1 c h w"]:
    """The encoding of each texel's position on the mesh, scaled to [−1, 1]."""
    middle = (vertices.amin(dim=0) + vertices.amax(dim=0)) / 2
    scaled = ((vertices - middle) / (vertices - middle).abs().max().clamp(min=1e-12)).detach()
    encoded = frequency_encoding(rasterizer.vertices_to_map(scaled[None]).movedim(1, -1), bands)
    return encoded.movedim(-1, 1).contiguous(memory_format=torch.channels_last)


def _check_bands(part: str, bands: int | None) -> None:
    if bands is not None and bands < 0:
        raise ValueError(f"{part}: position_bands is {bands}; expected 0 or more octaves, or None")


def _check_sizes(part: str, width: int, channels: Sequence[int], resolution: int | tuple[int, int]) -> None:
    if width < 1 or not channels or min(channels) < 1:
        raise ValueError(f"{part}: width is {width} and channels {tuple(channels)}; expected numbers above 0")
    height, across = (resolution, resolution) if isinstance(resolution, int) else resolution
    factor = 2 ** (len(channels) - 1)
    if height < factor or across < factor or height % factor or across % factor:
        raise ValueError(
            f"{part}: resolution is ({height}, {across}), and {len(channels)} levels of channels halve it "
            f"{len(channels) - 1} times; choose multiples of {factor}, or fewer levels"
        )


def _rasterizer(part: str, template: Template, resolution: int | tuple[int, int], padding: float) -> UVRasterizer:
    if template.uv is None or template.uv_faces is None:
        raise ValueError(
            f"{part}: the template has no texture coordinates; headfields.mesh.unwrap_template(template) makes them"
        )
    count = len(template.canonical_vertices)
    return UVRasterizer(template.faces, template.uv, template.uv_faces, resolution, padding, count)


def _spanning(part: str, rigid: Tensor, vertices: Tensor) -> Tensor:
    """The indices as int64; raises ValueError unless the vertices determine a rigid motion."""
    if not rigid.numel() or int(rigid.min()) < 0 or int(rigid.max()) >= len(vertices):
        raise ValueError(
            f"{part}: rigid holds {rigid.numel()} indices; expected three or more, in [0, {len(vertices)})"
        )
    points = vertices[rigid.long()]
    extents = torch.linalg.svdvals((points - points.mean(dim=0)).double())
    if len(points) < 3 or extents[1] < 1e-3 * extents[0] or extents[0] == 0:
        raise ValueError(
            f"{part}: rigid names {len(points)} vertices on one line; name three or more that span a plane"
        )
    return rigid.long()
