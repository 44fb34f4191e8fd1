"""Inverse linear blend skinning: a posed point goes back through the blend of the joints that its place on the head
follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.deformers.inverse import invert
from headfields.deformers.jacobian import point_jacobian
from headfields.deformers.mesh import MeshDeformer
from headfields.deformers.skinning_weights import SkinningWeights
from headfields.ops.affine import affine_inverse, apply_affine, skin_points
from headfields.ops.implicit import implicit_root
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.ops.triangle_bvh import ClosestPoint, TriangleBVH
from headfields.parts import Deformer
from headfields.records import Canonical, HeadState, Record


@dataclass(frozen=True)
class PosedSkeleton:
    """What `SkinningDeformer.prepare` makes of B frames.

    Attributes:
        bvh: the posed meshes.
        transforms: (B, J, 4, 4) canonical-to-posed transforms of the joints.
        vertices: (B, V, 15) of each vertex: its blended map (3 × 4, row by row), and how far expression and pose
            correctives move it from its canonical place before it is skinned.
        box: (2, 3) around the shells of all frames.
    """

    bvh: TriangleBVH
    transforms: Float[Tensor, "b j 4 4"]
    vertices: Float[Tensor, "b v 15"]
    box: Float[Tensor, "2 3"]


class SkinningDeformer(MeshDeformer):
    """What the inverses of skinning share: the mesh with its weights, and what each frame does to its vertices.

    A posed vertex is A (c + d): c its canonical place, A the blend of the joints' maps, d what is left, which is what
    expression, pose correctives and whatever else moves the mesh come to. d is taken from the posed vertices
    themselves, A⁻¹ p − c, so that no basis of expressions is needed and every posed vertex goes exactly to its
    canonical one.

    Args:
        canonical_vertices: (V, 3), meters.
        faces: (F, 3) int64.
        weights: (V, J) skinning weights; rows sum to 1.
        canonical_transforms: (J, 4, 4) rest-to-canonical transforms of the joints where the canonical mesh is not in
            the rest pose (with the jaw open, say); None where it is.
        shell, padding, behind: as in `MeshDeformer`.

    Raises:
        ValueError: shapes do not fit, weights are negative or do not sum to 1; later, a state without
            `joint_transforms` or with those of another skeleton.
    """

    gives_faces = True
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
                "they must be of one skeleton"
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

    def _on_surface(
        self, nearest: ClosestPoint, frame: Int[Tensor, " m"], table: Float[Tensor, "b v c"]
    ) -> Float[Tensor, "m c"]:
        """Values of the vertices at the nearest surface points; zeros where there is none."""
        corners = self.faces[nearest.face.clamp_min(0)]
        rows = torch.where((nearest.face >= 0)[:, None], frame[:, None] * table.shape[1] + corners, -1)
        return interpolate_rows(table.flatten(0, 1), rows, nearest.barycentric)


class InverseSkinning(SkinningDeformer):
    """Undoes linear blend skinning with the weights of the nearest triangle of the posed mesh.

    x_c = c + L⁻¹ (x − p): p is the nearest point of the posed mesh, c the point of the canonical mesh with the same
    barycentric coordinates, and L the rotations of the joints, blended with the skinning weights there. So the posed
    surface goes exactly to the canonical one, with all that expression and pose correctives did to it, and what lies
    off it follows the joints (with `SurfaceCanonicalizer` it follows the triangle). One look-up a point, and nothing is
    learned; but where two parts of the skin come near one another (lips that close), a point follows the nearer, and
    canonical space has a seam between them: `SkinningRoots` has none.

    Directions go through L⁻¹ and are made unit again: for a single joint that is the inverse rotation. A point is not
    valid farther than the shell from the mesh, nor where the blend is singular.

    Args:
        canonical_vertices, faces, weights, canonical_transforms, shell, padding, behind: as in `SkinningDeformer`.

    Differentiable to second order in points, directions, joint transforms and vertices, except across the change of the
    nearest triangle.

    Source: linear blend skinning: Loper et al. 2015, "SMPL", equation 2; weights of the nearest point of the posed
    mesh: Chen et al. 2021, "Animatable Neural Radiance Fields from Monocular RGB Videos", section 3.2. That the surface
    is met exactly is our own choice.
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


