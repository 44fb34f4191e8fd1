"""Random people and random faces that they make, for heads of any kind."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.skinned import SkinnedHead

__all__ = ["HeadSampler"]

_JAW_NAMES = ("mouth_open", "jawOpen")
_JAW_ANGLE = 0.35  # radians of the jaw's joint at a fully open mouth: 20 degrees
_JAW, _EYES = 2, (3, 4)
_LEFT_OUT = re.compile("Dilate|^eyeLook|^mouthClose")  # not of the surface; drawn as gaze; only a part of another
_SIDE = re.compile(r"(_left|_right|_L|_R|Left|Right)$")
_UNNAMED_SHAPES, _UNNAMED_EXPRESSIONS = 60, 30


@dataclass(frozen=True)
class HeadSampler:
    """Draws identities and expressions of a parametric head.

    Named directions are drawn a few at a time, both sides together more often than not; the mouth is open in about half
    of the faces, since it is what a field has most to learn about. Directions without names are taken as principal
    components of deviation 1. All of it is our own choice.

    Attributes:
        head: a `FlameHead` or another skinned head, or a `BlendshapeHead`.
    """

    head: SkinnedHead | BlendshapeHead

    def identity(self, random: np.random.Generator) -> Float[Tensor, " i"]:
        """Coefficients (I,) of a person."""
        basis = self.head.identity_basis if isinstance(self.head, BlendshapeHead) else self.head.shape_basis
        used = (basis.abs().amax((1, 2)) > 0).numpy()
        if not getattr(self.head, "shape_names", ()):
            used[_UNNAMED_SHAPES:] = False
        drawn = np.clip(random.normal(size=len(basis)), -2, 2)
        return torch.from_numpy(np.where(used, drawn, 0.0)).float()

    def expression(self, random: np.random.Generator) -> Float[Tensor, " e"]:
        """Coefficients (E,) of a face that someone makes; the jaw of a skinned head follows them in `vertices`."""
        basis, names = self.head.expression_basis, tuple(getattr(self.head, "expression_names", ()))
        out = np.zeros(len(basis))
        if not names:
            count = min(_UNNAMED_EXPRESSIONS, len(basis))
            out[:count] = np.clip(random.normal(size=count), -2, 2) * random.uniform(0.3, 1.0)
            return torch.from_numpy(out).float()
        groups: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            if not _LEFT_OUT.search(name) and name not in _JAW_NAMES:
                groups.setdefault(_SIDE.sub("", name), []).append(index)
        chosen = random.permutation(len(groups))[: random.integers(1, 5)]
        for group in chosen:
            members = list(groups.values())[group]
            weight = random.uniform(0.25, 1.0)
            side = int(random.integers(len(members))) if random.uniform() < 0.3 else None
            for place, index in enumerate(members):
                out[index] = weight if side is None else weight * (place == side)
        opening = random.uniform(0.15, 1.0) * (random.uniform() < 0.55)
        gaze = random.uniform(-1, 1, 2) * random.choice((0.0, 0.8))
        for index, name in enumerate(names):
            if name in _JAW_NAMES:
                out[index] = opening
            elif name.startswith("eyeLook"):
                out[index] = _looks(name, *gaze)
        return torch.from_numpy(out).float()

    def gaze(self, random: np.random.Generator) -> Float[Tensor, " 2"]:
        """Angles (2,) of both eyes, up and to the left, radians; for heads whose eyes are joints."""
        return torch.from_numpy(random.uniform(-1, 1, 2) * (0.15, 0.35) * random.choice((0.0, 1.0))).float()

    def vertices(
        self, identity: Float[Tensor, "b i"], expression: Float[Tensor, "b e"], gaze: Float[Tensor, "b 2"]
    ) -> Float[Tensor, "b v 3"]:
        """The meshes (B, V, 3), meters, neck and head at rest.

        Args:
            identity, expression: (B, I), (B, E) coefficients.
            gaze: (B, 2) as `gaze` gives them.
        """
        if isinstance(self.head, BlendshapeHead):
            return self.head(identity=identity, expression=expression).vertices
        pose = identity.new_zeros(len(identity), len(self.head.parents), 3)
        names = tuple(getattr(self.head, "expression_names", ()))
        for name in _JAW_NAMES:
            if name in names:
                pose[:, _JAW, 0] = _JAW_ANGLE * expression[:, names.index(name)]
        if not names:  # components of expressions do not move a jaw that is a joint
            pose[:, _JAW, 0] = _JAW_ANGLE * expression[:, :1].abs().clamp(max=1)[:, 0]
        for eye in _EYES:
            if eye < pose.shape[1]:
                pose[:, eye, :2] = gaze
        return self.head(shape=identity, expression=expression, pose=pose).vertices


def _looks(name: str, up: float, left: float) -> float:
    """The weight of one of ARKit's eight directions of looking; `left` is the head's own."""
    outward = left if name.endswith("L") else -left
    amount = {"Up": up, "Down": -up, "Out": outward, "In": -outward}[re.sub(r"^eyeLook|_?[LR]$|Left$|Right$", "", name)]
    return max(amount, 0.0)
