import itertools

import pytest
import torch

from headfields.ops import mlp, mlp_tangents
from tests.tables import table


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*widths):
    pairs = list(itertools.pairwise(widths))
    return [random(b, a, seed=i) for i, (a, b) in enumerate(pairs)], [
        random(b, seed=9 + i) for i, (_, b) in enumerate(pairs)
    ]


@table("batch", [(), (2,), (1, 2), (0,), (5,)])
@table("relu_last", [False, True])
@table("with_bias", [False, True])
def test_value_and_derivative_are_those_of_the_network(batch, relu_last, with_bias):
    weights, biases = network(4, 7, 6, 3)
    biases = biases if with_bias else None
    x, tangents = random(*batch, 4, seed=20), random(*batch, 2, 4, seed=21)

    def run(rows):
        out = mlp(rows, weights, biases)
        return out.relu() if relu_last else out

    value, slopes = mlp_tangents(x, tangents, weights, biases, relu_last)
    torch.testing.assert_close(value, run(x))
    assert slopes.shape == (*batch, 2, 3)
    flat, directions = x.reshape(-1, 4), tangents.reshape(-1, 2, 4)
    for row, along, result in zip(flat, directions, slopes.reshape(-1, 2, 3), strict=True):
        torch.testing.assert_close(result, along @ torch.autograd.functional.jacobian(run, row).T)


def test_derivatives_of_the_derivatives():
    weights, biases = network(3, 5, 2)
    x, tangents = random(2, 3, seed=5), random(2, 1, 3, seed=6)
    inputs = [t.requires_grad_() for t in (x, tangents, *weights, *biases)]

    def function(x, tangents, first, second, one, two):
        return mlp_tangents(x, tangents, [first, second], [one, two])

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_compile(unchecked):
    weights, biases = network(3, 5, 2)
    x, tangents = random(4, 3, seed=5), random(4, 3, 3, seed=6)
    compiled = torch.compile(mlp_tangents, fullgraph=True, backend="aot_eager")
    for result, target in zip(
        compiled(x, tangents, weights, biases), mlp_tangents(x, tangents, weights, biases), strict=True
    ):
        torch.testing.assert_close(result, target)


def test_errors_name_the_argument(unchecked):
    weights, biases = network(3, 5, 2)
    with pytest.raises(ValueError, match=r"tangents has shape \(4, 2\); expected \(..., k, 3\)"):
        mlp_tangents(random(4, 3), random(4, 2), weights)
    with pytest.raises(ValueError, match=r"tangents has shape \(3, 1, 3\); x has rows \(4,\)"):
        mlp_tangents(random(4, 3), random(3, 1, 3), weights)
    with pytest.raises(ValueError, match=r"1 biases for 2 weights"):
        mlp_tangents(random(4, 3), random(4, 1, 3), weights, biases[:1])
    with pytest.raises(ValueError, match=r"weights\[1\] has shape \(2, 4\)"):
        mlp_tangents(random(4, 3), random(4, 1, 3), [weights[0], random(2, 4)])
    with pytest.raises(ValueError, match="weights is empty"):
        mlp_tangents(random(4, 3), random(4, 1, 3), [])
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
        mlp_tangents(torch.zeros(4, 3, dtype=torch.long), random(4, 1, 3), weights)
