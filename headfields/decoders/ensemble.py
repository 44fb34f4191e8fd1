"""Networks of one shape, each with weights of its own, evaluated together on the rows that each one has."""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.ops.grouped import GroupedRows


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
        start: Float[Tensor, "c t hidden"],
        rows: GroupedRows,
        activation: Callable[[Tensor], Tensor],
    ) -> tuple[Float[Tensor, "c t out"], Float[Tensor, "c t hidden"]]:
        """The outputs of rows in their blocks, and the last hidden layer before its activation.

        Args:
            own: (C, T, own) the values that each row has for itself.
            start: (C, T, hidden) of `starts`, looked up for each row.
            rows: says which network each block has.
            activation: between the layers.
        """
        last = len(self.weights) - 1
        hidden = start + rows.linear(own, self.weights[0][:, self.shared :])
        for layer in range(1, last):
            hidden = rows.linear(activation(hidden), self.weights[layer], self.biases[layer])
        return rows.linear(activation(hidden), self.weights[last], self.biases[last]), hidden
