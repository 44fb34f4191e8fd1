"""A head (or a body) of linear shape and expression, pose correctives and skinning: what FLAME and SMPL-X share."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.heads.landmarks import ContourLandmarks, Landmarks, _on_faces
from headfields.ops._checks import check_floating
from headfields.ops.skinning import (
    blend_shapes,
    joint_transforms,
    linear_blend_skinning,
    pose_features,
    rotation_matrices,
)
from headfields.records import Camera, HeadState

__all__ = ["SkinnedHead"]


class SkinnedHead(nn.Module):
    """What FLAME and SMPL-X have in common. All arrays are buffers, so `.to` and `.double` move the model; nothing is
    trainable.

    Attributes:
        template_vertices (V, 3); faces (F, 3) int64; shape_basis (S, V, 3); expression_basis (E, V, 3); pose_basis
        (9 (J - 1), V, 3); joint_regressor (J, V); weights (V, J); parents.
        skull: the joint whose rotation is the head's.
        landmark_faces (L,), landmark_barycentric (L, 3): landmarks on the mesh, or None.
        contour: the contour by yaw, or None.
    """

    template_vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    shape_basis: Float[Tensor, "s v 3"]
    expression_basis: Float[Tensor, "e v 3"]
    pose_basis: Float[Tensor, "p v 3"]
    joint_regressor: Float[Tensor, "j v"]
    weights: Float[Tensor, "v j"]
    landmark_faces: Int[Tensor, " l"] | None
    landmark_barycentric: Float[Tensor, "l 3"] | None
    contour: ContourLandmarks | None
    skull = 1

    def __init__(
        self,
        template: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        shape_basis: Float[Tensor, "s v 3"],
        expression_basis: Float[Tensor, "e v 3"],
        pose_basis: Float[Tensor, "p v 3"],
        joint_regressor: Float[Tensor, "j v"],
        weights: Float[Tensor, "v j"],
        parents: Sequence[int],
        landmarks: Landmarks | None = None,
        contour: ContourLandmarks | None = None,
    ) -> None:
        """Keeps the arrays as they are; see the class for their meaning."""
        super().__init__()
        self.register_buffer("template_vertices", template)
        self.register_buffer("faces", faces)
        self.register_buffer("shape_basis", shape_basis)
        self.register_buffer("expression_basis", expression_basis)
        self.register_buffer("pose_basis", pose_basis)
        self.register_buffer("joint_regressor", joint_regressor)
        self.register_buffer("weights", weights)
        self.register_buffer("landmark_faces", None if landmarks is None else landmarks.faces)
        self.register_buffer("landmark_barycentric", None if landmarks is None else landmarks.barycentric)
        self.contour = contour
        self.parents = tuple(parents)

    @property
    def shape_count(self) -> int:
        """S, the number of shape coefficients."""
        return self.shape_basis.shape[0]

    @property
    def expression_count(self) -> int:
        """E, the number of expression coefficients."""
        return self.expression_basis.shape[0]

    def _coefficients(self, name: str, value: Tensor | None, basis: Tensor) -> Tensor | None:
        if value is None:
            return None
        check_floating(type(self).__name__, name, value)
        if value.dim() != 2 or value.shape[1] > basis.shape[0]:
            raise ValueError(
                f"{type(self).__name__}: {name} has shape {tuple(value.shape)}; expected (B, C) with C <= "
                f"{basis.shape[0]}, the number of directions in the file (fewer are taken as the first ones, the rest "
                "as 0)"
            )
        return value

    def forward(
        self,
        shape: Float[Tensor, "_ _"] | None = None,
        expression: Float[Tensor, "_ _"] | None = None,
        pose: Float[Tensor, "_ _ 3"] | None = None,
        translation: Float[Tensor, "_ 3"] | None = None,
    ) -> HeadState:
        """Poses the head.

        Args:
            shape: (B, S) or fewer columns (the rest are 0); (1, S) serves all frames. Zero if left out.
            expression: (B, E), likewise.
            pose: (B, J, 3) axis-angle of each joint relative to its parent, radians. Zero if left out. FLAME has
                5: root, neck, jaw, left eye, right eye.
            translation: (B, 3) metres, added last.

        Returns:
            HeadState of B frames: `vertices`, the `expression` (B, E) and `pose` used, and `joint_transforms`, rest to
            posed with the translation in. B is 1 if every argument is left out.

        Raises:
            TypeError, ValueError: an argument's dtype or shape does not fit; batch sizes differ and are not 1.

        Differentiability: any order in every argument.
        """
        shape = self._coefficients("shape", shape, self.shape_basis)
        expression = self._coefficients("expression", expression, self.expression_basis)
        joint_count, op = len(self.parents), type(self).__name__
        if pose is not None and (pose.dim() != 3 or pose.shape[1:] != (joint_count, 3)):
            raise ValueError(
                f"{op}: pose has shape {tuple(pose.shape)}; expected (B, {joint_count}, 3), axis-angle per joint"
            )
        if translation is not None and (translation.dim() != 2 or translation.shape[1] != 3):
            raise ValueError(f"{op}: translation has shape {tuple(translation.shape)}; expected (B, 3)")
        named = {"shape": shape, "expression": expression, "pose": pose, "translation": translation}
        sizes = {name: value.shape[0] for name, value in named.items() if value is not None}
        batches = {size for size in sizes.values() if size != 1}
        if len(batches) > 1:
            listing = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(f"{op}: batch sizes differ ({listing}); give each B rows or one")
        batch = batches.pop() if batches else 1

        rest = self.template_vertices
        if shape is not None:
            rest = rest + blend_shapes(shape, self.shape_basis[: shape.shape[1]])
        if expression is None:
            expression = self.template_vertices.new_zeros((batch, self.expression_count))
        else:
            rest = rest + blend_shapes(expression, self.expression_basis[: expression.shape[1]])
            padding = expression.new_zeros((expression.shape[0], self.expression_count - expression.shape[1]))
            expression = torch.cat([expression, padding], 1).expand(batch, -1)
        rest = rest.expand(batch, -1, -1)
        if pose is None:
            pose = self.template_vertices.new_zeros((batch, joint_count, 3))
        pose = pose.expand(batch, -1, -1)
        joints = self.joint_regressor @ rest
        rotations = rotation_matrices(self.full_pose(pose))
        rest = rest + blend_shapes(pose_features(rotations), self.pose_basis)
        transforms = joint_transforms(rotations, joints, self.parents)
        if translation is not None:
            shift = torch.nn.functional.pad(translation[:, None, :, None], (3, 0, 0, 1))
            transforms = transforms + shift
        vertices = linear_blend_skinning(rest, self.weights, transforms)
        return HeadState(vertices=vertices, expression=expression, pose=pose, joint_transforms=transforms)

    def full_pose(self, pose: Float[Tensor, "b j 3"]) -> Float[Tensor, "b j 3"]:
        """The rotations that joints take at `pose`: the same, unless a model has a resting pose of its own."""
        return pose

    def skull_rotation(self, state: HeadState, camera: Camera | None = None) -> Float[Tensor, "b 3 3"]:
        """How the head is turned: the rotation of joint `skull` in the world, all its ancestors' included.

        For FLAME that is the neck joint (1), which carries the skull, as FLAME's own code and DECA have it. smplx's
        FLAME takes the root alone, so its contour does not follow `neck_pose`.

        Args:
            state: of this head, with `joint_transforms`.
            camera: B cameras or one: the rotation is then as the camera sees it (y up, z toward it), which is what a
                contour depends on where tracking keeps the head's pose in the camera. Left out: as seen from +z.

        Raises:
            ValueError: the state lacks `joint_transforms`.
        """
        rotation = state.need(f"{type(self).__name__}.skull_rotation", "joint_transforms")[:, self.skull, :3, :3]
        if camera is None:
            return rotation
        flip = rotation.new_tensor([1.0, -1.0, -1.0])[:, None]
        return (flip * camera.world_to_camera[..., :3, :3].to(rotation)) @ rotation

    def landmarks(
        self, vertices: Float[Tensor, "b v 3"], rotation: Float[Tensor, "b 3 3"] | None = None
    ) -> Float[Tensor, "b l 3"]:
        """The landmarks on posed vertices, metres; linear in `vertices`.

        Args:
            vertices: (B, V, 3) posed vertices.
            rotation: (B, 3, 3), needed if the head has a contour and not allowed else: `skull_rotation(state, camera)`.

        Returns:
            (B, C + L, 3) contour first, as iBUG numbers them: 17 + 51 with FLAME's files. (smplx puts it last.)

        Raises:
            ValueError: there are no landmarks; a rotation is missing, or is given without a contour.
        """
        name = f"{type(self).__name__}.landmarks"
        if self.landmark_faces is None or self.landmark_barycentric is None:
            raise ValueError(f"{name}: the file has no lmk_face_idx and lmk_b_coords; pass landmarks to from_file")
        found = _on_faces(vertices, self.faces, self.landmark_faces, self.landmark_barycentric, name)
        if self.contour is None:
            if rotation is not None:
                raise ValueError(f"{name}: rotation is given, but the head has no contour; pass contour to from_file")
            return found
        if rotation is None:
            raise ValueError(
                f"{name}: the head has a contour, which depends on where it turns; pass rotation="
                "head.skull_rotation(state, camera)"
            )
        return torch.cat([self.contour(vertices, self.faces, rotation), found], 1)
