"""Deformation transfer: one mesh repeats the deformation of another from its neutral shape."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.apps.retargeting.deformation_gradients import flat_triangles, pose_gradients
from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.sparse_system import SymmetricSystem
from headfields.records import Record

Method = Literal["least_squares", "released"]
_FLOOR = 1e-5  # least share of the position weight, so that an unmatched vertex cannot float
_SLIVER = 20.0  # largest cotangent of a triangle in the system
_CHUNK = 16  # frames at a time


@dataclass(frozen=True)
class Correspondence(Record):
    """The source faces and source points that the faces and vertices of a target mesh follow.

    Attributes:
        faces: (F, K) source faces that each target face follows.
        weights: (F, K) their weights. A row sums to 1, or is all 0 where the target face follows its neighbors.
        corners: (V, 3) source vertices of the triangle with each target vertex's counterpart.
        barycentric: (V, 3) the counterpart's barycentric coordinates.
        confidence: (V,) in [0, 1]: weight of the counterpart's position; 0 where there is none.
        at_corners: (F,) target faces that deform as the triangle between their corners' counterparts does, in place of
            `faces`; None: no face. For faces on slivers, whose own gradients say little of what is around them.
    """

    faces: Int[Tensor, "f k"]
    weights: Float[Tensor, "f k"]
    corners: Int[Tensor, "v 3"]
    barycentric: Float[Tensor, "v 3"]
    confidence: Float[Tensor, " v"]
    at_corners: Bool[Tensor, " f"] | None = None

    @staticmethod
    def same(faces: Int[Tensor, "f 3"], vertices: int) -> "Correspondence":
        """The identity, between meshes of one topology with faces (F, 3) and `vertices` vertices."""
        device = faces.device
        corner = torch.zeros(vertices, 3, device=device)
        corner[:, 0] = 1
        return Correspondence(
            faces=torch.arange(len(faces), device=device)[:, None],
            weights=torch.ones(len(faces), 1, device=device),
            corners=torch.arange(vertices, device=device)[:, None].expand(-1, 3).contiguous(),
            barycentric=corner,
            confidence=torch.ones(vertices, device=device),
        )


class DeformationTransfer(nn.Module):
    """Deforms a target mesh from its neutral shape as a source mesh deforms from its own.

    `"least_squares"` (Sumner and Popović 2004) solves for the target's vertices, so that its triangles have deformation
    gradients as near as possible to those of their source triangles. It uses the equivalent form of Botsch et al.
    (2006): a Laplacian of the target's neutral mesh, factorized once. A second, weak term pulls each vertex toward the
    displacement of its counterpart. It fixes the translation, which gradients do not determine, and prevents drift over
    long distances. If both meshes are equal, the source's motion is reproduced.

    `"released"` (INSTA's code) applies the affine map of its source triangle to each target triangle, and averages each
    vertex over its triangles. Nothing is solved. The meshes must lie over one another, and averaging loses detail. It
    is here for comparison.

    Args:
        source_neutral: (V, 3), meters. In the space of the target: align the heads first (`fit_similarity`).
        source_faces: (F, 3).
        target_neutral: (W, 3), meters, with the same expression as `source_neutral`.
        target_faces: (G, 3).
        correspondence: correspondence between the two; `bind` finds one. None: the meshes have one topology.
        method: transfer method, see above.
        position_weight: weight of the second term at a confidence of 1, relative to the first term (whose cotangent
            weights are about 1 an edge).
        warp: a differentiable map of points (..., 3) near the source to points near the target. With it, a vertex
            follows the warped position of its counterpart, so that what touches on the source (lids, lips) touches on
            the target. None: the identity. Read by `"least_squares"` alone.

    The first term leaves out faces that are degenerate in either neutral mesh or have no counterpart. A vertex with no
    other face moves by the second term alone.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, an index is out of range, or meshes of different
            topology come without a correspondence.

    Source: Sumner and Popović 2004, section 4; Botsch, Sumner, Pauly and Gross, Deformation Transfer for
    Detail-Preserving Surface Editing (2006); for `"released"`, INSTA's code (Zielonka et al. 2023). The second term
    is our own choice.
    """

    source_neutral: Tensor
    source_faces: Tensor
    target_neutral: Tensor
    target_faces: Tensor
    _faces: Tensor
    _weights: Tensor
    _corners: Tensor
    _barycentric: Tensor
    _edge_weights: Tensor
    _position: Tensor
    _at_corners: Tensor

    def __init__(
        self,
        source_neutral: Float[Tensor, "v 3"],
        source_faces: Int[Tensor, "f 3"],
        target_neutral: Float[Tensor, "w 3"],
        target_faces: Int[Tensor, "g 3"],
        correspondence: Correspondence | None = None,
        method: Method = "least_squares",
        position_weight: float = 1e-2,
        warp: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if method not in ("least_squares", "released"):
            raise ValueError(f"DeformationTransfer: method is {method!r}; expected 'least_squares' or 'released'")
        if not position_weight > 0:
            raise ValueError(f"DeformationTransfer: position_weight is {position_weight}; it must be positive")
        for name, vertices, faces in (
            ("source", source_neutral, source_faces), ("target", target_neutral, target_faces),
        ):  # fmt: skip
            check_floating("DeformationTransfer", f"{name}_neutral", vertices)
            check_shape("DeformationTransfer", f"{name}_neutral", vertices, "V 3")
            check_integer("DeformationTransfer", f"{name}_faces", faces)
            check_shape("DeformationTransfer", f"{name}_faces", faces, "F 3")
            _check_range(f"{name}_faces", faces, len(vertices), "vertices")
        if correspondence is None:
            if len(source_neutral) != len(target_neutral) or not torch.equal(source_faces.long(), target_faces.long()):
                raise ValueError(
                    f"DeformationTransfer: source ({len(source_neutral)} vertices, {len(source_faces)} faces) and "
                    f"target ({len(target_neutral)} vertices, {len(target_faces)} faces) have different topology; "
                    "pass a correspondence (headfields.apps.retargeting.binding.bind finds one)"
                )
            correspondence = Correspondence.same(target_faces, len(target_neutral))
        if len(correspondence.faces) != len(target_faces) or len(correspondence.corners) != len(target_neutral):
            raise ValueError(
                f"DeformationTransfer: correspondence is for {len(correspondence.faces)} faces and "
                f"{len(correspondence.corners)} vertices; the target has {len(target_faces)} and {len(target_neutral)}"
            )
        _check_range("correspondence.faces", correspondence.faces, len(source_faces), "source faces")
        _check_range("correspondence.corners", correspondence.corners, len(source_neutral), "source vertices")
        self.method: Method = method
        self.warp = warp
        flat = flat_triangles(source_neutral, source_faces)
        weights = correspondence.weights.double()
        if len(source_faces):
            weights = torch.where(flat[correspondence.faces], 0.0, weights)
        total = weights.sum(dim=1, keepdim=True)
        weights = torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 0.0)
        buffers = {
            "source_neutral": source_neutral.detach().clone(), "source_faces": source_faces.long().clone(),
            "target_neutral": target_neutral.detach().clone(), "target_faces": target_faces.long().clone(),
            "_faces": correspondence.faces.long(), "_weights": weights, "_corners": correspondence.corners.long(),
            "_barycentric": correspondence.barycentric.double(),
            "_position": position_weight * correspondence.confidence.double().clamp_min(_FLOOR),
        }  # fmt: skip
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)
        given = correspondence.at_corners
        self.register_buffer("_at_corners", torch.zeros(0).long() if given is None else given.nonzero()[:, 0], False)
        bound = weights.sum(dim=1) > 0
        bound[self._at_corners] = True
        bound &= ~flat_triangles(target_neutral, target_faces)
        self.register_buffer("_edge_weights", _cotangents(self.target_neutral, self.target_faces, bound), False)
        self._system = self._factorize() if method == "least_squares" else None

    def extra_repr(self) -> str:
        return (
            f"{len(self.source_neutral)} -> {len(self.target_neutral)} vertices, "
            f"{int((self._edge_weights.abs().sum(1) > 0).sum())} of {len(self.target_faces)} faces bound, {self.method}"
        )

    def forward(self, posed: Float[Tensor, "b v 3"]) -> Float[Tensor, "b w 3"]:
        """The target's vertices in B poses of the source.

        Args:
            posed: (B, V, 3) meters, in the space of `source_neutral`. B = 0 is legal.

        Returns:
            (B, W, 3) meters, in the dtype of `posed`; computed in double precision. Differentiable in `posed`: to
            second order, and to any order of `"least_squares"` but for the normals' square root.

        Raises:
            TypeError, ValueError: dtype or shape does not fit.
        """
        check_floating("DeformationTransfer", "posed", posed)
        if posed.dim() != 3 or posed.shape[1:] != self.source_neutral.shape:
            raise ValueError(
                f"DeformationTransfer: posed has shape {tuple(posed.shape)}; expected (B, {len(self.source_neutral)}, "
                "3), the vertices of source_neutral"
            )
        target = self.target_neutral.double()
        move = self._solved if self.method == "least_squares" else self._averaged
        parts = [target + move(part.double()) for part in posed.split(_CHUNK)] if len(posed) else []
        moved = torch.cat(parts) if parts else target[None].expand(0, -1, -1) + 0 * posed.double().sum()
        return moved.to(posed.dtype)

    def _gradients(self, posed: Tensor) -> Float[Tensor, "b g 3 3"]:
        """S − I of each target face."""
        gradients = pose_gradients(posed, self.source_neutral.double(), self.source_faces)
        gradients = gradients - torch.eye(3, dtype=torch.float64, device=posed.device)
        blended = sum(
            self._weights[:, k, None, None] * gradients[:, self._faces[:, k]] for k in range(self._faces.shape[1])
        )
        if not isinstance(blended, Tensor):
            return posed.new_zeros(len(posed), len(self._faces), 3, 3)
        if len(self._at_corners):
            before, after = self._counterparts(self.source_neutral.double()), self._counterparts(posed)
            own = pose_gradients(after, before, self.target_faces[self._at_corners])
            own = own - torch.eye(3, dtype=torch.float64, device=posed.device)
            blended = blended.index_copy(1, self._at_corners, own)
        return blended

    def _counterparts(self, vertices: Float[Tensor, "*b v 3"]) -> Float[Tensor, "*b w 3"]:
        return torch.einsum("wk,...wkc->...wc", self._barycentric, vertices[..., self._corners, :])

    def _solved(self, posed: Tensor) -> Float[Tensor, "b w 3"]:
        before, after = self._counterparts(self.source_neutral.double()), self._counterparts(posed)
        displacement = after - before if self.warp is None else self.warp(after) - self.warp(before)
        right = self._position[:, None] * displacement
        gradients = self._gradients(posed)
        corners = self.target_neutral.double()[self.target_faces]
        for k in range(3):
            one, other = (k + 1) % 3, (k + 2) % 3
            edge = torch.einsum("bgij,gj->bgi", gradients, corners[:, other] - corners[:, one])
            edge = self._edge_weights[:, k, None] * edge
            right = right.index_add(1, self.target_faces[:, other], edge).index_add(1, self.target_faces[:, one], -edge)
        assert self._system is not None
        return self._system.solve(right.movedim(1, 0)).movedim(0, 1)

    def _averaged(self, posed: Tensor) -> Float[Tensor, "b w 3"]:
        gradients = self._gradients(posed)
        neutral = self.source_neutral.double()
        pivots = self.source_faces[:, 0][self._faces]  # (G, K): where each affine map is pinned
        offset = torch.einsum("gk,bgkc->bgc", self._weights, (posed - neutral)[:, pivots])
        pivot = torch.einsum("gk,gkc->gc", self._weights, neutral[pivots])
        bound = (self._weights.sum(dim=1) > 0).double()
        total = posed.new_zeros(len(posed), len(self.target_neutral), 3)
        count = bound.new_zeros(len(self.target_neutral))
        for k in range(3):
            corner = self.target_neutral.double()[self.target_faces[:, k]]
            moved = torch.einsum("bgij,gj->bgi", gradients, corner - pivot) + offset
            total = total.index_add(1, self.target_faces[:, k], moved * bound[:, None])
            count = count.index_add(0, self.target_faces[:, k], bound)
        return total / count.clamp_min(1)[:, None]

    def _factorize(self) -> SymmetricSystem:
        count = len(self.target_neutral)
        faces, weights = self.target_faces.cpu().numpy(), self._edge_weights.cpu().numpy()
        one, other = faces[:, [1, 2, 0]].ravel(), faces[:, [2, 0, 1]].ravel()
        values = weights.ravel()
        diagonal = np.bincount(one, values, count) + np.bincount(other, values, count) + self._position.cpu().numpy()
        rows = np.concatenate([one, other, np.arange(count)])
        columns = np.concatenate([other, one, np.arange(count)])
        entries = np.concatenate([-values, -values, diagonal])
        return SymmetricSystem(scipy.sparse.csc_matrix((entries, (rows, columns)), shape=(count, count)))


def _cotangents(vertices: Tensor, faces: Tensor, bound: Tensor) -> Float[Tensor, "f 3"]:
    """Half the cotangent at each corner, the weight of the opposite edge in the triangle's Dirichlet energy.

    Those of a sliver are scaled down together, which keeps its energy positive; a face that is not `bound` has zeros.
    """
    corners = vertices.double()[faces]
    out = []
    for k in range(3):
        one, other = corners[:, (k + 1) % 3] - corners[:, k], corners[:, (k + 2) % 3] - corners[:, k]
        doubled = torch.linalg.vector_norm(torch.linalg.cross(one, other), dim=-1)
        out.append((one * other).sum(-1) / torch.where(bound, doubled, 1.0))
    cotangents = torch.stack(out, dim=-1)
    cap = (_SLIVER / cotangents.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    return torch.where(bound[:, None], 0.5 * cap * cotangents, 0.0)


def _check_range(name: str, index: Tensor, count: int, of: str) -> None:
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise ValueError(
            f"DeformationTransfer: {name} holds {int(index.min())} to {int(index.max())}, but there are {count} {of}"
        )
