"""Random identities and expressions of parametric heads."""

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
_EXCLUDED = re.compile("Dilate|^eyeLook|^mouthClose")  # no surface motion; sampled as gaze; a corrective of jawOpen
_SIDE = re.compile(r"(_left|_right|_L|_R|Left|Right)$")
_UNNAMED_SHAPES, _UNNAMED_EXPRESSIONS = 60, 30


@dataclass(frozen=True)
class HeadSampler:
    """Samples identities and expressions of a parametric head.

    Up to four named expressions are active at a time, usually on both sides; the mouth is open in about half of the
    samples, because fields have most to learn there. Unnamed directions are treated as principal components of unit
    standard deviation. Our own choice.

    Attributes:
        head: a `FlameHead`, another skinned head, or a `BlendshapeHead`.

    >>> import numpy as np, headfields as hf
    >>> sampler = hf.synthetic.scans.sampler.HeadSampler(hf.synthetic.procedural_head())
    >>> sampler.identity(np.random.default_rng(0)).shape, sampler.expression(np.random.default_rng(0)).shape
    (torch.Size([300]), torch.Size([100]))
    """

    head: SkinnedHead | BlendshapeHead

    def identity(self, random: np.random.Generator) -> Float[Tensor, " i"]:
        """Identity coefficients (I,) of a random person."""
        basis = self.head.identity_basis if isinstance(self.head, BlendshapeHead) else self.head.shape_basis
        used = (basis.abs().amax((1, 2)) > 0).numpy()
        if not getattr(self.head, "shape_names", ()):
            used[_UNNAMED_SHAPES:] = False
        coefficients = np.clip(random.normal(size=len(basis)), -2, 2)
        return torch.from_numpy(np.where(used, coefficients, 0.0)).float()

    def expression(self, random: np.random.Generator) -> Float[Tensor, " e"]:
        """Coefficients (E,) of a random expression; `vertices` derives a skinned head's jaw rotation from them."""
        basis, names = self.head.expression_basis, tuple(getattr(self.head, "expression_names", ()))
        out = np.zeros(len(basis))
        if not names:
            count = min(_UNNAMED_EXPRESSIONS, len(basis))
            out[:count] = np.clip(random.normal(size=count), -2, 2) * random.uniform(0.3, 1.0)
            return torch.from_numpy(out).float()
        groups: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            if not _EXCLUDED.search(name) and name not in _JAW_NAMES:
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
                out[index] = _gaze_weight(name, *gaze)
        return torch.from_numpy(out).float()

    def gaze(self, random: np.random.Generator) -> Float[Tensor, " 2"]:
        """Rotation (2,) of both eyes about x and y, radians, for heads whose eyes are joints."""
        return torch.from_numpy(random.uniform(-1, 1, 2) * (0.15, 0.35) * random.choice((0.0, 1.0))).float()

    def vertices(
        self, identity: Float[Tensor, "b i"], expression: Float[Tensor, "b e"], gaze: Float[Tensor, "b 2"]
    ) -> Float[Tensor, "b v 3"]:
        """Vertices (B, V, 3), meters, with neck and head at rest.

        Args:
            identity, expression: (B, I) and (B, E) coefficients.
            gaze: (B, 2) rotations from `gaze`.
        """
        if isinstance(self.head, BlendshapeHead):
            return self.head(identity=identity, expression=expression).vertices
        pose = identity.new_zeros(len(identity), len(self.head.parents), 3)
        names = tuple(getattr(self.head, "expression_names", ()))
        for name in _JAW_NAMES:
            if name in names:
                pose[:, _JAW, 0] = _JAW_ANGLE * expression[:, names.index(name)]
        if not names:  # principal components of expression do not move a jaw joint
            pose[:, _JAW, 0] = _JAW_ANGLE * expression[:, :1].abs().clamp(max=1)[:, 0]
        for eye in _EYES:
            if eye < pose.shape[1]:
                pose[:, eye, :2] = gaze
        return self.head(shape=identity, expression=expression, pose=pose).vertices


def _gaze_weight(name: str, up: float, left: float) -> float:
    """Weight of one of ARKit's eight eyeLook directions; `left` is the head's own."""
    outward = left if name.endswith("L") else -left
    amount = {"Up": up, "Down": -up, "Out": outward, "In": -outward}[re.sub(r"^eyeLook|_?[LR]$|Left$|Right$", "", name)]
    return max(amount, 0.0)
