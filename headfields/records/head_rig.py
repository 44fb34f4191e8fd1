"""How the mesh of a head follows its parameters: what can pose it without the model or the capture it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from headfields.records.base import Record

__all__ = ["HeadRig"]


@dataclass(frozen=True)
class HeadRig(Record):
    """A mesh whose vertices follow the parameters of a `HeadState`: expression, codes, rotations of joints.

    A vertex at rest is neutral + Σ expression · shapes + Σ codes · shapes + Σ (R_j − I) · correctives, with R_j the
    rotations of `pose_joints`. With `weights` it is then carried by the joints (linear blend skinning).

    Attributes:
        neutral: (V, 3) meters.
        expression: (E, V, 3) displacement of each expression value at 1, meters.
        codes: (C, V, 3) of each value of a code, by the code's name.
        correctives: (9 K, V, 3) of the entries of R_j − I, row by row, of the joints `pose_joints`.
        weights: (V, J) skinning weights; None: no joint carries the mesh.
        joints: (J, 3) positions at rest, meters; given with weights.
        joint_shapes: (E, J, 3) how they move with the expression.
        mean_pose: (J, 3) axis-angle that is added to a state's pose, radians.
        expression_names: E names, or ().
        code_names: names of the values of a code, by the code's name; a code may be left out.
        joint_names: names of the joints of a state's pose, or ().
        pose_joints: K indices of joints.
        parents: J indices, -1 for a root.
        error: root mean square distance from the meshes that it was fitted to, meters; 0: it is the model itself.

    Raises:
        ValueError: the numbers of shapes, names or joints do not fit.
    """

    neutral: Float[Tensor, "v 3"]
    expression: Float[Tensor, "e v 3"]
    codes: Mapping[str, Float[Tensor, "_ v 3"]] = field(default_factory=dict)
    correctives: Float[Tensor, "p v 3"] | None = None
    weights: Float[Tensor, "v j"] | None = None
    joints: Float[Tensor, "j 3"] | None = None
    joint_shapes: Float[Tensor, "e j 3"] | None = None
    mean_pose: Float[Tensor, "j 3"] | None = None
    expression_names: tuple[str, ...] = ()
    code_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    joint_names: tuple[str, ...] = ()
    pose_joints: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    error: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        correctives = 0 if self.correctives is None else len(self.correctives)
        if correctives != 9 * len(self.pose_joints):
            raise ValueError(
                f"HeadRig: correctives has {correctives} rows for {len(self.pose_joints)} pose_joints; expected nine "
                "for each"
            )
        if self.expression_names and len(self.expression_names) != len(self.expression):
            raise ValueError(
                f"HeadRig: {len(self.expression_names)} expression_names for {len(self.expression)} shapes; expected "
                "one each, or none"
            )
        if (self.weights is None) != (self.joints is None) or (
            self.weights is not None and len(self.parents) != self.weights.shape[1]
        ):
            raise ValueError("HeadRig: weights, joints and parents belong together, one column and entry a joint")
