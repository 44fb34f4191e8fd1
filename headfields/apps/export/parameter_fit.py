"""Parameters of a skinned head fitted to meshes of its topology, and the offsets that make them exact.

Layouts such as VHAP's store FLAME's parameters and no meshes. Shape, expression, joint rotations and translation are a
maximum a posteriori estimate (Levenberg-Marquardt, coefficients normally distributed); what they leave over goes into
displacements of the rest shape, which are solved for exactly. The estimate and its priors are our own choice.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.heads.skinned import SkinnedHead
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import fit_rigid
from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.ops.skinning import blend_shapes, joint_transforms, pose_features

__all__ = ["Arguments", "ParameterFit"]

Arguments = Mapping[str, Tensor]
"""Arguments of a head model for one frame, by the names of `SkinnedHead.forward`, each with a batch of one."""

_NOISE = (5e-5, 2e-3)
"""Meters: bounds of the standard deviation of the residual, which is estimated along the way."""
_JOINT_PRIOR = 0.3  # radians, standard deviation of every joint's rotation but the root's
_FREE = 1e-9  # weight that keeps free unknowns (root and translation) determined
_NUDGE = 1e-4  # radians, of central differences
_STEPS = 30
_EXACT = 1e-9  # meters
_SETTLED = 1e-5  # relative decrease of the cost at which the estimate has converged
_LEAST_VOLUME = 1e-2  # determinant of a vertex's blended rotation below which skinning cannot be inverted


@dataclass(frozen=True)
class _Unknowns:
    """What the fit changes, as one vector: some coefficients, all rotations, the translation.

    `basis` (C, V, 3) holds the directions of the coefficients, `mean` and `weight` (N,) the prior of the vector.
    """

    basis: Float[Tensor, "c v 3"]
    mean: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]


class ParameterFit:
    """Fits a head's parameters to meshes that have its vertices. Everything is in double precision, on the CPU.

    Args:
        head: any skinned head; not changed.

    >>> import torch, headfields as hf
    >>> from headfields.apps.export.parameter_fit import ParameterFit
    >>> head = hf.synthetic.procedural_head()
    >>> pose = torch.tensor([[[0.1, 0.2, 0], [0, 0, 0], [0.2, 0, 0], [0, 0, 0], [0, 0, 0]]])
    >>> mesh = head(pose=pose).vertices[0]
    >>> fit = ParameterFit(head)
    >>> arguments = fit.frame(mesh, {})
    >>> arguments["pose"].round(decimals=3)[0, 2].abs().tolist()
    [0.2, 0.0, 0.0]
    """

    def __init__(self, head: SkinnedHead) -> None:
        self.head = copy.deepcopy(head).to("cpu").double()
        self._count = len(self.head.template_vertices)
        self._carried = self.head.weights.sum(dim=1, keepdim=True)  # 1 but for rounding

    def identity(self, vertices: Float[Tensor, "v 3"]) -> dict[str, Tensor]:
        """Shape, pose, translation and offset of a mesh with a neutral expression.

        Args:
            vertices: (V, 3) meters, in the head's order.

        Returns:
            Arguments of the head model with which it gives `vertices`, to rounding.

        Raises:
            TypeError, ValueError: no floating-point tensor of that shape, or values that are not finite.
        """
        target = self._target(vertices)
        basis = self.head.shape_basis
        start = self._rigid_start(target, self.head.template_vertices)
        first = torch.cat([target.new_zeros(len(basis)), start])
        vector = self._fit(target, self.head.template_vertices, self._unknowns(basis, first))
        arguments = self._arguments("shape", vector)
        return {**arguments, "offset": self.offset(vertices, arguments)}

    def frame(
        self, vertices: Float[Tensor, "v 3"], identity: Arguments, starts: Sequence[Arguments] = ()
    ) -> dict[str, Tensor]:
        """Expression, pose and translation of a posed mesh of a known head.

        Args:
            vertices: (V, 3) meters, in the head's order.
            identity: shape (1, S) and offset (1, V, 3) of the head, as `identity` returns them; more is ignored.
            starts: guesses of expression (1, E), and of pose (1, J, 3) or, without it, a rigid fit; such as a
                tracker's own. The one nearest to the mesh, or a rigid fit if that is nearer, begins the estimate and is
                the mean of the prior.

        Returns:
            Arguments of the head model: expression, pose and translation.

        Raises:
            TypeError, ValueError: as `identity`; or a guess has another shape.
        """
        target = self._target(vertices)
        rest = self._rest({name: identity[name] for name in ("shape", "offset") if name in identity})
        basis = self.head.expression_basis
        firsts = [torch.cat([target.new_zeros(len(basis)), self._rigid_start(target, rest)])]
        for guess in starts:
            coefficients = guess["expression"].detach().cpu().double()
            pose = guess["pose"].detach().cpu().double() if "pose" in guess else None
            joints = (1, len(self.head.parents), 3)
            if coefficients.shape != (1, len(basis)) or (pose is not None and pose.shape != joints):
                raise ValueError(
                    f"ParameterFit.frame: starts has an expression {tuple(coefficients.shape)} and a pose "
                    f"{None if pose is None else tuple(pose.shape)}; expected (1, {len(basis)}) and {joints}"
                )
            shaped = rest + blend_shapes(coefficients[0], basis)
            if pose is None:
                placed = self._rigid_start(target, shaped)
            else:
                placed = torch.cat([pose.flatten(), (target - self._posed(shaped, pose[0])).mean(dim=0)])
            firsts.append(torch.cat([coefficients[0], placed]))
        errors = [self._residual(target, rest, basis, first).square().mean() for first in firsts]
        best = min(range(len(firsts)), key=lambda row: float(errors[row]))
        vector = self._fit(target, rest, self._unknowns(basis, firsts[best]))
        return self._arguments("expression", vector)

    def offset(self, vertices: Float[Tensor, "v 3"], arguments: Arguments) -> Float[Tensor, "1 v 3"]:
        """The displacements of the rest shape with which the arguments give exactly these vertices.

        Vertices are linear in the rest shape, also through the joints, which are regressed from it. Given the joints,
        every vertex is solved for alone; the joints are those of a linear system of 3 J unknowns.

        Args:
            vertices: (V, 3) meters, in the head's order.
            arguments: of the head model, without an offset (one is ignored), (1, ...) each.

        Returns:
            (1, V, 3) float64, meters: the whole offset.

        Raises:
            TypeError, ValueError: as `identity`; or a rotation folds a vertex so far that skinning has no inverse.
        """
        target = self._target(vertices)
        head, joints = self.head, len(self.head.parents)
        pose = self._value(arguments, "pose", target.new_zeros(1, joints, 3))[0]
        translation = self._value(arguments, "translation", target.new_zeros(1, 3))[0]
        rotations, turned = self._turned(pose)
        volume = float(torch.linalg.det(turned).min())
        if not volume > _LEAST_VOLUME:
            raise ValueError(
                f"ParameterFit.offset: the pose {pose.tolist()} folds a vertex between two joints (its blended "
                f"rotation has the determinant {volume:.2g}), so no rest shape gives the mesh; bring joints nearer to 0"
            )
        goal = target - self._carried * translation - self._correctives(rotations, turned)
        back = torch.linalg.inv(turned)

        def regressed(joint_positions: Float[Tensor, "k j 3"]) -> Float[Tensor, "k j 3"]:
            """Joints of the rest shapes that reach the goal if the joints are at `joint_positions`."""
            shift = self._shifts(rotations, joint_positions)
            rest = torch.einsum("vab,kvb->kva", back, goal - torch.einsum("vj,kja->kva", head.weights, shift))
            return torch.einsum("jv,kva->kja", head.joint_regressor, rest)

        unit = torch.eye(3 * joints, dtype=target.dtype).reshape(-1, joints, 3)
        constant = regressed(torch.zeros_like(unit[:1]))
        linear = (regressed(unit) - constant).flatten(1).T
        system = torch.eye(3 * joints, dtype=target.dtype) - linear
        positions = torch.linalg.lstsq(system, constant.reshape(-1, 1)).solution.reshape(1, joints, 3)
        shift = torch.einsum("vj,kja->kva", head.weights, self._shifts(rotations, positions))
        rest = torch.einsum("vab,kvb->kva", back, goal - shift)
        return rest - self._rest({name: value for name, value in arguments.items() if name != "offset"})

    def _target(self, vertices: Tensor) -> Float[Tensor, "v 3"]:
        check_floating("ParameterFit", "vertices", vertices)
        check_shape("ParameterFit", "vertices", vertices, f"{self._count} 3")
        if not bool(vertices.isfinite().all()):
            raise ValueError("ParameterFit: vertices hold values that are not finite; leave the frame out")
        return vertices.detach().cpu().double()

    @staticmethod
    def _value(arguments: Arguments, name: str, default: Tensor) -> Tensor:
        return arguments[name].detach().cpu().double() if name in arguments else default

    def _rest(self, arguments: Arguments) -> Float[Tensor, "v 3"]:
        """The rest shape before correctives."""
        rest = self.head.template_vertices
        for name, basis in (("shape", self.head.shape_basis), ("expression", self.head.expression_basis)):
            if name in arguments:
                value = arguments[name].detach().cpu().double()[0]
                rest = rest + blend_shapes(value, basis[: len(value)])
        return rest + arguments["offset"].detach().cpu().double()[0] if "offset" in arguments else rest

    def _turned(self, pose: Float[Tensor, "j 3"]) -> tuple[Float[Tensor, "j 3 3"], Float[Tensor, "v 3 3"]]:
        """Each joint's rotation relative to its parent, and each vertex's blended rotation."""
        head = self.head
        rotations = rotation_matrices(head.full_pose(pose[None])[0])
        whole = joint_transforms(rotations, torch.zeros_like(pose), head.parents)[:, :3, :3]
        return rotations, torch.einsum("vj,jab->vab", head.weights, whole)

    def _shifts(self, rotations: Tensor, joints: Float[Tensor, "k j 3"]) -> Float[Tensor, "k j 3"]:
        """Translations of the joint transforms, linear in the joints' positions."""
        turns = rotations.expand(len(joints), -1, -1, -1)
        return joint_transforms(turns, joints, self.head.parents)[..., :3, 3]

    def _correctives(self, rotations: Tensor, turned: Tensor) -> Float[Tensor, "v 3"]:
        return torch.einsum("vab,vb->va", turned, blend_shapes(pose_features(rotations), self.head.pose_basis))

    def _skinned(self, rotations: Tensor, turned: Tensor, rest: Float[Tensor, "k v 3"]) -> Float[Tensor, "k v 3"]:
        """The part of the posed vertices that is linear in the rest shape."""
        joints = torch.einsum("jv,kva->kja", self.head.joint_regressor, rest)
        shift = torch.einsum("vj,kja->kva", self.head.weights, self._shifts(rotations, joints))
        return torch.einsum("vab,kvb->kva", turned, rest) + shift

    def _posed(self, rest: Float[Tensor, "v 3"], pose: Float[Tensor, "j 3"]) -> Float[Tensor, "v 3"]:
        rotations, turned = self._turned(pose)
        return self._skinned(rotations, turned, rest[None])[0] + self._correctives(rotations, turned)

    def _rigid_start(self, target: Tensor, rest: Float[Tensor, "v 3"]) -> Float[Tensor, " n"]:
        """Rotations and translation of a head that does not move its joints, flat."""
        neutral = self._posed(rest, rest.new_zeros(len(self.head.parents), 3))
        rotation, shift = (value[0] for value in fit_rigid(neutral, target[None]))
        root = (self.head.joint_regressor @ rest)[0]
        pose = rest.new_zeros(len(self.head.parents), 3)
        pose[0] = axis_angle(rotation)
        return torch.cat([pose.flatten(), shift + rotation @ root - root])

    def _unknowns(self, basis: Tensor, first: Float[Tensor, " n"]) -> _Unknowns:
        count, turns = len(basis), 3 * len(self.head.parents)
        weight = torch.full_like(first, _FREE)
        weight[:count] = 1
        weight[count + 3 : count + turns] = _JOINT_PRIOR**-2
        return _Unknowns(basis, first, weight)

    def _split(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turns = 3 * len(self.head.parents)
        return vector[: -turns - 3], vector[-turns - 3 : -3].reshape(-1, 3), vector[-3:]

    def _arguments(self, name: str, vector: Tensor) -> dict[str, Tensor]:
        coefficients, pose, translation = self._split(vector)
        return {name: coefficients[None], "pose": pose[None], "translation": translation[None]}

    def _residual(self, target: Tensor, rest: Tensor, basis: Tensor, vector: Tensor) -> Float[Tensor, "v 3"]:
        coefficients, pose, translation = self._split(vector)
        return self._posed(rest + blend_shapes(coefficients, basis), pose) + self._carried * translation - target

    def _fit(self, target: Tensor, rest: Tensor, unknowns: _Unknowns) -> Float[Tensor, " n"]:
        vector, damping = unknowns.mean, 1e-6
        residual = self._residual(target, rest, unknowns.basis, vector)
        for _ in range(_STEPS):
            if float(residual.abs().max()) < _EXACT:
                break
            noise = float(residual.square().mean().sqrt().clamp(*_NOISE))
            cost = self._cost(residual, vector, unknowns, noise)
            jacobian = self._jacobian(rest, unknowns.basis, vector)
            hessian = jacobian.T @ jacobian / noise**2 + unknowns.weight.diag()
            gradient = jacobian.T @ residual.flatten() / noise**2 + unknowns.weight * (vector - unknowns.mean)
            while damping < 1e6:
                step = torch.linalg.solve(hessian + damping * hessian.diagonal().diag(), gradient)
                trial = vector - step
                moved = self._residual(target, rest, unknowns.basis, trial)
                after = self._cost(moved, trial, unknowns, noise)
                if after <= cost:
                    break
                damping *= 10
            else:
                break
            vector, residual, damping = trial, moved, max(damping / 10, 1e-9)
            if cost - after <= _SETTLED * cost:
                break
        return vector

    @staticmethod
    def _cost(residual: Tensor, vector: Tensor, unknowns: _Unknowns, noise: float) -> float:
        prior = unknowns.weight * (vector - unknowns.mean).square()
        return float(residual.square().sum() / noise**2 + prior.sum())

    def _jacobian(self, rest: Tensor, basis: Tensor, vector: Tensor) -> Float[Tensor, "r n"]:
        coefficients, pose, _ = self._split(vector)
        rotations, turned = self._turned(pose)
        linear = self._skinned(rotations, turned, basis).flatten(1).T
        shaped = rest + blend_shapes(coefficients, basis)
        nudge = _NUDGE * torch.eye(pose.numel(), dtype=rest.dtype).reshape(-1, *pose.shape)
        offset = (shaped - self.head.template_vertices)[None]
        ahead, behind = (self.head(pose=pose + sign * nudge, offset=offset).vertices for sign in (1, -1))
        turns = ((ahead - behind) / (2 * _NUDGE)).flatten(1).T
        shift = (self._carried[..., None] * torch.eye(3, dtype=rest.dtype)).flatten(0, 1)
        return torch.cat([linear, turns, shift], dim=1)
