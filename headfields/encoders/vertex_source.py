"""Sources of vertex features: a feature vector of each vertex of the head's mesh, per frame; their base class."""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.part_base import Part
from headfields.records import HeadState

_answers: contextvars.ContextVar[dict[tuple[int, int], tuple[Tensor, Any]] | None] = contextvars.ContextVar(
    "answers", default=None
)


@contextlib.contextmanager
def cached_vertex_features() -> Iterator[None]:
    """Within the block a source computes its features of a state once, for all encoders that share it."""
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


class VertexSource(Part):
    """Features of width `width` of each vertex of the mesh, per frame.

    A source is a component of encoders, not an encoder: an encoder that anchors features to the mesh calls it once in
    `prepare(state)` and then gathers features at points, of the nearest vertices or at the nearest surface point. Such
    an encoder includes the `needs` of its source in its own.

    Subclasses set `width`, `needs` and `vertex_count` in their constructor and define `forward`. They are parts: their
    constructor arguments are recorded, so an avatar that holds one is saved and built again.

    Attributes:
        width: number of features per vertex.
        needs: the fields of `HeadState` (or names of codes) that the source reads.
        vertex_count: V, the number of rows of features: of the states' vertices, unless `anchors` gives others.
        follows_head: False if a head that turns together with its camera has other features, as for a deformer
            (`headfields.Deformer`).
    """

    width: int
    vertex_count: int
    follows_head: bool = True

    def forward(self, state: HeadState) -> Float[Tensor, "b v width"]:
        """Features of each vertex of each frame; B = 0 is legal.

        Args:
            state: B frames with V = `vertex_count` vertices.

        Returns:
            (B, V, width), differentiable in the source's parameters and in what it reads of the state.

        Raises:
            ValueError: the state lacks a field of `needs`, or has another number of vertices.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward is not defined")

    def anchors(self, state: HeadState) -> Float[Tensor, "b v 3"]:
        """Positions of the features, meters: the state's vertices, unless the source stands on others."""
        return state.vertices

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        answers = None if torch.compiler.is_compiling() else _answers.get()  # dynamo cannot follow it
        key = (id(self), id(args[0]) if args else 0)
        if answers is not None and key in answers:
            return answers[key][0]
        features: Tensor = super().__call__(*args, **kwargs)
        if answers is not None and args:
            answers[key] = features, args[0]  # the state too: one made by another source would free its id
        return features

    def check_state(self, state: HeadState) -> None:
        """Raises ValueError unless the state has `vertex_count` vertices and every field of `needs`."""
        name = type(self).__name__
        if state.vertices.shape[1] != self.vertex_count:
            raise ValueError(
                f"{name}: the state's vertices have shape {tuple(state.vertices.shape)}, but the part was made for "
                f"{self.vertex_count} vertices; make it from the template of the head that the states are of"
            )
        for field in self.needs:
            state.need(name, field)


def check_widths(part: str, fields: Mapping[str, int]) -> dict[str, int]:
    """A copy of `fields`; raises ValueError, naming `part`, if it is empty or a number of coefficients is below 1."""
    if not fields or any(size < 1 for size in fields.values()):
        raise ValueError(
            f"{part}: fields is {dict(fields)}; expected names of HeadState's fields, each with its number of "
            'coefficients: {"expression": 57}'
        )
    return dict(fields)


def state_code(part: str, state: HeadState, fields: Mapping[str, int]) -> Float[Tensor, "b code"]:
    """Fields (or codes) of a state, flattened and concatenated.

    Args:
        part: name of the part that reads them, for messages.
        state: B frames.
        fields: names, each with its number of coefficients per frame.

    Raises:
        ValueError: the state lacks a field, or it has another number of coefficients.
    """
    values = []
    for name, size in fields.items():
        value = state.need(part, name).flatten(1)
        if value.shape[1] != size:
            raise ValueError(
                f"{part}: the state's {name!r} has {value.shape[1]} coefficients per frame; it was built for {size}"
            )
        values.append(value)
    return torch.cat(values, dim=1)
