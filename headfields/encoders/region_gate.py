"""Region-gated conditioning as in INSTA: the expression in the mouth region, a constant elsewhere."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_shape
from headfields.ops.few_rows import few_rows
from headfields.parts import Encoder
from headfields.records import Canonical, HeadState


class RegionGate(Encoder):
    """Per-frame values of the state as features, where the nearest triangle lies in a region; a constant elsewhere.

    Args:
        field: name of the field (or code) of the `HeadState`, of shape (B, W).
        faces: (F,) mask of the region's triangles (INSTA: the lips).
        width: number of leading values used, of W (INSTA: 16 of FLAME's expression coefficients).
        otherwise: constant value outside the region (INSTA: 1).

    Differentiable in the state's field (linear), a step at the region's border: where the nearest point lies on an edge
    between a triangle within and one without, which is a wedge of points along a convex border, it is the side of the
    triangle of lower index, or, up to rounding, the other. So a head that moves with its camera is the same picture
    but for these points (`tests/models/test_head_motion.py`: 8e-4 at the border, 3e-7 without one).

    Raises:
        ValueError: width is below 1, or faces is no mask; in an avatar, the deformer has another number of faces; in
            `prepare`, the state's field is missing or narrower.

    Source: INSTA (Zielonka et al. 2023), section 3.3; the constant and the width as in its released code.
    """

    needs_faces = True
    faces: Tensor

    def __init__(self, field: str, faces: Bool[Tensor, " f"], width: int = 16, otherwise: float = 1.0) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"RegionGate: width is {width}; it must be at least 1")
        if not isinstance(faces, Tensor):
            raise TypeError(f"RegionGate: faces is a {type(faces).__name__}; pass a torch.Tensor, a mask of booleans")
        check_shape("RegionGate", "faces", faces, "F")
        if faces.dtype != torch.bool and not bool(((faces == 0) | (faces == 1)).all()):
            raise ValueError(
                f"RegionGate: faces is {faces.dtype} and holds other numbers than 0 and 1; expected a mask (F,) of all "
                "faces: mask = torch.zeros(F, dtype=torch.bool), mask[indices] = True"
            )
        self.needs = (field,)
        self.code_widths = {field: width}
        self.field = field
        self.width = width
        self.otherwise = otherwise
        self.register_buffer("faces", faces.detach().bool().clone())
        self.face_count = len(faces)

    def extra_repr(self) -> str:
        return f"{self.field!r}, {int(self.faces.sum())} faces, width={self.width}"

    def prepare(self, state: HeadState) -> Float[Tensor, "b width"]:
        values = state.need("RegionGate", self.field)
        if values.shape[-1] < self.width:
            raise ValueError(
                f"RegionGate: width is {self.width} but the state's {self.field!r} has shape {tuple(values.shape)}; "
                f"build it with width={values.shape[-1]} or less"
            )
        return values[:, : self.width]

    def forward(self, canonical: Canonical, prepared: Float[Tensor, "b width"]) -> Float[Tensor, "m width"]:
        rows, index = self.shared(canonical, prepared)
        return few_rows(rows, index)

    def shared(
        self, canonical: Canonical, prepared: Float[Tensor, "b width"]
    ) -> tuple[Float[Tensor, "k width"], Int[Tensor, " m"]]:
        (face,) = canonical.require("face")
        try:
            inside = self.faces[face.clamp_min(0)] & (face >= 0)
        except IndexError as error:
            raise IndexError(
                f"RegionGate: faces is a mask of {len(self.faces)} faces, and the deformer's face {int(face.max())} is "
                "nearest to a point; make the mask of all its faces"
            ) from error
        rows = torch.cat([prepared.new_full((1, self.width), self.otherwise), prepared])
        return rows, (canonical.frame + 1) * inside