_UNCLAIMED = 1e-3


_SAME = 1e-3  # meters within which two roots are one


class _FieldSkinning(SkinningDeformer):
    """What both share: a field of weights over canonical space, and the joints that are asked."""

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
        """Where each joint alone would have the points come from, and the maps that say so."""
        back, _ = affine_inverse(prepared.transforms[:, list(self.joints), :3])
        maps = back.index_select(0, frame)
        return apply_affine(maps, points[:, None].expand(-1, len(self.joints), -1)), maps


class WeightFieldSkinning(_FieldSkinning):
    """Undoes skinning with a learned field of weights over canonical space, in one pass.

    Each joint takes the point back its own way, y_j = T_j⁻¹ x, and has the weight there that the field says:
    ŵ_j = w_j(y_j) / Σ w_i(y_i), x_c = Σ ŵ_j y_j. No root is sought, and no triangle's border shows; where two joints
    that move apart both claim a point it is a compromise. What expression and pose correctives add (see
    `SkinningDeformer`) is taken off as the nearest triangle has it. Directions go through Σ ŵ_j R_j⁻¹. A point that no
    joint claims (Σ w_j under 0.001) is not valid, nor is one farther than the shell from the mesh.

    Args:
        field: of the weights; `learned=False` keeps them as the mesh has them.
        joints: which joints are asked, each at the cost of a look-up in the field; None: all that some vertex follows
            (with a weight over 0.01). For a head of a body's skeleton, name those near it.
        canonical_transforms, shell, padding, behind: as in `SkinningDeformer`.

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
        places, maps = self._by_joint(points, frame, prepared)
        asked = (places - displaced[:, None]).flatten(0, 1)
        own = torch.tensor(self.joints, device=points.device).repeat(len(points))
        claims = self.field(asked).gather(1, own[:, None]).view(len(points), len(self.joints))
        total = claims.sum(dim=-1, keepdim=True)
        valid = (nearest.face >= 0) & (total[:, 0] > _UNCLAIMED)
        shares = claims / torch.where(valid[:, None], total, 1.0)
        moved = (shares[..., None] * places).sum(dim=1) - displaced
        linear = (shares[..., None, None] * maps[..., :3]).sum(dim=1)
        turned = torch.nn.functional.normalize((linear * directions[:, None]).sum(-1), dim=-1)
        return Canonical(
            points=torch.where(valid[:, None], moved, points), directions=turned, posed_points=points, frame=frame,
            valid=valid, face=nearest.face, barycentric=nearest.barycentric, distance=nearest.distance,
        )  # fmt: skip


@dataclass(frozen=True)
class SkinningSolution(Record):
    """What `SkinningRoots.solve` found for M posed points, without gradients.

    Attributes:
        points: (M, 3) the chosen canonical points, meters; the posed ones where there is none.
        converged: (M,) whether there is one.
        asked: (M,) whether the point is within the shell of the mesh, so that roots were sought at all.
        start: (M,) from which of the joints asked the chosen root was found.
        residual: (M,) how far the chosen root is posed from the point, meters; infinity where there is none.
        candidates: (M, K, 3) what the search from each joint came to.
        found: (M, K) which of these are roots.
    """

    points: Float[Tensor, "m 3"]
    converged: Bool[Tensor, " m"]
    asked: Bool[Tensor, " m"]
    start: Int[Tensor, " m"]
    residual: Float[Tensor, " m"]
    candidates: Float[Tensor, "m k 3"]
    found: Bool[Tensor, "m k"]

    @property
    def unconverged(self) -> int:
        """How many points within the shell have no root."""
        return int((self.asked & ~self.converged).sum())

    @property
    def distinct(self) -> Int[Tensor, " m"]:
        """(M,) how many roots there are, more than a millimeter apart."""
        kept = self.found.clone()
        for later in range(1, kept.shape[1]):
            apart = (self.candidates[:, :later] - self.candidates[:, later, None]).norm(dim=-1)
            kept[:, later] &= ~((apart < _SAME) & kept[:, :later]).any(dim=1)
        return kept.sum(dim=1)


class SkinningRoots(_FieldSkinning):
    """Undoes skinning by solving for the canonical points that it takes to a posed one.

    Forward skinning of canonical space is x = Σ_j w_j(x_c) T_j (x_c + d(x_c)): w is a field over canonical space, which
    does not change with the pose, and d what expression and pose correctives add at the nearest point of the canonical
    mesh. Its roots are sought by Broyden's method, from where each joint alone would have the point come from. Closed
    lips that touch have two roots, one on each lip. Of the roots found, the one nearest the canonical mesh is taken;
    SNARF, which asks its decoder at all of them, takes the densest.

    A point is valid if a root was found no farther than the shell from the canonical mesh, and if it is itself within
    the shell of the posed one; others are not sought. `solve` says what was found and what not. Face and barycentrics
    are those of the canonical mesh. Directions go through (Σ w_j R_j)⁻¹ and are made unit again.

    Args:
        field: of the weights; `learned=False` keeps them as the mesh has them.
        joints: from which the search starts, as in `WeightFieldSkinning`; a search each.
        steps: of a search, at most.
        tolerance: meters; a root is one if it is posed so near to the point.
        derivatives: 1: the gradient of a root is that of the implicit function theorem, and a second derivative raises;
            enough for densities. 2: two steps of Newton's method, with a graph, from the root: twice differentiable, as
            fields of distances must be to be trained, and several times the cost.
        canonical_transforms, shell, padding, behind: as in `SkinningDeformer`.

    Differentiable as often as `derivatives` says in points, directions, joint transforms, vertices and the field.

    Raises:
        ValueError: as `SkinningDeformer`; joints are empty or out of range; a number is.

    Source: Chen et al. 2021, "SNARF: Differentiable Forward Skinning for Animating Non-Rigid Neural Implicit Shapes",
    sections 3.2 and 3.3. The root that is taken and the term d are our own choice.
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

    def pose(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: PosedSkeleton
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 4"]]:
        """Forward skinning of M free canonical points: where they are posed, and the blended maps that took them there.

        Differentiable to any order in points, the field, and what `prepare` is differentiable in.
        """
        nearest = self._rest().closest(points)
        displaced = self._on_surface(nearest, frame, prepared.vertices[..., 12:])
        return skin_points(points + displaced, self.field(points), prepared.transforms, frame)

    @torch.no_grad()
    def solve(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: PosedSkeleton
    ) -> SkinningSolution:
        """The roots of M posed points, and the one that is taken of each. M = 0 is legal. Without gradients."""
        count, starts = len(points), len(self.joints)
        nearest = prepared.bvh.closest(points.detach(), frame, max_distance=self.shell)
        asked = nearest.face >= 0
        here = asked.nonzero()[:, 0]
        displaced = self._on_surface(nearest, frame, prepared.vertices[..., 12:])
        guesses = (self._by_joint(points, frame, prepared)[0] - displaced[:, None])[here]
        result = invert(
            _Forward(self), prepared, points[here].repeat_interleave(starts, dim=0),
            frame[here].repeat_interleave(starts), guesses.flatten(0, 1), starts=1, steps=self.steps,
            tolerance=self.tolerance, diverge=4 * self.shell,
        )  # fmt: skip
        off = self._rest().closest(result.points, max_distance=self.shell).distance
        rank = torch.where(result.converged & (off <= self.shell), off, torch.inf).view(-1, starts)
        least, start = rank.min(dim=1)
        candidates = points[:, None].repeat(1, starts, 1)
        candidates[here] = result.points.view(-1, starts, 3)
        found = torch.zeros(count, starts, dtype=torch.bool, device=points.device)
        found[here] = rank.isfinite()
        converged = torch.zeros_like(asked)
        converged[here] = least.isfinite()
        chosen = torch.zeros(count, dtype=torch.long, device=points.device)
        chosen[here] = start
        residual = points.new_full((count,), torch.inf)
        residual[here] = result.residual.view(-1, starts).gather(1, start[:, None])[:, 0]
        root = candidates.gather(1, chosen[:, None, None].expand(-1, 1, 3))[:, 0]
        return SkinningSolution(
            points=torch.where(converged[:, None], root, points), converged=converged, asked=asked, start=chosen,
            residual=torch.where(converged, residual, torch.inf), candidates=candidates, found=found,
        )  # fmt: skip

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedSkeleton,
    ) -> Canonical:  # fmt: skip
        solution = self.solve(points, frame, prepared)
        root, usable = self._with_gradient(solution, points, frame, prepared)
        valid = solution.converged & usable
        nearest = self._rest().closest(root)
        back, regular = affine_inverse(self.pose(root, frame, prepared)[1])
        turned = torch.nn.functional.normalize((back[..., :3] * directions[:, None]).sum(-1), dim=-1)
        foot = self._on_surface(nearest, frame, prepared.bvh.vertices)
        return Canonical(
            points=root, directions=turned, posed_points=points, frame=frame, valid=valid & regular,
            face=torch.where(valid, nearest.face, -1), barycentric=nearest.barycentric,
            distance=torch.where(valid, _length(points - foot), torch.inf),
        )  # fmt: skip

    def jacobian(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: PosedSkeleton
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
        """The canonical points and ∂x_c / ∂x, the inverse of forward skinning's Jacobian; the identity where invalid.

        Differentiable as often as `derivatives` says.
        """
        solution = self.solve(points, frame, prepared)
        root, usable = self._with_gradient(solution, points, frame, prepared)
        _, slope = point_jacobian(lambda x: self.pose(x, frame, prepared)[0], root)
        identity = torch.eye(3, dtype=root.dtype, device=root.device).expand_as(slope)
        good = (solution.converged & usable)[:, None, None]
        return root, torch.where(good, torch.linalg.inv(torch.where(good, slope, identity)), identity)

    def _with_gradient(
        self, solution: SkinningSolution, points: Tensor, frame: Tensor, prepared: PosedSkeleton
    ) -> tuple[Float[Tensor, "m 3"], Bool[Tensor, " m"]]:
        """The roots as functions of points, frames and field; and where their Jacobian can be inverted."""
        x = solution.points
        usable = torch.ones_like(solution.converged)
        if not torch.is_grad_enabled():
            return x, usable
        identity = torch.eye(3, dtype=x.dtype, device=x.device)
        for _ in range(2 if self.derivatives == 2 else 1):
            with torch.set_grad_enabled(self.derivatives == 2):
                there, slope = point_jacobian(lambda x: self.pose(x, frame, prepared)[0], x)
            with torch.no_grad():
                regular = torch.linalg.inv_ex(slope)[1] == 0
                usable = usable & solution.converged & regular & slope.isfinite().all(dim=-1).all(dim=-1)
            inverse = torch.linalg.inv(torch.where(usable[:, None, None], slope, identity))
            if self.derivatives == 1:
                off = self.pose(x, frame, prepared)[0] - points
                x = implicit_root(x, off, torch.where(usable[:, None, None], inverse, 0.0))
            else:
                step = (inverse * (there - points)[:, None]).sum(-1)
                x = x - torch.where(usable[:, None], step, 0.0)
        return x, usable

    def _rest(self) -> TriangleBVH:
        """A tree over the canonical mesh, where the module is and in its precision."""
        have, want = self._bvh.vertices, self.canonical_vertices
        if have.device != want.device or have.dtype != want.dtype:
            self._bvh = TriangleBVH(self.faces, want)
        return self._bvh


class _Forward(Deformer):
    """Forward skinning as what `invert` takes: canonical points in, posed points out."""

    def __init__(self, skinning: SkinningRoots) -> None:
        super().__init__()
        self._skinning = (skinning,)  # in a tuple, so as not to be a submodule

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: PosedSkeleton,
    ) -> Canonical:  # fmt: skip
        there = self._skinning[0].pose(points, frame, prepared)[0]
        valid = torch.ones(len(points), dtype=torch.bool, device=points.device)
        return Canonical(points=there, directions=directions, posed_points=points, frame=frame, valid=valid)


def _length(vectors: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
    """Lengths whose gradient at zero is zero instead of NaN."""
    squared = vectors.square().sum(-1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
