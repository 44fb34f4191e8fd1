"""Rigging a scan: a parametric body is laid over it, and what the body knows is taken over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.heads.regressors import affine_regressor
from headfields.heads.skinned import SkinnedHead
from headfields.mesh.mesh import Mesh
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.retargeting.head_surface import HeadSurface
from headfields.retargeting.transfer import Correspondence
from headfields.rigging.eye_closure import eyes_look_closed
from headfields.rigging.landmarks import ScanLandmarks, find_scan_landmarks, parse_landmarks
from headfields.rigging.lips import LipCut, cut_lips, lip_sides, lips_parted
from headfields.rigging.mesh_repair import close_pinholes, join_seams
from headfields.rigging.mouth_interior import add_inner_mouth, hidden_faces, inner_mouth_faces, paint_inner_mouth
from headfields.rigging.registration import DEFAULT_STAGES, Registration, Stage, register, trimmed_icp
from headfields.rigging.rigged_template import RiggedTemplate, triangle_landmarks
from headfields.rigging.transfer import (
    correspond,
    landmark_normals,
    transfer_displacements,
    transfer_landmarks,
    transfer_regions,
    transfer_uv,
    transfer_values,
    weld_groups,
)

__all__ = ["Rigging", "rig_template"]

_INNER_LIPS = ((60, 60), (61, 67), (62, 66), (63, 65), (64, 64))  # upper and lower, from the right corner to the left
_UPPER, _LOWER = (61, 62, 63), (65, 66, 67)
_HIDDEN = 0.06  # of the body's head: a vertex that sees another surface nearer than this along its normal is inside
_JAW = 0.35  # radians by which the body's jaw opens to tell its lips apart
_BEYOND = 0.15  # of the line's length: how far lips that are parted go on beyond where that is sure
_CLOSING = ("blink", "eye_wide", "eyeblink", "eyewide")  # directions that open or close lids, by their names' start


@dataclass(frozen=True)
class Rigging:
    """What rigging a scan gives.

    Attributes:
        rig: the head.
        registration: of the body, in the template's space.
        align: the similarity that took the body to the template first.
        landmarks: what was known of the scan's face.
        parted: whether the lips were parted already, so that nothing was cut.
        eyes_closed: whether the lids were taken to be shut.
        scan_to_rig: (N,) of each of the scan's N vertices, which vertex of the rig it is: the scan's own numbers,
            unless it had vertices twice along seams.
        confidence: (V,) 1 where a vertex of the rig has a counterpart on the body; 0 where it was filled in.
    """

    rig: RiggedTemplate
    registration: Registration
    align: Similarity
    landmarks: ScanLandmarks
    parted: bool
    eyes_closed: bool
    scan_to_rig: Int[Tensor, " n"]
    confidence: Float[Tensor, " v"]


def rig_template(
    mesh: Mesh,
    body: SkinnedHead,
    landmarks: ScanLandmarks | Mapping[str, Any] | None = None,
    expression: Float[Tensor, "1 _"] | None = None,
    eyes_closed: bool | None = None,
    inner_mouth: bool = True,
    smoothing: float | int = 1.0,
    stages: Sequence[Stage] = DEFAULT_STAGES,
    progress: bool = True,
) -> Rigging:
    """Rigs a textured mesh of a head, with or without shoulders, like a parametric body.

    1. Landmarks: those given, or found on the shape (`find_scan_landmarks`). 2. The body is aligned by a similarity,
    by the landmarks and then by trimmed iterated closest points of the head, and registered as rigidly as possible
    (`register`), with shut lids where the scan's are shut. 3. A mouth that is sealed is cut along the line of the lips
    and gets an inside (`headfields.heads.mouth.inner`, and colors for it in the texture); one that has an inside
    already is left as it is. 4. Weights, expressions, correctives, regions, landmarks and, for a mesh without texture
    coordinates, those too, are taken over by closest triangles (see `headfields.rigging.transfer`).

    Vertices that the mesh has twice along seams of its texture are made one (`join_seams`).

    The scan as it is becomes the neutral: a direction of the `expression` that it was taken in is then no direction any
    more, and with shut lids neither are those that open or close them, nor do lids follow the gaze.

    Args:
        mesh: lips closed, y up, face toward +z; of any scale, meters from here on.
        body: `procedural_body()`, `procedural_head()`, or an `SmplxHead` or `FlameHead` from a file, with 68 or 51
            landmarks.
        landmarks: by name or number, see `read_scan_landmarks`; found if left out.
        expression: (1, E) of the body, as in the scan, but for shut lids.
        eyes_closed: whether the scan's lids are shut; left out, the landmarks say, or else the texture between the
            lids is looked at.
        inner_mouth: whether a mouth that is cut open gets an inside.
        smoothing: of the skinning weights, in edges squared.
        stages: of the registration.
        progress: whether to show bars.

    Raises:
        ValueError: the mesh has no faces; landmarks are too few (three) or cannot be found; the body has none.

    Our own choice throughout: how the paper (3VP Avatar) transfers SMPL-X's rig is not known.
    """
    if not len(mesh.faces):
        raise ValueError("rig_template: mesh has no faces; give a surface")
    if body.landmark_faces is None or body.landmark_barycentric is None or len(body.landmark_faces) not in (51, 68):
        raise ValueError("rig_template: the body needs 68 landmarks, or FLAME's 51, to be laid over a scan")
    with torch.no_grad():
        return _Rigger(mesh, body, landmarks, expression, eyes_closed, progress).run(inner_mouth, smoothing, stages)


class _Rigger:
    def __init__(
        self,
        mesh: Mesh,
        body: SkinnedHead,
        landmarks: ScanLandmarks | Mapping[str, Any] | None,
        expression: Tensor | None,
        eyes_closed: bool | None,
        progress: bool,
    ) -> None:
        self.mesh, self.scan_to_rig = join_seams(mesh.map(lambda t: t.detach().cpu()))
        self.body, self.progress = body, progress
        if landmarks is None:
            landmarks = find_scan_landmarks(self.mesh.vertices, self.mesh.faces)
        elif isinstance(landmarks, Mapping):
            landmarks = parse_landmarks(landmarks)
        self.marks = landmarks
        if len(landmarks.points) < 3:
            raise ValueError(f"rig_template: {len(landmarks.points)} landmarks are too few; give three or more")
        assert body.landmark_faces is not None and body.landmark_barycentric is not None
        self.first = 68 - len(body.landmark_faces)  # FLAME's 51 are the last of 68
        self.on, self.at = body.landmark_faces.cpu(), body.landmark_barycentric.cpu()
        self.base = torch.zeros(1, body.expression_count) if expression is None else expression.detach().cpu()
        self.base = torch.nn.functional.pad(self.base, (0, body.expression_count - self.base.shape[1]))
        self.line = self._line()
        self.shown = self.mesh.faces[~hidden_faces(self.mesh.vertices, self.mesh.faces)]
        self.align = self._aligned()
        closed = landmarks.eyes_closed if eyes_closed is None else eyes_closed
        if closed is None:
            closed = eyes_look_closed(self.mesh, self._marks_on(self.align.apply(self._rest())), self.first)
        self.eyes_closed = closed
        if closed:
            for index, name in enumerate(body.expression_names):
                if name.lower().startswith(("blink", "eyeblink")):
                    self.base[0, index] = 1.0

    def _rest(self) -> Float[Tensor, "v 3"]:
        """The body as the scan was taken, float64."""
        base = self.base.to(self.body.template_vertices)
        return self.body(expression=base).vertices[0].double().cpu()

    def _marks_on(self, vertices: Tensor) -> Float[Tensor, "l 3"]:
        return (self.at.double()[..., None] * vertices[self.body.faces.cpu()[self.on]]).sum(1)

    def _line(self) -> Float[Tensor, "n 3"]:
        """Where the scan's lips meet."""
        if self.marks.lips is not None and len(self.marks.lips) > 2:
            return self.marks.lips
        known: dict[int, Tensor] = dict(zip(self.marks.indices.tolist(), self.marks.points, strict=True))
        points = [
            0.5 * (known.get(a, known[b]) + known.get(b, known[a]))
            for a, b in ((a, b) if a in known else (b, a) for a, b in _INNER_LIPS)
            if a in known
        ]
        if 60 in known and 64 in known and len(points) > 2:
            return torch.stack(points)
        found = find_scan_landmarks(self.mesh.vertices, self.mesh.faces).lips
        assert found is not None
        return found

    def _aligned(self) -> Similarity:
        rest = self._rest()
        mine = self._marks_on(rest)
        usable = self.marks.indices >= self.first
        here, there = mine[self.marks.indices[usable] - self.first], self.marks.points[usable]
        if len(here) < 3:
            raise ValueError(f"rig_template: the body has {len(here)} of the scan's landmarks; give three or more")
        start = fit_similarity(here, there)
        joints = [self.body.skull_joint, self.body.jaw_joint]
        carried = (self.body.weights[:, joints].sum(1) > 0.9).cpu() & self._outside(rest)
        normals = vertex_normals(rest, self.body.faces.cpu())
        better = trimmed_icp(rest[carried], normals[carried], self.mesh.vertices, self.shown, start)
        # Landmarks are sure and few, closest points many and blind: a refinement that leaves the landmarks is none.
        before = (start.apply(here) - there).norm(dim=1).mean()
        after = (better.apply(here) - there).norm(dim=1).mean()
        size = (rest[carried].amax(0) - rest[carried].amin(0)).amax() * start.scale
        return better if float(after) < float(before) + 0.04 * float(size) else start

    def _outside(self, rest: Tensor) -> Bool[Tensor, " v"]:
        """Vertices of the body that a scanner could see: no eyeballs, no insides of lids and lips."""
        faces = self.body.faces.cpu()
        eyes = self.body.weights[:, list(self.body.eye_joints)].sum(1).cpu() > 0.5
        normals = vertex_normals(rest, faces)
        skull = self.body.weights[:, [self.body.skull_joint]].sum(1).cpu() > 0.5
        size = float((rest[skull].amax(0) - rest[skull].amin(0)).amax())
        tree = TriangleBVH(faces, rest.float())
        origins = rest + 2e-3 * size * normals
        hit = tree.raycast(origins.float(), torch.nn.functional.normalize(normals.float(), dim=-1, eps=1e-20))
        return ~eyes & (normals.norm(dim=1) > 0.5) & ~((hit.face >= 0) & (hit.distance < _HIDDEN * size))

    def _registered(self, stages: Sequence[Stage]) -> Registration:
        rest = self._rest()
        placed = self.align.apply(rest)
        count = len(placed)
        rows, wanted = [], []

        def anchor(index: int, place: Tensor) -> None:
            row = torch.zeros(count, dtype=torch.float64)
            row[self.body.faces.cpu()[self.on[index - self.first]]] = self.at[index - self.first].double()
            rows.append(row)
            wanted.append(place)

        lips = {60, 64, *_UPPER, *_LOWER}
        for index, place in zip(self.marks.indices.tolist(), self.marks.points, strict=True):
            if index >= self.first and index not in lips:
                anchor(index, place)
        points = self.line.double()
        mine = self._marks_on(placed)
        for index in sorted(lips):  # along the line by where they are between the body's own corners
            x = mine[index - self.first, 0]
            low, high = mine[60 - self.first, 0], mine[64 - self.first, 0]
            share = float(((x - low) / (high - low)).clamp(0, 1))
            at = points[0, 0] + share * (points[-1, 0] - points[0, 0])
            anchor(index, torch.tensor([np.interp(float(at), points[:, 0], points[:, k]) for k in range(3)]))
        return register(
            placed, self.body.faces.cpu(), self.mesh.vertices, self.shown, torch.stack(rows), torch.stack(wanted),
            self._outside(rest), stages=stages, progress=self.progress,
        )  # fmt: skip

    def _body_surface(self) -> tuple[HeadSurface, Int[Tensor, "f 3"]]:
        """The body's surface with its mouth closed by faces, as it is in the scan, at the scan's scale and place."""
        template = self.body.template()
        faces = template.faces.cpu()
        count = len(self.body.faces) if template.face_count is None else template.face_count
        pose = self.body.template_vertices.new_zeros(1, len(self.body.parents), 3)
        pose[0, self.body.jaw_joint, 0] = _JAW
        opened = self.body(expression=self.base.to(pose), pose=pose).vertices[0].double().cpu()
        closing = torch.arange(len(faces)) >= count
        place = self.align.apply
        return HeadSurface(place(self._rest()), faces, place(opened), closing=closing), faces

    def run(self, inner_mouth: bool, smoothing: float | int, stages: Sequence[Stage]) -> Rigging:
        # What is parted is so between the corners of the slit, which the crease outruns.
        open_at = lips_parted(self.mesh.vertices, self.mesh.faces, self.line)
        parted = bool(open_at.sum() >= 0.25 * len(open_at))
        if parted:
            inside = open_at.nonzero()[:, 0]
            extra = round(_BEYOND * len(open_at))
            self.line = self.line[max(int(inside.min()) - extra, 0) : int(inside.max()) + extra + 1]
        registration = self._registered(stages)
        registered = registration.vertices
        source, faces = self._body_surface()
        cut: LipCut | None = None
        mesh = self.mesh
        if not parted:
            mesh = close_pinholes(mesh, self.line)
            cut = cut_lips(mesh, self.line)
            mesh = cut.mesh
        vertices = mesh.vertices.double()
        sides = lip_sides(vertices, mesh.faces, self.line)
        apart = None
        if cut is not None:
            sides[cut.upper[1:-1]], sides[cut.lower[1:-1]] = 1, -1
            sides[cut.upper[[0, -1]]] = 0
            apart = torch.cat([cut.upper[1:-1], cut.lower[1:-1]])
        target = HeadSurface(vertices, mesh.faces, closing=torch.zeros(len(mesh.faces), dtype=torch.bool), sides=sides)
        found = correspond(source, registered, target)
        groups = weld_groups(vertices, apart)
        body, eyes = self.body, list(self.body.eye_joints)
        weights = body.weights.double().cpu().clone()
        carried = weights[:, eyes].sum(1) > 0.5
        # A mesh of one skin has no eyeballs: what comes near one goes with the skull.
        weights[~carried, body.skull_joint] += weights[~carried][:, eyes].sum(1)
        weights[:, eyes] = 0
        weights[carried, body.skull_joint] = 1
        mine = transfer_values(weights, found, mesh.faces, groups, smoothing).clamp_min(0)
        mine[mine < 1e-4] = 0
        mine = mine / mine.sum(1, keepdim=True)

        expressions, correctives = self._directions(source, faces, target, found, groups, cut)
        joints = body.joint_regressor.double().cpu() @ registered
        regions = dict(body.template().regions)
        own = len(body.faces)
        regions = transfer_regions({name: mask.cpu() for name, mask in regions.items()}, found)
        on, at = self._landmarks(registered, source, target)
        uv, uv_faces, texture = mesh.uv, mesh.uv_faces, mesh.texture
        if uv is None and body.uv is not None and body.uv_faces is not None:
            padded = torch.cat([body.uv_faces.cpu(), body.uv_faces.cpu()[:1].expand(len(faces) - own, -1)])
            uv, uv_faces = transfer_uv(body.uv.cpu(), padded, faces, registered, vertices, mesh.faces, found)
        rig = RiggedTemplate(
            template=vertices.float(),
            faces=mesh.faces.long(),
            shape_basis=torch.zeros(0, len(vertices), 3),
            expression_basis=expressions.float(),
            pose_basis=correctives.float(),
            joint_regressor=_joint_regressor(vertices, joints, mine).float(),
            weights=mine.float(),
            parents=body.parents,
            landmarks=triangle_landmarks(on, at),
            uv=uv,
            uv_faces=uv_faces,
            regions=regions,
            expression_names=body.expression_names,
            texture=texture,
            scale=float(self.align.scale),
        )
        if cut is not None and inner_mouth:
            rig = add_inner_mouth(rig, torch.cat([cut.upper, cut.lower[1:-1].flip(0)]))
        elif parted:
            rig = paint_inner_mouth(rig, inner_mouth_faces(vertices, mesh.faces, self.line), self.line)
        known = torch.zeros(len(rig.template_vertices))
        known[: len(vertices)] = (found.confidence > 0).float()
        return Rigging(rig, registration, self.align, self.marks, parted, self.eyes_closed, self.scan_to_rig, known)

    def _directions(
        self,
        source: HeadSurface,
        faces: Tensor,
        target: HeadSurface,
        found: Correspondence,
        groups: Tensor,
        cut: LipCut | None,
    ) -> tuple[Float[Tensor, "e w 3"], Float[Tensor, "p w 3"]]:
        body = self.body
        turn = (self.align.scale * self.align.rotation).double().cpu()
        expressions = body.expression_basis.double().cpu() @ turn.T
        correctives = body.pose_basis.double().cpu() @ turn.T
        expressions[self.base[0] != 0] = 0
        if self.eyes_closed:
            for index, name in enumerate(body.expression_names):
                if name.lower().startswith(_CLOSING):
                    expressions[index] = 0
            for joint in body.eye_joints:
                correctives[9 * (joint - 1) : 9 * joint] = 0
        both = torch.cat([expressions, correctives])
        total = int((both.abs().amax((1, 2)) > 0).sum())
        with tqdm(total=total, desc="expressions", unit="shape", disable=not self.progress) as bar:
            moved = transfer_displacements(source.neutral, both, faces, target, found, groups, bar.update)
        if cut is not None:
            _close_lip_gaps(moved, cut, float(self.align.scale))
        return moved[: len(expressions)], moved[len(expressions) :]

    def _landmarks(
        self, registered: Tensor, source: HeadSurface, target: HeadSurface
    ) -> tuple[Int[Tensor, " l"], Float[Tensor, "l 3"]]:
        normals = landmark_normals(registered, self.body.faces.cpu(), self.on, self.at)
        sides = torch.zeros(len(self.on), dtype=torch.long)
        for index in range(48, 68):
            sides[index - self.first] = int(source.lip[self.body.faces.cpu()[self.on[index - self.first]]].sum().sign())
        sides[[60 - self.first, 64 - self.first]] = 0
        points = self._marks_on(registered)
        for index, place in zip(self.marks.indices.tolist(), self.marks.points, strict=True):
            if index >= self.first:
                points[index - self.first] = place
        return transfer_landmarks(points, normals, sides, target)


