"""Subdivision of long edges in a region of a template, with each new vertex as a weighted sum of the old ones."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.interpolate_rows import extend_vertices
from headfields.ops.mesh_topology import unique_edges
from headfields.records import Template

_PATTERNS = (
    ((0, 1, 2),),
    ((0, 3, 2), (3, 1, 2)),
    ((0, 1, 4), (0, 4, 2)),
    ((3, 1, 4), (0, 3, 4), (0, 4, 2)),
    ((0, 1, 5), (5, 1, 2)),
    ((0, 3, 5), (3, 1, 2), (5, 3, 2)),
    ((0, 1, 5), (5, 1, 4), (5, 4, 2)),
    ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)),
)
"""The triangles of a face by its split edges (bit k: the one from corner k to the next). Corners are 0 to 2, and 3 + k
is the middle of edge k."""


@dataclass(frozen=True)
class Subdivision:
    """A subdivided template.

    Attributes:
        template: the V old vertices, then E new ones; regions, texture coordinates and faces follow.
        index, weights: (E, K) each new vertex as a weighted sum of the old ones; weights sum to 1.
    """

    template: Template
    index: Int[Tensor, "e k"]
    weights: Float[Tensor, "e k"]

    def extend(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b w 3"]:
        """Vertices (B, V, 3) of the old mesh, in any pose, as (B, V + E, 3) of the new one; differentiable."""
        return extend_vertices(vertices, self.index, self.weights)


def subdivide(template: Template, region: Bool[Tensor, " f"], longest: float, rounds: int = 2) -> Subdivision:
    """Splits the edges of a region that are longer than `longest` in half, up to `rounds` times.

    Neighboring faces share the new vertices, so the mesh stays closed where it was. New vertices lie in the middle of
    their edges: the surface keeps its shape.

    Args:
        template: with or without texture coordinates; canonical vertices in meters.
        region: the faces whose edges are split; those of their neighbors along a split edge are divided to fit.
        longest: length above which an edge is split, meters, at the canonical vertices.
        rounds: how often an edge may be halved.

    Raises:
        ValueError: region is not one flag per face, longest not above 0, or rounds negative.

    >>> import torch, headfields as hf
    >>> template = hf.Template(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    >>> fine = hf.mesh.subdivide(template, torch.tensor([True]), longest=0.9, rounds=1)
    >>> fine.template.faces.shape, fine.extend(template.canonical_vertices[None]).shape
    (torch.Size([4, 3]), torch.Size([1, 6, 3]))
    """
    if region.shape != (len(template.faces),) or region.dtype != torch.bool:
        raise ValueError(
            f"subdivide: region has shape {tuple(region.shape)} and dtype {region.dtype}; expected a mask "
            f"({len(template.faces)},), one flag per face"
        )
    if not longest > 0 or rounds < 0:
        raise ValueError(f"subdivide: longest is {longest} and rounds {rounds}; expected a length > 0 and 0 or more")
    count = len(template.canonical_vertices)
    index = torch.arange(count)[:, None]  # of all vertices, old and new, in the old ones
    weights = torch.ones(count, 1)
    fine, region = template, region.cpu()
    for _ in range(rounds):
        parent, edges, fine = _split(fine, region, longest)
        if not len(edges):
            break
        region = region[parent]
        index = torch.cat([index.repeat(1, 2), index[edges].flatten(1)])
        weights = torch.cat([weights.repeat(1, 2) / 2, weights[edges].flatten(1) / 2])
    device = template.faces.device
    return Subdivision(fine, index[count:].to(device), weights[count:].to(device))


def _split(
    template: Template, region: Bool[Tensor, " f"], longest: float
) -> tuple[Int[Tensor, " g"], Int[Tensor, "e 2"], Template]:
    """One round: each new face's old one, the edges that are split, and the mesh."""
    faces, vertices = template.faces.cpu(), template.canonical_vertices.detach().cpu()
    edges, edge = unique_edges(faces)
    long = (vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=-1) > longest
    chosen = torch.zeros(len(edges), dtype=torch.bool)
    chosen[edge[region].reshape(-1)] = True
    chosen &= long
    split = chosen[edge]  # (F, 3)
    pattern = (split.long() * torch.tensor([1, 2, 4])).sum(1)
    parents, corners = [], []
    for number, triangles in enumerate(_PATTERNS):
        rows = (pattern == number).nonzero()[:, 0]
        parents.append(rows.repeat_interleave(len(triangles)))
        corners.append(torch.tensor(triangles).repeat(len(rows), 1))
    order = torch.cat(parents).argsort(stable=True)  # children where their parent was
    parent, corner = torch.cat(parents)[order], torch.cat(corners)[order]
    edges, middles = edges[chosen], torch.full((len(edges),), -1).masked_scatter(chosen, torch.arange(len(edges)))
    positions = torch.cat([vertices, vertices[edges].mean(1)])
    ids = torch.cat([faces, len(vertices) + middles[edge]], dim=1)
    changes = {
        "canonical_vertices": positions, "faces": ids[parent[:, None], corner],
        "regions": {name: mask.cpu()[parent] for name, mask in template.regions.items()},
        "face_count": None if template.face_count is None else int((parent < template.face_count).sum()),
    }  # fmt: skip
    if template.uv is not None and template.uv_faces is not None:
        uv, uv_faces = template.uv.cpu(), template.uv_faces.cpu()
        uv_edges, uv_edge = unique_edges(uv_faces)
        ids = torch.cat([uv_faces, len(uv) + uv_edge], dim=1)
        used, compact = ids[parent[:, None], corner].unique(return_inverse=True)
        changes |= {"uv": torch.cat([uv, uv[uv_edges].mean(1)])[used], "uv_faces": compact}
    device = template.faces.device
    moved = template.replace(**changes)
    return parent, edges, moved if device.type == "cpu" else moved.to(device)
