"""Inverse linear blend skinning, with weights of the posed mesh's nearest triangle or of a field in canonical space.

Three inverses: in closed form with the weights of the nearest triangle (`InverseSkinning`), in one pass with a learned
weight field (`WeightFieldSkinning`), and by solving for the roots of forward skinning (`SkinningRoots`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.deformers.inverse import invert
from headfields.deformers.jacobian import point_jacobian
from headfields.deformers.mesh_deformer import MeshDeformer
from headfields.deformers.skinning_weights import SkinningWeights
from headfields.ops._checks import check_floating
from headfields.ops.affine import affine_inverse, apply_affine, skin_points
from headfields.ops.barycentric import barycentric_on
from headfields.ops.implicit import implicit_root
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.ops.rotations import quaternion_from_rotation, quaternion_product, rotation_from_6d
from headfields.ops.triangle_bvh import ClosestPoint, TriangleBVH
from headfields.ops.vectors import safe_norm
from headfields.parts import Deformer
from headfields.records import Canonical, HeadState, Record, Splats
from headfields.records.inverse import inverse_3x3


@dataclass(frozen=True)
class PosedSkeleton:
    """B frames, prepared for a `SkinningDeformer`.

    Attributes:
        bvh: the posed meshes.
        transforms: (B, J, 4, 4) canonical-to-posed transforms of the joints.
        vertices: (B, V, 15) of each vertex: its blended transform (3 × 4, row by row), and its displacement by
            expression and pose correctives before skinning.
        box: (2, 3) around the shells of all frames.
    """

    bvh: TriangleBVH
    transforms: Float[Tensor, "b j 4 4"]
    vertices: Float[Tensor, "b v 15"]
    box: Float[Tensor, "2 3"]


class SkinningDeformer(MeshDeformer):
    """Base class of inverse skinning: the mesh with its weights, and the transform of each vertex in each frame.

    A posed vertex is p = A (c + d): c its canonical position, A the blend of the joints' transforms, d the displacement
    by expression, pose correctives and everything else that moves the mesh. d is computed from the posed vertices,
    A⁻¹ p − c, so no expression basis is needed, and every posed vertex is mapped exactly to its canonical position.

    Gaussians keep canonical coordinates, meters, and are posed by forward skinning with A and d of the point of their
    triangle that is nearest to their center: μ' = A (μ + d). They turn with the rotation in A (its columns, made
    orthonormal) and grow with the cube root of its determinant, our own choice.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        weights: (V, J) skinning weights; rows sum to 1.
        canonical_transforms: (J, 4, 4) rest-to-canonical transforms of the joints if the canonical mesh is not in the
            rest pose (with the jaw open, say); None if it is.
        shell, padding, behind: options as in `MeshDeformer`.

    Raises:
        TypeError: `weights` is not floating-point.
        ValueError: shapes do not fit, weights are negative or do not sum to 1; later, a state without
            `joint_transforms` or with those of another skeleton.
    """

    gives_faces = True
    poses = True
    needs = ("joint_transforms",)
    weights: Tensor
    _from_canonical: Tensor | None

    def __init__(
        self,
        canonical_vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        weights: Float[Tensor, "v j"],
        canonical_transforms: Float[Tensor, "j 4 4"] | None = None,
        shell: float = 0.045,
        padding: float | None = None,
        behind: float | None = 0.03,
    ) -> None:
        super().__init__(canonical_vertices, faces, shell, padding, behind)
        name = type(self).__name__
        check_floating(name, "weights", weights)
        if weights.ndim != 2 or len(weights) != len(canonical_vertices):
            raise ValueError(
                f"{name}: weights has shape {tuple(weights.shape)}; expected ({len(canonical_vertices)}, J), one row "
                "for each vertex"
            )
        if len(weights) and (float(weights.min()) < 0 or float((weights.sum(-1) - 1).abs().max()) > 1e-3):
            raise ValueError(f"{name}: weights must not be negative, and each vertex's must sum to 1 (to 0.001)")
        joints = weights.shape[1]
        if canonical_transforms is not None and canonical_transforms.shape != (joints, 4, 4):
            raise ValueError(
                f"{name}: canonical_transforms has shape {tuple(canonical_transforms.shape)}; expected "
                f"({joints}, 4, 4), one for each joint of weights"
            )
        self.register_buffer("weights", weights.detach().float().clone(), persistent=False)
        inverse = None if canonical_transforms is None else torch.linalg.inv(canonical_transforms.detach().float())
        self.register_buffer("_from_canonical", inverse, persistent=False)

    def extra_repr(self) -> str:
        return f"{len(self.faces)} faces, {self.weights.shape[1]} joints, shell={self.shell} m"

    def prepare(self, state: HeadState) -> PosedSkeleton:
        name = type(self).__name__
        transforms = state.need(name, "joint_transforms")
        if transforms.shape[1] != self.weights.shape[1]:
            raise ValueError(
                f"{name}: the state has {transforms.shape[1]} joints and the skinning weights {self.weights.shape[1]}; "
                "they must belong to one skeleton"
            )
        bvh = self.posed(state)
        if self._from_canonical is not None:
            transforms = transforms @ self._from_canonical
        maps = (self.weights @ transforms[:, :, :3].flatten(2)).unflatten(-1, (3, 4))  # (B, V, 3, 4)
        back, usable = affine_inverse(maps)
        displaced = apply_affine(back, state.vertices) - self.canonical_vertices
        displaced = torch.where(usable[..., None], displaced, 0.0)
        table = torch.cat([maps.flatten(2), displaced], dim=-1)
        return PosedSkeleton(bvh, transforms, table, self.box_around(state.vertices))

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        if face is None:
            face = self._bvh.closest(splats.means.detach()).face
        return splats, face

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        return splats

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: PosedSkeleton) -> Splats:
        corners = self.faces[face]
        barycentric = barycentric_on(splats.means.detach(), self.canonical_vertices, corners)
        rows = (prepared.vertices[:, corners] * barycentric[..., None]).sum(-2)
        maps, displaced = rows[..., :12].unflatten(-1, (3, 4)), rows[..., 12:]
        means = apply_affine(maps, splats.means + displaced)
        linear = maps[..., :3]
        turn = rotation_from_6d(torch.cat([linear[..., 0], linear[..., 1]], dim=-1), rows=False)
        growth = torch.linalg.det(linear).clamp_min(1e-6)[..., None] ** (1 / 3)
        turned = quaternion_product(quaternion_from_rotation(turn), splats.quaternions)
        return splats.placed(means, turned, splats.scales * growth)

    def _on_surface(
        self, nearest: ClosestPoint, frame: Int[Tensor, " m"], table: Float[Tensor, "b v c"]
    ) -> Float[Tensor, "m c"]:
        """Values of the vertices, interpolated at the nearest surface points; zeros where there is none."""
        corners = self.faces[nearest.face.clamp_min(0)]
        rows = torch.where((nearest.face >= 0)[:, None], frame[:, None] * table.shape[1] + corners, -1)
        return interpolate_rows(table.flatten(0, 1), rows, nearest.barycentric)


class InverseSkinning(SkinningDeformer):
    """Inverts linear blend skinning with the weights of the nearest triangle of the posed mesh.

    x_c = c + L⁻¹ (x − p): p is the nearest point of the posed mesh, c the point of the canonical mesh with the same
    barycentric coordinates, and L the rotations of the joints, blended with the skinning weights there. The posed
    surface is mapped exactly to the canonical one, expression and pose correctives included, and points off it follow
    the joints (with `SurfaceCanonicalizer` they follow the triangle). One closest-triangle query per point, nothing
    learned; but where two parts of the skin approach each other (closing lips), points follow the nearer one, and
    canonical space has a seam between them, unlike with `SkinningRoots`.

    Directions are mapped by L⁻¹ and normalized: for a single joint that is the inverse rotation. Points farther than
    the shell from the mesh, or with a singular blend, are not valid.

    Args:
        canonical_vertices, faces, weights, canonical_transforms, shell, padding, behind: options as in
            `SkinningDeformer`.

    Differentiable to second order in points, directions, joint transforms and vertices, except across the change of the
    nearest triangle.

    Source: linear blend skinning: Loper et al. 2015, "SMPL", equation 2; weights of the nearest point of the posed
    mesh: Chen et al. 2021, "Animatable Neural Radiance Fields from Monocular RGB Videos", section 3.2. The exact
    map of the surface is our own choice.
    """

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedSkeleton,
    ) -> Canonical:  # fmt: skip
        nearest = prepared.bvh.closest(points, frame, max_distance=self.shell)
        maps, usable = affine_inverse(
            self._on_surface(nearest, frame, prepared.vertices[..., :12]).unflatten(-1, (3, 4))
        )
        valid = usable & (nearest.face >= 0)
        corners = self.faces[nearest.face.clamp_min(0)]
        foot = interpolate_rows(self.canonical_vertices, corners, nearest.barycentric)
        moved = foot + (maps[..., :3] * (points - nearest.point)[:, None]).sum(-1)
        turned = torch.nn.functional.normalize((maps[..., :3] * directions[:, None]).sum(-1), dim=-1)
        return Canonical(
            points=torch.where(valid[:, None], moved, points), directions=turned, posed_points=points, frame=frame,
            valid=valid, face=nearest.face, barycentric=nearest.barycentric, distance=nearest.distance,
        )  # fmt: skip


_LEAST_WEIGHT = 1e-3


_SAME = 1e-3  # meters within which two roots are one


class _FieldSkinning(SkinningDeformer):
    """Base class of skinning with a weight field over canonical space, and a selection of joints."""

    def __init__(
        self,
        field: SkinningWeights,
        joints: Sequence[int] | None = None,
        canonical_transforms: Float[Tensor, "j 4 4"] | None = None,
        shell: float = 0.045,
        padding: float | None = None,
        behind: float | None = 0.03,
    ) -> None:
        super().__init__(
            field.canonical_vertices, field.faces, field.weights, canonical_transforms, shell, padding, behind
        )
        count = field.weights.shape[1]
        if joints is None:
            most = field.weights.amax(dim=0) if len(field.weights) else field.weights.new_zeros(count)
            joints = [joint for joint in range(count) if float(most[joint]) > 0.01]
        if not joints or min(joints) < 0 or max(joints) >= count:
            raise ValueError(f"{type(self).__name__}: joints is {list(joints)}; expected some of 0 to {count - 1}")
        self.field = field
        self.joints = tuple(joints)

    def _by_joint(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: PosedSkeleton
    ) -> tuple[Float[Tensor, "m k 3"], Float[Tensor, "m k 3 4"]]:
        """Images of the points under the inverse transform of each joint, and these transforms."""
        chosen = [prepared.transforms[:, joint, :3] for joint in self.joints]  # a GPU waits for a list of indices
        back, _ = affine_inverse(torch.stack(chosen, 1))
        maps = back.index_select(0, frame)
        return apply_affine(maps, points[:, None].expand(-1, len(self.joints), -1)), maps


class WeightFieldSkinning(_FieldSkinning):
    """Inverts skinning with a learned weight field over canonical space, in one pass.

    Each joint maps the point back, y_j = T_j⁻¹ x, with the weight of the field there: ŵ_j = w_j(y_j) / Σ w_i(y_i),
    x_c = Σ ŵ_j y_j. Without root finding, and smooth across triangles; where two joints that move apart both have
    weight at a point, the result is a compromise. The displacement by expression and pose correctives (see
    `SkinningDeformer`) is that of the nearest triangle, subtracted. Directions are mapped by Σ ŵ_j R_j⁻¹. Points where
    Σ w_j is below 0.001, or farther than the shell from the mesh, are not valid.

    Args:
        field: field of the weights; with `learned=False` they are constant.
        joints: indices of the joints that are evaluated, each at the cost of a look-up in the field; None: all with a
            weight over 0.01 at some vertex. For the head of a body's skeleton, pass those near it.
        canonical_transforms, shell, padding, behind: options as in `SkinningDeformer`.

    Differentiable to second order in points, directions, joint transforms, vertices and the field.

    Raises:
        ValueError: as `SkinningDeformer`, or joints are empty or out of range.

    Source: Weng et al. 2022, "HumanNeRF", equations 4 and 5.
    """

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedSkeleton,
    ) -> Canonical:  # fmt: skip
        nearest = prepared.bvh.closest(points, frame, max_distance=self.shell)
        displaced = self._on_surface(nearest, frame, prepared.vertices[..., 12:])
        images, maps = self._by_joint(points, frame, prepared)
        queries = (images - displaced[:, None]).flatten(0, 1)
        joint = torch.tensor(self.joints, device=points.device).repeat(len(points))
        weights = self.field(queries).gather(1, joint[:, None]).view(len(points), len(self.joints))
        total = weights.sum(dim=-1, keepdim=True)
        valid = (nearest.face >= 0) & (total[:, 0] > _LEAST_WEIGHT)
        weights = weights / torch.where(valid[:, None], total, 1.0)
        moved = (weights[..., None] * images).sum(dim=1) - displaced
        linear = (weights[..., None, None] * maps[..., :3]).sum(dim=1)
        turned = torch.nn.functional.normalize((linear * directions[:, None]).sum(-1), dim=-1)
        return Canonical(
            points=torch.where(valid[:, None], moved, points), directions=turned, posed_points=points, frame=frame,
            valid=valid, face=nearest.face, barycentric=nearest.barycentric, distance=nearest.distance,
        )  # fmt: skip


@dataclass(frozen=True)
class SkinningSolution(Record):
    """Roots of M posed points from `SkinningRoots.solve`, without gradients.

    Attributes:
        points: (M, 3) the chosen canonical points, meters; the posed ones where there is no root.
        converged: (M,) whether there is a root.
        within_shell: (M,) whether the point is within the shell of the mesh; others are not solved for.
        start: (M,) index, into `joints`, of the joint whose search gave the chosen root.
        residual: (M,) distance of the chosen root, posed, from the point, meters; infinity without a root.
        candidates: (M, K, 3) result of the search from each joint.
        is_root: (M, K) which of these are roots.
    """

    points: Float[Tensor, "m 3"]
    converged: Bool[Tensor, " m"]
    within_shell: Bool[Tensor, " m"]
    start: Int[Tensor, " m"]
    residual: Float[Tensor, " m"]
    candidates: Float[Tensor, "m k 3"]
    is_root: Bool[Tensor, "m k"]

    @property
    def unconverged(self) -> int:
        """Number of points within the shell without a root."""
        return int((self.within_shell & ~self.converged).sum())

    @property
    def distinct(self) -> Int[Tensor, " m"]:
        """(M,) number of roots that are more than a millimeter apart."""
        unique = self.is_root.clone()
        for later in range(1, unique.shape[1]):
            apart = (self.candidates[:, :later] - self.candidates[:, later, None]).norm(dim=-1)
            unique[:, later] &= ~((apart < _SAME) & unique[:, :later]).any(dim=1)
        return unique.sum(dim=1)


class SkinningRoots(_FieldSkinning):
    """Inverts skinning by solving for the canonical points whose posed image is the point.

    Forward skinning of canonical space is x = Σ_j w_j(x_c) T_j (x_c + d(x_c)): w is a weight field over canonical
    space, independent of the pose, and d the displacement by expression and pose correctives at the nearest point of
    the canonical mesh. Roots are found by Broyden's method, started at the point's image under the inverse transform of
    each joint. Closed lips that touch have two roots, one on each lip. The root nearest to the canonical mesh is
    chosen; SNARF, which decodes all of them, chooses the densest.

    A point is valid if it is within the shell of the posed mesh and has a root within the shell of the canonical mesh.
    `solve` returns all roots. Face and barycentric coordinates are those of the canonical mesh. Directions are mapped
    by (Σ w_j R_j)⁻¹ and normalized.

    Args:
        field: field of the weights; with `learned=False` they are constant.
        joints: indices of the joints, as in `WeightFieldSkinning`, with one search each.
        steps: most steps of a search.
        tolerance: largest distance of a root, posed, from the point, meters.
        derivatives: 1: gradients of a root by the implicit function theorem; a second derivative raises. Enough for
            densities. 2: two steps of Newton's method from the root, with a graph: twice differentiable, as training a
            field of distances requires, at several times the cost.
        canonical_transforms, shell, padding, behind: options as in `SkinningDeformer`.

    Differentiable as often as `derivatives` says in points, directions, joint transforms, vertices and the field.

    Raises:
        ValueError: as `SkinningDeformer`; joints are empty; an argument is out of range.

    Source: Chen et al. 2021, "SNARF: Differentiable Forward Skinning for Animating Non-Rigid Neural Implicit Shapes",
    sections 3.2 and 3.3. The choice of the root and the term d are our own.
    """

    def __init__(
        self,
        field: SkinningWeights,
        joints: Sequence[int] | None = None,
        steps: int = 15,
        tolerance: float | int = 1e-5,
        derivatives: Literal[1, 2] = 1,
        canonical_transforms: Float[Tensor, "j 4 4"] | None = None,
        shell: float = 0.045,
        padding: float | None = None,
        behind: float | None = 0.03,
    ) -> None:
        super().__init__(field, joints, canonical_transforms, shell, padding, behind)
        if steps < 1 or not 0 < tolerance < torch.inf or derivatives not in (1, 2):
            raise ValueError(
                f"SkinningRoots: steps={steps}, tolerance={tolerance}, derivatives={derivatives}; expected at least 1, "
                "a positive length, and 1 or 2"
            )
        self.steps, self.tolerance, self.derivatives = steps, tolerance, derivatives

    def pose_points(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: PosedSkeleton
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 4"]]:
        """Forward skinning of M canonical points: their posed positions (M, 3) and blended transforms (M, 3, 4).

        Differentiable to any order in points, the field, and what `prepare` is differentiable in.
        """
        nearest = self._rest().closest(points)
        displaced = self._on_surface(nearest, frame, prepared.vertices[..., 12:])
        return skin_points(points + displaced, self.field(points), prepared.transforms, frame)

    @torch.no_grad()
    def solve(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: PosedSkeleton
    ) -> SkinningSolution:
        """All roots of M posed points, and the chosen ones, without gradients; M = 0 is legal."""
        count, starts = len(points), len(self.joints)
        nearest = prepared.bvh.closest(points.detach(), frame, max_distance=self.shell)
        within_shell = nearest.face >= 0
        inside = within_shell.nonzero()[:, 0]
        displaced = self._on_surface(nearest, frame, prepared.vertices[..., 12:])
        guesses = (self._by_joint(points, frame, prepared)[0] - displaced[:, None])[inside]
        result = invert(
            _Forward(self), prepared, points[inside].repeat_interleave(starts, dim=0),
            frame[inside].repeat_interleave(starts), guesses.flatten(0, 1), starts=1, steps=self.steps,
            tolerance=self.tolerance, diverge=4 * self.shell,
        )  # fmt: skip
        off = self._rest().closest(result.points, max_distance=self.shell).distance
        rank = torch.where(result.converged & (off <= self.shell), off, torch.inf).view(-1, starts)
        least, start = rank.min(dim=1)
        candidates = points[:, None].repeat(1, starts, 1)
        candidates[inside] = result.points.view(-1, starts, 3)
        is_root = torch.zeros(count, starts, dtype=torch.bool, device=points.device)
        is_root[inside] = rank.isfinite()
        converged = torch.zeros_like(within_shell)
        converged[inside] = least.isfinite()
        chosen = torch.zeros(count, dtype=torch.long, device=points.device)
        chosen[inside] = start
        residual = points.new_full((count,), torch.inf)
        residual[inside] = result.residual.view(-1, starts).gather(1, start[:, None])[:, 0]
        root = candidates.gather(1, chosen[:, None, None].expand(-1, 1, 3))[:, 0]
        return SkinningSolution(
            points=torch.where(converged[:, None], root, points), converged=converged, within_shell=within_shell,
            start=chosen, residual=torch.where(converged, residual, torch.inf), candidates=candidates, is_root=is_root,
        )  # fmt: skip

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedSkeleton,
    ) -> Canonical:  # fmt: skip
        solution = self.solve(points, frame, prepared)
        root, usable = self._with_gradient(solution, points, frame, prepared)
        valid = solution.converged & usable
        nearest = self._rest().closest(root)
        back, regular = affine_inverse(self.pose_points(root, frame, prepared)[1])
        turned = torch.nn.functional.normalize((back[..., :3] * directions[:, None]).sum(-1), dim=-1)
        foot = self._on_surface(nearest, frame, prepared.bvh.vertices)
        return Canonical(
            points=root, directions=turned, posed_points=points, frame=frame, valid=valid & regular,
            face=torch.where(valid, nearest.face, -1), barycentric=nearest.barycentric,
            distance=torch.where(valid, safe_norm(points - foot), torch.inf),
        )  # fmt: skip

    def jacobian(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: PosedSkeleton
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
        """The canonical points and ∂x_c / ∂x, the inverse of forward skinning's Jacobian; the identity where invalid.

        Differentiable as often as `derivatives` says.
        """
        solution = self.solve(points, frame, prepared)
        root, usable = self._with_gradient(solution, points, frame, prepared)
        _, slope = point_jacobian(lambda x: self.pose_points(x, frame, prepared)[0], root)
        identity = torch.eye(3, dtype=root.dtype, device=root.device).expand_as(slope)
        good = (solution.converged & usable)[:, None, None]
        return root, torch.where(good, inverse_3x3(torch.where(good, slope, identity)), identity)

    def _with_gradient(
        self, solution: SkinningSolution, points: Tensor, frame: Tensor, prepared: PosedSkeleton
    ) -> tuple[Float[Tensor, "m 3"], Bool[Tensor, " m"]]:
        """The roots as functions of points, frames and field; and where their Jacobian is invertible."""
        x = solution.points
        usable = torch.ones_like(solution.converged)
        if not torch.is_grad_enabled():
            return x, usable
        identity = torch.eye(3, dtype=x.dtype, device=x.device)
        for _ in range(2 if self.derivatives == 2 else 1):
            with torch.set_grad_enabled(self.derivatives == 2):
                image, slope = point_jacobian(lambda x: self.pose_points(x, frame, prepared)[0], x)
            with torch.no_grad():
                usable = usable & solution.converged & inverse_3x3(slope).isfinite().all(dim=-1).all(dim=-1)
            inverse = inverse_3x3(torch.where(usable[:, None, None], slope, identity))
            if self.derivatives == 1:
                off = self.pose_points(x, frame, prepared)[0] - points
                x = implicit_root(x, off, torch.where(usable[:, None, None], inverse, 0.0))
            else:
                step = (inverse * (image - points)[:, None]).sum(-1)
                x = x - torch.where(usable[:, None], step, 0.0)
        return x, usable

    def _rest(self) -> TriangleBVH:
        """A BVH of the canonical mesh, on the module's device and in its precision."""
        current, vertices = self._bvh.vertices, self.canonical_vertices
        if current.device != vertices.device or current.dtype != vertices.dtype:
            self._bvh = TriangleBVH(self.faces, vertices)
        return self._bvh


class _Forward(Deformer):
    """Forward skinning as a deformer, for `invert`: canonical points in, posed points out."""

    def __init__(self, skinning: SkinningRoots) -> None:
        super().__init__()
        self._skinning = (skinning,)  # in a tuple, so that it does not become a submodule

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedSkeleton,
    ) -> Canonical:  # fmt: skip
        posed = self._skinning[0].pose_points(points, frame, prepared)[0]
        valid = torch.ones(len(points), dtype=torch.bool, device=points.device)
        return Canonical(points=posed, directions=directions, posed_points=points, frame=frame, valid=valid)
