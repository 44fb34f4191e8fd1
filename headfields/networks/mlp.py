"""Small fully connected networks with ReLU."""

import itertools
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.ops.mlp import mlp as run

_MOST_LAYERS = 1024


def hidden_layers(hidden: int, layers: int) -> list[int]:
    """The widths of `layers` layers of `hidden` units; a limit keeps a wrong number from filling the memory.

    Raises:
        ValueError: there are more than 1024 layers.
    """
    if layers > _MOST_LAYERS:
        raise ValueError(f"the number of hidden layers is {layers}; expected at most {_MOST_LAYERS}")
    return [hidden] * layers


class MLP(nn.Sequential):
    """Linear layers with ReLU between them and none after the last, evaluated together (`headfields.ops.mlp`).

    A `torch.nn.Sequential` of `Linear` and `ReLU`, with the same parameter names; forward hooks of the layers do not
    run.

    >>> import torch
    >>> MLP(3, 16, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])

    Args:
        widths: widths of the input and of each layer's output.
        bias: whether the layers have one.

    Raises:
        ValueError: fewer than two widths, or one that is not positive.
    """

    def __init__(self, *widths: int, bias: bool = False) -> None:
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"MLP: widths are {widths}; expected at least two, all positive")
        parts: list[nn.Module] = []
        for index, (before, after) in enumerate(itertools.pairwise(widths)):
            linear = nn.Linear(before, after, bias=bias)
            last = index == len(widths) - 2
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear" if last else "relu")
            if bias:
                nn.init.zeros_(linear.bias)
            parts += [linear] if last else [linear, nn.ReLU()]
        super().__init__(*parts)
        self.bias = bias

    def forward(
        self,
        x: Float[Tensor, "*batch _"],
        condition: Float[Tensor, "k _"] | None = None,
        index: Int[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch _"]:
        """The network of x, or of [x, condition[index]]; see `headfields.ops.mlp`."""
        linears: list[Any] = list(self)[::2]
        biases = [linear.bias for linear in linears] if self.bias else None
        return run(x, [linear.weight for linear in linears], biases, condition, index)


def mlp(width_in: int, hidden: int, layers: int, width_out: int, bias: bool = False) -> MLP:
    """`layers` hidden ReLU layers of `hidden` units between the two widths; He-initialized, without bias by default.

    INSTA's networks (tiny-cuda-nn's fully fused ones) have no bias.
    """
    if min(width_in, hidden, width_out) < 1 or layers < 0:
        raise ValueError(f"mlp: sizes {width_in} -> {layers} x {hidden} -> {width_out} must be positive")
    return MLP(width_in, *hidden_layers(hidden, layers), width_out, bias=bias)
