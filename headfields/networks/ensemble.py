"""Ensemble of fully connected networks of one shape, evaluated together on rows grouped by network."""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.networks.mlp import hidden_layers
from headfields.ops.grouped import GroupedRows

_CACHED = 2**19
"""Activations of a layer that are computed at a time without a graph: 2 MiB."""


class Ensemble(nn.Module):
    """G fully connected networks of one shape; the input of the first layer is [shared values | values of the row].

    Shared values belong to a frame and a member (several members may have one network); their contribution to the first
    layer is computed once, with `starts`, and gathered for each row.

    Args:
        networks: G.
        shared: width of the values that rows share.
        own: width of the values of each row.
        hidden, layers: units and number of the hidden layers, at least one.
        out: outputs.
    """

    def __init__(self, networks: int, shared: int, own: int, hidden: int, layers: int, out: int) -> None:
        super().__init__()
        self.shared = shared
        widths = [shared + own, *hidden_layers(hidden, layers), out]
        self.weights = nn.ParameterList(
            torch.randn(networks, before, after) * (2 / max(before, 1)) ** 0.5
            for before, after in itertools.pairwise(widths)
        )
        with torch.no_grad():
            self.weights[-1] *= 0.5**0.5  # no activation follows
        self.biases = nn.ParameterList(torch.zeros(networks, after) for after in widths[1:])

    def starts(
        self, common: Float[Tensor, "b common"], local: Float[Tensor, "b n local"], network: Int[Tensor, " n"]
    ) -> Float[Tensor, "b n hidden"]:
        """Bias plus contribution of the shared values to the first layer (B, N, hidden), for each frame and member.

        Args:
            common: (B, common) values of each frame.
            local: (B, N, local) values of each member; common + local = `shared`.
            network: (N,) the network of each member.
        """
        weight, width = self.weights[0], common.shape[1]
        of_frame = torch.einsum("bc,gch->bgh", common, weight[:, :width]) + self.biases[0]
        of_member = torch.einsum("bnl,nlh->bnh", local, weight[:, width : self.shared].index_select(0, network))
        return of_frame.index_select(1, network) + of_member

    def forward(
        self,
        own: Float[Tensor, "c t own"],
        starts: Float[Tensor, "bn hidden"],
        start: Int[Tensor, " ct"],
        rows: GroupedRows,
        activation: Callable[[Tensor], Tensor],
        tap: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Float[Tensor, "c t out"], Float[Tensor, "c t tap"] | None]:
        """The outputs of rows in their blocks, and `tap` of the last hidden layer before its activation.

        Without a graph a few blocks at a time pass through all layers, to stay in the processor's cache.

        Args:
            own: (C, T, own) values of each row.
            starts: (B * N, hidden) of the method `starts`.
            start: (C * T,) the row of `starts` of each row.
            rows: the grouping, with the network of each block.
            activation: activation between the layers.
            tap: a function of rows; None: no second result.
        """
        count, size = own.shape[:2]
        step = max(count, 1)
        if not torch.is_grad_enabled() and own.device.type == "cpu":
            step = max(_CACHED // max(size * starts.shape[1], 1), 1)
        chunks = []
        for begin in range(0, max(count, 1), step):
            chunk = slice(begin, begin + step)
            index = start[begin * size : (begin + step) * size]
            first = starts.index_select(0, index).view(-1, size, starts.shape[1])
            chunks.append(self._layers(own[chunk], first, rows, chunk, activation, tap))
        if len(chunks) == 1:
            return chunks[0]
        out, tapped = zip(*chunks, strict=True)
        return torch.cat(out), None if tap is None else torch.cat(tapped)

    def _layers(
        self,
        own: Tensor,
        start: Tensor,
        rows: GroupedRows,
        chunk: slice,
        activation: Callable[[Tensor], Tensor],
        tap: Callable[[Tensor], Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        last = len(self.weights) - 1
        hidden = start + rows.linear(own, self.weights[0][:, self.shared :], blocks=chunk)
        for layer in range(1, last):
            hidden = rows.linear(activation(hidden), self.weights[layer], self.biases[layer], chunk)
        out = rows.linear(activation(hidden), self.weights[last], self.biases[last], chunk)
        return out, None if tap is None else tap(hidden)
