"""Rigging of a scan: registration of a parametric body, and transfer of its rig to the scan.

Our own choice throughout: the paper (3VP Avatar) does not say how it transfers SMPL-X's rig.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.apps.retargeting.deformation_transfer import Correspondence
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.rigging.attribute_transfer import (
    correspond,
    landmark_normals,
    transfer_displacements,
    transfer_landmarks,
    transfer_regions,
    transfer_uv,
    transfer_values,
    weld_groups,
)
from headfields.apps.rigging.eye_closure import eyes_look_closed
from headfields.apps.rigging.landmarks import ScanLandmarks, find_scan_landmarks, parse_landmarks
from headfields.apps.rigging.lips import LipCut, cut_lips, lip_sides, lips_parted
from headfields.apps.rigging.mesh_repair import close_pinholes, join_seams
from headfields.apps.rigging.mouth_interior import add_inner_mouth, hidden_faces, inner_mouth_faces, paint_inner_mouth
from headfields.apps.rigging.registration import DEFAULT_STAGES, Registration, Stage, register
from headfields.apps.rigging.regressors import affine_regressor
from headfields.apps.rigging.rigged_template import RiggedTemplate, triangle_landmarks
from headfields.heads.skinned import SkinnedHead
from headfields.mesh.icp import align_to_surface
from headfields.mesh.mesh import Mesh
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.ops.smoothstep import cubic
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals

__all__ = ["Rigging", "rig_template"]

_INNER_LIPS = ((60, 60), (61, 67), (62, 66), (63, 65), (64, 64))  # iBUG-68, upper and lower, right corner to left
_UPPER, _LOWER = (61, 62, 63), (65, 66, 67)
_HIDDEN = 0.06  # over the head size: a body vertex whose normal hits a surface nearer than this is inside
_JAW = 0.35  # radians by which the body's jaw opens to separate its lips
_BEYOND = 0.15  # over the lip line's length: extension of parted lips beyond where they are detected as parted
_CLOSING = ("blink", "eye_wide", "eyeblink", "eyewide")  # prefixes of expressions that open or close the lids


@dataclass(frozen=True)
class Rigging:
    """Result of rigging a scan.

    Attributes:
        rig: the rigged head.
        registration: result of the body's registration, in the template's space.
        align: the initial similarity from the body to the template.
        landmarks: the scan's landmarks, detected or given.
        parted: whether the scan's lips are parted, so that nothing was cut.
        eyes_closed: whether the scan's lids were treated as closed.
        scan_to_rig: (N,) index in the rig of each of the scan's N vertices. The identity unless seams were merged.
        confidence: (V,) 1 where a vertex of the rig has a counterpart on the body; 0 where values were filled in.
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
    """Rigs a textured mesh of a head, with or without shoulders, from a parametric body.

    1. Landmarks are given or detected on the shape (`find_scan_landmarks`).
    2. The body is aligned by a similarity, from the landmarks and then by trimmed iterated closest points of the head,
       and registered as rigidly as possible (`register`). Its lids are closed where the scan's are.
    3. A sealed mouth is cut along the lip line and gets a cavity and teeth (`headfields.heads.mouth.inner`), with
       colors in the texture. A mouth that already has an inside keeps it.
    4. Weights, expressions, correctives, regions, landmarks and, for a mesh without texture coordinates, texture
       coordinates are transferred by closest triangles (`headfields.apps.rigging.attribute_transfer`).

    Duplicate vertices along texture seams are merged first (`join_seams`).

    The scan is the rig's neutral. Components of `expression` that are not 0 therefore become zero directions. With
    closed lids, so do the expressions that open or close them, and lids do not follow the gaze.

    Args:
        mesh: lips closed, y up, face toward +z, meters; of any scale.
        body: `procedural_body()`, `procedural_head()`, or an `SmplxHead` or `FlameHead` from a file, with 68 or 51
            landmarks.
        landmarks: landmarks by name or index, see `read_scan_landmarks`. None: detected.
        expression: (1, E) the body's expression in the scan, apart from closed lids. None: neutral.
        eyes_closed: whether the scan's lids are closed. None: from `landmarks`, or else from the texture between
            the lids.
        inner_mouth: whether a mouth that is cut open gets a cavity and teeth.
        smoothing: smoothing of the skinning weights, in squared edge lengths.
        stages: stages of the registration.
        progress: whether to show progress bars.

    Returns:
        Rigging. Not differentiable.

    Raises:
        ValueError: the mesh has no faces; there are fewer than three landmarks, or they cannot be detected; the body
            has no landmarks.
    """
    if not len(mesh.faces):
        raise ValueError("rig_template: mesh has no faces; pass a surface")
    if body.landmark_faces is None or body.landmark_barycentric is None or len(body.landmark_faces) not in (51, 68):
        raise ValueError("rig_template: the body needs 68 landmarks, or FLAME's 51, to be aligned with a scan")
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
        self.landmarks = landmarks
        if len(landmarks.points) < 3:
            raise ValueError(f"rig_template: {len(landmarks.points)} landmarks are too few; pass three or more")
        _check_near(landmarks, self.mesh.vertices)
        assert body.landmark_faces is not None and body.landmark_barycentric is not None
        self.first_index = 68 - len(body.landmark_faces)  # FLAME's 51 are the last 51 of 68
        self.landmark_faces, self.landmark_weights = body.landmark_faces.cpu(), body.landmark_barycentric.cpu()
        self.base_expression = (
            torch.zeros(1, body.expression_count) if expression is None else expression.detach().cpu()
        )
        self.base_expression = torch.nn.functional.pad(
            self.base_expression, (0, body.expression_count - self.base_expression.shape[1])
        )
        self.lip_line = self._find_lip_line()
        self.visible_faces = self.mesh.faces[~hidden_faces(self.mesh.vertices, self.mesh.faces)]
        self.align = self._align_body()
        closed = landmarks.eyes_closed if eyes_closed is None else eyes_closed
        if closed is None:
            closed = eyes_look_closed(self.mesh, self._landmarks_on(self.align.apply(self._rest())), self.first_index)
        self.eyes_closed = closed
        if closed:
            for index, name in enumerate(body.expression_names):
                if name.lower().startswith(("blink", "eyeblink")):
                    self.base_expression[0, index] = 1.0

    def _rest(self) -> Float[Tensor, "v 3"]:
        """Body vertices (V, 3) in the scan's expression, float64."""
        base = self.base_expression.to(self.body.template_vertices)
        return self.body(expression=base).vertices[0].double().cpu()

    def _landmarks_on(self, vertices: Tensor) -> Float[Tensor, "l 3"]:
        return (self.landmark_weights.double()[..., None] * vertices[self.body.faces.cpu()[self.landmark_faces]]).sum(1)

    def _find_lip_line(self) -> Float[Tensor, "n 3"]:
        """The line (N, 3) where the scan's lips meet: given, from inner-lip landmarks, or detected."""
        if self.landmarks.lips is not None and len(self.landmarks.lips) > 2:
            return self.landmarks.lips
        known: dict[int, Tensor] = dict(zip(self.landmarks.indices.tolist(), self.landmarks.points, strict=True))
        points = [
            0.5 * (known.get(a, known[b]) + known.get(b, known[a]))
            for a, b in ((a, b) if a in known else (b, a) for a, b in _INNER_LIPS)
            if a in known
        ]
        if 60 in known and 64 in known and len(points) > 2:
            return torch.stack(points)
        detected = find_scan_landmarks(self.mesh.vertices, self.mesh.faces).lips
        assert detected is not None
        return detected

    def _align_body(self) -> Similarity:
        rest = self._rest()
        body_landmarks = self._landmarks_on(rest)
        usable = self.landmarks.indices >= self.first_index
        source_points, target_points = (
            body_landmarks[self.landmarks.indices[usable] - self.first_index],
            self.landmarks.points[usable],
        )
        if len(source_points) < 3:
            raise ValueError(
                f"rig_template: the body has {len(source_points)} of the scan's landmarks; pass three or more"
            )
        start = fit_similarity(source_points, target_points)
        joints = [self.body.skull_joint, self.body.jaw_joint]
        head_skin = (self.body.weights[:, joints].sum(1) > 0.9).cpu() & self._outer_skin(rest)
        normals = vertex_normals(rest, self.body.faces.cpu())
        refined = align_to_surface(
            rest[head_skin], Mesh(self.mesh.vertices, self.visible_faces), scaling=True, method="point", trim=0.25,
            start=start, steps=20, normals=normals[head_skin],
        ).transform  # fmt: skip
        # Closest points can slide to a wrong minimum; keep the refinement only if it stays near the landmarks.
        start_error = (start.apply(source_points) - target_points).norm(dim=1).mean()
        refined_error = (refined.apply(source_points) - target_points).norm(dim=1).mean()
        size = (rest[head_skin].amax(0) - rest[head_skin].amin(0)).amax() * start.scale
        return refined if float(refined_error) < float(start_error) + 0.04 * float(size) else start

    def _outer_skin(self, rest: Tensor) -> Bool[Tensor, " v"]:
        """Mask (V,) of body vertices that a scanner can see: no eyeballs, no insides of lids and lips."""
        faces = self.body.faces.cpu()
        eyes = self.body.weights[:, list(self.body.eye_joints)].sum(1).cpu() > 0.5
        normals = vertex_normals(rest, faces)
        skull = self.body.weights[:, [self.body.skull_joint]].sum(1).cpu() > 0.5
        size = float((rest[skull].amax(0) - rest[skull].amin(0)).amax())
        tree = TriangleBVH(faces, rest.float())
        origins = rest + 2e-3 * size * normals
        hit = tree.raycast(origins.float(), torch.nn.functional.normalize(normals.float(), dim=-1, eps=1e-20))
        return ~eyes & (normals.norm(dim=1) > 0.5) & ~((hit.face >= 0) & (hit.distance < _HIDDEN * size))

    def _register_body(self, stages: Sequence[Stage]) -> Registration:
        rest = self._rest()
        aligned = self.align.apply(rest)
        count = len(aligned)
        rows, positions = [], []

        def anchor(index: int, position: Tensor) -> None:
            row = torch.zeros(count, dtype=torch.float64)
            row[self.body.faces.cpu()[self.landmark_faces[index - self.first_index]]] = self.landmark_weights[
                index - self.first_index
            ].double()
            rows.append(row)
            positions.append(position)

        lips = {60, 64, *_UPPER, *_LOWER}
        for index, position in zip(self.landmarks.indices.tolist(), self.landmarks.points, strict=True):
            if index >= self.first_index and index not in lips:
                anchor(index, position)
        line = self.lip_line.double()
        body_landmarks = self._landmarks_on(aligned)
        for index in sorted(lips):  # placed on the scan's lip line at their fraction between the body's own corners
            x = body_landmarks[index - self.first_index, 0]
            right_x, left_x = body_landmarks[60 - self.first_index, 0], body_landmarks[64 - self.first_index, 0]
            fraction = float(((x - right_x) / (left_x - right_x)).clamp(0, 1))
            target_x = line[0, 0] + fraction * (line[-1, 0] - line[0, 0])
            anchor(index, torch.tensor([np.interp(float(target_x), line[:, 0], line[:, k]) for k in range(3)]))
        return register(
            aligned, self.body.faces.cpu(), self.mesh.vertices, self.visible_faces, torch.stack(rows),
            torch.stack(positions), self._outer_skin(rest), stages=stages, progress=self.progress,
        )  # fmt: skip

    def _body_surface(self) -> tuple[HeadSurface, Int[Tensor, "f 3"]]:
        """The body aligned with the scan and in its expression, with faces that close the mouth; and all its faces."""
        template = self.body.template()
        faces = template.faces.cpu()
        count = len(self.body.faces) if template.face_count is None else template.face_count
        pose = self.body.template_vertices.new_zeros(1, len(self.body.parents), 3)
        pose[0, self.body.jaw_joint, 0] = _JAW
        opened = self.body(expression=self.base_expression.to(pose), pose=pose).vertices[0].double().cpu()
        closing = torch.arange(len(faces)) >= count
        align = self.align.apply
        return HeadSurface(align(self._rest()), faces, align(opened), closing=closing), faces

    def run(self, inner_mouth: bool, smoothing: float | int, stages: Sequence[Stage]) -> Rigging:
        # The crease extends beyond the corners of the slit; shorten the line to the part that is open.
        open_mask = lips_parted(self.mesh.vertices, self.mesh.faces, self.lip_line)
        parted = bool(open_mask.sum() >= 0.25 * len(open_mask))
        if parted:
            open_points = open_mask.nonzero()[:, 0]
            extra = round(_BEYOND * len(open_mask))
            self.lip_line = self.lip_line[max(int(open_points.min()) - extra, 0) : int(open_points.max()) + extra + 1]
        registration = self._register_body(stages)
        registered = registration.vertices
        source, faces = self._body_surface()
        cut: LipCut | None = None
        mesh = self.mesh
        if not parted:
            mesh = close_pinholes(mesh, self.lip_line)
            cut = cut_lips(mesh, self.lip_line)
            mesh = cut.mesh
        vertices = mesh.vertices.double()
        sides = lip_sides(vertices, mesh.faces, self.lip_line)
        lip_vertices = None
        if cut is not None:
            sides[cut.upper[1:-1]], sides[cut.lower[1:-1]] = 1, -1
            sides[cut.upper[[0, -1]]] = 0
            lip_vertices = torch.cat([cut.upper[1:-1], cut.lower[1:-1]])
        target = HeadSurface(vertices, mesh.faces, closing=torch.zeros(len(mesh.faces), dtype=torch.bool), sides=sides)
        correspondence = correspond(source, registered, target)
        groups = weld_groups(vertices, lip_vertices)
        body, eyes = self.body, list(self.body.eye_joints)
        weights = body.weights.double().cpu().clone()
        eyeballs = weights[:, eyes].sum(1) > 0.5
        # A scan is one skin without eyeballs; the skull takes over the weights of the eye joints.
        weights[~eyeballs, body.skull_joint] += weights[~eyeballs][:, eyes].sum(1)
        weights[:, eyes] = 0
        weights[eyeballs, body.skull_joint] = 1
        rig_weights = transfer_values(weights, correspondence, mesh.faces, groups, smoothing).clamp_min(0)
        rig_weights[rig_weights < 1e-4] = 0
        rig_weights = rig_weights / rig_weights.sum(1, keepdim=True)

        expressions, correctives = self._transfer_directions(source, faces, target, correspondence, groups, cut)
        joints = body.joint_regressor.double().cpu() @ registered
        regions = dict(body.template().regions)
        face_count = len(body.faces)
        regions = transfer_regions({name: mask.cpu() for name, mask in regions.items()}, correspondence)
        landmark_faces, landmark_weights = self._transfer_landmarks(registered, source, target)
        uv, uv_faces, texture = mesh.uv, mesh.uv_faces, mesh.texture
        if uv is None and body.uv is not None and body.uv_faces is not None:
            padded = torch.cat([body.uv_faces.cpu(), body.uv_faces.cpu()[:1].expand(len(faces) - face_count, -1)])
            uv, uv_faces = transfer_uv(body.uv.cpu(), padded, faces, registered, vertices, mesh.faces, correspondence)
        rig = RiggedTemplate(
            template=vertices.float(),
            faces=mesh.faces.long(),
            shape_basis=torch.zeros(0, len(vertices), 3),
            expression_basis=expressions.float(),
            pose_basis=correctives.float(),
            joint_regressor=_joint_regressor(vertices, joints, rig_weights).float(),
            weights=rig_weights.float(),
            parents=body.parents,
            landmarks=triangle_landmarks(landmark_faces, landmark_weights),
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
            rig = paint_inner_mouth(rig, inner_mouth_faces(vertices, mesh.faces, self.lip_line), self.lip_line)
        confidence = torch.zeros(len(rig.template_vertices))
        confidence[: len(vertices)] = (correspondence.confidence > 0).float()
        return Rigging(
            rig, registration, self.align, self.landmarks, parted, self.eyes_closed, self.scan_to_rig, confidence
        )

    def _transfer_directions(
        self,
        source: HeadSurface,
        faces: Tensor,
        target: HeadSurface,
        correspondence: Correspondence,
        groups: Tensor,
        cut: LipCut | None,
    ) -> tuple[Float[Tensor, "e w 3"], Float[Tensor, "p w 3"]]:
        body = self.body
        linear = (self.align.scale * self.align.rotation).double().cpu()
        expressions = body.expression_basis.double().cpu() @ linear.T
        correctives = body.pose_basis.double().cpu() @ linear.T
        expressions[self.base_expression[0] != 0] = 0
        if self.eyes_closed:
            for index, name in enumerate(body.expression_names):
                if name.lower().startswith(_CLOSING):
                    expressions[index] = 0
            for joint in body.eye_joints:
                correctives[9 * (joint - 1) : 9 * joint] = 0
        directions = torch.cat([expressions, correctives])
        total = int((directions.abs().amax((1, 2)) > 0).sum())
        with tqdm(total=total, desc="expressions", unit="shape", disable=not self.progress) as bar:
            transferred = transfer_displacements(
                source.neutral, directions, faces, target, correspondence, groups, bar.update
            )
        if cut is not None:
            _close_lip_gaps(transferred, cut, float(self.align.scale))
        return transferred[: len(expressions)], transferred[len(expressions) :]

    def _transfer_landmarks(
        self, registered: Tensor, source: HeadSurface, target: HeadSurface
    ) -> tuple[Int[Tensor, " l"], Float[Tensor, "l 3"]]:
        normals = landmark_normals(registered, self.body.faces.cpu(), self.landmark_faces, self.landmark_weights)
        sides = torch.zeros(len(self.landmark_faces), dtype=torch.long)
        for index in range(48, 68):
            sides[index - self.first_index] = int(
                source.lip[self.body.faces.cpu()[self.landmark_faces[index - self.first_index]]].sum().sign()
            )
        sides[[60 - self.first_index, 64 - self.first_index]] = 0
        points = self._landmarks_on(registered)
        for index, position in zip(self.landmarks.indices.tolist(), self.landmarks.points, strict=True):
            if index >= self.first_index:
                points[index - self.first_index] = position
        return transfer_landmarks(points, normals, sides, target)


def _check_near(landmarks: ScanLandmarks, vertices: Tensor) -> None:
    """Checks that landmarks are in the scan's unit and coordinates: none is half the scan's size outside its box."""
    low, high = vertices.detach().amin(0).double().cpu(), vertices.detach().amax(0).double().cpu()
    outside = torch.maximum(low - landmarks.points, landmarks.points - high).amax(1)
    worst = int(outside.argmax())
    if float(outside[worst]) > 0.5 * float((high - low).norm()):
        raise ValueError(
            f"rig_template: landmark {int(landmarks.indices[worst])} is at {landmarks.points[worst].tolist()}, off the "
            f"scan, which reaches from {low.tolist()} to {high.tolist()}; give landmarks in the scaled scan's meters"
        )


def _joint_regressor(vertices: Tensor, joints: Tensor, weights: Tensor) -> Float[Tensor, "j v"]:
    """Rows (J, V) that regress the joints from nearby vertices, or from all vertices for a distant joint."""
    positions, joint_positions = vertices.numpy(), joints.numpy()
    size = float((positions.max(0) - positions.min(0)).max())
    supports = []
    for joint in range(len(joint_positions)):
        distance = np.linalg.norm(positions - joint_positions[joint], axis=1)
        nearby = distance < max(
            0.22 * size, float(np.partition(distance, min(200, len(positions) - 1))[min(200, len(positions) - 1)])
        )
        supports.append(nearby if distance.min() < 0.2 * size else np.ones(len(positions), bool))
    return torch.from_numpy(affine_regressor(positions, joint_positions, supports))


def _close_lip_gaps(directions: Tensor, cut: LipCut, scale: float) -> None:
    """Closes, in place, lip gaps within correspondence noise: below 0.4 mm fully, fading to 1.4 mm (times `scale`)."""
    upper, lower = cut.upper[1:-1], cut.lower[1:-1]
    gap = directions[:, upper] - directions[:, lower]
    size = gap.norm(dim=-1, keepdim=True)
    shrink = 1 - cubic(((size - 4e-4 * scale) / (1.0e-3 * scale)).clamp(0, 1))
    directions[:, upper] -= 0.5 * shrink * gap
    directions[:, lower] += 0.5 * shrink * gap
