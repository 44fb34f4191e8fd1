"""Vertex features interpolated at the nearest point of the surface."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.encoders.vertex_source import VertexSource
from headfields.ops._checks import check_integer, check_shape
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.parts import Encoder
from headfields.records import Canonical, HeadState


class SurfaceFeatures(Encoder):
    """Vertex features of a source, interpolated at the surface point nearest to each point (`Canonical.face`).

    Combines MonoAvatar's convolutional features with INSTA's canonicalizer, as an encoder or as a condition next to a
    grid. A point above the surface and the point below it have the same features, so they separate inside from outside
    only together with another encoder.

    Args:
        source: gives features (B, V, W) of the frames' vertices.
        faces: (F, 3) the faces that the deformer's `Canonical.face` indexes: those of its template.

    A point without a face (-1) gets zeros. Differentiable in the source's parameters, in what it reads of the state
    and, through the barycentric coordinates, in the points; to second order.

    Raises:
        TypeError: source is not a `VertexSource`, or faces are not integers.
        ValueError: faces are not (F, 3), or index a vertex that the source does not have.
    """

    needs_faces = True
    faces: Tensor

    def __init__(self, source: VertexSource, faces: Int[Tensor, "f 3"]) -> None:
        super().__init__()
        if not isinstance(source, VertexSource):
            raise TypeError(f"SurfaceFeatures: source is a {type(source).__name__}; expected a VertexSource")
        check_integer("SurfaceFeatures", "faces", faces)
        check_shape("SurfaceFeatures", "faces", faces, "F 3")
        if faces.numel() and (int(faces.min()) < 0 or int(faces.max()) >= source.vertex_count):
            raise ValueError(
                f"SurfaceFeatures: faces holds indices from {int(faces.min())} to {int(faces.max())}, but the source "
                f"gives features of {source.vertex_count} vertices; build both from one template"
            )
        self.source = source
        self.width = source.width
        self.needs = source.needs
        self.face_count = len(faces)
        self.register_buffer("faces", faces.detach().long().clone(), persistent=False)

    def prepare(self, state: HeadState) -> Float[Tensor, "b v width"]:
        return self.source(state)

    def forward(self, canonical: Canonical, prepared: Float[Tensor, "b v width"]) -> Float[Tensor, "m width"]:
        face, barycentric = canonical.require("face", "barycentric")
        if not len(self.faces):
            return prepared.sum() * 0 + prepared.new_zeros(len(canonical), self.width)
        corners = self.faces[face.long().clamp(min=0)] + canonical.frame.long()[:, None] * prepared.shape[1]
        corners = torch.where((face >= 0)[:, None], corners, -1)
        return interpolate_rows(prepared.flatten(0, 1), corners, barycentric)
