"""Landmarks of the canonical head, as a linear function of anchors and geometry code."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from headfields.files.arrays import load_numbers, save_arrays
from headfields.files.checked import checked_arrays
from headfields.files.reading import reading
from headfields.files.versions import FileFormat
from headfields.ops._checks import check_floating, check_shape
from headfields.records import Record, check_meters

__all__ = ["EMPHASIZED", "TRACKED_LANDMARKS", "LandmarkDetector", "LandmarkPoints"]

EMPHASIZED = (8, 38, 41, 43, 46, *range(48, 51), *range(52, 57), 58, 59)
"""Indices of the landmarks that MonoNPHM's tracker emphasizes: the chin, four of the eyelids and ten of the outer lips.
"""
TRACKED_LANDMARKS = (*range(6, 11), *range(17, 60))
"""Indices, among the 68 landmarks of iBUG, of those that are tracked: 48, where the published tracker has 35, the sides
of the contour among them. Here the sides of the contour are left out, because they slide over the skin as
a head turns, and so are the inner lips (60 to 67): upper and lower lip touch in canonical space, so a backward
deformation maps an open mouth to about one point, and its inverse hardly constrains them. The latter is our own
choice."""

_FORMAT = FileFormat("headfields.landmark_points", "a file of landmark points", 1, "fit the points again")
_ARRAYS, _OF_CODE = ("base", "mean", "by_anchors", "number"), ("code", "by_code")


@runtime_checkable
class LandmarkDetector(Protocol):
    """A function that detects landmarks in an image, in place of a capture's landmark files."""

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "68 2"] | None:
        """The 68 landmarks (iBUG order) in pixels, x right, y down, NaN where unknown; None if there are none.

        Args:
            image: (H, W, 3) sRGB, 8 bits.
        """
        ...


