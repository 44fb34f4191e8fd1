"""A parametric head of any kind as a rig that the rig tracker reads: FLAME's, SMPL-X's, and blendshapes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate, triangle_landmarks
from headfields.apps.tracking.rig.body import TrackedBody
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.landmarks import LandmarkEmbedding, Landmarks
from headfields.heads.skinned import SkinnedHead
from headfields.ops.mesh_topology import boundary_loops, vertex_components

__all__ = ["HEAD_JOINTS", "HeadModel"]

HEAD_JOINTS = ("jaw", "left_eye", "right_eye")
"""Tracked joints. The neck is left out: turning the neck and turning the head look the same where shoulders do not
count."""
_STILL = 1e-6
"""Meters; a direction that moves all vertices by less is none."""
_JOINTS = 5
_NEAR = 0.02
"""Meters from an eye's landmarks to the middle of an eyeball, at most."""
_EYES = (range(36, 42), range(42, 48))
_RINGS = 4
"""Rings of vertices around the border of the mesh, whose outline is the mesh's and not the person's."""


@dataclass(frozen=True)
class HeadModel:
    """A head as the tracker fits it: directions of identity and of expression, apart from its kind.

    Attributes:
        head: the user's head.
        identity: indices of the identity directions that are fitted.
        one_sided: whether expressions are weights of blendshapes, from 0 to 1.
        outlined: (V,) vertices where the mesh's outline is the person's.
        eyes: (F,) faces of the eyeballs; false throughout if unknown.
        statistical: whether identities are principal components of people; not if they have names, as those of the
            procedural head, which were modeled by hand.
    """

    head: SkinnedHead | BlendshapeHead
    identity: tuple[int, ...]
    one_sided: bool
    outlined: Bool[Tensor, " v"]
    eyes: Bool[Tensor, " f"]
    statistical: bool = True

    @classmethod
    def of(cls, head: SkinnedHead | BlendshapeHead, identities: int = 100) -> "HeadModel":
        """A head for tracking.

        Args:
            head: FLAME's or SMPL-X's format, or blendshapes, with 68 landmarks.
            identities: largest number of identity directions.

        Raises:
            ValueError: the head has not 68 landmarks.
        """
        basis = head.identity_basis if isinstance(head, BlendshapeHead) else head.shape_basis
        moves = basis.flatten(1).norm(dim=1) > _STILL if len(basis) else torch.zeros(0)
        used = tuple(k for k in range(len(basis)) if bool(moves[k]))[:identities]
        blend = isinstance(head, BlendshapeHead)
        border = _near_border(head.faces, head.template_vertices)
        eyes = torch.zeros(len(head.faces), dtype=torch.bool)
        if isinstance(head, BlendshapeHead):
            if head.landmark_vertices is not None and len(head.landmark_vertices) == 68:
                eyes = _eyeballs(head)
        else:
            eyes = head.derived_regions()["eyes"]
        named = not isinstance(head, BlendshapeHead) and bool(head.shape_names)
        model = cls(head, used, blend, ~border, eyes, not named)
        if TrackedBody(model.rig(None), 0).landmark_count != 68:
            raise ValueError(
                "HeadModel: the head has not iBUG's 68 landmarks; pass a file with them (FLAME: lmk_face_idx and "
                "lmk_b_coords with the contour, see docs/files.md; blendshapes: landmarks)"
            )
        return model

    @property
    def identity_basis(self) -> Float[Tensor, "s v 3"]:
        """The identity directions that are fitted."""
        head = self.head
        basis = head.identity_basis if isinstance(head, BlendshapeHead) else head.shape_basis
        return basis[list(self.identity)]

    def rig(self, coefficients: Float[Tensor, " s"] | None) -> RiggedTemplate:
        """The rig of a person.

        Args:
            coefficients: (S,) of the identity directions; None for the mean head with these directions before the
                expressions, so that both are fitted.
        """
        head, basis = self.head, self.identity_basis
        template = head.template_vertices
        expression = head.expression_basis
        names: tuple[str, ...] = tuple(head.expression_names)
        if coefficients is None:
            moves = expression.flatten(1).norm(dim=1) > _STILL if len(expression) else torch.zeros(0)
            expression = torch.cat([basis, expression[moves.bool()]]) if len(expression) else basis
            names = ()
        elif len(basis):
            template = template + torch.tensordot(coefficients.to(template), basis, 1)
        if isinstance(head, BlendshapeHead):
            return _blendshape_rig(head, template, expression, names, self.eyes)
        marks = None
        if head.landmark_faces is not None and head.landmark_barycentric is not None:
            marks = triangle_landmarks(head.landmark_faces, head.landmark_barycentric)
        return RiggedTemplate(
            template, head.faces, basis[:0], expression, head.pose_basis, head.joint_regressor, head.weights,
            head.parents, marks, head.contour, head.uv, head.uv_faces, head.regions, names[: len(expression)],
        )  # fmt: skip

    def body(self, coefficients: Float[Tensor, " s"] | None, expressions: int, expression_scale: float) -> TrackedBody:
        """The rig's tracked joints and coefficients; without `coefficients` those of identity come first."""
        count = 0 if coefficients is not None else len(self.identity)
        body = TrackedBody(self.rig(coefficients), count + expressions, HEAD_JOINTS)
        expressive = torch.arange(len(body.expressions)) >= count
        body.scales = torch.where(expressive, expression_scale, 1.0)
        body.blendshapes = expressive if self.one_sided else None
        return body


