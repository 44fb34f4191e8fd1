"""Vertex features from learned tables: the baselines of MonoAvatar's ablation."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.encoders.vertex_source import VertexSource, check_fields, code_of
from headfields.networks.mlp import hidden_layers
from headfields.records import HeadState


class StaticFeatures(VertexSource):
    """A learned table of features per vertex, the same in all frames.

    Args:
        vertex_count: V.
        width: features per vertex.
        initial: standard deviation of the table at the start.

    Raises:
        ValueError: a size is below 1.

    Source: MonoAvatar (Bai et al. 2023), "static" of its ablation.
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
        self.fields = check_fields("CodeFeatures", fields)
        self.needs, self.code_widths = tuple(self.fields), self.fields
        self.vertex_count, self.width = vertex_count, width + sum(self.fields.values())
        self.table = nn.Parameter(initial * torch.randn(vertex_count, width))

    def extra_repr(self) -> str:
        return f"{self.fields}, {self.vertex_count} vertices, width={self.width}"

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        self.check_state(state)
        code = code_of("CodeFeatures", state, self.fields)
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

    Source: MonoAvatar (Bai et al. 2023), "codes-MLP" of its ablation. The sizes are our own choice.
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
        self.fields = check_fields("CodeMLPFeatures", fields)
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
        code = code_of("CodeMLPFeatures", state, self.fields)
        features: Tensor = self.rest(self.of_row(self.table) + self.of_code(code)[:, None])
        return features


def _check_sizes(part: str, vertex_count: int, *sizes: int) -> None:
    if vertex_count < 0 or min(sizes) < 1:
        raise ValueError(
            f"{part}: vertex_count is {vertex_count} and widths are {sizes}; expected V >= 0 and sizes >= 1"
        )
