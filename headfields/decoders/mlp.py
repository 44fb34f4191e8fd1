"""The small fully connected networks of decoders."""

import itertools

from torch import nn


def mlp(width_in: int, hidden: int, layers: int, width_out: int, bias: bool = False) -> nn.Sequential:
    """`layers` hidden ReLU layers of `hidden` units between the two widths; He-initialised, without bias by default.

    INSTA's networks (tiny-cuda-nn's fully fused ones) have no bias.
    """
    if min(width_in, hidden, width_out) < 1 or layers < 0:
        raise ValueError(f"mlp: sizes {width_in} -> {layers} x {hidden} -> {width_out} must be positive")
    sizes = [width_in] + [hidden] * layers + [width_out]
    parts: list[nn.Module] = []
    for index, (before, after) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(before, after, bias=bias)
        last = index == len(sizes) - 2
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear" if last else "relu")
        if bias:
            nn.init.zeros_(linear.bias)
        parts += [linear] if last else [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)
