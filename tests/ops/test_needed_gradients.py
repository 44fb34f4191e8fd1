"""Derivatives of registered operations compute the gradients that are asked for, and no others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import headfields as hf
from headfields.ops import grouped_linear as grouped
from headfields.ops.mlp import mlp_kernel

LAYOUT = hf.ops.HashGridLayout(levels=2, features=2, log2_table_size=6, base_resolution=4, finest_resolution=8)


class Calls(TorchDispatchMode):
    """What the operations of this library gave, by name: the shapes of their results, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.namespace == "headfields":
            given = results if isinstance(results, (tuple, list)) else [results]
            self.shapes.setdefault(func.overloadpacket.__name__, []).extend(tuple(result.shape) for result in given)
        return results

    def given(self) -> list[tuple[int, ...]]:
        return [shape for shapes in self.shapes.values() for shape in shapes]


def leaf(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


def grid(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return hf.ops.hash_grid(x, table, LAYOUT)


def network(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return mlp_kernel(x, [weight, weight[:2, :3]])


def ensemble(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return grouped.grouped_linear(x[None], weights, weights.new_empty(0, 4), torch.zeros(1, dtype=torch.long))


def rows(weights: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return hf.ops.interpolate_rows(table, torch.arange(15).view(5, 3) % len(table), weights)


CASES: dict[str, tuple[Callable[..., torch.Tensor], tuple[int, ...]]] = {
    "hash_grid": (grid, (LAYOUT.entries, 2)),
    "mlp": (network, (3, 3)),
    "grouped_linear": (ensemble, (1, 3, 4)),
    "interpolate_rows": (rows, (4, 2)),
}


@pytest.fixture(params=CASES)
def case(request: Any) -> Iterator[tuple[Callable[..., torch.Tensor], torch.Tensor, torch.Tensor]]:
    function, shape = CASES[request.param]
    return function, leaf(5, 3), leaf(*shape)


def test_the_gradient_by_points_costs_none_of_the_table(case: Any) -> None:
    function, x, table = case
    whole = torch.autograd.grad(function(x, table).square().sum(), (x, table))
    with Calls() as calls:
        (by_x,) = torch.autograd.grad(function(x, table).square().sum(), x, create_graph=True)
    assert torch.equal(by_x, whole[0])
    assert tuple(table.shape) not in calls.given(), calls.shapes
    (second,) = torch.autograd.grad(by_x.square().sum(), table)  # the other one is there for a second derivative
    by_both, _ = torch.autograd.grad(function(x, table).square().sum(), (x, table), create_graph=True)
    assert torch.equal(second, torch.autograd.grad(by_both.square().sum(), table)[0])


def test_backward_with_inputs_costs_none_of_other_leaves(case: Any) -> None:
    function, x, table = case
    whole = torch.autograd.grad(function(x, table).square().sum(), (x, table))
    with Calls() as calls:
        function(x, table).square().sum().backward(inputs=[table])
    assert x.grad is None and torch.equal(table.grad, whole[1])
    assert tuple(x.shape) not in [shape[-2:] for shape in calls.given()], calls.shapes
    with Calls() as calls:
        function(x, table).square().sum().backward()
    assert torch.equal(x.grad, whole[0])
    assert {tuple(x.shape), tuple(table.shape)} <= {*calls.given(), *(shape[-2:] for shape in calls.given())}


def test_a_step_on_distances_costs_no_gradient_of_their_points(tiny_folder: Path) -> None:
    capture = hf.data.load_capture(tiny_folder)
    base = hf.models.insta(capture.template)
    renderer = hf.renderers.SurfaceRenderer(hf.renderers.UniformSampler(4))
    encoder = hf.encoders.HashGrid(levels=2, log2_table_size=6, base_resolution=4, finest_resolution=8)
    avatar = hf.Avatar(base.deformer, encoder, hf.decoders.NeuSDecoder(hidden=8), renderer)
    with Calls() as calls:
        hf.training.Trainer(
            avatar, capture, [hf.losses.HuberColor(), hf.losses.Eikonal()], rays_per_step=16, bar=False
        ).fit(steps=1)
    (_, by_points, by_table) = calls.shapes["hash_grid_backward_backward"]
    assert by_points == (0,) and by_table == tuple(encoder.table.shape)
