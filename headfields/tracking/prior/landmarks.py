"""Landmarks of the canonical head: where they are, for whoever it is, and where they go in posed space."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape
from headfields.records import Record

__all__ = ["CHIN", "EYELIDS", "MOUTH", "TRACKED_LANDMARKS", "LandmarkDetector", "LandmarkPoints"]

CHIN = tuple(range(6, 11))
"""Numbers of the chin among the 68 of iBUG."""
EYELIDS = tuple(range(36, 48))
"""Numbers of the eyelids among the 68 of iBUG."""
MOUTH = tuple(range(48, 68))
"""Numbers of the mouth among the 68 of iBUG."""
TRACKED_LANDMARKS = (*CHIN, *range(17, 60))
"""What can be followed: not the sides of the face's contour, which slide over the skin as a head turns, and not the
inner lips (60 to 67). Upper and lower ones touch in canonical space, so that a backward deformation takes all of an
open mouth to about the same place, and its inverse says next to nothing of where they are. The latter is our own
choice."""

_ARRAYS, _OF_CODE = ("base", "mean", "by_anchors", "number"), ("code", "by_code")


@runtime_checkable
class LandmarkDetector(Protocol):
    """Anything that finds landmarks in an image can take the place of a capture's files."""

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "68 2"] | None:
        """The 68 landmarks (iBUG order) in pixels, x right, y down, NaN where one is not known; None if there are none.

        Args:
            image: (H, W, 3) sRGB, 8 bits.
        """
        ...