def _joint_regressor(vertices: Tensor, joints: Tensor, weights: Tensor) -> Float[Tensor, "j v"]:
    """Rows that give the joints from the template's vertices: those nearby, or, for a joint far off, all."""
    place, at = vertices.numpy(), joints.numpy()
    size = float((place.max(0) - place.min(0)).max())
    bands = []
    for joint in range(len(at)):
        distance = np.linalg.norm(place - at[joint], axis=1)
        near = distance < max(
            0.22 * size, float(np.partition(distance, min(200, len(place) - 1))[min(200, len(place) - 1)])
        )
        bands.append(near if distance.min() < 0.2 * size else np.ones(len(place), bool))
    return torch.from_numpy(affine_regressor(place, at, bands))


def _close_lip_gaps(moved: Tensor, cut: LipCut, scale: float) -> None:
    """Lips that an expression moves alike, but for the noise of the correspondence, stay together."""
    upper, lower = cut.upper[1:-1], cut.lower[1:-1]
    apart = moved[:, upper] - moved[:, lower]
    size = apart.norm(dim=-1, keepdim=True)
    t = ((size - 4e-4 * scale) / (1.0e-3 * scale)).clamp(0, 1)
    shrink = 1 - t * t * (3 - 2 * t)
    moved[:, upper] -= 0.5 * shrink * apart
    moved[:, lower] += 0.5 * shrink * apart
