"""Anchored decoder of MonoNPHM: a blended ensemble of local networks at anchors, for signed distance and color."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from headfields.networks import Anchors
from headfields.networks.ensemble import Ensemble
from headfields.networks.mlp import MLP
from headfields.ops.grouped import group_rows
from headfields.ops.nearest_vertices import MAX_NEIGHBORS, VertexTree
from headfields.ops.softplus import softplus
from headfields.parts import Decoder
from headfields.records import Canonical, Features, FieldValues, HeadState

_VALUES = {"cpu": 2**24, "cuda": 2**28}
"""Activations of a layer at a time, where no gradient is needed."""


@dataclass(frozen=True)
class AnchoredFrames:
    """B frames, prepared for `AnchoredDecoder`: the anchors in the networks' units, and the contribution of the codes
    to the first layer of each of N members' networks; and a tree over the anchors, if it serves."""

    anchors: Float[Tensor, "b a 3"]
    geometry: Float[Tensor, "bn hidden"]
    appearance: Float[Tensor, "bn app"]
    tree: VertexTree | None = None


@dataclass(frozen=True)
class Blend:
    """The members that M points are blended from: the K nearest of A anchors, and last the global member.

    Attributes:
        member: (M, K + 1) indices of the members; A is the global one.
        offset: (M, K + 1, 3) from the anchor to the point, from the center for the global member; in the networks'
            units.
        weight: (M, K + 1) blend weights with sum 1 (up to 1e-8).
    """

    member: Int[Tensor, "m k"]
    offset: Float[Tensor, "m k 3"]
    weight: Float[Tensor, "m k"]


