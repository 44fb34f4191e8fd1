"""A head driven by the motion of a face: ARKit's weights by name, or by a mapping, and turns of head, eyes and jaw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headfields.apps.export.arkit import check_arkit_names
from headfields.apps.faces.arkit import ARKIT_NAMES, arkit_columns
from headfields.apps.faces.motion import FaceMotion
from headfields.apps.viewer.articulation import Articulation
from headfields.data.frame_indices import Frames, frame_indices
from headfields.heads.shape_mapping import part_of_recipe
from headfields.records import HeadState

__all__ = ["DrivenFace", "FaceDriver"]

_JOINTS = ("neck", "jaw", "left_eye", "right_eye")
_TURNS_EYES = 0.1
"""Radians by which a mapping's look turns an eye at least; a source without eyeballs moves lids alone."""
_LOOKS = torch.tensor([name.startswith("eyeLook") for name in ARKIT_NAMES])


class FaceDriver:
    """Turns frames of a face into states of a head.

    The weights move the head's shapes of the same names, however they are written (`eyeBlink_L`), or what the mapping
    says. The turn of the head is its neck's. The jaw's is added to what the shapes do. An eye is turned by its turn,
    unless the head has shapes for its looks and the frame has weights for them: the two say the same.

    Args:
        articulation: what moves the head (`headfields.apps.viewer.subjects.capture_articulation`, `HeadArticulation`).
        rest: one frame of the head with a neutral face.
        mapping: by names of ARKit's, weights of the head's shapes and turns of its joints, as `headfields arkit` writes
            it (`headfields.apps.export.arkit.read_mapping`); names that it lacks go by name.

    Attributes:
        missing: the names of ARKit's that move nothing.

    Raises:
        ValueError: the head has none of ARKit's shapes and there is no mapping; or the mapping names a shape or joint
            that the head lacks.
    """

    def __init__(
        self, articulation: Articulation, rest: HeadState, mapping: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.articulation, self.rest = articulation, rest[0]
        names = articulation.shapes
        self._shapes = torch.zeros(len(ARKIT_NAMES), len(names))
        self._turns = torch.zeros(len(ARKIT_NAMES), len(_JOINTS), 3)
        check_arkit_names(mapping or {}, "FaceDriver: mapping")
        by_name = arkit_columns(names)
        for row, name in enumerate(ARKIT_NAMES):
            recipe = None if mapping is None else mapping.get(name)
            if recipe is None:
                self._shapes[row, list(by_name.get(name, ()))] = 1.0
                continue
            for part, value in recipe.items():
                kind, at, number = part_of_recipe(name, part, value, names, _JOINTS, "FaceDriver: mapping")
                (self._turns if kind == "joint" else self._shapes)[row, at] = number
        acts = self._shapes.any(1) | self._turns.flatten(1).any(1)
        self.missing = tuple(name for name, moves in zip(ARKIT_NAMES, acts.tolist(), strict=True) if not moves)
        turning = self._turns[:, 2:].flatten(1).norm(dim=1) > _TURNS_EYES
        named = torch.tensor([name in by_name and name not in (mapping or ()) for name in ARKIT_NAMES])
        self._sees = bool((_LOOKS & (turning | named)).any())
        if not bool(acts.any()):
            have = f"its {len(names)} are {', '.join(names[:3])}, ..." if names else "it has no shapes"
            raise ValueError(
                f"FaceDriver: the head has none of ARKit's 52 shapes by name ({have}); headfields arkit HEAD --out "
                "mapping.json makes a mapping from a head that has them, for --arkit"
            )

    @torch.no_grad()
    def state(self, face: FaceMotion) -> HeadState:
        """The head's states of T frames of a face, T at least 1."""
        return HeadState.cat([self._state(face[frame]) for frame in range(len(face))])

    def _state(self, face: FaceMotion) -> HeadState:
        weights = face.shapes[0]
        turns = torch.einsum("s,sjc->jc", weights, self._turns)
        turns = turns + torch.stack([face.head[0], face.jaw[0], torch.zeros(3), torch.zeros(3)])
        if not (self._sees and bool(weights[_LOOKS].any())):
            turns[2:] += face.eyes[0]
        joints: dict[str, Tensor] = dict(zip(_JOINTS, turns, strict=True))
        return self.articulation.move(self.rest, weights @ self._shapes, joints)


@dataclass(frozen=True)
class DrivenFace:
    """The motion of a face on a head: states by frame, as those of a capture.

    Attributes:
        driver: what moves the head.
        motion: T frames.
    """

    driver: FaceDriver
    motion: FaceMotion

    def __len__(self) -> int:
        return len(self.motion)

    @property
    def name(self) -> str:
        """The motion's."""
        return self.motion.name

    @property
    def splits(self) -> dict[str, list[int]]:
        """All frames, as "all"."""
        return {"all": list(range(len(self)))}

    def state(self, frames: Frames) -> HeadState:
        """The states of frames, one at least."""
        return self.driver.state(self.motion[torch.tensor(frame_indices(frames, len(self), "DrivenFace"))])