@dataclass(frozen=True)
class LandmarkPoints(Record):
    """Points of the canonical head as a linear function of a person's anchors and geometry code.

    x = base + (a - mean) · by_anchors + (z - code) · by_code, with the anchors a predicted from the geometry code z.
    `near` and `fitted` make such points. Our own choice; the published tracker uses 35 of the anchors as landmarks.

    Attributes:
        base: (L, 3) the points for anchors at `mean` and the code `code`, meters.
        mean: (A, 3) anchors, meters.
        by_anchors: (3 A, 3 L).
        number: (L,) index of each among the detector's landmarks.
        code: (W,), or None if the points do not depend on the code.
        by_code: (W, 3 L), likewise.
    """

    base: Float[Tensor, "l 3"]
    mean: Float[Tensor, "a 3"]
    by_anchors: Float[Tensor, "from to"]
    number: Int64[Tensor, " l"]
    code: Float[Tensor, " w"] | None = None
    by_code: Float[Tensor, "w to"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = (3 * len(self.mean), 3 * len(self.base))
        if tuple(self.by_anchors.shape) != expected:
            raise ValueError(
                f"LandmarkPoints: by_anchors has shape {tuple(self.by_anchors.shape)}; expected {expected}"
            )
        if self.code is not None or self.by_code is not None:
            shape = None if self.by_code is None else tuple(self.by_code.shape)
            expected_shape = None if self.code is None else (*self.code.shape, 3 * len(self.base))
            if shape is None or shape != expected_shape:
                raise ValueError(
                    f"LandmarkPoints: by_code has shape {shape}; expected (W, 3 L), with a code of (W,): "
                    f"{expected_shape}"
                )

    def __len__(self) -> int:
        return len(self.base)

    def __call__(
        self, anchors: Float[Tensor, "a 3"] | None = None, code: Float[Tensor, " w"] | None = None
    ) -> Float[Tensor, "l 3"]:
        """The points on the canonical head with these anchors and this code, meters. Differentiable.

        Args:
            anchors: (A, 3) meters; `mean` if None.
            code: (W,) geometry code; `code` if None. Ignored if the points do not depend on it.

        >>> import torch
        >>> from headfields.apps.tracking.prior.landmarks import LandmarkPoints
        >>> landmarks = LandmarkPoints.near(torch.rand(68, 3), torch.rand(11, 3))
        >>> landmarks(torch.rand(11, 3)).shape, len(landmarks.kept())
        (torch.Size([68, 3]), 48)
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
        """Points of one head, each moving with its three nearest anchors, weighted by the inverse squared distance.

        Args:
            points: (L, 3) on the canonical head, meters.
            anchors: (A, 3) of the same head; with A = 0 the points are fixed.
            number: (L,) indices; 0 to L - 1 if None.
        """
        check_floating("LandmarkPoints.near", "points", points)
        check_shape("LandmarkPoints.near", "points", points, "L 3")
        check_shape("LandmarkPoints.near", "anchors", anchors, "A 3")
        share = points.new_zeros(len(anchors), len(points))
        if len(anchors):
            distance = torch.cdist(points, anchors)
            nearest = distance.topk(min(3, len(anchors)), largest=False)
            weight = 1 / nearest.values.clamp_min(1e-4).square()
            share.T.scatter_(1, nearest.indices, weight / weight.sum(dim=1, keepdim=True))
        by_anchors = rearrange(torch.einsum("al,cd->acld", share, torch.eye(3).to(share)), "a c l d -> (a c) (l d)")
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
        """A linear function of anchors and geometry codes, fitted to the points of P people by ridge regression.

        Anchors are scaled by their common standard deviation and codes by that of each number; both groups have the
        same total variance.

        Args:
            points: (P, L, 3) landmarks on canonical heads, meters.
            anchors: (P, A, 3) that a prior predicts for the same people.
            number: (L,) indices; 0 to L - 1 if None.
            ridge: strength of the regularization, as a fraction of the mean diagonal of the (P, P) Gram matrix.
            codes: (P, W) geometry codes; anchors only if None.
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
        # dual form: there are fewer people than coordinates
        gram = x @ x.T
        strength = ridge * gram.diagonal().mean().clamp_min(1e-12)
        solved = torch.linalg.solve(gram + strength * torch.eye(len(x)).to(gram), y)
        maps = (x.T @ solved).split([part.shape[1] for part in parts])
        scaled = [(by / unit.reshape(-1, 1)).to(base) for by, unit in zip(maps, units, strict=True)]
        number = torch.arange(points.shape[1]) if number is None else number
        if codes is None:
            return cls(base, mean, scaled[0], number)
        return cls(base, mean, scaled[0], number, codes.mean(dim=0), scaled[1])

    def kept(self, numbers: tuple[int, ...] = TRACKED_LANDMARKS) -> "LandmarkPoints":
        """The points whose index is among `numbers`."""
        rows = torch.isin(self.number, torch.tensor(numbers)).nonzero()[:, 0]

        def of(by: Tensor | None) -> Any:
            return None if by is None else by.unflatten(1, (len(self), 3))[:, rows].flatten(1)

        return LandmarkPoints(
            self.base[rows], self.mean, of(self.by_anchors), self.number[rows], self.code, of(self.by_code)
        )  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Writes the points to an npz file and returns its path."""
        values = {name: getattr(self, name) for name in (*_ARRAYS, *_OF_CODE)}
        arrays = {name: value.detach().cpu().numpy() for name, value in values.items() if value is not None}
        return save_arrays(path, arrays, _FORMAT)

    @classmethod
    def load(cls, path: str | Path) -> "LandmarkPoints":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file holds something else, a number is not finite, a landmark is there twice, or the points
                are not in meters.
        """
        with reading(path, "a file of landmark points"):
            raw = load_numbers(path, kind=_FORMAT)
            keys = {"base": "L 3", "mean": "A 3", "by_anchors": "M N", "number": "L"}
            keys |= {"code": "W", "by_code": "W N"} if "code" in raw or "by_code" in raw else {}
            arrays = checked_arrays(f"LandmarkPoints.load: {path}", raw, keys, ("number",))
            numbers = arrays["number"]
            if numbers.size and (numbers.min() < 0 or len(np.unique(numbers)) != len(numbers)):
                raise ValueError(f"number is {numbers.tolist()}; expected each landmark of the detector once")
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            check_meters("LandmarkPoints.load", "base", tensors["base"])
            return cls(**{name: tensor if name == "number" else tensor.float() for name, tensor in tensors.items()})


@dataclass(frozen=True)
class PosedLandmarks:
    """Landmarks in posed space: `points` (L, 3), and for which of them the inverse deformation converged (L,)."""

    points: Float[Tensor, "l 3"]
    converged: Bool[Tensor, " l"] = field(repr=False)


def _unit(size: Tensor) -> Tensor:
    """The divisor for numbers of standard deviation `size`; 1 where they do not vary."""
    return torch.where(size > 1e-12, size, 1.0)
