"""Anchor placement on a head mesh by farthest-point sampling: mirror pairs and anchors in the plane of symmetry.

The algorithm is our own choice; the published anchors belong to one mesh.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headfields.ops import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Template

_CLEARANCE = 1e-4
"""Offset of a ray's origin from the surface, meters."""
_BACK = 0.4
"""Weight of distances at the back of the head, relative to the front: fewer anchors where there is hair."""


def head_anchors(
    template: Template, pairs: int = 30, middle: int = 5, tolerance: float | int = 0.005
) -> Int64[Tensor, " a"]:
    """Vertices of a head mesh for anchors: `pairs` mirror pairs, left and right alternating, then the middle ones.

    For any head that is approximately symmetric in the plane x = 0. Only vertices whose normal ray leaves the mesh are
    candidates, so none in the mouth or behind the eyes. Farthest-point sampling, with distances at the back of the head
    weighted less: first the middle ones, from the frontmost on, then the pairs. Deterministic.

    Args:
        template: the mesh, meters, face toward +z.
        pairs, middle: numbers of pairs and of anchors in the plane of symmetry.
        tolerance: largest distance of a vertex from its counterpart's mirror image, and of a middle vertex from the
            plane, meters.

    Returns:
        (2 · pairs + middle,) vertex indices; 2i has x > 0 (the person's left) and 2i + 1 is its mirror vertex. Indexing
        the vertices of a posed mesh with these gives its anchors.

    Raises:
        ValueError: a count is negative or both are 0, or too few vertices have a mirror image within the tolerance.
    """
    if pairs < 0 or middle < 0 or pairs + middle == 0:
        raise ValueError(
            f"head_anchors: pairs is {pairs} and middle {middle}; expected non-negative counts, at least one positive"
        )
    vertices = template.canonical_vertices.detach().double().cpu()
    outside = _outside(template)
    weight = _weight(vertices, outside)
    mirror, mirror_distance = _mirror_vertices(vertices)
    candidates = outside & outside[mirror] & (mirror_distance <= tolerance)
    central = candidates & (vertices[:, 0].abs() <= tolerance)
    # separated by a few tolerances, so that no anchor coincides with its mirror image
    left = candidates & (vertices[:, 0] > 2 * tolerance) & (vertices[mirror, 0] < -2 * tolerance)
    for name, eligible, count in (("pairs", left, pairs), ("middle", central, middle)):
        if int(eligible.sum()) < count:
            raise ValueError(
                f"head_anchors: {name} is {count}, and {int(eligible.sum())} of the mesh's {len(vertices)} vertices "
                f"are outside and have a mirror image in the plane x = 0 within {1e3 * tolerance:g} mm; put the head's "
                "plane of symmetry at x = 0 with its face toward +z, raise the tolerance, or choose vertices by hand"
            )
    nearest = torch.full((len(vertices),), torch.inf, dtype=torch.float64)
    selected: list[int] = []

    def farthest(candidates: Tensor, first: int | None) -> int:
        score = torch.where(candidates, nearest * weight, -1.0)
        score[selected] = -1.0
        return int(score.argmax()) if first is None else first

    def select(index: int) -> None:
        selected.append(index)
        torch.minimum(nearest, (vertices - vertices[index]).norm(dim=-1), out=nearest)

    for count in range(middle):
        front = torch.where(central, vertices[:, 2], -torch.inf)
        select(farthest(central, int(front.argmax()) if count == 0 else None))
    paired: list[int] = []
    for count in range(pairs):
        front = torch.where(left, vertices[:, 2], -torch.inf)
        index = farthest(left, int(front.argmax()) if count + len(selected) == 0 else None)
        select(index)
        select(int(mirror[index]))
        paired += [index, int(mirror[index])]
    return torch.tensor(paired + selected[:middle], dtype=torch.int64)


def _outside(template: Template) -> Tensor:
    """(V,) whether the ray from a vertex along its normal leaves the mesh."""
    vertices, faces = template.canonical_vertices.detach().float(), template.faces
    normals = vertex_normals(vertices, faces)
    hit = TriangleBVH(faces, vertices).raycast(vertices + _CLEARANCE * normals, normals)
    return ((hit.face < 0) & (normals != 0).any(dim=-1)).cpu()


def _weight(vertices: Float[Tensor, "v 3"], outside: Tensor) -> Float[Tensor, " v"]:
    """Weight of distances at each vertex: 1 in front, `_BACK` at the back."""
    depth = vertices[:, 2] - vertices[outside, 2].min() if bool(outside.any()) else vertices[:, 2]
    return _BACK + (1 - _BACK) * (depth / depth.max().clamp_min(1e-12)).clamp(0, 1)


def _mirror_vertices(vertices: Float[Tensor, "v 3"]) -> tuple[Int64[Tensor, " v"], Float[Tensor, " v"]]:
    """The vertex nearest to the mirror image of each vertex, and its distance."""
    mirrored = vertices * vertices.new_tensor([-1.0, 1.0, 1.0])
    nearest = [torch.cdist(chunk, vertices).min(dim=1) for chunk in mirrored.split(1024)]
    return torch.cat([chunk.indices for chunk in nearest]), torch.cat([chunk.values for chunk in nearest])
