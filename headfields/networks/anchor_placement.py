"""Anchor placement on a head mesh: mirror pairs at landmarks, then by farthest-point sampling, and some in the middle.

The algorithm is our own choice; the published anchors belong to one mesh. Its landmarks are among ours.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headfields.ops import TriangleBVH
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Template

_CLEARANCE = 1e-4
"""Offset of a ray's origin from the surface, meters."""
_BACK = 0.4
"""Weight of distances at the back of the head, relative to the front: fewer anchors where there is hair."""
_PAIRED = (
    (54, 48), (52, 50), (56, 58), (43, 38), (46, 41), (22, 21), (26, 17), (35, 31),
    (45, 36), (42, 39), (53, 49), (55, 59), (10, 6), (12, 4), (14, 2), (16, 0),
)  # fmt: skip
"""iBUG landmarks of anchor pairs, left and right, the most important first: corners of the mouth, upper and lower lip,
upper and lower lid, inner and outer brow, nostrils; then corners of the eyes, more of the lips, and the contour. With
those of the middle these are the 35 landmarks at anchors of MonoNPHM's release."""
_CENTRAL = (30, 8, 27)
"""Landmarks of anchors in the middle: tip of the nose, chin, bridge of the nose."""
_SHARE = 0.6
"""Largest share of the pairs, and of the middle anchors, at landmarks: the others spread over the rest of the head."""
_REACH = 0.01
"""Largest distance of an anchor's vertex from its landmark, meters."""
_ASTRAY = 5
"""Distance of a landmark from the middle of the mesh, in extents of the mesh, that another unit alone explains."""


def head_anchors(
    template: Template,
    pairs: int = 30,
    middle: int = 5,
    tolerance: float | int = 0.005,
    landmarks: Float[Tensor, "68 3"] | None = None,
) -> Int64[Tensor, " a"]:
    """Vertices of a head mesh for anchors: `pairs` mirror pairs, left and right alternating, then the middle ones.

    For any head that is approximately symmetric in the plane x = 0. Only vertices whose normal ray leaves the mesh are
    candidates, so none in the mouth or behind the eyes. With landmarks, up to three fifths of the anchors are at
    these: lips, lids, brows and nostrils first. The others follow from farthest-point sampling, with distances at the
    back of the head weighted less: first the middle ones, from the frontmost on, then the pairs. Deterministic.

    Args:
        template: the mesh, meters, face toward +z.
        pairs, middle: numbers of pairs and of anchors in the plane of symmetry.
        tolerance: largest distance of a vertex from its counterpart's mirror image, and of a middle vertex from the
            plane, meters.
        landmarks: (68, 3) on the mesh, meters, in iBUG's order, NaN where unknown; farthest points alone if None.

    Returns:
        (2 · pairs + middle,) vertex indices; 2i has x > 0 (the person's left) and 2i + 1 is its mirror vertex. Indexing
        the vertices of a posed mesh with these gives its anchors.

    Raises:
        ValueError: a count is negative or both are 0, too few vertices have a mirror image within the tolerance, or
            `landmarks` has another shape, or another unit than the mesh.
    """
    if pairs < 0 or middle < 0 or pairs + middle == 0:
        raise ValueError(
            f"head_anchors: pairs is {pairs} and middle {middle}; expected non-negative counts, at least one positive"
        )
    if landmarks is not None:
        check_floating("head_anchors", "landmarks", landmarks)
        check_shape("head_anchors", "landmarks", landmarks, "68 3")
    vertices = template.canonical_vertices.detach().double().cpu()
    if landmarks is not None:
        _check_unit(vertices, landmarks)
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

    def frontmost(candidates: Tensor) -> int:
        return int(torch.where(candidates, vertices[:, 2], -torch.inf).argmax())

    def select_pair(index: int) -> None:
        select(index)
        select(int(mirror[index]))
        paired.append((index, int(mirror[index])))

    at_pairs, at_middle = _targets(landmarks)
    # a pair at landmarks may be nearer to the middle than others: its two vertices are a few tolerances apart anyway
    near = candidates & (vertices[:, 0] > tolerance) & (vertices[mirror, 0] < -tolerance)
    central_at = _at_landmarks(vertices, central, at_middle, round(_SHARE * middle), None)
    pairs_at = _at_landmarks(vertices, near, at_pairs, round(_SHARE * pairs), mirror)
    paired: list[tuple[int, int]] = []
    for index in central_at:
        select(index)
    for index in pairs_at:
        select_pair(index)
    centers = list(central_at)
    while len(centers) < middle:
        index = farthest(central, None if selected else frontmost(central))
        select(index)
        centers.append(index)
    while len(paired) < pairs:
        select_pair(farthest(left, None if selected else frontmost(left)))
    return torch.tensor([index for pair in paired for index in pair] + centers, dtype=torch.int64)


def _check_unit(vertices: Float[Tensor, "v 3"], landmarks: Float[Tensor, "68 3"]) -> None:
    known = landmarks.detach().double().cpu()
    known = known[known.isfinite().all(dim=-1)]
    if not len(known) or not len(vertices):
        return
    low, high = vertices.amin(dim=0), vertices.amax(dim=0)
    extent, away = float((high - low).amax()), float((known - (low + high) / 2).norm(dim=-1).amax())
    if away > _ASTRAY * extent:
        raise ValueError(
            f"head_anchors: landmarks lie up to {away:.3g} m from the middle of the mesh, which is {extent:.3g} m "
            "large; pass points on the mesh, in meters (millimeters / 1000)"
        )


def _targets(landmarks: Tensor | None) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "m 3"]]:
    """Places of the left anchors of pairs, the mean of a landmark and its mirrored counterpart, and of those in the
    middle. Landmarks that are unknown are left out."""
    points = torch.full((68, 3), torch.nan) if landmarks is None else landmarks
    points = points.detach().double().cpu()
    left, right = points[torch.tensor(_PAIRED).T]
    both = torch.stack([left, right * right.new_tensor([-1.0, 1.0, 1.0])]).nanmean(dim=0)
    central = points[list(_CENTRAL)] * points.new_tensor([0.0, 1.0, 1.0])
    return both[both.isfinite().all(dim=-1)], central[central.isfinite().all(dim=-1)]


def _at_landmarks(
    vertices: Float[Tensor, "v 3"],
    candidates: Tensor,
    targets: Float[Tensor, "t 3"],
    count: int,
    mirror: Int64[Tensor, " v"] | None,
) -> list[int]:
    """Up to `count` vertices, each the candidate nearest to a target that is within `_REACH` and not chosen yet."""
    chosen: list[int] = []
    if not bool(candidates.any()):
        return chosen
    places = candidates.nonzero()[:, 0]
    for target in targets:
        if len(chosen) == count:
            break
        distance = (vertices[places] - target).norm(dim=-1)
        index = int(places[distance.argmin()])
        used = {*chosen, *([] if mirror is None else mirror[chosen].tolist())}
        other = index if mirror is None else int(mirror[index])
        if float(distance.min()) <= _REACH and not {index, other} & used:
            chosen.append(index)
    return chosen


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
