"""Correspondence between two heads of any topology: markers, non-rigid registration, closest triangles."""

from dataclasses import dataclass

import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.retargeting.deformation_gradients import pose_gradients
from headfields.apps.retargeting.deformation_transfer import Correspondence
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.thin_plate import ThinPlateWarp
from headfields.ops.mesh_topology import edge_neighbors, open_edges, uniform_laplacian
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.ops.smoothstep import cubic
from headfields.ops.sparse_system import SymmetricSystem
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import face_normals, vertex_normals

__all__ = ["Binding", "bind"]

_STIFFNESS = (30.0, 10.0, 3.0, 1.0, 0.5, 0.3)  # stiffness of the registration in each iteration
_REACH = 0.03  # fraction of the head's size (8 mm) beyond which surfaces do not correspond
_SAME_WAY = 0.35  # least cosine between corresponding normals
_ENOUGH = 12  # least markers for a warp: eyes and mouth alone lie in a plane
_ELSEWHERE = 0.02  # confidence in a counterpart's position away from the lids
_PIN = 10.0  # weight of a landmark in the registration, relative to a vertex near the surface
_TORN = 4.0  # norm of a deformation gradient (the identity has 1.7) above which a face is not transferred
_TOUCHING = 0.001  # of the head's size (0.25 mm): what lies so near corresponds, whichever way it faces
_ALIKE = 4.0  # largest ratio of the areas of corresponding triangles
_CONTROLS = 320
_SPACING = 0.02  # least distance of control points over the head's size (5 mm), so that lips do not tear
_CORNERS = torch.tensor([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]]) / torch.tensor([[3.0], [6.0], [6.0], [6.0]])


@dataclass(frozen=True)
class Binding:
    """The alignment and correspondence of a source head with a target head.

    Attributes:
        align: transform from source space to target space.
        correspondence: correspondence of the target's faces and vertices.
        warp: warp from the aligned source to the target; None for heads of one topology.
        registered: (V, 3) the source's neutral vertices, registered to the target; None for heads of one topology.
    """

    align: Similarity
    correspondence: Correspondence
    warp: ThinPlateWarp | None = None
    registered: Float[Tensor, "v 3"] | None = None


def bind(source: HeadSurface, target: HeadSurface) -> Binding:
    """Finds the correspondence between two heads of any topology.

    Heads of one topology correspond vertex by vertex. Others are aligned by a similarity through the markers that both
    have (68 landmarks, eyeballs, corners of the lips; otherwise by their extents). The source is then warped to the
    markers and registered to the target's surface with decreasing stiffness. Each triangle of the target is bound to
    the registered triangles nearest to four points on it. Surfaces correspond only if they are near and face the same
    way, and an upper lip never corresponds to a lower lip. Inner sides of lids correspond to inner sides, if both heads
    have them. A triangle without a counterpart (inside of the mouth, teeth, differently cut ears) takes that of the
    nearest triangle along its own surface, and so moves with it.

    Args:
        source, target: the two heads, meters, y up, face toward +z.

    Raises:
        ValueError: a head has no faces, or no face of the target finds a counterpart.

    Source: our own choice; the registration follows Amberg, Romdhani and Vetter, Optimal Step Nonrigid ICP (2007).
    """
    for name, head in (("source", source), ("target", target)):
        if not bool(head.skin.any()):
            raise ValueError(f"bind: {name} has {len(head.faces)} faces, none of them with an area; it needs a surface")
    if len(source.neutral) == len(target.neutral) and torch.equal(_own(source).long(), _own(target).long()):
        return _one_topology(source, target)
    source_markers, target_markers = markers(source, target)
    enough = len(source_markers) >= 3
    align = fit_similarity(source_markers, target_markers) if enough else _by_extent(source, target)
    placed = align.apply(source.neutral.double())
    moved = placed
    if len(source_markers) >= _ENOUGH:
        moved = ThinPlateWarp(align.apply(source_markers), target_markers, smoothing=1e-3 * target.size)(placed)
    registered, met = _register(source, moved, target)
    warp = _warp(source, placed, registered, met, target)
    if warp is not None:  # the registration moves outer skin alone
        inner = torch.ones(len(placed), dtype=torch.bool)
        inner[source.faces[source.outer].flatten()] = False
        registered = torch.where(inner[:, None], warp(placed), registered)
    correspondence = surface_correspondence(source, registered, target)
    if not bool(correspondence.weights.any()):
        raise ValueError(
            f"bind: of the target's {len(target.faces)} faces none finds a counterpart on the source; both must be "
            "heads, y up, face toward +z"
        )
    return Binding(align, correspondence, warp, registered)


