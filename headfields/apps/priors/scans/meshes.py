"""Scans as registered meshes: one topology for all people and expressions."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.priors.scans.batch import PointCounts, ScanBatch, ScanSet, ball, generator
from headfields.apps.priors.scans.visibility import is_visible, rim_faces, visible_share
from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.mesh_topology import vertex_components
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import face_crosses, vertex_normals

__all__ = ["FACE", "HIDDEN", "INNER", "REAR", "STATIC", "MeshScans"]

FACE, STATIC, REAR, INNER, HIDDEN = range(5)
"""Kinds of faces: the part that expressions move, the rest of the front, the back of the head, the inside of the mouth
(sampled with the face, but without correspondences), and faces that are never sampled.
"""
_ORDER = (INNER, FACE, STATIC, REAR, HIDDEN)
_EYES, _EYES_AND_MOUTH = range(36, 48), range(36, 68)
_NEAR_FEATURE = 0.012
"""Distance from a landmark of eyes and mouth up to which faces belong to these features, meters."""


class MeshScans(ScanSet):
    """Scans as registered meshes: S meshes of P people over the same faces, with a color at each vertex.

    Points are sampled uniformly over the faces that are visible from outside, as a scanner would see them (`visible`);
    normals and colors are interpolated. The neck stays open, as in scans: only the far points and the eikonal term
    constrain the field beyond it. The signed distance of a point near the surface refers to the nearest face, and is
    known where this face is visible and not at the rim of the mesh.

    Lid skin (`PointCounts.lids`) is what moves within 12 mm of a landmark of the eyes and is connected to most of the
    mesh, as eyeballs are not. A triangle's weight is its area times the root mean square of its motion over all scans,
    so that the share of each scan is the same, whether it closes the eyes or leaves them open.

    Args:
        vertices: (S, V, 3) meters, head pose removed.
        faces: (F, 3) counter-clockwise seen from outside.
        person: (S,) index of each mesh's person, from 0.
        rgb: (P, V, 3) sRGB in [0, 1].
        neutral: (P,) index of each person's neutral mesh; the person's first if None.
        kind: (F,) `FACE`, `STATIC`, `REAR`, `INNER` or `HIDDEN`; from `face_kinds` if None.
        visible: (S, F) whether a scanner saw the face; by ray casting if None, which takes about 0.1 s per mesh.
        people: P names; numbers if None.
        expressions: S names; numbers within a person if None.
        anchor_vertices: (A,) vertices that are anchors, such as `headfields.networks.head_anchors` finds them; none if
            None.
        landmark_vertices: (68,) vertices nearest to the landmarks, in iBUG's order, -1 where unknown; None: no
            landmarks. Only used to place anchors (`mean_landmarks`) and to sample near them (`PointCounts.features`).

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, a vertex is not finite, a face index or landmark is out of
            range, a person has no mesh, or a neutral mesh belongs to another person.
    """

    def __init__(
        self,
        vertices: Float[Tensor, "s v 3"],
        faces: Int[Tensor, "f 3"],
        person: Int[Tensor, " s"],
        rgb: Float[Tensor, "p v 3"],
        neutral: Int[Tensor, " p"] | None = None,
        kind: Int[Tensor, " f"] | None = None,
        visible: Bool[Tensor, "s f"] | None = None,
        people: Sequence[str] | None = None,
        expressions: Sequence[str] | None = None,
        anchor_vertices: Int[Tensor, " a"] | None = None,
        landmark_vertices: Int[Tensor, "68"] | None = None,
    ) -> None:
        _check(vertices, faces, person, rgb)
        if landmark_vertices is not None:
            _check_landmarks(landmark_vertices, vertices.shape[1])
            landmark_vertices = landmark_vertices.long()
        self.landmark_vertices = landmark_vertices
        count = len(rgb)
        self.vertices, self.faces, self.person, self.rgb = vertices.float(), faces.long(), person.long(), rgb.float()
        first = torch.stack([(self.person == p).nonzero()[0, 0] for p in range(count)])
        self.neutral = first if neutral is None else neutral.long()
        if (self.person[self.neutral] != torch.arange(count)).any():
            wrong = int((self.person[self.neutral] != torch.arange(count)).nonzero()[0, 0])
            raise ValueError(
                f"MeshScans: neutral[{wrong}] is mesh {int(self.neutral[wrong])}, which is person "
                f"{int(self.person[self.neutral[wrong]])}'s; neutral[p] must be a mesh of person p"
            )
        self.kind = face_kinds(self.vertices, self.faces, self.person, self.neutral) if kind is None else kind.long()
        self.visible = visible_faces(self.vertices, self.faces) if visible is None else visible
        self.people = tuple(people) if people is not None else tuple(f"{p:03d}" for p in range(count))
        if expressions is None:
            numbers = [int((self.person[:s] == self.person[s]).sum()) for s in range(len(self.person))]
            expressions = [f"{number:03d}" for number in numbers]
        pairs = zip(self.person.tolist(), expressions, strict=True)
        self.scans = tuple(f"{self.people[p]}/{expression}" for p, expression in pairs)
        none = torch.zeros(0, dtype=torch.long)
        self.anchor_vertices = none if anchor_vertices is None else anchor_vertices.long()
        if (
            len(self.anchor_vertices)
            and not 0 <= int(self.anchor_vertices.min()) <= int(self.anchor_vertices.max()) < (vertices.shape[1])
        ):
            raise ValueError(f"MeshScans: anchor_vertices has vertices outside [0, {vertices.shape[1]})")
        self.anchored = torch.full((count,), len(self.anchor_vertices) > 0)
        self.anchors = self.vertices[self.neutral][:, self.anchor_vertices]
        mean = self.mean_neutral()
        self.center = 0.5 * (mean.amin(0) + mean.amax(0))
        self._rim = rim_faces(self.faces)
        self._tree = TriangleBVH(self.faces, self.vertices[:1])
        self._tree.closest(self.vertices[0, :1], sign=True)  # precomputes the topology that signs need, for all poses
        self._normals, self._area, self._number = self._precomputed()
        self._features = self._feature_faces()
        self._lids, self._lid_weight = self._lid_skin()

    @property
    def expressions(self) -> tuple[str, ...]:
        """S names of expressions, without the person."""
        return tuple(name.rpartition("/")[2] for name in self.scans)

    def with_anchors(self, vertices: Int[Tensor, " a"]) -> "MeshScans":
        """The same scans with other anchor vertices (A,)."""
        return self._subset(torch.arange(len(self.people)), vertices)

    def mean_neutral(self) -> Float[Tensor, "v 3"]:
        """The mean of the neutral meshes, meters."""
        return self.vertices[self.neutral].mean(0)

    def mean_landmarks(self) -> Float[Tensor, "68 3"] | None:
        """Landmarks of the mean neutral mesh, meters, NaN where unknown; None for a set without landmarks."""
        if self.landmark_vertices is None:
            return None
        points = self.mean_neutral()[self.landmark_vertices.clamp_min(0)]
        return torch.where(self.landmark_vertices[:, None] >= 0, points, torch.nan)

    def of(self, people: Sequence[int] | Int[Tensor, " q"]) -> "MeshScans":
        """The scans of a subset of Q people, by index, in this order."""
        return self._subset(torch.as_tensor(people, dtype=torch.long), self.anchor_vertices)

    def _subset(self, people: Tensor, anchor_vertices: Tensor) -> "MeshScans":
        scans = torch.cat([(self.person == p).nonzero()[:, 0] for p in people])
        place = torch.full((len(self.people),), -1)
        place[people] = torch.arange(len(people))
        where = torch.full((len(self),), -1)
        where[scans] = torch.arange(len(scans))
        return MeshScans(
            self.vertices[scans], self.faces, place[self.person[scans]], self.rgb[people],
            neutral=where[self.neutral[people]], kind=self.kind, visible=self.visible[scans],
            people=[self.people[p] for p in people], expressions=[self.expressions[s] for s in scans],
            anchor_vertices=anchor_vertices, landmark_vertices=self.landmark_vertices,
        )  # fmt: skip

    def sample(self, scans: Int[Tensor, " b"], counts: PointCounts, seed: int) -> ScanBatch:
        """Samples points of B scans; see `ScanSet.sample`."""
        self._check_scans(scans)
        scans = scans.long()
        person, batch = self.person[scans], len(scans)
        neutral = self.neutral[person]
        random = generator(seed, 3)
        on_face = self._front(scans, INNER, FACE, counts.face, counts.detail, random, counts.features)
        face = self._on(scans, on_face, random)
        static = self._on(scans, self._front(scans, STATIC, STATIC, counts.static, counts.detail, random), random)
        front = [torch.cat(pair, 1) for pair in zip(face, static, strict=True)]
        back = self._on(scans, self._choose(scans, REAR, REAR, counts.back, random), random)
        surface = self._on(scans, self._choose(scans, INNER, REAR, counts.near, random), random)[0]
        near = surface + counts.sigma * torch.randn(surface.shape, generator=random)
        near_rgb, distance, known = self._nearest(near, scans)
        quarter = counts.correspondences // 4  # three quarters are on the face, where expressions are
        on_lids = round(counts.lids * (counts.correspondences - quarter)) if len(self._lids) else 0
        even = counts.correspondences - quarter - on_lids
        chosen = [
            self._front(neutral, FACE, FACE, even, counts.detail, random, counts.features),
            self._choose(neutral, STATIC, REAR, quarter, random),
        ]
        if on_lids:
            weight = self._lid_weight * self.visible[neutral[:, None], self._lids]
            weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, self._lid_weight)
            chosen.insert(1, self._lids[_drawn(weight, on_lids, random)])
        ids = self.faces[torch.cat(chosen, 1)]
        weights = _corner_weights(batch, counts.correspondences, random)
        return ScanBatch(
            scan=scans, person=person, neutral=scans == neutral,
            front_points=front[0], front_normals=front[1], front_rgb=front[2],
            back_points=back[0], back_normals=back[1], back_rgb=back[2],
            near_points=near, near_rgb=near_rgb, near_distance=distance, near_known=known,
            far_points=self.center + ball(batch, counts.far, counts.radius, random),
            posed_points=_mixed(self.vertices, scans, ids, weights),
            neutral_points=_mixed(self.vertices, neutral, ids, weights),
            corresponds=torch.ones(batch, dtype=torch.bool),
            anchors=self.anchors[person], anchored=self.anchored[person],
            trusted_back=torch.ones(batch, dtype=torch.bool),
        )  # fmt: skip

    def _precomputed(self) -> tuple[Float[Tensor, "s v 3"], Float[Tensor, "s g"], Float[Tensor, "s g"]]:
        """Unit vertex normals (S, V, 3), and cumulative area and number of the visible faces in `_order` (S, F + 1).

        `_order` sorts the faces by kind as in `_ORDER`, so that a range of kinds is a range of faces; `_ends` holds the
        boundaries between the kinds.
        """
        place = torch.empty(len(_ORDER), dtype=torch.long)
        place[torch.tensor(_ORDER)] = torch.arange(len(_ORDER))
        ranked = place[self.kind]
        self._order = ranked.argsort(stable=True)
        self._ends = [0, *torch.bincount(ranked, minlength=len(_ORDER)).cumsum(0).tolist()]
        normals, areas = [], []
        for mesh, visible in zip(self.vertices, self.visible, strict=True):
            normals.append(vertex_normals(mesh, self.faces))
            areas.append((face_crosses(mesh, self.faces).norm(dim=-1) * visible)[self._order].double().cumsum(0))
        number = self.visible[:, self._order].float().cumsum(1)
        pad = torch.nn.functional.pad
        return torch.stack(normals), pad(torch.stack(areas), (1, 0)), pad(number, (1, 0))

    def _feature_faces(self) -> Int[Tensor, " g"]:
        """Faces of the front near landmarks of eyes and mouth, the inside of the mouth first."""
        near = self._near_landmarks(_EYES_AND_MOUTH)
        return torch.cat([(near & (self.kind == kind)).nonzero()[:, 0] for kind in (INNER, FACE, STATIC)])

    def _near_landmarks(self, numbers: Sequence[int]) -> Bool[Tensor, " f"]:
        """(F,) whether a face is near one of these landmarks; no face of a set that does not know them is."""
        landmarks = self.mean_landmarks()
        points = torch.zeros(0, 3) if landmarks is None else landmarks[list(numbers)]
        points = points[points.isfinite().all(-1)]
        if not len(points):
            return torch.zeros(len(self.faces), dtype=torch.bool)
        return torch.cdist(self.mean_neutral()[self.faces].mean(1), points).amin(1) < _NEAR_FEATURE

    def _lid_skin(self) -> tuple[Int[Tensor, " g"], Float[Tensor, " g"]]:
        """Faces of lid skin, and the weights they are drawn with."""
        component = vertex_components(self.faces, self.vertices.shape[1])[self.faces[:, 0]]
        skin = component == component.mode().values
        near = self._near_landmarks(_EYES) & skin & ((self.kind == FACE) | (self.kind == STATIC))
        faces = near.nonzero()[:, 0]
        ids, owner = self.faces[faces], self.neutral[self.person]
        squared = torch.zeros(len(faces))
        for scan, rest in enumerate(owner.tolist()):
            squared += (self.vertices[scan, ids] - self.vertices[rest, ids]).mean(1).square().sum(-1)
        weight = (squared / len(owner)).sqrt() * face_crosses(self.mean_neutral(), ids).norm(dim=-1)
        return faces[weight > 0], weight[weight > 0].double()

    def _front(
        self,
        scans: Tensor,
        first: int,
        last: int,
        count: int,
        detail: float | int,
        random: torch.Generator,
        features: float | int = 0.0,
    ) -> Int[Tensor, "b n"]:
        """Samples faces (B, N) of the kinds `first` to `last`: a share `detail` of them uniformly by number, and a
        share `features` at eyes and mouth, with what is static there, if the set has landmarks."""
        fine = round(count * detail)
        at_features = round(count * features) if len(self._features) else 0
        parts = [self._choose(scans, first, last, count - fine - at_features, random)]
        if fine:
            parts.append(self._choose(scans, first, last, fine, random, self._number))
        if at_features:
            parts.append(self._choose_features(scans, at_features, random, inside=first == INNER))
        return torch.cat(parts, 1)

    def _choose_features(self, scans: Tensor, count: int, random: torch.Generator, inside: bool) -> Int[Tensor, "b n"]:
        """Samples visible faces (B, N) at eyes and mouth by area, with or without the inside of the mouth."""
        faces = self._features if inside else self._features[self.kind[self._features] != INNER]
        corners = self.vertices[scans[:, None, None], self.faces[faces]]
        area = _areas(corners) * self.visible[scans[:, None], faces]
        return faces[_drawn(torch.where(area.sum(1, keepdim=True) > 0, area, torch.ones_like(area)), count, random)]

    def _choose(
        self, scans: Tensor, first: int, last: int, count: int, random: torch.Generator, table: Tensor | None = None
    ) -> Int[Tensor, "b n"]:
        """Samples visible faces (B, N) of the kinds `first` to `last` by area; all by number if none is visible."""
        low, high = self._ends[_ORDER.index(first)], self._ends[_ORDER.index(last) + 1]
        uniform = torch.rand(len(scans), count, generator=random, dtype=torch.float64)
        if low == high:  # no faces of these kinds
            low, high = 0, len(self.faces)
        area = (self._area if table is None else table)[scans, low : high + 1].double()
        span = area[:, -1:] - area[:, :1]
        area = torch.where(span > 0, area, torch.arange(area.shape[1], dtype=area.dtype))
        place = area[:, :1] + uniform * (area[:, -1:] - area[:, :1])
        index = torch.searchsorted(area.contiguous(), place, right=True) - 1
        return self._order[(low + index).clamp(low, high - 1)]

    def _on(self, scans: Tensor, chosen: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random points (B, N, 3) on the faces `chosen` (B, N), with normals and colors."""
        ids = self.faces[chosen]
        weights = _corner_weights(chosen.shape[0], chosen.shape[1], random)
        normals = torch.nn.functional.normalize(_mixed(self._normals, scans, ids, weights), dim=-1)
        rgb = _mixed(self.rgb, self.person[scans], ids, weights)
        return _mixed(self.vertices, scans, ids, weights), normals, rgb

    def _nearest(self, points: Tensor, scans: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Color of the nearest surface point, signed distance, and whether the distance is known."""
        batch, count = points.shape[:2]
        row = torch.arange(batch)[:, None].expand(batch, count)
        nearest = self._tree.posed(self.vertices[scans]).closest(points, row, sign=True)
        assert nearest.sign is not None
        face = nearest.face.clamp_min(0)
        rgb = _mixed(self.rgb, self.person[scans], self.faces[face], nearest.barycentric)
        measured = (self.kind[face] != HIDDEN) & ~self._rim[face] & self.visible[scans[:, None], face]
        known = measured & (nearest.face >= 0)
        return rgb, torch.where(known, nearest.sign * nearest.distance, 0.0), known


def _areas(corners: Float[Tensor, "b g 3 3"]) -> Tensor:
    """(B, G) float64, twice the areas of triangles."""
    one, other = (corners[..., k, :] - corners[..., 0, :] for k in (1, 2))
    return torch.linalg.cross(one, other).norm(dim=-1).double()


def _drawn(weights: Tensor, count: int, random: torch.Generator) -> Int[Tensor, "b n"]:
    """Columns (B, N) drawn with replacement in proportion to the weights (B, G) of each row; none of weight 0."""
    ends = weights.cumsum(1)
    uniform = torch.rand(len(weights), count, generator=random, dtype=torch.float64)
    place = torch.searchsorted(ends, uniform * ends[:, -1:], right=True)
    return place.clamp(max=weights.shape[1] - 1)


def _check_landmarks(landmarks: Tensor, count: int) -> None:
    check_integer("MeshScans", "landmark_vertices", landmarks)
    check_shape("MeshScans", "landmark_vertices", landmarks, "68")
    if not -1 <= int(landmarks.min()) <= int(landmarks.max()) < count:
        raise ValueError(
            f"MeshScans: landmark_vertices holds {int(landmarks.min())} to {int(landmarks.max())}; expected vertices "
            f"below {count}, or -1 where unknown"
        )


def visible_faces(vertices: Float[Tensor, "s v 3"], faces: Int[Tensor, "f 3"]) -> Bool[Tensor, "s f"]:
    """(S, F) mask of the faces of each mesh (S, V, 3) visible from outside: one ray of `visible_share` escapes.

    Faces from which at least 90 % of the rays escape in the first and the last mesh are not tested in the others.
    """
    count = len(vertices)
    probe = visible_share(vertices[sorted({0, count - 1})] if count else vertices, faces)
    doubtful = (probe < 0.9).any(0)
    return is_visible(vertices, faces, doubtful)


def face_kinds(
    vertices: Float[Tensor, "s v 3"], faces: Int[Tensor, "f 3"], person: Int[Tensor, " s"], neutral: Int[Tensor, " p"]
) -> Int[Tensor, " f"]:
    """The kind (F,) of each face: `FACE` where some mesh is over a millimeter from its person's neutral mesh.

    The other faces are `STATIC` in the front half of the mean neutral head and `REAR` behind it, as are moving faces
    behind it.

    Args:
        vertices: (S, V, 3) meters.
        faces: (F, 3).
        person: (S,) index of each mesh's person.
        neutral: (P,) index of each person's neutral mesh.
    """
    moved = (vertices - vertices[neutral[person]]).norm(dim=-1).amax(0)
    mean = vertices[neutral].mean(0)
    depth = mean[faces].mean(1)[:, 2]
    middle = 0.5 * (depth.min() + depth.max())
    static_or_rear = torch.where(depth >= middle, STATIC, REAR)
    return torch.where((moved[faces].amin(1) > 1e-3) & (depth >= middle), FACE, static_or_rear)


def _mixed(values: Tensor, rows: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Interpolates values (R, V, C) of rows (B,) at vertex triples `ids` (B, N, 3) with weights (B, N, 3)."""
    return (values[rows[:, None, None], ids] * weights[..., None]).sum(2)


def _corner_weights(batch: int, count: int, random: torch.Generator) -> Tensor:
    """Barycentric coordinates (B, N, 3), uniform over a triangle."""
    one, other = torch.rand(2, batch, count, generator=random)
    root = one.sqrt()
    return torch.stack([1 - root, root * (1 - other), root * other], -1)


def _check(vertices: Tensor, faces: Tensor, person: Tensor, rgb: Tensor) -> None:
    for name, tensor, shape in (("vertices", vertices, "S V 3"), ("rgb", rgb, "P V 3")):
        check_floating("MeshScans", name, tensor)
        check_shape("MeshScans", name, tensor, shape)
    for name, tensor, shape in (("faces", faces, "F 3"), ("person", person, "S")):
        check_integer("MeshScans", name, tensor)
        check_shape("MeshScans", name, tensor, shape)
    count = vertices.shape[1]
    if not len(vertices) or not len(faces):
        raise ValueError(f"MeshScans: {len(vertices)} meshes of {len(faces)} faces; pass at least one of each")
    if rgb.shape[1] != count:
        raise ValueError(f"MeshScans: rgb has {rgb.shape[1]} vertices and the meshes {count}; pass a color per vertex")
    if not 0 <= int(faces.min()) <= int(faces.max()) < count:
        raise ValueError(f"MeshScans: faces holds {int(faces.min())} to {int(faces.max())}; there are {count} vertices")
    if len(person) != len(vertices):
        raise ValueError(f"MeshScans: person has {len(person)} entries for {len(vertices)} meshes; pass one for each")
    if not torch.equal(person.unique().cpu(), torch.arange(len(rgb))):
        raise ValueError(
            f"MeshScans: person names {person.unique().tolist()}, and rgb has {len(rgb)} people; "
            "number the people from 0, each with at least one mesh"
        )
    bad = (~torch.isfinite(vertices)).any(-1).any(-1)
    if bad.any():
        raise ValueError(f"MeshScans: mesh {int(bad.nonzero()[0, 0])} has a vertex that is not finite; leave it out")
