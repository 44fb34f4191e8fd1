"""Hair, brows, teeth and a shirt for a rigged procedural body: what its tracked mesh does not have."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.heads.flame.files import flame_arrays
from headfields.heads.flame.model import FlameHead
from headfields.records import HeadState
from headfields.synthetic.head.model import procedural_head, procedural_head_arrays
from headfields.synthetic.scene.head_geometry import HeadGeometry

__all__ = ["Dress"]

_CLOTH = 0.006  # meters that a shirt stands off the skin
_CREASE = 0.004  # amplitude of its creases, meters


class Dress:
    """The parts of the synthetic head's scene beyond the head, carried by a rigged body, and the height of its shirt.

    Args:
        rig: a rig of the procedural body (`headfields.synthetic.body.person.procedural_rig`), whose first vertices are
            the head's.
        seed: seed of the hair.

    Attributes:
        faces: (G, 3) faces of the parts, indices into their vertices.
        kind: (G,) kinds as in `HeadGeometry`.
        rest: (W, 3) positions at rest; of hair, its color coordinates.
        open_sky: (W,) visible share of the surroundings.
        shirt: (V,) height of the shirt over the rig's vertices, meters; 0 on the head.

    Raises:
        ValueError: the rig is not of the procedural body.
    """

    def __init__(self, rig: RiggedTemplate, seed: int) -> None:
        head = procedural_head()
        count = len(head.template_vertices)
        faces = rig.faces[: len(head.faces)]
        if len(rig.template_vertices) <= count or not torch.equal(faces, head.faces) or "torso" not in rig.regions:
            raise ValueError(
                f"Dress: the rig has {len(rig.template_vertices)} vertices and other faces than the procedural body; "
                "pass a rig of headfields.synthetic.body.person.procedural_rig"
            )
        arrays = flame_arrays(procedural_head_arrays(), "Dress")
        own = FlameHead(replace(arrays, template=rig.template_vertices[:count].numpy()))
        self._scene, self._count = HeadGeometry(own, seed), count
        self._rig = rig
        first = len(own.faces)
        self.faces: Int[Tensor, "g 3"] = self._scene.faces[first:] - count
        self.kind: Int[Tensor, " g"] = self._scene.kind[first:]
        self.rest: Float[Tensor, "w 3"] = self._scene.rest[count:]
        self.open_sky: Float[Tensor, " w"] = self._scene.open_sky[count:]
        self.shirt: Float[Tensor, " v"] = self._height(seed)

    def posed(self, state: HeadState) -> tuple[Float[Tensor, "w 3"], Float[Tensor, "w 3"]]:
        """Vertices, and normals or tangents, in the frame of a state of the rig of one frame."""
        joints = state.need("Dress.posed", "joint_transforms")[0]
        return self._scene.beyond_head(
            state.vertices[0, : self._count], joints[self._rig.skull_joint], joints[self._rig.jaw_joint]
        )

    def _height(self, seed: int) -> Float[Tensor, " v"]:
        rest, regions = self._rig.template_vertices, self._rig.regions
        cloth = torch.zeros(len(rest))
        for name in ("torso", "left_arm", "right_arm"):
            cloth[self._rig.faces[regions[name]].unique()] = 1.0
        cloth[: self._count] = 0.0
        low = rest[cloth > 0, 1]
        collar = ((low.amax() - 0.04 - rest[:, 1]) / 0.006).clamp(0, 1) * cloth
        random = np.random.default_rng([seed, 22])
        waves = torch.from_numpy(random.normal(size=(5, 3)) * [40, 22, 40]).float()
        phase = torch.from_numpy(random.uniform(0, 2 * np.pi, 5)).float()
        return collar * (_CLOTH + _CREASE * torch.sin(rest @ waves.T + phase).mean(1))
