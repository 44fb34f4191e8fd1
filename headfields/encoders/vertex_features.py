"""Vertex features aggregated over the nearest vertices (MonoAvatar's anchored radiance field)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headfields.encoders.vertex_source import VertexSource
from headfields.networks.mlp import MLP, hidden_layers
from headfields.ops.frequency import frequency_encoding
from headfields.ops.mlp import mlp
from headfields.ops.nearest_vertices import VertexTree, inverse_distance_weights
from headfields.ops.reference.nearest_vertices import MAX_NEIGHBORS
from headfields.ops.triangle_frames import triangle_frames
from headfields.ops.vectors import unit_vectors
from headfields.ops.vertex_geometry import triangle_areas
from headfields.parts import Encoder
from headfields.records import Canonical, HeadState

OffsetFrame = Literal["offset", "triangle"]


@dataclass(frozen=True)
class AnchoredFeatures:
    """B frames, prepared for `VertexFeatures`.

    Attributes:
        tree: the anchors, of B meshes, or of one if they do not move.
        start: (B · V, hidden) contribution of each vertex's features, and the bias, to the first layer of MLP0.
        turns: (B · V, 3, 3) rotations from the rest to the posed surface at each vertex, for `frame="triangle"`.
    """

    tree: VertexTree
    start: Float[Tensor, "bv hidden"]
    turns: Float[Tensor, "bv 3 3"] | None


class VertexFeatures(Encoder):
    """Features of the k nearest vertices and their offsets from the point, averaged by inverse distance.

    For a point q and its nearest vertices v_j with features z_j: ẑ_j = MLP0(PE((v_j − q) / unit), z_j),
    ẑ = Σ_j w_j ẑ_j with w_j ∝ 1 / ‖v_j − q‖ (`inverse_distance_weights` of
    `headfields.ops.nearest_vertices`), and the result is MLP1(ẑ).
    Both networks have ReLU after every layer. The paper's decoder is `headfields.decoders.RadianceHead`.

    A point without neighbors (one that is not finite) has ẑ = 0.

    The first layer of MLP0 is linear in its input, so its part in z_j is computed once per vertex and frame, in
    `prepare`, and gathered for each neighbor: the same result with less than half of that layer's products.

    Args:
        source: source of the features z of each vertex and frame.
        neighbors: k, 1 to 16.
        vertices: (V, 3) fixed anchors, meters, for use after a deformer to canonical space. None: the anchors are the
            vertices of the state, and points have to be in their space (`Static`, `NearSurface`).
        bands: octaves of the encoding of offsets, after the offset itself.
        hidden: units of every layer of both networks, and the number of features.
        layers: number of layers of MLP0, at least 1.
        merged_layers: number of layers of MLP1; 0 leaves it out.
        frame: `"offset"`: v_j − q, as in the paper. `"triangle"`: v_j − q in the frame of the surface at v_j, so that
            features rotate with it; our own variant. The rotation of the surface is the mean, weighted by areas at
            rest, of the rotations of the triangles at v_j from the rest mesh to the posed one (`triangle_frames`),
            orthonormalized by Gram-Schmidt. At rest both are the same.
        faces: (F, 3) the triangles, for `frame="triangle"`.
        rest_vertices: (V, 3) the rest mesh, for `frame="triangle"`.
        unit: length that the encoding scales to 1, meters. Our own choice, of the order of the largest offsets: the
            paper normalizes coordinates and gives no scale.

    Differentiable to second order in the source's features, the points and the vertices of the state, except where the
    nearest vertices change.

    Raises:
        TypeError: source is not a VertexSource.
        ValueError: a size is out of range, a shape does not fit, `frame="triangle"` lacks its mesh or has fixed
            anchors; later, a state of another number of vertices.

    Source: MonoAvatar (Bai et al. 2023), section 3.1, and its supplement for the sizes.
    """

    vertices: Tensor | None
    faces: Tensor | None
    rest_frames: Tensor | None
    rest_areas: Tensor | None

    def __init__(
        self,
        source: VertexSource,
        neighbors: int = 4,
        vertices: Float[Tensor, "v 3"] | None = None,
        bands: int = 10,
        hidden: int = 128,
        layers: int = 3,
        merged_layers: int = 3,
        frame: OffsetFrame = "offset",
        faces: Int[Tensor, "f 3"] | None = None,
        rest_vertices: Float[Tensor, "v 3"] | None = None,
        unit: float = 0.05,
    ) -> None:
        super().__init__()
        name = "VertexFeatures"
        if not isinstance(source, VertexSource):
            raise TypeError(f"{name}: source is a {type(source).__name__}; expected a headfields VertexSource")
        count = source.vertex_count
        if not 1 <= neighbors <= min(MAX_NEIGHBORS, count):
            raise ValueError(
                f"{name}: neighbors is {neighbors}; expected 1 to {MAX_NEIGHBORS}, and no more than the source's "
                f"{count} vertices"
            )
        if bands < 0 or hidden < 1 or layers < 1 or merged_layers < 0 or not 0 < unit < torch.inf:
            raise ValueError(
                f"{name}: bands={bands}, hidden={hidden}, layers={layers}, merged_layers={merged_layers}, unit={unit}; "
                "expected at least 0, 1, 1, 0, and a unit > 0 in meters"
            )
        if frame not in ("offset", "triangle"):
            raise ValueError(f"{name}: frame is {frame!r}; expected 'offset' or 'triangle'")
        if frame == "triangle" and (faces is None or rest_vertices is None):
            raise ValueError(f"{name}: frame='triangle' needs faces and rest_vertices, the mesh at rest; pass both")
        if frame == "triangle" and vertices is not None:
            raise ValueError(
                f"{name}: frame='triangle' with vertices, which are fixed anchors and do not rotate; "
                "leave vertices out, or take frame='offset'"
            )
        for argument, mesh in (("vertices", vertices), ("rest_vertices", rest_vertices)):
            if mesh is not None and mesh.shape != (count, 3):
                raise ValueError(
                    f"{name}: {argument} has shape {tuple(mesh.shape)}; expected ({count}, 3), the source's vertices"
                )
        self.source = source
        self.needs = source.needs
        self.neighbors, self.bands, self.width, self.unit = neighbors, bands, hidden, unit
        self.frame: OffsetFrame = frame
        self.register_buffer("vertices", None if vertices is None else vertices.detach().float().clone())
        rest_frames = faces_ = areas = None
        if frame == "triangle" and faces is not None and rest_vertices is not None:
            faces_, at_rest = faces.detach().long().clone(), rest_vertices.detach().float()
            rest_frames, areas = triangle_frames(at_rest, faces_)[..., :3], triangle_areas(at_rest, faces_)
        self.register_buffer("faces", faces_, persistent=False)
        self.register_buffer("rest_frames", rest_frames, persistent=False)
        self.register_buffer("rest_areas", areas, persistent=False)
        self._tree: VertexTree | None = None
        self.offset_width = 3 * (2 * bands + 1)
        self.neighbor_network = _rectified(self.offset_width + source.width, *hidden_layers(hidden, layers))
        self.merged_network = _rectified(hidden, *hidden_layers(hidden, merged_layers)) if merged_layers else None

    def extra_repr(self) -> str:
        anchors = "posed" if self.vertices is None else "fixed"
        return f"neighbors={self.neighbors}, {anchors} anchors, bands={self.bands}, frame={self.frame!r}"

    def prepare(self, state: HeadState) -> AnchoredFeatures:
        anchors = self.source.anchors(state)
        if anchors.shape[1] != self.source.vertex_count:
            raise ValueError(
                f"VertexFeatures: the state has {anchors.shape[1]} vertices and the source gives features of "
                f"{self.source.vertex_count}; they must be one topology"
            )
        features = self.source(state)
        first: Any = self.neighbor_network[0]
        start = functional.linear(features.flatten(0, 1), first.weight[:, self.offset_width :], first.bias)
        turns = self.surface_turns(anchors).flatten(0, 1) if self.frame == "triangle" else None
        return AnchoredFeatures(self._anchors(anchors), start, turns)

    def _anchors(self, posed: Float[Tensor, "b v 3"]) -> VertexTree:
        anchors = posed if self.vertices is None else self.vertices
        if self._tree is None or self._tree.vertices.device != anchors.device:
            self._tree = VertexTree(anchors.detach()[:1] if anchors.ndim == 3 and len(anchors) else anchors.detach())
        return self._tree.posed(posed) if self.vertices is None else self._tree

    def surface_turns(self, posed: Float[Tensor, "b v 3"]) -> Float[Tensor, "b v 3 3"]:
        """The rotation of the surface at each vertex, from the rest mesh to a posed one; `frame="triangle"` only.

        Args:
            posed: (B, V, 3), meters.

        Returns:
            (B, V, 3, 3); the identity at a vertex of no triangle. Differentiable to second order.
        """
        assert self.faces is not None and self.rest_frames is not None and self.rest_areas is not None
        turned = triangle_frames(posed, self.faces)[..., :3] @ self.rest_frames.transpose(-1, -2)
        weighted = (self.rest_areas[:, None, None] * turned)[..., :2].flatten(2)  # two columns make a rotation
        total = posed.new_zeros(*posed.shape[:2], 6)
        for corner in range(3):
            total = total.index_add(1, self.faces[:, corner], weighted)
        x, y = total.unflatten(-1, (3, 2)).unbind(-1)
        axes = torch.eye(3, dtype=posed.dtype, device=posed.device)
        x = unit_vectors(x, axes[0])
        y = unit_vectors(y - (y * x).sum(-1, keepdim=True) * x, torch.linalg.cross(axes[2].expand_as(x), x))
        return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)

    def forward(self, canonical: Canonical, prepared: AnchoredFeatures) -> Float[Tensor, "m width"]:
        tree, points, frame = prepared.tree, canonical.points, canonical.frame
        nearest = tree.nearest(points, self.neighbors, frame if self.vertices is None else None)
        exists = nearest.index >= 0
        local = nearest.index.clamp_min(0)
        row = local + frame[:, None] * self.source.vertex_count
        table = tree.vertices.reshape(-1, 3)
        anchors = table.index_select(0, (row if self.vertices is None else local).reshape(-1)).unflatten(0, row.shape)
        offset = torch.where(exists[..., None], anchors - points[:, None], 0.0) / self.unit
        if prepared.turns is not None:
            turns = prepared.turns.index_select(0, row.reshape(-1)).unflatten(0, row.shape)
            offset = (offset[..., None] * turns).sum(-2)  # by the transpose
        encoded = frequency_encoding(offset, self.bands)
        linears: list[Any] = list(self.neighbor_network)[::2]
        weights = [linears[0].weight[:, : self.offset_width], *(linear.weight for linear in linears[1:])]
        biases = [linear.bias for linear in linears]  # the first one is in `start`
        each = mlp(encoded, weights, biases, index=row, start=prepared.start).relu()
        merged = (inverse_distance_weights(nearest.distance)[..., None] * each).sum(-2)
        return merged if self.merged_network is None else self.merged_network(merged).relu()


def _rectified(*widths: int) -> MLP:
    """Layers with biases, initialized for a ReLU after the last of them too."""
    network = MLP(*widths, bias=True)
    last: Any = network[-1]
    nn.init.kaiming_uniform_(last.weight, nonlinearity="relu")
    return network
