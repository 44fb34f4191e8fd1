"""Skinned parametric heads: linear shape and expression, pose correctives and linear blend skinning.

The common base of FLAME and SMPL-X.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.heads.landmarks import ContourLandmarks, Landmarks, points_on_faces
from headfields.heads.mouth.border import mouth_loop
from headfields.heads.mouth.closing import close_mouth
from headfields.ops._checks import check_floating, common_batch
from headfields.ops.skinning import (
    blend_shapes,
    joint_transforms,
    linear_blend_skinning,
    pose_features,
    rotation_matrices,
)
from headfields.ops.vertex_geometry import face_crosses
from headfields.records import Camera, HeadState, Template
from headfields.records.device_copy import Movable
from headfields.records.opengl_axes import flip_y_z
from headfields.records.precision import full_precision

__all__ = ["SkinnedHead"]

TEMPLATE_JAW = math.radians(12.0)
"""Rotation of the jaw in a template: the lips part, as in the canonical mesh of INSTA's tracker."""


def _faces_around(faces: Int[Tensor, "f 3"], vertices: Int[Tensor, " n"], count: int, rings: int) -> Bool[Tensor, " f"]:
    """(F,) mask of the faces within `rings` rings of the vertices."""
    inside = torch.zeros(count, dtype=torch.bool, device=faces.device)
    inside[vertices] = True
    near = inside[faces].any(1)
    for _ in range(rings - 1):
        inside[faces[near]] = True
        near = inside[faces].any(1)
    return near