def markers(source: HeadSurface, target: HeadSurface) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Corresponding points of both heads: landmarks, centers of eyeballs, corners of the mouth."""
    source_points, target_points = [], []
    vertices, places = _shared_landmarks(source, target)
    if len(vertices):
        source_points.append(source.neutral[vertices])
        target_points.append(places)
    else:
        for mine, yours in zip(_mouth_points(source), _mouth_points(target), strict=True):
            if mine is not None and yours is not None:
                source_points.append(mine[None])
                target_points.append(yours[None])
    for mine, yours in zip(_eye_centers(source), _eye_centers(target), strict=True):
        if mine is not None and yours is not None:
            source_points.append(mine[None])
            target_points.append(yours[None])
    if not source_points:
        return torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64)
    return torch.cat([p.double() for p in source_points]), torch.cat([p.double() for p in target_points])


def _eye_centers(head: HeadSurface) -> list[Tensor | None]:
    """Center of the largest eyeball on the head's right (−x) and on its left, or None."""
    used = head.neutral[head.faces.flatten().unique()]
    middle = 0.5 * (used[:, 0].amin() + used[:, 0].amax())
    out: list[Tensor | None] = []
    for side in (-1, 1):
        balls = [ball for ball in head.eyeballs if side * float(ball.center[0] - middle) > 0]
        out.append(max(balls, key=lambda ball: ball.radius).center if balls else None)
    return out


def _mouth_points(head: HeadSurface) -> list[Tensor | None]:
    """The corners of the mouth, from the faces across it, or None."""
    rim = head.faces[head.cavity].flatten().unique()
    if not len(rim) or not bool((head.lip != 0).any()):
        return [None, None]
    points = head.neutral[rim]
    return [points[points[:, 0].argmin()], points[points[:, 0].argmax()]]


def _by_extent(source: HeadSurface, target: HeadSurface) -> Similarity:
    """The similarity that makes the heads equally high and joins the centers of their boxes."""
    boxes = []
    for head in (source, target):
        points = head.neutral[head.faces[head.skin].flatten().unique()].double()
        boxes.append((points.amin(0), points.amax(0)))
    (low, high), (target_low, target_high) = boxes
    scale = (target_high - target_low)[1] / (high - low)[1].clamp_min(1e-12)
    return Similarity(
        torch.eye(3, dtype=torch.float64), 0.5 * (target_low + target_high) - scale * 0.5 * (low + high), scale
    )


