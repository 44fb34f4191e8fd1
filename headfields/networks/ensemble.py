"""Networks of one shape, each with weights of its own, evaluated together on the rows that each one has."""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.ops.grouped import GroupedRows

_CACHED = 2**19
"""Activations of a layer that are computed at a time where no graph is kept: 2 MiB."""


class Ensemble(nn.Module):
    """G fully connected networks of one shape; the first layer sees [shared values | values of the row].

    Shared values belong to a frame and a member (several members may have one network); what they add to the first
    layer is computed once with `starts`, and looked up for each row.

    Args:
        networks: G.
        shared: number of values that rows share.
        own: number of values that each row has for itself.
        hidden, layers: units and number of the hidden layers, at least one.
        out: outputs.
    """

    def __init__(self, networks: int, shared: int, own: int, hidden: int, layers: int, out: int) -> None:
        super().__init__()
        self.shared = shared
        widths = [shared + own, *[hidden] * layers, out]
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
        """What the first layer's sums start from for each frame and member: its bias and the part of shared values.

        Args:
            common: (B, common) values of each frame.
            local: (B, N, local) of each member in it; common + local are as many as `shared`.
            network: (N,) which network each member has.
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
        """The outputs of rows in their blocks, and what `tap` makes of the last hidden layer before its activation.

        Without a graph a few blocks at a time go through all layers, so that they stay in the processor's cache.

        Args:
            own: (C, T, own) the values that each row has for itself.
            starts: (B * N, hidden) of the method of this name.
            start: (C * T,) which of them each row starts from.
            rows: says which network each block has.
            activation: between the layers.
            tap: a function of rows.
        """
        count, size = own.shape[:2]
        step = max(count, 1)
        if not torch.is_grad_enabled() and own.device.type == "cpu":
            step = max(_CACHED // max(size * starts.shape[1], 1), 1)
        found = []
        for begin in range(0, max(count, 1), step):
            piece = slice(begin, begin + step)
            which = start[begin * size : (begin + step) * size]
            first = starts.index_select(0, which).view(-1, size, starts.shape[1])
            found.append(self._layers(own[piece], first, rows, piece, activation, tap))
        if len(found) == 1:
            return found[0]
        out, tapped = zip(*found, strict=True)
        return torch.cat(out), None if tap is None else torch.cat(tapped)

    def _layers(
        self,
        own: Tensor,
        start: Tensor,
        rows: GroupedRows,
        piece: slice,
        activation: Callable[[Tensor], Tensor],
        tap: Callable[[Tensor], Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        last = len(self.weights) - 1
        hidden = start + rows.linear(own, self.weights[0][:, self.shared :], blocks=piece)
        for layer in range(1, last):
            hidden = rows.linear(activation(hidden), self.weights[layer], self.biases[layer], piece)
        out = rows.linear(activation(hidden), self.weights[last], self.biases[last], piece)
        return out, None if tap is None else tap(hidden)
