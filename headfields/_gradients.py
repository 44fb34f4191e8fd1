"""Gradients of a field's distance by its points, behind `headfields.Field`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.records import Canonical, FieldValues

PIECE = 1 << 13
"""Points at a time where no graph is kept: until its gradient is known, each needs up to 100 kB of activations (an
ensemble of 13 networks)."""


def unit(vectors: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
    """Vectors (M, 3) of length 1, or near 0 where they are; smooth everywhere, unlike PyTorch's `normalize`."""
    return vectors * (vectors.square().sum(dim=-1, keepdim=True) + 1e-12).rsqrt()


def distance_with_gradient(
    field: Any,
    points: Float[Tensor, "m 3"],
    directions: Float[Tensor, "m 3"],
    frame: Int[Tensor, " m"],
    color: bool,
    graph: bool,
) -> tuple[Canonical, FieldValues]:
    """What `Field.signed_distance` gives; with `graph` differentiable, else detached and computed in pieces."""
    if graph:
        return _differentiated(field, points, directions, frame, color, True)
    parts = []
    with _frozen(field.avatar):
        for begin in range(0, max(len(points), 1), PIECE):
            where, along, of = (x[begin : begin + PIECE].detach() for x in (points, directions, frame))
            parts.append(_differentiated(field, where, along, of, color, False))
    canonicals, values = zip(*parts, strict=True)
    return _joined(canonicals), _joined(values)


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Parameters that ask for no gradient meanwhile: an operation cannot tell that its gradient by a table is not
    wanted where the table asks for one, and would spend a third of the time of rendering on it."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _differentiated(
    field: Any, points: Tensor, directions: Tensor, frame: Tensor, color: bool, graph: bool
) -> tuple[Canonical, FieldValues]:
    later = color and field.avatar.decoder.takes_normals
    with torch.enable_grad():
        if not points.requires_grad:
            points = points.detach().requires_grad_()
        canonical = field.canonicalize(points, directions, frame)
        values = field.decode(canonical, color=color and not later)
        gradient, inner = _gradients(values.distance, [points, canonical.points], graph)
        values = values.replace(gradient=gradient, normal=unit(gradient), canonical_normal=unit(inner))
    if not graph:
        canonical, values = canonical.detach(), values.detach()
    with torch.set_grad_enabled(graph):
        return canonical, field.color(values, canonical) if later else values


def with_canonical_normals(field: Any, canonical: Canonical) -> FieldValues:
    """Values with color of a decoder that takes normals: those by the canonical points, without the deformer."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        points = canonical.points
        if not (graph and points.requires_grad):
            points = points.detach().requires_grad_()
        at = canonical.replace(points=points)
        values = field.decode(at, color=False)
        (inner,) = _gradients(values.distance, [points], graph)
        values = field.color(values.replace(canonical_normal=unit(inner)), at)
    return values if graph else values.detach()


def _gradients(distance: Tensor, by: list[Tensor], graph: bool) -> list[Tensor]:
    """The derivatives of M distances by each of these (M, 3) points, zero where they do not depend on them."""
    wanted = [point for point in by if point.requires_grad]
    found = torch.autograd.grad(
        distance, wanted, torch.ones_like(distance), create_graph=graph, allow_unused=True, materialize_grads=True
    )
    each = iter(found)
    return [next(each) if point.requires_grad else torch.zeros_like(point) for point in by]


def _joined(records: Any) -> Any:
    """Records of pieces, each field put together along the first axis."""
    first = records[0]
    if len(records) == 1:
        return first
    fields = {
        name: None if value is None else torch.cat([getattr(record, name) for record in records])
        for name, value in vars(first).items()
    }
    return first.replace(**fields)