class AnchoredDecoder(Decoder):
    """Signed distance and color, blended from local networks at the nearest anchors and a global network.

    The input of each member's network is [z_global, z_local, x - a, features]; the members of a symmetric pair share
    weights, the second with the first coordinate of x - a negated. Color is computed from the last hidden layer of the
    same member's geometry network, not from the point's position: the colors of a person follow their shape. Distances
    and colors are blended with the same Gaussian weights of the distances to the anchors,

        w_k = exp(-(d_k / s)² / 2) / (Σ + 1e-8),  s = max(d_1 ... d_reach) / sharpness,  d of the global member: `far`.

    x is the canonical point; features are further inputs of each member (for hyper-coordinates, use the encoder
    `Coordinates(points=False)`). Members are evaluated together, sorted by network into blocks for batched products;
    the contribution of the codes to the first layers is computed once per frame. In evaluation mode, members whose
    weight is below `skip_below` are skipped and the other weights are renormalized: the distance then differs by at
    most the sum of the skipped weights times the difference between the skipped members' distances and the others'.

    Distances are in meters and colors sRGB in [0, 1] (the last layer is linear, as published, so they may lie slightly
    outside); inside, networks compute in `anchors.normalized` units and colors in [-1, 1].

    Args:
        anchors: shared with the deformer; their `layout` is that of the codes.
        hidden, layers: units and number of hidden layers of the geometry networks.
        neighbors: number of nearest anchors that a point is blended from; all, if there are fewer.
        reach: the Gaussian's width follows the largest distance to this many of them.
        sharpness: that distance in widths of the Gaussian.
        far: distance assigned to the global member everywhere, meters; 0.75 of MonoNPHM's units.
        appearance: input of the appearance networks: `"geometry"`, a projection of the geometry features; `"point"`,
            the input of the geometry networks, for an ablation.
        appearance_hidden, appearance_layers: units and number of hidden layers of the appearance networks.
        appearance_width: width of the projected geometry features; two layers, shared by all members.
        beta: sharpness of the geometry networks' Softplus, log(1 + exp(beta · x)) / beta. Appearance networks use ReLU.
        skip_below: weight below which a member is skipped in evaluation mode; 0 skips none.
        code: name of the appearance code in `HeadState.codes`; that of the geometry is the anchors'.

    Differentiable to any order in points, features, codes and parameters, with jumps of the size of the least weights
    where the nearest anchors change.

    Raises:
        ValueError: an argument is out of range; a code of the state has another width.

    Source: MonoNPHM (Giebenhain et al. 2024), section 4.2, and NPHM (2023), section 4.1; sizes as in the released code.
    """

    gives = "distance"
    network: Tensor
    side: Tensor

    def __init__(
        self,
        anchors: Anchors,
        hidden: int = 200,
        layers: int = 4,
        neighbors: int = 12,
        reach: int = 8,
        sharpness: float | int = 3.75,
        far: float | int = 0.1875,
        appearance: Literal["geometry", "point"] = "geometry",
        appearance_hidden: int = 200,
        appearance_layers: int = 4,
        appearance_width: int = 16,
        beta: float | int = 100.0,
        skip_below: float | int = 1e-3,
        code: str = "appearance",
    ) -> None:
        super().__init__()
        for name, value in (
            ("hidden", hidden), ("layers", layers), ("neighbors", neighbors), ("reach", reach),
            ("appearance_hidden", appearance_hidden), ("appearance_layers", appearance_layers),
            ("appearance_width", appearance_width),
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"AnchoredDecoder: {name} is {value}; it must be at least 1")
        if appearance not in ("geometry", "point"):
            raise ValueError(f"AnchoredDecoder: appearance is {appearance!r}; expected 'geometry' or 'point'")
        if not (0 < sharpness < torch.inf and 0 < far < torch.inf and 0 < beta < torch.inf and 0 <= skip_below < 1):
            raise ValueError(
                f"AnchoredDecoder: sharpness={sharpness}, far={far}, beta={beta}, skip_below={skip_below}; expected "
                "positive numbers, and skip_below in [0, 1)"
            )
        self.anchors = anchors
        self.hidden = hidden
        self.layers = layers
        self.neighbors = min(neighbors, len(anchors))
        self.reach = min(reach, self.neighbors)
        self.sharpness = float(sharpness)
        self.far = far * anchors.scale
        self.appearance = appearance
        self.appearance_sizes = (appearance_hidden, appearance_layers)
        self.beta = float(beta)
        self.skip_below = float(skip_below)
        self.code = code
        self.needs = (anchors.code, code)
        self.code_widths = dict.fromkeys(self.needs, anchors.layout.width)
        layout = anchors.layout
        paired = torch.arange(2 * layout.pairs) // 2
        single = torch.arange(layout.middle + 1) + layout.pairs
        self.register_buffer("network", torch.cat([paired, single]), persistent=False)
        side = torch.ones(layout.members, 3)
        side[1 : 2 * layout.pairs : 2, 0] = -1
        self.register_buffer("side", side, persistent=False)
        if appearance == "geometry":
            self.projection = MLP(hidden, appearance_width, appearance_width, bias=True)
        self.appearance_width = appearance_width
        self._tree: VertexTree | None = None

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        layout = self.anchors.layout
        shared = layout.global_width + layout.local_width
        own = self.appearance_width if self.appearance == "geometry" else 3 + width
        self.geometry_networks = Ensemble(self._networks, shared, 3 + width, self.hidden, self.layers, 1)
        self.appearance_networks = Ensemble(self._networks, shared, own, *self.appearance_sizes, 3)

    def prepare(self, state: HeadState) -> AnchoredFrames:
        layout, name = self.anchors.layout, type(self).__name__
        geometry = layout.of_state(name, self.anchors.code, state)
        appearance = layout.of_state(name, self.code, state)
        with torch.autocast(geometry.device.type, enabled=False):
            anchors = self.anchors.normalized(self.anchors(geometry))
            return AnchoredFrames(
                anchors=anchors,
                geometry=self.geometry_networks.starts(*layout.split(geometry), self.network).flatten(0, 1),
                appearance=self.appearance_networks.starts(*layout.split(appearance), self.network).flatten(0, 1),
                tree=self._tree_at(anchors.detach()),
            )

    def _tree_at(self, anchors: Float[Tensor, "b a 3"]) -> VertexTree | None:
        """A tree over the anchors of each frame, of the topology of the mean anchors; None: too many neighbors."""
        if self.neighbors > MAX_NEIGHBORS:
            return None
        if self._tree is None or self._tree.vertices.device != anchors.device:
            self._tree = VertexTree(self.anchors.normalized(self.anchors.mean).to(anchors.device))
        return self._tree.posed(anchors)

    def _nearest(self, x: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: AnchoredFrames) -> Tensor:
        """The nearest anchors (M, K) of points, nearest first; -1 of points and anchors that are not finite."""
        if prepared.tree is not None:
            several = len(prepared.anchors) > 1
            return prepared.tree.nearest(x.detach(), self.neighbors, frame if several else None).index
        squared = torch.zeros(len(x), prepared.anchors.shape[1], dtype=x.dtype, device=x.device)
        for axis in range(3):
            squared += (x[:, axis, None] - prepared.anchors[:, :, axis].index_select(0, frame)).square()
        return squared.topk(self.neighbors, largest=False).indices

    def blend(self, canonical: Canonical, prepared: AnchoredFrames) -> Blend:
        """The members that each of M points is blended from, and their weights; M = 0 is legal."""
        x = self.anchors.normalized(canonical.points)
        anchors, frame, last = prepared.anchors, canonical.frame, prepared.anchors.shape[1]
        with torch.no_grad():
            anchor = self._nearest(x, frame, prepared)
            nearest = anchor.clamp_min(0)
        index = (frame[:, None] * last + nearest).flatten() if len(anchors) > 1 else nearest.flatten()
        offset = x[:, None] - anchors.flatten(0, 1).index_select(0, index).view(len(x), self.neighbors, 3)
        offset = offset.masked_fill(anchor[..., None] < 0, torch.nan)
        squared = offset.square().sum(dim=-1)  # again, with a graph; without a root, which is singular at the anchor
        width = squared[:, : self.reach].amax(dim=1, keepdim=True) / self.sharpness**2
        squared = torch.cat([squared, torch.full_like(squared[:, :1], self.far**2)], dim=1)
        weight = torch.exp(-squared / (2 * width.clamp_min(1e-12)))
        return Blend(
            member=torch.cat([nearest, torch.full_like(nearest[:, :1], last)], dim=1),
            offset=torch.cat([offset, x[:, None]], dim=1),
            weight=weight / (weight.sum(dim=1, keepdim=True) + 1e-8),
        )

    def forward(
        self, features: Features, canonical: Canonical, prepared: AnchoredFrames, color: bool = True
    ) -> FieldValues:
        with torch.autocast(canonical.points.device.type, enabled=False):  # bfloat16 has 8 bits of a distance
            joined = features.joined().to(canonical.points.dtype)
            chunks = [self._shape(joined[chunk], canonical[chunk], prepared) for chunk in self._chunks(joined)]
            distance, geometry = (torch.cat(each) if len(each) > 1 else each[0] for each in zip(*chunks, strict=True))
        values = FieldValues(distance=distance / self.anchors.scale, geometry=geometry)
        return values.replace(rgb=self.color(values, canonical, prepared)) if color else values

    def color(self, values: FieldValues, canonical: Canonical, prepared: AnchoredFrames) -> Float[Tensor, "m 3"]:
        """The color (M, 3) of `values.geometry`; it does not depend on the direction. M = 0 is legal.

        A row of the geometry has for each member [input of the appearance network, weight, row of `prepared`].
        """
        (geometry,) = values.require("geometry")
        with torch.autocast(geometry.device.type, enabled=False):
            chunks = [self._appearance(geometry[chunk], prepared) for chunk in self._chunks(geometry)]
            return ((torch.cat(chunks) if len(chunks) > 1 else chunks[0]) + 1) / 2

    def _chunks(self, x: Tensor) -> list[slice]:
        """Rows that are evaluated at a time: with a graph all of them, without one as memory for activations allows."""
        count = max(len(x), 1)
        if not torch.is_grad_enabled():
            widest = max(self.hidden, self.appearance_sizes[0])
            count = max(_VALUES.get(x.device.type, 2**24) // ((self.neighbors + 1) * widest), 256)
        return [slice(begin, begin + count) for begin in range(0, max(len(x), 1), count)]

    def _skipped(self, weight: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        """The weights; in evaluation mode without the small ones, renormalized."""
        if self.training or not self.skip_below:
            return weight
        weight = weight * (weight >= self.skip_below)
        return weight / weight.sum(dim=1, keepdim=True)

    def _pairs(self, weight: Float[Tensor, " mk"]) -> Int[Tensor, " p"]:
        """Indices of the (point, member) pairs to evaluate, of M * (K + 1): all, or those with a weight."""
        if self.training or not self.skip_below:
            return torch.arange(len(weight), device=weight.device)
        return weight.nonzero()[:, 0]

    def _shape(
        self, features: Tensor, canonical: Canonical, prepared: AnchoredFrames
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m g"]]:
        """The distances, in the networks' units, and the geometry."""
        blend = self.blend(canonical, prepared)
        weight, member, each = self._skipped(blend.weight).flatten(), blend.member.flatten(), blend.member.shape[1]
        pair = self._pairs(weight)
        rows = group_rows(self.network[member[pair]], self._networks)
        grouped_pair = pair.index_select(0, rows.source)
        grouped_point, grouped_member = grouped_pair // each, member.index_select(0, grouped_pair)
        row = canonical.frame[:, None] * self.anchors.layout.members + blend.member
        offset = blend.offset.flatten(0, 1).index_select(0, grouped_pair) * self.side.index_select(0, grouped_member)
        own = rows.blocks(torch.cat([offset, features.index_select(0, grouped_point)], dim=-1))
        start = row.flatten().index_select(0, grouped_pair)
        tap = self.projection if self.appearance == "geometry" else None
        value, tapped = self.geometry_networks(own, prepared.geometry, start, rows, self._softplus, tap)
        tapped = rows.scatter(own if tapped is None else tapped)
        value = rows.scatter(value)[:, 0]
        if len(pair) < len(weight):
            value = value.new_zeros(len(weight)).index_copy(0, pair, value)
            tapped = tapped.new_zeros(len(weight), tapped.shape[1]).index_copy(0, pair, tapped)
        geometry = torch.cat([tapped, weight[:, None], row.flatten()[:, None].to(tapped.dtype)], dim=-1)
        return (value * weight).view(-1, each).sum(dim=1), geometry.view(len(features), each * geometry.shape[1])

    def _appearance(self, geometry: Float[Tensor, "m g"], prepared: AnchoredFrames) -> Float[Tensor, "m 3"]:
        """The colors in [-1, 1]."""
        each = self.neighbors + 1
        flat = geometry.view(len(geometry) * each, geometry.shape[1] // each)
        inputs, weight, row = flat[:, :-2], flat[:, -2], flat[:, -1].detach().long()
        pair = self._pairs(weight)
        member = row.index_select(0, pair) % self.anchors.layout.members
        rows = group_rows(self.network[member], self._networks)
        grouped_pair = pair.index_select(0, rows.source)
        own = rows.blocks(inputs.index_select(0, grouped_pair))
        start = row.index_select(0, grouped_pair)
        value = rows.scatter(self.appearance_networks(own, prepared.appearance, start, rows, functional.relu)[0])
        weighted = value * weight.index_select(0, pair)[:, None]
        if len(pair) < len(weight):
            weighted = weighted.new_zeros(len(weight), 3).index_copy(0, pair, weighted)
        return weighted.view(-1, each, 3).sum(dim=1)

    @property
    def _networks(self) -> int:
        return self.anchors.layout.pairs + self.anchors.layout.middle + 1

    def _softplus(self, x: Tensor) -> Tensor:
        return softplus(x, self.beta)
