"""Small fully connected networks in plain PyTorch: any float dtype, differentiable to any order."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from headfields.ops.few_rows import few_rows


def mlp(
    x: Float[Tensor, "*batch _"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]] | None = None,
    condition: Float[Tensor, "k _"] | None = None,
    index: Int[Tensor, "*batch"] | None = None,
    start: Float[Tensor, "k _"] | None = None,
) -> Float[Tensor, "*batch _"]:
    """See `headfields.ops.mlp`."""
    hidden = x
    if condition is not None:
        assert index is not None
        hidden = torch.cat([x, few_rows(condition, index)], dim=-1)
    for layer, weight in enumerate(weights):
        if layer == 0 and start is not None:
            assert index is not None
            hidden = functional.linear(hidden, weight) + few_rows(start, index)
            continue
        hidden = functional.linear(hidden if layer == 0 else hidden.relu(), weight, biases[layer] if biases else None)
    return hidden


def layers(
    x: Float[Tensor, "m _"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, "_ _"]],
    index: Int[Tensor, " m"] | None,
) -> list[Float[Tensor, "m _"]]:
    """The input of each layer, and the output of the last.

    A bias has one row, or none where the layer has no bias; the first layer's may have any number of them, and then
    `index` assigns one to each row of x.
    """
    steps = [x]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        sums = (steps[-1] if layer == 0 else steps[-1].relu()) @ weight.T
        if len(bias):
            sums = sums + (few_rows(bias, index) if layer == 0 and index is not None else bias)
        steps.append(sums)
    return [x, *(step.relu() for step in steps[1:-1]), steps[-1]]


def backward(
    grad: Float[Tensor, "m _"],
    x: Float[Tensor, "m _"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, "_ _"]],
    index: Int[Tensor, " m"] | None,
) -> tuple[Float[Tensor, "m _"], list[Float[Tensor, "_ _"]], list[Float[Tensor, "_ _"]]]:
    """The gradients of the last output of `layers` by x, each weight and each bias."""
    steps = layers(x, weights, biases, index)
    to_weights, to_biases = [], []
    for layer in reversed(range(len(weights))):
        to_weights.append(grad.T @ steps[layer])
        bias = biases[layer]
        if layer == 0 and index is not None:
            to_biases.append(torch.zeros_like(bias).index_add(0, index, grad))
        else:
            to_biases.append(grad.sum(0, keepdim=True)[: len(bias)])
        grad = grad @ weights[layer]
        if layer:
            grad = grad.where(~(steps[layer] <= 0), 0)  # a NaN passes the gradient, as in torch's relu
    return grad, to_weights[::-1], to_biases[::-1]