@dataclass(frozen=True)
class LandmarkPoints(Record):
    """Points of the canonical head, moved along with its anchors and its code of shape from person to person.

    x = base + (a - mean) · by_anchors + (z - code) · by_code, a being the anchors that the person's code z predicts.
    Anchors say where things are, the local parts of the code what is between them. `near` and `fitted` make such
    points. Our own choice; the published tracker takes 35 of the anchors themselves for landmarks.

    Attributes:
        base: (L, 3) where they are if the anchors are at `mean` and the code is `code`, meters.
        mean: (A, 3) meters.
        by_anchors: (3 A, 3 L).
        number: (L,) what number each has among those a detector gives.
        code: (W,), or None where the code does not move them.
        by_code: (W, 3 L), likewise.
    """

    base: Float[Tensor, "l 3"]
    mean: Float[Tensor, "a 3"]
    by_anchors: Float[Tensor, "from to"]
    number: Int64[Tensor, " l"]
    code: Float[Tensor, " w"] | None = None
    by_code: Float[Tensor, "w to"] | None = None

    def __post_init__(self) -> None:
        self._check(base=("L 3", self.base), mean=("A 3", self.mean), number=("L", self.number))
        expected = (3 * len(self.mean), 3 * len(self.base))
        if tuple(self.by_anchors.shape) != expected:
            raise ValueError(
                f"LandmarkPoints: by_anchors has shape {tuple(self.by_anchors.shape)}; expected {expected}"
            )
        if self.code is not None or self.by_code is not None:
            found = None if self.by_code is None else tuple(self.by_code.shape)
            wide = None if self.code is None else (*self.code.shape, 3 * len(self.base))
            if found is None or found != wide:
                raise ValueError(
                    f"LandmarkPoints: by_code has shape {found}; expected (W, 3 L), with a code of (W,): {wide}"
                )

    def __len__(self) -> int:
        return len(self.base)

    def __call__(
        self, anchors: Float[Tensor, "a 3"] | None = None, code: Float[Tensor, " w"] | None = None
    ) -> Float[Tensor, "l 3"]:
        """Where they are on the canonical head whose anchors and code are given, meters. Differentiable.

        Args:
            anchors: (A, 3) meters; `mean` if None.
            code: (W,) of shape; not looked at where the code does not move them, and `code` if None.
        """
        points = self.base
        if anchors is not None:
            points = points + ((anchors - self.mean).flatten() @ self.by_anchors).view(-1, 3)
        if code is not None and self.code is not None and self.by_code is not None:
            points = points + ((code - self.code) @ self.by_code).view(-1, 3)
        return points

    @classmethod
    def near(
        cls, points: Float[Tensor, "l 3"], anchors: Float[Tensor, "a 3"], number: Int64[Tensor, " l"] | None = None
    ) -> "LandmarkPoints":
        """Points of one head, each moving with the three nearest anchors, by the inverse square of the distance.

        Args:
            points: (L, 3) on the canonical head, meters.
            anchors: (A, 3) of the same head; A may be 0, and the points stay where they are.
            number: what numbers they have; 0 to L - 1 if None.
        """
        check_floating("LandmarkPoints.near", "points", points)
        check_shape("LandmarkPoints.near", "points", points, "L 3")
        check_shape("LandmarkPoints.near", "anchors", anchors, "A 3")
        share = points.new_zeros(len(anchors), len(points))
        if len(anchors):
            distance = torch.cdist(points, anchors)
            found = distance.topk(min(3, len(anchors)), largest=False)
            weight = 1 / found.values.clamp_min(1e-4).square()
            share.T.scatter_(1, found.indices, weight / weight.sum(dim=1, keepdim=True))
        by_anchors = torch.einsum("al,cd->acld", share, torch.eye(3).to(share)).flatten(2).flatten(0, 1)
        return cls(points, anchors, by_anchors, torch.arange(len(points)) if number is None else number)

    @classmethod
    def fitted(
        cls,
        points: Float[Tensor, "p l 3"],
        anchors: Float[Tensor, "p a 3"],
        number: Int64[Tensor, " l"] | None = None,
        ridge: float = 0.03,
        codes: Float[Tensor, "p w"] | None = None,
    ) -> "LandmarkPoints":
        """Points of P people, as a linear function of their anchors, and of their codes of shape, by ridge regression.

        Anchors all count in one unit, each number of the codes in its spread, and both as much as the other.

        Args:
            points: (P, L, 3) landmarks on their canonical heads, meters.
            anchors: (P, A, 3) what a prior predicts for the anchors of the same people.
            number: what numbers they have; 0 to L - 1 if None.
            ridge: what part of the mean square over the people is added in the space of the people.
            codes: (P, W) what a prior has for their shape; anchors alone if None.
        """
        check_shape("LandmarkPoints.fitted", "points", points, "P L 3")
        check_shape("LandmarkPoints.fitted", "anchors", anchors, f"{len(points)} A 3")
        base, mean = points.mean(dim=0), anchors.mean(dim=0)
        parts = [(anchors - mean).flatten(1).double()]
        units = [_unit(parts[0].square().mean().sqrt() * parts[0].shape[1] ** 0.5)]
        if codes is not None:
            check_shape("LandmarkPoints.fitted", "codes", codes, f"{len(points)} W")
            parts.append((codes - codes.mean(dim=0)).double())
            units.append(_unit(parts[1].square().mean(dim=0).sqrt() * parts[1].shape[1] ** 0.5))
        x = torch.cat([part / unit for part, unit in zip(parts, units, strict=True)], dim=1)
        y = (points - base).flatten(1).double()
        # in the space of the people, which are fewer than coordinates
        inner = x @ x.T
        strength = ridge * inner.diagonal().mean().clamp_min(1e-12)
        solved = torch.linalg.solve(inner + strength * torch.eye(len(x)).to(inner), y)
        maps = (x.T @ solved).split([part.shape[1] for part in parts])
        scaled = [(by / unit.reshape(-1, 1)).to(base) for by, unit in zip(maps, units, strict=True)]
        number = torch.arange(points.shape[1]) if number is None else number
        if codes is None:
            return cls(base, mean, scaled[0], number)
        return cls(base, mean, scaled[0], number, codes.mean(dim=0), scaled[1])

    def kept(self, numbers: tuple[int, ...] = TRACKED_LANDMARKS) -> "LandmarkPoints":
        """Those of them whose number is among `numbers`."""
        here = torch.isin(self.number, torch.tensor(numbers)).nonzero()[:, 0]

        def of(by: Tensor | None) -> Any:
            return None if by is None else by.unflatten(1, (len(self), 3))[:, here].flatten(1)

        return LandmarkPoints(
            self.base[here], self.mean, of(self.by_anchors), self.number[here], self.code, of(self.by_code)
        )  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Writes them as an npz, whose path is returned."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        held = {name: getattr(self, name) for name in (*_ARRAYS, *_OF_CODE)}
        arrays = {name: value.detach().cpu().numpy() for name, value in held.items() if value is not None}
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "LandmarkPoints":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is not such a file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"LandmarkPoints.load: {path} is not a file")
        try:
            with np.load(path, allow_pickle=False) as archive:
                names = (*_ARRAYS, *(_OF_CODE if "code" in archive else ()))
                found = {name: torch.from_numpy(archive[name]) for name in names}
        except (KeyError, ValueError, OSError, EOFError) as error:
            raise ValueError(f"LandmarkPoints.load: {path} holds no landmark points ({error})") from error
        return cls(**found)


@dataclass(frozen=True)
class PosedLandmarks:
    """Landmarks in posed space: `points` (L, 3), and which of them the inverse has found (L,)."""

    points: Float[Tensor, "l 3"]
    found: Bool[Tensor, " l"] = field(repr=False)


def _unit(size: Tensor) -> Tensor:
    """What numbers are divided by; 1 where they do not vary."""
    return torch.where(size > 1e-12, size, 1.0)
