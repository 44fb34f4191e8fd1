"""Where to put anchors on a head that has none: symmetric pairs and a few in the middle, spread over its outside."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headfields.ops import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Template

_CLEARANCE = 1e-4
"""Meters that a ray starts off the surface it leaves."""
_BACK = 0.4
"""What a distance counts for at the very back, of what it counts for in front: fewer anchors where there is hair."""


def head_anchors(
    template: Template, pairs: int = 30, middle: int = 5, tolerance: float | int = 0.005
) -> Int64[Tensor, " a"]:
    """Vertices of a head mesh to put anchors at: `pairs` mirror pairs, left and right in turn, then the middle ones.

    Our own choice, for any head that is symmetric, about, in the plane x = 0 (the published positions are of one mesh).
    Only vertices from which the outside is seen along the normal count, so none in the mouth or behind the eyes. The
    middle ones are chosen first, the frontmost of them to begin with, then the pairs: each time what is farthest from
    all before, with distances at the back of the head counting less. Deterministic.

    Args:
        template: the mesh, meters, face toward +z.
        pairs, middle: how many.
        tolerance: how far from a vertex's mirror image another has to be found, and how far from the plane a vertex in
            the middle may be, meters.

    Returns:
        (2 · pairs + middle,) vertex indices; 2i has x > 0 (the person's left) and 2i + 1 is its mirror vertex. The
        anchors of a posed mesh are its vertices at these.

    Raises:
        ValueError: a count is negative or both are 0, or too few vertices have a mirror image within the tolerance.
    """
    if pairs < 0 or middle < 0 or pairs + middle == 0:
        raise ValueError(
            f"head_anchors: pairs is {pairs} and middle {middle}; expected none negative, and one at least"
        )
    vertices = template.canonical_vertices.detach().double().cpu()
    outside = _outside(template)
    weight = _weight(vertices, outside)
    mirror, apart = _mirror_vertices(vertices)
    candidates = outside & outside[mirror] & (apart <= tolerance)
    central = candidates & (vertices[:, 0].abs() <= tolerance)
    # apart by a few tolerances, so that no anchor and its mirror image are (nearly) one vertex
    left = candidates & (vertices[:, 0] > 2 * tolerance) & (vertices[mirror, 0] < -2 * tolerance)
    for name, found, wanted in (("pairs", left, pairs), ("middle", central, middle)):
        if int(found.sum()) < wanted:
            raise ValueError(
                f"head_anchors: {name} is {wanted}, and {int(found.sum())} of the mesh's {len(vertices)} vertices are "
                f"outside and have a mirror image in the plane x = 0 within {1e3 * tolerance:g} mm; put the head's "
                "plane of symmetry at x = 0 with its face toward +z, raise the tolerance, or choose vertices by hand"
            )
    nearest = torch.full((len(vertices),), torch.inf, dtype=torch.float64)
    chosen: list[int] = []

    def choose(among: Tensor, first: int | None) -> int:
        score = torch.where(among, nearest * weight, -1.0)
        score[chosen] = -1.0
        return int(score.argmax()) if first is None else first

    def settle(index: int) -> None:
        chosen.append(index)
        torch.minimum(nearest, (vertices - vertices[index]).norm(dim=-1), out=nearest)

    for count in range(middle):
        front = torch.where(central, vertices[:, 2], -torch.inf)
        settle(choose(central, int(front.argmax()) if count == 0 else None))
    paired: list[int] = []
    for count in range(pairs):
        front = torch.where(left, vertices[:, 2], -torch.inf)
        index = choose(left, int(front.argmax()) if count + len(chosen) == 0 else None)
        settle(index)
        settle(int(mirror[index]))
        paired += [index, int(mirror[index])]
    return torch.tensor(paired + chosen[:middle], dtype=torch.int64)


def _outside(template: Template) -> Tensor:
    """(V,) whether nothing of the mesh lies ahead of a vertex along its normal."""
    vertices, faces = template.canonical_vertices.detach().float(), template.faces
    normals = vertex_normals(vertices, faces)
    hit = TriangleBVH(faces, vertices).raycast(vertices + _CLEARANCE * normals, normals)
    return ((hit.face < 0) & (normals != 0).any(dim=-1)).cpu()


def _weight(vertices: Float[Tensor, "v 3"], outside: Tensor) -> Float[Tensor, " v"]:
    """What distances count for at each vertex: 1 in front, `_BACK` at the back."""
    depth = vertices[:, 2] - vertices[outside, 2].min() if bool(outside.any()) else vertices[:, 2]
    return _BACK + (1 - _BACK) * (depth / depth.max().clamp_min(1e-12)).clamp(0, 1)


def _mirror_vertices(vertices: Float[Tensor, "v 3"]) -> tuple[Int64[Tensor, " v"], Float[Tensor, " v"]]:
    """The vertex nearest to each one's mirror image, and how far it is from it."""
    mirrored = vertices * vertices.new_tensor([-1.0, 1.0, 1.0])
    found = [torch.cdist(piece, vertices).min(dim=1) for piece in mirrored.split(1024)]
    return torch.cat([piece.indices for piece in found]), torch.cat([piece.values for piece in found])
