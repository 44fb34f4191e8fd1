"""The state of a head in a number of frames, and the template that all of them share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from headfields.records.annotated import is_readable
from headfields.records.base import Record

_LARGEST = 10.0
"""Meters that a head with its shoulders, or a whole body, stays below."""


@dataclass(frozen=True)
class HeadState(Record):
    """B frames of one head: the posed mesh and the parameters that drive it.

    >>> import torch
    >>> state = HeadState(torch.zeros(2, 5, 3), expression=torch.zeros(2, 10))
    >>> len(state), state[1].expression.shape
    (2, torch.Size([1, 10]))

    Attributes:
        vertices: (B, V, 3) posed vertices, meters, head frame of the capture.
        expression: (B, E) expression coefficients.
        pose: (B, J, 3) axis-angle joint rotations, radians.
        joint_transforms: (B, J, 4, 4) rest-to-posed transforms of the joints.
        codes: named latents, each (B, C).
        frame_id: (B,) the index of each frame in its capture, for latent tables; heads and retargeting leave it out.
        identity, sequence: (B,) the number of each frame's person and recording, for latent tables over several.
    """

    vertices: Float[Tensor, "b v 3"]
    expression: Float[Tensor, "b e"] | None = None
    pose: Float[Tensor, "b j 3"] | None = None
    joint_transforms: Float[Tensor, "b j 4 4"] | None = None
    codes: Mapping[str, Float[Tensor, "b _"]] = field(default_factory=dict)
    frame_id: Int64[Tensor, " b"] | None = None
    identity: Int64[Tensor, " b"] | None = None
    sequence: Int64[Tensor, " b"] | None = None

    def __len__(self) -> int:
        return self.vertices.shape[0]

    def need(self, part: str, name: str, width: int | None = None) -> Tensor:
        """The field (or code) called `name`.

        Args:
            part: the name of the part that needs it, for the message.
            name: of the field, or the code.
            width: of the code, for the message, if the part knows it.

        Raises:
            ValueError: the state lacks it; the message names the part that needs it and the source of the field.
        """
        own = [f.name for f in fields(self) if f.name != "codes"]
        value = self.codes[name] if name in self.codes else getattr(self, name) if name in own else None
        if value is None:
            have = [field for field in own if getattr(self, field) is not None]
            source = (
                "A head model (headfields.heads) or a capture (headfields.data.load_capture) fills expression, pose "
                "and joint_transforms; a capture fills frame_id"
                if name in own
                else f"It is a code: a table fills it, headfields.Avatar(..., codes={{{name!r}: "
                f"headfields.networks.LatentTable(len(capture), {width or 'width'})}}), or the state carries it, "
                f"state.replace(codes={{{name!r}: ...}}), (B, {width or 'width'})"
            )
            raise ValueError(f"{part} needs {name!r} of the HeadState, which has {have + sorted(self.codes)}. {source}")
        return value


@dataclass(frozen=True)
class Template(Record):
    """The mesh that an avatar is built on.

    Attributes:
        canonical_vertices: (V, 3) canonical positions, meters, y up, face toward +z.
        faces: (F, 3) int64 vertex indices, counter-clockwise from outside, the mouth cavity closed.
        regions: named (F,) boolean face masks; presets use `"mouth"`, `"eyes"` and `"face"` if they are there.
        uv, uv_faces: (T, 2) texture coordinates, v up, and (F, 3) indices into them.
        face_count: number of `faces` that belong to the tracked mesh; the rest close the mouth.
        expression_width: number of expression values that the states of its head or capture have, 0 for none; None: not
            known. Presets take their width from it.
    """

    canonical_vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    regions: Mapping[str, Bool[Tensor, " f"]] = field(default_factory=dict)
    uv: Float[Tensor, "t 2"] | None = None
    uv_faces: Int[Tensor, "f 3"] | None = None
    face_count: int | None = None
    expression_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_readable(self.canonical_vertices, self.faces):
            check_meters("Template", "canonical_vertices", self.canonical_vertices)
            _check_indices("Template", "faces", self.faces, "canonical_vertices", len(self.canonical_vertices))
            if self.uv is not None and self.uv_faces is not None:
                _check_indices("Template", "uv_faces", self.uv_faces, "uv", len(self.uv))


def check_meters(owner: str, name: str, vertices: Float[Tensor, "*n 3"]) -> None:
    """Refuses vertices of a head that are not finite or extend over 10 m: a file in millimeters or centimeters.

    Reads all values: for construction and loading, not for a step.

    Args:
        owner: class or function, for the message.
        name: argument.
        vertices: (..., 3), meters.

    Raises:
        ValueError: with the remedy.
    """
    points = vertices.detach().reshape(-1, 3)
    if not len(points):
        return
    extent = float((points.amax(0) - points.amin(0)).amax())
    if not math.isfinite(extent):
        bad = int((~points.isfinite().all(-1)).sum())
        raise ValueError(
            f"{owner}: {name} holds {bad} of {len(points)} vertices that are not finite (NaN or infinity); mend or "
            "remove them"
        )
    if extent > _LARGEST:
        unit, factor = ("millimeters", 0.001) if extent > 50 else ("centimeters", 0.01)
        raise ValueError(
            f"{owner}: {name} extends over {extent:.3g} m; it looks like {unit}: multiply by {factor} to get meters"
        )


def _check_indices(owner: str, name: str, indices: Tensor, into: str, count: int) -> None:
    if indices.numel():
        least, most = (int(value) for value in indices.aminmax())
        if least < 0 or most >= count:
            raise ValueError(
                f"{owner}: {name} holds indices from {least} to {most}, but {into} has {count} rows; they start at 0"
            )