def _blendshape_rig(
    head: BlendshapeHead, template: Tensor, expression: Tensor, names: tuple[str, ...], eyes: Tensor
) -> RiggedTemplate:
    """Blendshapes as a rig: every vertex belongs to the skull."""
    count = len(template)
    weights = template.new_zeros(count, _JOINTS)
    weights[:, RiggedTemplate.skull_joint] = 1.0
    regressor = template.new_full((_JOINTS, count), 1.0 / max(count, 1))
    marks = None
    if head.landmark_vertices is not None:
        marks = Landmarks(_on_vertices(head.faces, head.landmark_vertices))
    regions = {"eyes": eyes} if bool(eyes.any()) else {}
    return RiggedTemplate(
        template, head.faces, expression[:0], expression, template.new_zeros(9 * (_JOINTS - 1), count, 3), regressor,
        weights, (-1, 0, 1, 1, 1), marks, regions=regions, expression_names=names,
    )  # fmt: skip


def _on_vertices(faces: Int[Tensor, "f 3"], vertices: Int[Tensor, " l"]) -> LandmarkEmbedding:
    """Landmarks at vertices: one of the faces of each, and the corner that it is."""
    at: list[int] = []
    weights = torch.zeros(len(vertices), 3, dtype=torch.float64)
    for row, vertex in enumerate(vertices.tolist()):
        face, corner = (faces == vertex).nonzero()[0].tolist()
        at.append(face)
        weights[row, corner] = 1.0
    return LandmarkEmbedding(torch.tensor(at).numpy(), weights.numpy())


def _near_border(faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "v 3"]) -> Bool[Tensor, " v"]:
    """Vertices within some rings of the lowest border of the mesh: where it ends at the neck or the shoulders."""
    inside = torch.zeros(len(vertices), dtype=torch.bool)
    loops = boundary_loops(faces)
    if not loops:
        return inside
    lowest = min(loops, key=lambda loop: float(vertices[loop][:, 1].mean()))
    inside[lowest] = True
    for _ in range(_RINGS):
        inside[faces[inside[faces].any(1)]] = True
    return inside


def _eyeballs(head: BlendshapeHead) -> Bool[Tensor, " f"]:
    """Faces of the parts of the mesh whose middle lies near an eye's landmarks."""
    assert head.landmark_vertices is not None
    faces, vertices = head.faces, head.template_vertices
    parts = vertex_components(faces, len(vertices))
    count = int(parts.max()) + 1
    eyes = torch.zeros(len(faces), dtype=torch.bool)
    if count < 2:
        return eyes
    largest = int(torch.bincount(parts).argmax())
    for landmarks in _EYES:
        center = vertices[head.landmark_vertices[list(landmarks)]].mean(0)
        for k in range(count):
            if k != largest and float((vertices[parts == k].mean(0) - center).norm()) < _NEAR:
                eyes |= (parts == k)[faces].all(1)
    return eyes