class SidedSurface:
    """Closest points on a head's skin that never lie across the mouth from the query.

    Args:
        vertices: (V, 3) of the head, wherever it has been moved.
        head: its faces, and the sides of its mouth.
        usable: (F,) faces on which they may lie; by default the outer skin that does not tear as the mouth opens.
    """

    def __init__(self, vertices: Float[Tensor, "v 3"], head: HeadSurface, usable: Bool[Tensor, " f"] | None = None):
        side = _face_side(head)
        if usable is None:
            usable = head.outer & ~_torn(head)
        self.vertices, self.faces = vertices, head.faces
        self.normals = face_normals(vertices, head.faces)
        # side 2 is empty
        self.usable_faces = [(usable & (side != across)).nonzero()[:, 0] for across in (1, 2, -1)]
        self.trees = [TriangleBVH(head.faces[indices], vertices.float()) for indices in self.usable_faces]

    def closest(
        self,
        points: Float[Tensor, "n 3"],
        side: Int[Tensor, " n"],
        normals: Float[Tensor, "n 3"],
        reach: float,
        touching: float = 0.0,
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
        """Face and barycentric coordinates of the nearest point, and whether it is in reach and faces the same way, or
        nearer than `touching`, meters: normals on slivers say little."""
        face = torch.zeros(len(points), dtype=torch.long)
        weights = torch.zeros(len(points), 3, dtype=torch.float64)
        distance = torch.full((len(points),), torch.inf, dtype=torch.float64)
        for number, query in enumerate((-1, 0, 1)):
            mine = (side == query).nonzero()[:, 0]
            if not len(mine) or not len(self.usable_faces[number]):
                continue
            nearest = self.trees[number].closest(points[mine].float())
            face[mine] = self.usable_faces[number][nearest.face.clamp_min(0)]
            weights[mine] = nearest.barycentric.double()
            distance[mine] = nearest.distance.double()
        same = ((self.normals[face] * normals).sum(-1) > _SAME_WAY) | (distance < touching)
        return face, weights, same & (distance < reach)


def _face_side(head: HeadSurface) -> Int[Tensor, " f"]:
    corners = head.lip[head.faces]
    up, down = (corners == 1).any(1), (corners == -1).any(1)
    return (up & ~down).long() - (down & ~up).long()


def _torn(head: HeadSurface) -> Bool[Tensor, " f"]:
    """Mask of faces that tear as the mouth opens, such as slivers at its corners; others must not follow them."""
    if head.opened is None:
        return torch.zeros(len(head.faces), dtype=torch.bool)
    gradients = pose_gradients(head.opened.double(), head.neutral.double(), head.faces)
    return torch.linalg.matrix_norm(gradients) > _TORN


def _register(
    source: HeadSurface, moved: Float[Tensor, "v 3"], target: HeadSurface
) -> tuple[Float[Tensor, "v 3"], Bool[Tensor, " v"]]:
    """The source's vertices registered to the target's surface, and which of them reached it."""
    surface = SidedSurface(target.neutral.double(), target)
    border = _on_border(target)
    faces = source.faces[source.outer]
    count = len(moved)
    laplacian = uniform_laplacian(faces, count)
    used = torch.zeros(count, dtype=torch.bool)
    used[faces.flatten()] = True
    pinned, places = _shared_landmarks(source, target)
    pin = torch.zeros(count, dtype=torch.float64).index_add(0, pinned, torch.full((len(pinned),), _PIN).double())
    wish = torch.zeros(count, 3, dtype=torch.float64).index_add(0, pinned, _PIN * places)
    start, now = moved, moved
    met = torch.zeros(count, dtype=torch.bool)
    for round_, stiffness in enumerate(_STIFFNESS):
        reach = target.size * _REACH * (3.0 if round_ < 2 else 1.5)
        face, weights, near = surface.closest(now, source.lip, vertex_normals(now, faces), reach)
        edge_on = ((weights < 1e-4) & border[face]).any(dim=1)  # nearest to a border: the target has no surface there
        met = near & used & ~edge_on
        goal = (weights[..., None] * surface.vertices[target.faces[face]]).sum(1)
        data = met.double()
        matrix = stiffness * laplacian + scipy.sparse.diags((data + pin).numpy() + 1e-6)
        right = data[:, None] * (goal - start) + wish - pin[:, None] * start
        now = start + SymmetricSystem(matrix).solve(right)
    return now, met | (pin > 0)


def _shared_landmarks(source: HeadSurface, target: HeadSurface) -> tuple[Int[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Source vertices of the landmarks that both heads have, and their positions on the target."""
    if source.landmarks is None or target.landmarks is None:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, 3, dtype=torch.float64)
    known = (source.landmarks >= 0) & (target.landmarks >= 0)
    return source.landmarks[known], target.neutral[target.landmarks[known]].double()


def _on_border(head: HeadSurface) -> Bool[Tensor, "f 3"]:
    """Whether the edge opposite each corner of each face is a border of the skin."""
    skin = head.outer.nonzero()[:, 0]
    out = torch.ones(len(head.faces), 3, dtype=torch.bool)
    out[skin] = open_edges(head.faces[skin])
    return out


def _warp(
    source: HeadSurface, placed: Tensor, registered: Tensor, met: Bool[Tensor, " v"], target: HeadSurface
) -> ThinPlateWarp | None:
    """A warp through well-spaced vertices: landmarks first, then lips and eyes, then the rest."""
    close = source.lip != 0
    for ball in source.eyeballs:
        close |= (source.neutral - ball.center).norm(dim=1) < 1.8 * ball.radius
    chosen: list[Tensor] = []
    marked = torch.zeros_like(met)
    marked[_shared_landmarks(source, target)[0]] = True
    half = _CONTROLS // 2
    for pool, spacing, most in ((marked, 0.5, half), (met & close, 1.0, half), (met, 3.0, half)):
        candidates = pool.nonzero()[:, 0]
        if not len(candidates):
            continue
        distance = torch.full((len(candidates),), torch.inf, dtype=torch.float64)
        for control in chosen:
            distance = torch.minimum(distance, torch.cdist(placed[candidates], placed[control[None]])[:, 0])
        for _ in range(most):
            best = int(distance.argmax())
            if not distance[best] > spacing * _SPACING * target.size:
                break
            chosen.append(candidates[best])
            distance = torch.minimum(distance, (placed[candidates] - placed[candidates[best]]).norm(dim=1))
    if len(chosen) < 8:
        return None
    picked = torch.stack(chosen)
    return ThinPlateWarp(placed[picked], registered[picked], smoothing=1e-3 * target.size)


def surface_correspondence(
    source: HeadSurface, registered: Float[Tensor, "v 3"], target: HeadSurface
) -> Correspondence:
    """The correspondence of a target head's faces and vertices with the nearest ones of a registered source head.

    Args:
        source: the source head, whose faces and landmarks are used.
        registered: (V, 3) its vertices, registered to the target's neutral surface.
        target: the target head.
    """
    neutral = target.neutral.double()
    reach = _REACH * target.size
    side = _face_side(target)
    per = len(_CORNERS)
    faces = torch.zeros(len(target.faces), per, dtype=torch.long)
    weights = torch.zeros(len(target.faces), per)
    corners = torch.zeros(len(neutral), 3, dtype=torch.long)
    between = torch.zeros(len(neutral), 3)
    between[:, 0] = 1
    confidence = torch.zeros(len(neutral))
    torn = _torn(source)
    stretched = torch.zeros(len(target.faces), dtype=torch.bool)
    # The outer skin last: a vertex at the edge of a lid belongs to it.
    inner, source_inner = target.skin & ~target.outer, source.skin & ~source.outer
    for layer, source_layer in ((inner, source_inner), (target.outer, source.outer)):
        if not bool(layer.any()) or not bool(source_layer.any()):
            continue
        skin = layer.nonzero()[:, 0]
        normals = face_normals(neutral, target.faces)
        points = torch.einsum("pk,fkc->fpc", _CORNERS.double(), neutral[target.faces[skin]]).reshape(-1, 3)
        query = side[skin].repeat_interleave(per), normals[skin].repeat_interleave(per, 0), reach
        face, _, near = SidedSurface(registered, source, source_layer & ~torn).closest(points, *query)
        faces[skin], weights[skin] = face.reshape(-1, per), near.reshape(-1, per).float()
        whole = SidedSurface(registered, source, source_layer)
        if bool((torn & source_layer).any()):
            face, _, near = whole.closest(points, *query)
            stretched[skin] = (torn[face] & near).reshape(-1, per).any(1)
        vertex = target.faces[skin].flatten().unique()
        own = vertex_normals(neutral, target.faces[skin])[vertex]
        at, barycentric, near = whole.closest(neutral[vertex], target.lip[vertex], own, reach, _TOUCHING * target.size)
        corners[vertex], between[vertex], confidence[vertex] = source.faces[at], barycentric.float(), near.float()
    weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1)
    _fill(target, faces, weights, neutral, side)
    confidence = confidence * _importance(target)
    pinned, _ = _shared_landmarks(target, source)
    if (
        len(pinned) and source.landmarks is not None and target.landmarks is not None
    ):  # landmarks are known, whatever lies nearest
        known = (source.landmarks >= 0) & (target.landmarks >= 0)
        corners[pinned] = source.landmarks[known][:, None]
        between[pinned] = torch.tensor([1.0, 0, 0])
        confidence[pinned] = _importance(target)[pinned]
    lost, sure = (confidence == 0).nonzero()[:, 0], (confidence > 0).nonzero()[:, 0]
    if len(lost) and len(sure):  # without a counterpart: follow, weakly, the nearest vertex that has one
        nearest = _nearest(neutral[lost], target.lip[lost], neutral[sure], target.lip[sure])
        corners[lost], between[lost] = corners[sure[nearest]], between[sure[nearest]]
    at_corners = _between_corners(registered, target, corners, between, confidence) & stretched
    return Correspondence(faces, weights, corners, between, confidence, at_corners)


def _between_corners(
    registered: Tensor,
    target: HeadSurface,
    corners: Tensor,
    barycentric: Tensor,
    confidence: Tensor,
) -> Bool[Tensor, " f"]:
    """Target faces (F,) whose corners' counterparts span a triangle like them, on the source as it is registered."""
    places = torch.einsum("vk,vkc->vc", barycentric.double(), registered[corners])
    mine, theirs = (
        torch.linalg.cross(a[:, 1] - a[:, 0], a[:, 2] - a[:, 0])
        for a in (target.neutral.double()[target.faces], places[target.faces])
    )
    area, other = mine.norm(dim=-1), theirs.norm(dim=-1)
    alike = (mine * theirs).sum(-1) > _SAME_WAY * area * other
    return alike & (other > area / _ALIKE) & (other < area * _ALIKE) & (confidence[target.faces] > 0).all(1)


def _importance(head: HeadSurface) -> Float[Tensor, " v"]:
    """Weight (V,) of positions: 1 on the lids, which must meet; small elsewhere, where shape matters more."""
    out = torch.full((len(head.neutral),), _ELSEWHERE)
    for ball in head.eyeballs:
        away = (head.neutral - ball.center).norm(dim=1) / ball.radius
        out = torch.maximum(out, cubic(((1.6 - away) / 0.4).clamp(0, 1)).to(out))
    return out


def _fill(target: HeadSurface, faces: Tensor, weights: Tensor, neutral: Tensor, side: Tensor) -> None:
    """Fills in faces without a counterpart: from neighbors ring by ring, then from the nearest face in space."""
    eye = torch.zeros(len(neutral), dtype=torch.bool)
    for ball in target.eyeballs:
        eye[ball.vertices] = True
    open_ = ~target.cavity & ~eye[target.faces].any(dim=1)
    known = weights.sum(dim=1) > 0
    if not known.any():
        return
    index = open_.nonzero()[:, 0]
    across = edge_neighbors(target.faces[index])
    neighbors = torch.full(target.faces.shape, -1)
    neighbors[index] = torch.where(across >= 0, index[across.clamp_min(0)], -1)
    while True:
        near_known = torch.where(neighbors >= 0, known[neighbors.clamp_min(0)], False)
        new = open_ & ~known & near_known.any(dim=1)
        if not new.any():
            break
        row = new.nonzero()[:, 0]
        giver = neighbors[row].gather(1, near_known[row].long().argmax(dim=1, keepdim=True))[:, 0]
        faces[row], weights[row] = faces[giver], weights[giver]
        known[row] = True
    lost = (open_ & ~known).nonzero()[:, 0]
    if len(lost):
        sure = known.nonzero()[:, 0]
        middle = neutral[target.faces].mean(dim=1)
        nearest = _nearest(middle[lost], side[lost], middle[sure], side[sure])
        faces[lost], weights[lost] = faces[sure[nearest]], weights[sure[nearest]]


def _nearest(points: Tensor, side: Tensor, others: Tensor, other_side: Tensor) -> Int[Tensor, " n"]:
    """Index of the nearest of the others, across the mouth only if there is no other."""
    out = []
    for part, mine in zip(points.split(512), side.split(512), strict=True):
        distance = torch.cdist(part, others)
        distance = distance + 10.0 * ((mine[:, None] * other_side[None]) < 0)
        out.append(distance.argmin(dim=1))
    return torch.cat(out)


def _own_index(head: HeadSurface) -> Int[Tensor, " f"]:
    """Faces of the mesh itself, without those that close the mouth, which differ between heads."""
    return torch.arange(len(head.faces)) if head.closing is None else (~head.closing).nonzero()[:, 0]


def _own(head: HeadSurface) -> Int[Tensor, "f 3"]:
    return head.faces[_own_index(head)]


def _one_topology(source: HeadSurface, target: HeadSurface) -> Binding:
    """The binding vertex by vertex, without the faces across the mouth, whose stretch has no limit."""
    same = Correspondence.same(target.faces.long(), len(target.neutral))
    faces, weights = torch.zeros_like(same.faces), torch.zeros_like(same.weights)
    mine, yours = _own_index(source), _own_index(target)
    faces[yours, 0] = mine
    weights[yours, 0] = (~source.cavity[mine] & ~target.cavity[yours]).float()
    confidence = torch.full_like(same.confidence, _ELSEWHERE)
    correspondence = same.replace(faces=faces, weights=weights, confidence=confidence)
    used = target.faces.flatten().unique()
    align = fit_similarity(source.neutral[used], target.neutral[used])
    if torch.equal(source.neutral[used], target.neutral[used]):
        align = Similarity.identity()
    return Binding(align, correspondence)
