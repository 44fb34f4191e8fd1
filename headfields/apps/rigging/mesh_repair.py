"""Repair of a scan before rigging: duplicate vertices along texture seams, and pinholes between the lips.

Either would break the cut between the lips into pieces.
"""

from collections import Counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.mesh_topology import directed_edges

__all__ = ["close_pinholes", "join_seams"]

_MAX_DISTANCE, _MAX_EXTENT = 0.2, 0.35  # of a pinhole from the lip line, and its size; relative to the mouth's width


def join_seams(mesh: Mesh) -> tuple[Mesh, Int[Tensor, " v"]]:
    """Merges boundary vertices at exactly the same position.

    Exporters that store one texture coordinate per vertex duplicate vertices along texture seams, which leaves the
    surface open there. Texture coordinates stay separate. Vertices keep their order; faces that become degenerate are
    removed.

    Args:
        mesh: the scan, V vertices.

    Returns:
        The merged mesh, and (V,) the merged index of each input vertex. Without duplicates, `mesh` and 0 ... V - 1.

    >>> import torch
    >>> from headfields.mesh import Mesh
    >>> from headfields.apps.rigging.mesh_repair import join_seams
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> vertices = corners[[0, 1, 2, 0, 2, 3]]  # two triangles that duplicate their shared edge
    >>> joined, index = join_seams(Mesh(vertices, torch.arange(6).reshape(2, 3), uv=vertices[:, :2]))
    >>> tuple(joined.vertices.shape), index.tolist(), joined.faces.tolist(), len(joined.uv)
    ((4, 3), [0, 1, 2, 0, 2, 3], [[0, 1, 2], [0, 2, 3]], 6)
    """
    count = len(mesh.vertices)
    faces = mesh.faces
    edges = directed_edges(faces.long()).flatten(0, 1)
    unpaired = ~torch.isin(edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0])
    border = edges[unpaired].flatten().unique()
    index = torch.arange(count)
    if len(border):
        group = mesh.vertices[border].unique(dim=0, return_inverse=True)[1]
        first = torch.full((int(group.max()) + 1,), count).scatter_reduce(0, group, border, "amin")
        index[border] = first[group]
    unique_index, merged_index = index.unique(return_inverse=True)
    if len(unique_index) == count:
        return mesh, index
    joined = merged_index[faces]
    valid = (joined != joined.roll(1, 1)).all(1)
    corners = None if mesh.uv is None else (faces if mesh.uv_faces is None else mesh.uv_faces)
    merged = Mesh(
        vertices=mesh.vertices[unique_index],
        faces=joined[valid],
        uv=mesh.uv,
        uv_faces=None if corners is None else corners[valid],
        texture=mesh.texture,
    )
    return merged, merged_index


def close_pinholes(mesh: Mesh, line: Float[Tensor, "n 3"]) -> Mesh:
    """Closes small holes near the lip line, each by a triangle fan around a new center vertex and texture coordinate.

    Holes wider than 35 % of the mouth stay open: they are an open mouth. Existing vertices, faces and texture
    coordinates keep their indices.

    Args:
        mesh: the scan.
        line: (N, 3) points along the line where the lips meet, meters.
    """
    if not len(line) or not len(mesh.faces):
        return mesh
    positions, line = mesh.vertices.double(), line.double()
    width = float((line[-1] - line[0]).norm())
    corners = mesh.faces if mesh.uv_faces is None else mesh.uv_faces
    vertices, coordinates = [mesh.vertices], [] if mesh.uv is None else [mesh.uv]
    faces, charts = [mesh.faces], [corners]
    count, uv_count = len(mesh.vertices), 0 if mesh.uv is None else len(mesh.uv)
    near = torch.cdist(positions, line).amin(1) < _MAX_DISTANCE * width
    touching = near[mesh.faces].any(1)
    directed = {
        (f[k], f[(k + 1) % 3]): (c[k], c[(k + 1) % 3])
        for f, c in zip(mesh.faces[touching].tolist(), corners[touching].tolist(), strict=True)
        for k in range(3)
    }
    for ring in _closed_rings([edge for edge in directed if edge[::-1] not in directed]):
        points = positions[[a for a, _ in ring]]
        extent = float((points.amax(0) - points.amin(0)).amax())
        if extent > _MAX_EXTENT * width or not bool(near[[a for a, _ in ring]].all()):
            continue
        border = {edge: directed[edge] for edge in ring}  # the fan traverses each border edge in the opposite direction
        faces.append(torch.tensor([[b, a, count] for a, b in border]))
        vertices.append(points.mean(0)[None].to(mesh.vertices))
        border_uv = torch.tensor(list(border.values()))
        if mesh.uv is None:
            charts.append(faces[-1])
        else:
            coordinates.append(mesh.uv[border_uv.flatten().unique()].mean(0)[None])
            charts.append(torch.cat([border_uv.flip(1), torch.full((len(border_uv), 1), uv_count)], 1))
            uv_count += 1
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
    """Closed rings of directed edges. Open chains and rings that touch another ring at a vertex are dropped."""
    starts = Counter(a for a, _ in edges)
    successor = {a: b for a, b in edges if starts[a] == 1}
    rings = []
    while successor:
        first, current = next(iter(successor.items()))
        ring = [(first, successor.pop(first))]
        while current != first and current in successor:
            ring.append((current, successor.pop(current)))
            current = ring[-1][1]
        if current == first:
            rings.append(ring)
    return rings
