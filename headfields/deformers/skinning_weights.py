"""Skinning weight field: a grid over canonical space, initialized from the mesh, optionally learned."""

import math
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.deformers.mesh_deformer import check_mesh
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import triangle_areas
from headfields.part_base import Part

_LEAST = 1e-5  # weight, so that its logarithm is finite
_CORNERS = torch.tensor(list(product((0, 1), repeat=3)))


class SkinningWeights(Part):
    """w(x), the softmax of trilinearly interpolated logits on a grid of cubic cells over canonical space.

    It starts with the weights of the nearest point of the mesh, each node averaged with its neighbors a few times,
    because nearest points jump inside a head, and root finding needs continuity. On the mesh, the weights are those of
    the mesh up to the resolution of a cell; `deviation` measures the difference, and regularizes a learned field
    (`headfields.losses.skinning.SkinningPrior`). Outside the grid the weights are those at its border.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        weights: (V, J) skinning weights; rows sum to 1.
        cell: side of a cell, meters.
        padding: extent of the grid beyond the mesh, meters.
        smoothing: number of times each node is averaged with its neighbors.
        learned: whether the logits are a parameter (`logits_table`, with the learning rate of tables).

    Differentiable to any order in points, inside a cell, and in the logits.

    Raises:
        ValueError: a shape does not fit, a number is out of range, or the grid would have more than 2^22 nodes.

    Source: a grid in place of SNARF's network: Chen et al. 2023, "Fast-SNARF"; softmax over joints: Chen et al. 2021,
    "SNARF", section 3.1. Cells, logits and smoothing are our own choice.
    """

    low: Tensor
    counts: Tensor
    canonical_vertices: Tensor
    faces: Tensor
    weights: Tensor
    logits_table: Tensor

    def __init__(
        self,
        canonical_vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        weights: Float[Tensor, "v j"],
        cell: float | int = 0.01,
        padding: float | int = 0.05,
        smoothing: int = 2,
        learned: bool = True,
    ) -> None:
        super().__init__()
        check_mesh("SkinningWeights", canonical_vertices, faces)
        if not (0 < cell < torch.inf and 0 <= padding < torch.inf and 0 <= smoothing <= 1000):
            raise ValueError(
                f"SkinningWeights: cell={cell}, padding={padding}, smoothing={smoothing}; expected a positive length, "
                "a length that is not negative, and 0 to 1000 passes"
            )
        if weights.ndim != 2 or len(weights) != len(canonical_vertices):
            raise ValueError(
                f"SkinningWeights: weights has shape {tuple(weights.shape)}; expected ({len(canonical_vertices)}, J), "
                "one row for each vertex"
            )
        vertices = canonical_vertices.detach().float()
        low, high = vertices.amin(dim=0) - padding, vertices.amax(dim=0) + padding
        counts = ((high - low) / cell).ceil().long().clamp_min(1) + 1  # nodes along each axis
        if math.prod(counts.tolist()) > 1 << 22:
            raise ValueError(
                f"SkinningWeights: {' x '.join(map(str, counts.tolist()))} nodes of {cell} m; take larger cells"
            )
        self.cell = float(cell)
        for name, tensor in (
            ("low", low), ("counts", counts), ("canonical_vertices", vertices.clone()), ("faces", faces.long().clone()),
            ("weights", weights.detach().float().clone()),
        ):  # fmt: skip
            self.register_buffer(name, tensor, persistent=False)
        logits = self._start(smoothing)
        if learned:
            self.logits_table = nn.Parameter(logits)
        else:
            self.register_buffer("logits_table", logits)

    def extra_repr(self) -> str:
        nodes = " x ".join(map(str, self.counts.tolist()))
        return f"{nodes} nodes of {self.cell} m, {self.weights.shape[1]} joints"

    @torch.no_grad()
    def _start(self, smoothing: int) -> Float[Tensor, "n j"]:
        size: list[int] = self.counts.tolist()
        axes = [torch.arange(count, device=self.low.device) for count in size]
        nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3) * self.cell + self.low
        nearest = TriangleBVH(self.faces, self.canonical_vertices).closest(nodes)
        weights = interpolate_rows(self.weights, self.faces[nearest.face.clamp_min(0)], nearest.barycentric)
        volume = weights.T.reshape(1, -1, *size)
        for _ in range(smoothing):
            padded = nn.functional.pad(volume, (1,) * 6, mode="replicate")
            volume = nn.functional.avg_pool3d(padded, 3, stride=1)
        return volume.reshape(weights.shape[1], -1).T.clamp_min(_LEAST).log().contiguous()

    def forward(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m j"]:
        """Weights (M, J) at M canonical points, meters; M = 0 is legal.

        Raises:
            TypeError, ValueError: points are not floating point, or not (M, 3).
        """
        check_floating("SkinningWeights", "points", points)
        check_shape("SkinningWeights", "points", points, "M 3")
        most = self.counts - 1
        place = (points - self.low) / self.cell
        place = torch.where(place.isnan(), 0.0, place).clamp_min(0).minimum(most.to(place))
        corner = place.detach().floor().long().minimum(most - 1)
        along = place - corner
        ends = _CORNERS.to(corner.device)
        shares = torch.where(ends.bool(), along[:, None], 1 - along[:, None]).prod(dim=-1)
        nodes = corner[:, None] + ends
        rows = (nodes[..., 0] * self.counts[1] + nodes[..., 1]) * self.counts[2] + nodes[..., 2]
        return interpolate_rows(self.logits_table, rows, shares).softmax(dim=-1)

    def deviation(self, points: int = 1024) -> Float[Tensor, ""]:
        """Mean of Σ_j (w_j − w_j of the mesh)² over points drawn uniformly on the canonical mesh.

        Differentiable in the logits.
        """
        areas = triangle_areas(self.canonical_vertices, self.faces)
        if not bool(areas.sum() > 0):
            return self.logits_table.sum() * 0
        face = torch.multinomial(areas, points, replacement=True)
        barycentric = -torch.rand(points, 3, device=areas.device, dtype=areas.dtype).clamp_min(1e-12).log()
        barycentric = barycentric / barycentric.sum(dim=-1, keepdim=True)
        positions = interpolate_rows(self.canonical_vertices, self.faces[face], barycentric)
        target = interpolate_rows(self.weights, self.faces[face], barycentric)
        return (self(positions) - target).square().sum(dim=-1).mean()