class SkinnedHead(Movable):
    """Base class of `FlameHead` and `SmplxHead`, and of heads with a skeleton of your own (docs/add_a_head.md).

    All arrays are buffers, so `.to` and `.double` move the model; nothing is trainable. Arguments are named as the
    attributes are, `template` and `landmarks` for those of the mesh.

    Attributes:
        template_vertices (V, 3); faces (F, 3) int64; shape_basis (S, V, 3); expression_basis (E, V, 3); pose_basis
        (9 (J - 1), V, 3); joint_regressor (J, V); weights (V, J); parents.
        skull_joint: the joint that carries the skull; in FLAME the neck's.
        landmark_faces (L,), landmark_barycentric (L, 3): landmarks on the mesh, or None.
        contour: contour landmarks, which depend on the yaw, or None.
        uv (T, 2), uv_faces (F, 3): texture coordinates, v up, or None. T is at least V: a vertex on a seam has several.
        regions: named (F,) boolean face masks of the file.
        expression_names, shape_names: names of the first directions; () if the file has none.
        neck_joint, jaw_joint, eye_joints: the joints of the neck below the skull, the jaw, the left and the right eye,
            () of a head without eyes. A class attribute each; a subclass with another skeleton sets its own.
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
    uv: Float[Tensor, "t 2"] | None
    uv_faces: Int[Tensor, "f 3"] | None
    neck_joint, skull_joint, jaw_joint, eye_joints = 0, 1, 2, (3, 4)

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
        uv: Float[Tensor, "t 2"] | None = None,
        uv_faces: Int[Tensor, "f 3"] | None = None,
        regions: Mapping[str, Bool[Tensor, " f"]] | None = None,
        expression_names: Sequence[str] = (),
        shape_names: Sequence[str] = (),
    ) -> None:
        """Registers the arrays as buffers; see the class for their meaning."""
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
        self.register_buffer("uv", uv)
        self.register_buffer("uv_faces", uv_faces)
        self.expression_names, self.shape_names = tuple(expression_names), tuple(shape_names)
        self._region_names = tuple(regions or ())
        for name, mask in (regions or {}).items():
            self.register_buffer(f"region_{name}", mask)

    @property
    def _head_joints(self) -> tuple[int, ...]:
        return (self.skull_joint, self.jaw_joint, *self.eye_joints)

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
                f"{basis.shape[0]}, the number of directions in the file (missing coefficients are 0)"
            )
        return value

    def forward(
        self,
        shape: Float[Tensor, "_ _"] | None = None,
        expression: Float[Tensor, "_ _"] | None = None,
        pose: Float[Tensor, "_ _ 3"] | None = None,
        translation: Float[Tensor, "_ 3"] | None = None,
        offset: Float[Tensor, "_ v 3"] | None = None,
    ) -> HeadState:
        """Poses the head.

        Args:
            shape: (B, S), or fewer columns (the others are 0); (1, S) is broadcast over the frames. Zero if None.
            expression: (B, E), likewise.
            pose: (B, J, 3) axis-angle of each joint relative to its parent, radians. Zero if None. FLAME has 5 joints:
                root, neck, jaw, left eye, right eye.
            translation: (B, 3) meters, added last.
            offset: (B, V, 3) meters, or (1, V, 3) for all frames: displacements of the rest shape, added before the
                joints are regressed, as trackers that refine FLAME's vertices have them.

        Returns:
            HeadState of B frames: `vertices`, `expression` (B, E), `pose` (B, J, 3), and `joint_transforms` from rest
            to posed, translation included. B is 1 if all arguments are None.

        Raises:
            TypeError, ValueError: an argument's dtype or shape does not fit; batch sizes differ and are not 1.

        Differentiability: any order in every argument.

        >>> import torch, headfields as hf
        >>> head = hf.synthetic.procedural_head()
        >>> pose = torch.zeros(2, 5, 3)
        >>> pose[1, 2, 0] = 0.3  # the second frame opens the jaw
        >>> state = head(expression=head.expression(smile_left=1.0), pose=pose)
        >>> state.vertices.shape == (2, *head.template_vertices.shape), state.joint_transforms.shape
        (True, torch.Size([2, 5, 4, 4]))
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
        count = len(self.template_vertices)
        if offset is not None and (offset.dim() != 3 or offset.shape[1:] != (count, 3)):
            raise ValueError(
                f"{op}: offset has shape {tuple(offset.shape)}; expected (B, {count}, 3), one for each vertex"
            )
        batch = common_batch(
            op, shape=shape, expression=expression, pose=pose, translation=translation, offset=offset
        )  # fmt: skip

        rest = self.template_vertices
        if shape is not None:
            rest = rest + blend_shapes(shape, self.shape_basis[: shape.shape[1]])
        if expression is None:
            expression = self.template_vertices.new_zeros((batch, self.expression_count))
        else:
            rest = rest + blend_shapes(expression, self.expression_basis[: expression.shape[1]])
            padding = expression.new_zeros((expression.shape[0], self.expression_count - expression.shape[1]))
            expression = torch.cat([expression, padding], 1).expand(batch, -1)
        if offset is not None:
            rest = rest + offset
        rest = rest.expand(batch, -1, -1)
        if pose is None:
            pose = self.template_vertices.new_zeros((batch, joint_count, 3))
        pose = pose.expand(batch, -1, -1)
        with full_precision(rest):
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
        """Axis-angle of the joints at `pose`; subclasses add a mean pose."""
        return pose

    def skull_rotation(self, state: HeadState, camera: Camera | None = None) -> Float[Tensor, "b 3 3"]:
        """Rotation of the head: that of `skull_joint` in the world, its ancestors included.

        In FLAME this is the neck joint (1), which carries the skull, as in FLAME's own code and DECA. smplx's FLAME
        uses the root alone, so its contour does not follow `neck_pose`.

        Args:
            state: state of this head, with `joint_transforms`.
            camera: B cameras or one. The rotation is then relative to the camera (y up, z toward it), which the contour
                needs where tracking keeps the head's pose in the camera. If None: as seen from +z.

        Returns:
            (B, 3, 3) rotations.

        Raises:
            ValueError: the state lacks `joint_transforms`.
        """
        rotation = state.need(f"{type(self).__name__}.skull_rotation", "joint_transforms")[:, self.skull_joint, :3, :3]
        if camera is None:
            return rotation
        return flip_y_z(camera.world_to_camera[..., :3, :3].to(rotation), -2) @ rotation

    def landmarks(
        self, vertices: Float[Tensor, "b v 3"], rotation: Float[Tensor, "b 3 3"] | None = None
    ) -> Float[Tensor, "b l 3"]:
        """The landmarks on posed vertices, meters; linear in `vertices`.

        Args:
            vertices: (B, V, 3) posed vertices.
            rotation: (B, 3, 3) from `skull_rotation(state, camera)`; required if and only if the head has a contour.

        Returns:
            (B, C + L, 3), contour first as in iBUG's order: 17 + 51 with FLAME's files. (smplx puts the contour last.)

        Raises:
            ValueError: there are no landmarks; a rotation is missing, or is passed without a contour.
        """
        name = f"{type(self).__name__}.landmarks"
        if self.landmark_faces is None or self.landmark_barycentric is None:
            raise ValueError(f"{name}: the file has no lmk_face_idx and lmk_b_coords; pass landmarks to from_file")
        points = points_on_faces(vertices, self.faces, self.landmark_faces, self.landmark_barycentric, name)
        if self.contour is None:
            if rotation is not None:
                raise ValueError(f"{name}: rotation is given, but the head has no contour; pass contour to from_file")
            return points
        if rotation is None:
            raise ValueError(
                f"{name}: the head has a contour, which depends on its rotation; pass rotation="
                "head.skull_rotation(state, camera)"
            )
        return torch.cat([self.contour(vertices, self.faces, rotation), points], 1)

    @property
    def regions(self) -> dict[str, Bool[Tensor, " f"]]:
        """Named (F,) face masks of the file."""
        return {name: getattr(self, f"region_{name}") for name in self._region_names}

    @property
    def joints(self) -> dict[str, int]:
        """Index of each joint that `pose` accepts, by name."""
        indices = {"root": 0, "neck": self.neck_joint, "head": self.skull_joint, "jaw": self.jaw_joint}
        return indices | dict(zip(("left_eye", "right_eye"), self.eye_joints, strict=False))

    def pose(self, **turns: Float[Tensor, "_ 3"]) -> Float[Tensor, "b j 3"]:
        """A pose (B, J, 3) from rotations of named joints, axis-angle in radians; the others are zero. Differentiable.

        Args:
            turns: (B, 3) or (1, 3) rotations keyed by the names in `joints`: `head.pose(neck=..., jaw=...)`.

        Raises:
            TypeError: a rotation is no floating-point tensor.
            ValueError: a name is unknown, a shape is not (B, 3), or batch sizes differ and are not 1.

        >>> import torch, headfields as hf
        >>> head = hf.synthetic.procedural_head()
        >>> head.pose(jaw=torch.tensor([[0.3, 0.0, 0.0]])).shape
        torch.Size([1, 5, 3])
        """
        op, joints = f"{type(self).__name__}.pose", self.joints
        unknown = sorted(set(turns) - set(joints))
        if unknown:
            raise ValueError(f"{op}: no joint is called {', '.join(unknown)}; there are {', '.join(joints)}")
        for name, turn in turns.items():
            check_floating(op, name, turn)
        sizes = {turn.shape[0] for turn in turns.values() if turn.dim()} - {1}
        if len(sizes) > 1 or any(turn.dim() != 2 or turn.shape[1] != 3 for turn in turns.values()):
            shapes = ", ".join(f"{name} {tuple(turn.shape)}" for name, turn in turns.items())
            raise ValueError(f"{op}: {shapes}; expected (B, 3) or (1, 3) each")
        batch = sizes.pop() if sizes else 1
        rotations = [self.template_vertices.new_zeros(batch, 3)] * len(self.parents)
        for name, turn in turns.items():
            rotations[joints[name]] = turn.expand(batch, -1)
        return torch.stack(rotations, 1)

    def expression(self, **weights: float | Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Expression coefficients (B, E) by name; floats give B = 1, (B,) tensors a batch.

        Raises:
            ValueError: the file lacks a name; batch sizes differ and are not 1.

        >>> import headfields as hf
        >>> hf.synthetic.procedural_head().expression(smile_left=1.0, blink_left=0.5).shape
        torch.Size([1, 100])
        """
        return self._named("expression", self.expression_names, self.expression_count, weights)

    def shape(self, **weights: float | Float[Tensor, " b"]) -> Float[Tensor, "b s"]:
        """Shape coefficients (B, S) by name: `head.shape(jaw_width=-1.0)`.

        Raises:
            ValueError: as `expression`.
        """
        return self._named("shape", self.shape_names, self.shape_count, weights)

    def _named(
        self, what: str, names: tuple[str, ...], count: int, weights: Mapping[str, float | Tensor]
    ) -> Float[Tensor, "b c"]:
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise ValueError(
                f"{type(self).__name__}.{what}: no direction is called {', '.join(unknown)}; "
                f"there are {', '.join(names) or 'no names in this file'}"
            )
        columns = {k: torch.as_tensor(v).to(self.template_vertices).reshape(-1) for k, v in weights.items()}
        sizes = {len(column) for column in columns.values()} - {1}
        if len(sizes) > 1:
            raise ValueError(
                f"{type(self).__name__}.{what}: weights have {sorted(sizes)} entries; pass B or one for each"
            )
        batch = sizes.pop() if sizes else 1
        out = [self.template_vertices.new_zeros(batch)] * count
        for name, column in columns.items():
            out[names.index(name)] = column.expand(batch)
        return torch.stack(out, -1)

    def derived_regions(self, loop: Int[Tensor, " l"] | None = None) -> dict[str, Bool[Tensor, " f"]]:
        """The file's regions, and "mouth", "eyes", "neck" and "face" where it lacks them, from names and weights.

        Our own rules. "mouth": the file's "lips", else three rings of faces around the inner-lip `loop`. "eyes": the
        file's eyeballs and eye regions, else faces that an eye joint carries. "neck": faces that the neck joint carries
        (FLAME: the root). "face": faces that skull, jaw or eyes carry, in front of the skull joint, with a normal
        toward +z.

        Args:
            loop: (L,) vertex indices of the inner-lip border, or None.
        """
        regions = self.regions
        empty = torch.zeros(len(self.faces), dtype=torch.bool, device=self.faces.device)
        if "mouth" not in regions:
            lips = regions.get("lips")
            if lips is None:
                lips = empty if loop is None else _faces_around(self.faces, loop, len(self.template_vertices), 3)
            regions["mouth"] = lips
        if "eyes" not in regions:
            parts = [regions[key] for key in regions if key.endswith("eyeball") or key.endswith("eye_region")]
            carried = self.weights[:, list(self.eye_joints)].sum(1) > 0.5
            regions["eyes"] = torch.stack(parts).any(0) if parts else carried[self.faces].all(1)
        if "neck" not in regions:
            regions["neck"] = (self.weights[:, self.neck_joint] > 0.5)[self.faces].all(1)
        if "face" not in regions:
            corners = self.template_vertices[self.faces]
            normal = face_crosses(self.template_vertices, self.faces)
            skull = (self.joint_regressor @ self.template_vertices)[self.skull_joint]
            below = [j for j in range(len(self.parents)) if j not in (self.neck_joint, *self._head_joints)]
            body = (self.weights[:, below].sum(1) > 0.5)[self.faces].any(1)
            regions["face"] = (corners[..., 2].mean(1) > skull[2]) & (normal[:, 2] > 0) & ~regions["neck"] & ~body
        return regions

    def template(
        self,
        shape: Float[Tensor, "_ _"] | None = None,
        jaw: float = TEMPLATE_JAW,
        loop: Sequence[int] | Int[Tensor, " l"] | None = None,
    ) -> Template:
        """The canonical mesh of an avatar: neutral expression, jaw open, mouth closed by faces between the lips.

        Args:
            shape: (1, S) the head's shape; zero if None.
            jaw: rotation of the jaw about x, radians; 12 degrees as in INSTA's tracker part the lips.
            loop: the inner-lip border; if None, `mouth_loop` finds it from the jaw's weights.

        Returns:
            Template with the regions of `derived_regions` (the closing faces are in "mouth" and "face") and
            `face_count`, the number of the head's own faces. A head with a closed mouth gets no further faces.
        """
        vertices = self(shape=shape, pose=self._template_pose(jaw)).vertices[0]
        if loop is not None:
            border: Tensor | None = torch.as_tensor(loop, dtype=torch.int64, device=self.faces.device)
        else:
            try:
                border = mouth_loop(self.faces, self.template_vertices, self.weights[:, self.jaw_joint])
            except ValueError:
                border = None
        regions = self.derived_regions(border)
        faces, uv_faces = self.faces, self.uv_faces
        count = len(faces)
        if border is not None:
            faces, new = close_mouth(faces, border, vertices)
            regions = {
                name: torch.cat([mask, torch.full_like(new[count:], name in ("mouth", "face"))])
                for name, mask in regions.items()
            }
            if uv_faces is not None:
                corner = torch.empty(len(self.template_vertices), dtype=torch.int64, device=faces.device)
                corner[self.faces.flatten()] = uv_faces.flatten()
                uv_faces = torch.cat([uv_faces, corner[faces[count:]]])
        return Template(
            canonical_vertices=vertices, faces=faces, regions=regions, uv=self.uv, uv_faces=uv_faces, face_count=count,
            expression_width=self.expression_count,
        )  # fmt: skip

    def template_transforms(
        self, shape: Float[Tensor, "_ _"] | None = None, jaw: float = TEMPLATE_JAW
    ) -> Float[Tensor, "j 4 4"]:
        """The rest-to-posed joint transforms (J, 4, 4) of `template`, with the same arguments.

        With T those of a state, `T @ inverse(template_transforms)` lead from the template's canonical mesh, as captures
        have them; skinning deformers take these as `canonical_transforms` instead.
        """
        transforms = self(shape=shape, pose=self._template_pose(jaw)).joint_transforms
        assert transforms is not None
        return transforms[0]

    def from_template(self, state: HeadState) -> Float[Tensor, "b j 4 4"]:
        """The joint transforms of a state of this head from `template`'s canonical mesh (its defaults), in place of
        from the rest pose: those that a capture with this template records.

        Raises:
            ValueError: the state lacks `joint_transforms`.
        """
        transforms = state.need(f"{type(self).__name__}.from_template", "joint_transforms")
        with full_precision(transforms):
            return transforms @ torch.linalg.inv(self.template_transforms().to(transforms))

    def _template_pose(self, jaw: float) -> Float[Tensor, "1 j 3"]:
        pose = self.template_vertices.new_zeros((1, len(self.parents), 3))
        pose[0, self.jaw_joint, 0] = jaw
        return pose
