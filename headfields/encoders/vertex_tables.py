"""Vertex features from learned tables: the baselines of MonoAvatar's ablation, and tables blended by a network."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.encoders.vertex_source import VertexSource, check_widths, state_code
from headfields.networks.mlp import hidden_layers
from headfields.ops.interpolate_rows import extend_vertices
from headfields.records import HeadState


class StaticFeatures(VertexSource):
    """A learned table of features per vertex, the same in all frames.

    Args:
        vertex_count: V.
        width: features per vertex.
        initial: standard deviation of the table at the start.

    Raises:
        ValueError: a size is below 1.

    Source: MonoAvatar (Bai et al. 2023), "static" of its ablation (table 2).
    """

    def __init__(self, vertex_count: int, width: int = 64, initial: float = 0.1) -> None:
        super().__init__()
        _check_sizes("StaticFeatures", vertex_count, width)
        self.vertex_count, self.width = vertex_count, width
        self.table = nn.Parameter(initial * torch.randn(vertex_count, width))

    def extra_repr(self) -> str:
        return f"{self.vertex_count} vertices, width={self.width}"

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        self.check_state(state)
        return self.table.expand(len(state), -1, -1)


class CodeFeatures(VertexSource):
    """A learned table of features per vertex, concatenated with the code of the frame.

    Args:
        vertex_count: V.
        fields: names of the fields (or codes) of the `HeadState` that make up the code, each with its number of
            coefficients per frame; (B, J, 3) poses are flattened.
        width: features of the table; the width of the result is larger by the code's coefficients.
        initial: standard deviation of the table at the start.

    Differentiable in table and code (linear).

    Raises:
        ValueError: a size is below 1, or fields is empty; later, a state that lacks a field or has another number of
            coefficients.

    Source: MonoAvatar (Bai et al. 2023), "codes" of its ablation.
    """

    def __init__(self, vertex_count: int, fields: Mapping[str, int], width: int = 64, initial: float = 0.1) -> None:
        super().__init__()
        _check_sizes("CodeFeatures", vertex_count, width)
        self.fields = check_widths("CodeFeatures", fields)
        self.needs, self.code_widths = tuple(self.fields), self.fields
        self.vertex_count, self.width = vertex_count, width + sum(self.fields.values())
        self.table = nn.Parameter(initial * torch.randn(vertex_count, width))

    def extra_repr(self) -> str:
        return f"{self.fields}, {self.vertex_count} vertices, width={self.width}"

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        self.check_state(state)
        code = state_code("CodeFeatures", state, self.fields)
        frames, vertices = len(code), self.vertex_count
        rows = [self.table.expand(frames, -1, -1), code[:, None].expand(-1, vertices, -1).to(self.table.dtype)]
        return torch.cat(rows, dim=-1)


class CodeMLPFeatures(VertexSource):
    """A learned table, whose rows pass with the code of the frame through a network that all vertices share.

    Args:
        vertex_count: V.
        fields: names of the fields (or codes) of the `HeadState` that make up the code, each with its number of
            coefficients per frame; (B, J, 3) poses are flattened.
        width: features per vertex, of the table and of the result.
        hidden: width of the network's layers.
        layers: number of its hidden layers.
        initial: standard deviation of the table at the start.

    Differentiable in weights and code, to any order but for the corners of the ReLU.

    Raises:
        ValueError: a size is below 1, or fields is empty; later, a state that lacks a field or has another number of
            coefficients.

    Source: after MonoAvatar (Bai et al. 2023), "codes-MLP" of its ablation (table 2), whose network sees the code, the
    vertex's neutral coordinates and the frame in place of a learned row. The sizes are our own choice.
    """

    def __init__(
        self,
        vertex_count: int,
        fields: Mapping[str, int],
        width: int = 64,
        hidden: int = 128,
        layers: int = 2,
        initial: float = 0.1,
    ) -> None:
        super().__init__()
        _check_sizes("CodeMLPFeatures", vertex_count, width, hidden, layers)
        self.fields = check_widths("CodeMLPFeatures", fields)
        self.needs, self.code_widths = tuple(self.fields), self.fields
        self.vertex_count, self.width = vertex_count, width
        self.table = nn.Parameter(initial * torch.randn(vertex_count, width))
        # The first layer in two parts: the rows' part does not depend on the frame, the code's not on the vertex.
        self.of_row = nn.Linear(width, hidden)
        self.of_code = nn.Linear(sum(self.fields.values()), hidden, bias=False)
        inner = [
            module for units in hidden_layers(hidden, layers - 1) for module in (nn.ReLU(), nn.Linear(units, units))
        ]
        self.rest = nn.Sequential(*inner, nn.ReLU(), nn.Linear(hidden, width))

    def extra_repr(self) -> str:
        return f"{self.fields}, {self.vertex_count} vertices, width={self.width}"

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        self.check_state(state)
        code = state_code("CodeMLPFeatures", state, self.fields)
        features: Tensor = self.rest(self.of_row(self.table) + self.of_code(code)[:, None])
        return features


class BlendedTableFeatures(VertexSource):
    """A few learned tables of features per vertex, blended by weights that another source computes for each frame.

    The mixer gives each vertex `width` features f and `tables` weights w; the result is f + T₀ + Σ_k w_k T_k. A
    convolution shares its weights over all places; the tables give every place weights of its own, and the mixer how
    they change with the frame.

    Differentiable in the tables and in what the mixer is.

    Args:
        mixer: a source of `width + tables` features.
        width: features per vertex.
        tables: number of tables besides the one that is the same in all frames.
        initial: standard deviation of the tables at the start.

    Raises:
        TypeError: the mixer is not a `VertexSource`.
        ValueError: it has another width, or a size is below 1.

    Source: after Chen et al. 2024, "Efficient 3D Implicit Head Avatar with Mesh-anchored Hash Table Blendshapes", whose
    blended tables are hash tables around each vertex; ours hold one row per vertex.
    """

    def __init__(self, mixer: VertexSource, width: int = 32, tables: int = 4, initial: float = 0.1) -> None:
        super().__init__()
        if not isinstance(mixer, VertexSource):
            raise TypeError(f"BlendedTableFeatures: mixer is a {type(mixer).__name__}; expected a VertexSource")
        _check_sizes("BlendedTableFeatures", mixer.vertex_count, width, tables)
        if mixer.width != width + tables:
            raise ValueError(
                f"BlendedTableFeatures: the mixer gives {mixer.width} features; expected {width + tables}, "
                f"{width} features and {tables} weights"
            )
        self.mixer = mixer
        self.needs = mixer.needs
        self.vertex_count, self.width, self.tables = mixer.vertex_count, width, tables
        self.table = nn.Parameter(initial * torch.randn(tables + 1, mixer.vertex_count, width))

    def extra_repr(self) -> str:
        return f"{self.vertex_count} vertices, width={self.width}, tables={self.tables}"

    def anchors(self, state: HeadState) -> Float[Tensor, "b v 3"]:
        return self.mixer.anchors(state)

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        features, weights = self.mixer(state).split([self.width, self.tables], dim=-1)
        features = features + self.table[0]
        for k in range(self.tables):
            features = features + weights[..., k, None] * self.table[k + 1]
        return features


class SubdividedFeatures(VertexSource):
    """A source of features of a subdivided mesh (`headfields.mesh.subdivide`), for states of the mesh as tracked.

    More features where they are needed, at the lids and lips for example, without another mesh in the capture. The
    features of the V tracked vertices come first, in their order.

    Args:
        source: features of the V + E vertices of the subdivided mesh.
        index, weights: (E, K) each new vertex as a weighted sum of tracked ones, as in `Subdivision`.

    Raises:
        TypeError: source is not a `VertexSource`.
        ValueError: index and weights do not fit one another or the source; later, a state of another number of
            vertices.
    """

    index: Tensor
    weights: Tensor

    def __init__(self, source: VertexSource, index: Int[Tensor, "e k"], weights: Float[Tensor, "e k"]) -> None:
        super().__init__()
        name = "SubdividedFeatures"
        if not isinstance(source, VertexSource):
            raise TypeError(f"{name}: source is a {type(source).__name__}; expected a VertexSource")
        tracked = source.vertex_count - len(index)
        if index.shape != weights.shape or index.ndim != 2:
            raise ValueError(
                f"{name}: index has shape {tuple(index.shape)} and weights {tuple(weights.shape)}; expected (E, K) both"
            )
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= tracked):
            raise ValueError(
                f"{name}: index names vertices {int(index.min())} to {int(index.max())}, and the source's "
                f"{source.vertex_count} rows less the {len(index)} new ones leave {tracked} tracked vertices"
            )
        self.source = source
        self.needs = source.needs
        self.vertex_count, self.width, self.tracked_count = source.vertex_count, source.width, tracked
        self.register_buffer("index", index.detach().long().clone(), persistent=False)
        self.register_buffer("weights", weights.detach().clone(), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.tracked_count} tracked vertices and {len(self.index)} new ones"

    def anchors(self, state: HeadState) -> Float[Tensor, "b v 3"]:
        if state.vertices.shape[1] != self.tracked_count:
            raise ValueError(
                f"SubdividedFeatures: the state's vertices have shape {tuple(state.vertices.shape)}, but the part was "
                f"made for {self.tracked_count} vertices; make it from the template of the head that the states are of"
            )
        return extend_vertices(state.vertices, self.index, self.weights)

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        features: Tensor = self.source(state.replace(vertices=self.anchors(state)))
        return features


def _check_sizes(part: str, vertex_count: int, *sizes: int) -> None:
    if vertex_count < 0 or min(sizes) < 1:
        raise ValueError(
            f"{part}: vertex_count is {vertex_count} and widths are {sizes}; expected V >= 0 and sizes >= 1"
        )
