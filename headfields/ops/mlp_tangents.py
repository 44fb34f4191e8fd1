"""Forward-mode derivatives of small networks: values and directional derivatives in one pass."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape, promoted


def mlp_tangents(
    x: Float[Tensor, "*batch _"],
    tangents: Float[Tensor, "*batch k _"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]] | None = None,
    relu_last: bool = False,
) -> tuple[Float[Tensor, "*batch _"], Float[Tensor, "*batch k _"]]:
    """The network of `headfields.ops.mlp` at x, and its directional derivatives along k tangents of each row.

    With the tangents ∂x/∂q of coordinates q this gives the exact ∂y/∂q. k + 1 rows per point go through the layers;
    reverse mode would take a backward pass for every output.

    Args:
        x: (..., in) rows.
        tangents: (..., k, in) directions at each row.
        weights: weight of each layer, (out, in).
        biases: bias of each layer, (out,); None: no layer has one.
        relu_last: whether a ReLU follows the last layer too.

    Returns:
        (..., out) and (..., k, out).

    Differentiable to any order in everything. At a ReLU's kink the derivative is 0, as in PyTorch. Plain matrix
    products: any device and float dtype.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.

    >>> import torch, headfields as hf
    >>> x, tangents = torch.tensor([[1.0, 2.0]]), torch.eye(2)[None]  # derivatives along both coordinates
    >>> value, slopes = hf.ops.mlp_tangents(x, tangents, [torch.tensor([[3.0, 4.0]])])
    >>> value.tolist(), slopes.tolist()
    ([[11.0]], [[[3.0], [4.0]]])
    """
    op = "mlp_tangents"
    check_floating(op, "x", x)
    check_floating(op, "tangents", tangents)
    check_shape(op, "x", x, "... in")
    check_shape(op, "tangents", tangents, f"... k {x.shape[-1]}")
    if tangents.shape[:-2] != x.shape[:-1]:
        raise ValueError(f"{op}: tangents has shape {tuple(tangents.shape)}; x has rows {tuple(x.shape[:-1])}")
    if not weights:
        raise ValueError(f"{op}: weights is empty; a network has at least one layer")
    if biases is not None and len(biases) != len(weights):
        raise ValueError(f"{op}: {len(biases)} biases for {len(weights)} weights; pass one for each layer, or None")
    width = x.shape[-1]
    for layer, weight in enumerate(weights):
        check_floating(op, f"weights[{layer}]", weight)
        check_shape(op, f"weights[{layer}]", weight, f"out {width}")
        width = weight.shape[0]
        if biases is not None:
            check_shape(op, f"biases[{layer}]", biases[layer], f"{width}")
    check_same_device(op, x=x, tangents=tangents, **{f"weights[{layer}]": w for layer, w in enumerate(weights)})
    x, tangents, *weights = promoted(x, tangents, *weights)
    rows = torch.cat([x[..., None, :], tangents], dim=-2)
    first = (torch.arange(rows.shape[-2], device=x.device) == 0).to(x.dtype)[:, None]  # tangents have no bias
    for layer, weight in enumerate(weights):
        rows = rows @ weight.T
        if biases is not None:
            rows = rows + first * biases[layer].to(rows.dtype)
        if layer < len(weights) - 1 or relu_last:
            rows = rows * (rows[..., :1, :] > 0)
    return rows[..., 0, :], rows[..., 1:, :]
