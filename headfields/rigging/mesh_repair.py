"""What is mended before a scan is rigged: seams where a file has vertices twice, and pinholes between the lips, where a
scanner saw in between them; so that lips are cut in one piece."""

from collections import Counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.mesh.mesh import Mesh

__all__ = ["close_pinholes", "join_seams"]

_NEAR, _WIDE = 0.2, 0.35  # of the mouth's width: farthest from the line, and widest, that a pinhole is


def join_seams(mesh: Mesh) -> tuple[Mesh, Int[Tensor, " v"]]:
    """The mesh with vertices of open borders that are at exactly one place made one, and (V,) which of its vertices
    each vertex of the mesh before is.

    Exporters that keep one texture coordinate a vertex write vertices twice along the seams of the texture, and the
    surface is open there. Its coordinates stay apart. Vertices keep their order, and all their numbers if nothing is
    joined; faces that lose their area are left out.

    Args:
        mesh: the scan.
    """
    count = len(mesh.vertices)
    faces = mesh.faces
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).long()
    alone = ~torch.isin(edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0])
    border = edges[alone].flatten().unique()
    number = torch.arange(count)
    if len(border):
        group = mesh.vertices[border].unique(dim=0, return_inverse=True)[1]
        first = torch.full((int(group.max()) + 1,), count).scatter_reduce(0, group, border, "amin")
        number[border] = first[group]
    kept, place = number.unique(return_inverse=True)
    if len(kept) == count:
        return mesh, number
    joined = place[faces]
    good = (joined != joined.roll(1, 1)).all(1)
    corners = None if mesh.uv is None else (faces if mesh.uv_faces is None else mesh.uv_faces)
    whole = Mesh(
        vertices=mesh.vertices[kept],
        faces=joined[good],
        uv=mesh.uv,
        uv_faces=None if corners is None else corners[good],
        texture=mesh.texture,
    )
    return whole, place


def close_pinholes(mesh: Mesh, line: Float[Tensor, "n 3"]) -> Mesh:
    """The mesh with holes by the lips' line closed by fans about a vertex of their own, in the texture too.

    What is wider than a third of the mouth is left open: it is a mouth. Nothing else changes, and the vertices and
    texture coordinates that were there keep their numbers.

    Args:
        mesh: the scan.
        line: (N, 3) where the lips meet.
    """
    if not len(line) or not len(mesh.faces):
        return mesh
    place, line = mesh.vertices.double(), line.double()
    width = float((line[-1] - line[0]).norm())
    corners = mesh.faces if mesh.uv_faces is None else mesh.uv_faces
    vertices, coordinates = [mesh.vertices], [] if mesh.uv is None else [mesh.uv]
    faces, charts = [mesh.faces], [corners]
    count, used = len(mesh.vertices), 0 if mesh.uv is None else len(mesh.uv)
    close = torch.cdist(place, line).amin(1) < _NEAR * width
    touching = close[mesh.faces].any(1)
    directed = {
        (f[k], f[(k + 1) % 3]): (c[k], c[(k + 1) % 3])
        for f, c in zip(mesh.faces[touching].tolist(), corners[touching].tolist(), strict=True)
        for k in range(3)
    }
    for ring in _closed_rings([edge for edge in directed if edge[::-1] not in directed]):
        points = place[[a for a, _ in ring]]
        extent = float((points.amax(0) - points.amin(0)).amax())
        if extent > _WIDE * width or not bool(close[[a for a, _ in ring]].all()):
            continue
        border = {edge: directed[edge] for edge in ring}  # the fan runs the other way round
        faces.append(torch.tensor([[b, a, count] for a, b in border]))
        vertices.append(points.mean(0)[None].to(mesh.vertices))
        at = torch.tensor(list(border.values()))
        if mesh.uv is None:
            charts.append(faces[-1])
        else:
            coordinates.append(mesh.uv[at.flatten().unique()].mean(0)[None])
            charts.append(torch.cat([at.flip(1), torch.full((len(at), 1), used)], 1))
            used += 1
        count += 1
    if len(faces) == 1:
        return mesh
    return Mesh(
        vertices=torch.cat(vertices),
        faces=torch.cat(faces),
        uv=None if mesh.uv is None else torch.cat(coordinates),
        uv_faces=None if mesh.uv_faces is None else torch.cat(charts),
        texture=mesh.texture,
    )


def _closed_rings(edges: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Directed edges put together to closed rings; what ends, or meets another in a vertex, is left out."""
    starts = Counter(a for a, _ in edges)
    after = {a: b for a, b in edges if starts[a] == 1}
    out = []
    while after:
        first, current = next(iter(after.items()))
        ring = [(first, after.pop(first))]
        while current != first and current in after:
            ring.append((current, after.pop(current)))
            current = ring[-1][1]
        if current == first:
            out.append(ring)
    return out
