"""What a field is asked at, and what it answers: canonical points, ray samples, features, values."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.records.base import Record


@dataclass(frozen=True)
class Canonical(Record):
    """M points in canonical space, as a deformer gives them.

    Attributes:
        points: (M, 3) canonical positions, meters.
        directions: (M, 3) unit viewing directions in canonical space.
        posed_points: (M, 3) the posed positions that they are the images of, meters.
        frame: (M,) row of the state of each point.
        valid: (M,) False where the deformer is undefined; such points are empty space.
        face: (M,) nearest triangle, -1 where the deformer has none.
        barycentric: (M, 3) barycentric coordinates on it.
        distance: (M,) distance to it in posed space, meters.
        ambient: (M, A) hyper-coordinates; A = 0 for most deformers.
    """

    points: Float[Tensor, "m 3"]
    directions: Float[Tensor, "m 3"]
    posed_points: Float[Tensor, "m 3"]
    frame: Int[Tensor, " m"]
    valid: Bool[Tensor, " m"]
    face: Int[Tensor, " m"] | None = None
    barycentric: Float[Tensor, "m 3"] | None = None
    distance: Float[Tensor, " m"] | None = None
    ambient: Float[Tensor, "m a"] | None = None

    def __len__(self) -> int:
        return self.points.shape[0]


@dataclass(frozen=True)
class Correction(Record):
    """A learned correction within a deformer at M points, for losses that keep it small or stiff.

    Attributes:
        before: (M, 3) the points before the correction, meters.
        after: (M, 3) the points after it.
        jacobian: (M, 3, 3) derivative of `after` by `before`, if requested.
    """

    before: Float[Tensor, "m 3"]
    after: Float[Tensor, "m 3"]
    jacobian: Float[Tensor, "m 3 3"] | None = None


@dataclass(frozen=True)
class Inverse(Record):
    """Posed positions of N canonical points, from `headfields.deformers.invert`.

    Attributes:
        points: (N, 3) in posed space, meters. Points whose search did not converge hold its best
            iterate, without a gradient.
        converged: (N,) whether the deformer maps them to the canonical points within the tolerance.
        residual: (N,) distance between the canonical points and where the deformer maps `points`, meters.
    """

    points: Float[Tensor, "n 3"]
    converged: Bool[Tensor, " n"]
    residual: Float[Tensor, " n"]


@dataclass(frozen=True)
class Samples(Record):
    """M packed samples along N rays, sorted by ray and then by distance; M = 0 is legal.

    Attributes:
        ray: (M,) index of each sample's ray.
        start, end: (M,) begin and end of its interval along the unit direction, meters.
    """

    ray: Int[Tensor, " m"]
    start: Float[Tensor, " m"]
    end: Float[Tensor, " m"]

    def __len__(self) -> int:
        return self.ray.shape[0]

    @classmethod
    def _joined(cls, verb: str, records: "list[Samples]") -> "Samples":
        if verb == "collate":
            raise TypeError(
                "Samples.collate: ray counts the rays of its own item, and how many those are is not known here; add "
                "the rays of the items before to it, and join with Samples.cat"
            )
        return super()._joined(verb, records)

    @property
    def middle(self) -> Float[Tensor, " m"]:
        """Distance of each interval's midpoint."""
        return 0.5 * (self.start + self.end)


@dataclass(frozen=True)
class Features(Record):
    """Features of M points: a row per point, and rows that many points share.

    Values that depend on the frame alone are few rows; a network computes their part of its first layer once per row
    (`headfields.ops.mlp`) rather than once per point. Decoders without use for that call `joined`.

        >>> import torch
        >>> features = Features(torch.zeros(5, 32), shared=torch.ones(2, 16), index=torch.tensor([0, 1, 1, 0, 0]))
        >>> features.width, features.joined().shape
        (48, torch.Size([5, 48]))

    Attributes:
        own: (M, W) features of each point.
        shared: (K, S) rows that points share; None: there are none.
        index: (M,) which row of `shared` each point has; given with it.
    """

    own: Float[Tensor, "m w"]
    shared: Float[Tensor, "k s"] | None = None
    index: Int[Tensor, " m"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.shared is None) != (self.index is None):
            raise ValueError("Features: shared and index belong together; pass both or neither")

    def __len__(self) -> int:
        return self.own.shape[0]

    def __getitem__(self, index: Any) -> "Features":
        return Features(self.own[index], self.shared, None if self.index is None else self.index[index])

    @classmethod
    def _joined(cls, verb: str, records: "list[Features]") -> "Features":
        rows = [each.shared for each in records if each.shared is not None]
        if verb != "stack" and len(rows) == len(records):
            starts = torch.tensor([0, *(len(each) for each in rows)]).cumsum(0).tolist()
            index = [each.index + start for each, start in zip(records, starts, strict=False) if each.index is not None]
            own = super()._joined("cat", [Features(each.own) for each in records]).own
            return Features(own, super()._joined("cat", [Features(each) for each in rows]).own, torch.cat(index))
        return super()._joined(verb, records)

    @property
    def width(self) -> int:
        """W + S, the number of features of a point."""
        return self.own.shape[1] + (0 if self.shared is None else self.shared.shape[1])

    def joined(self) -> Float[Tensor, "m ws"]:
        """(M, W + S): the features of each point, its shared row last."""
        if self.shared is None:
            return self.own
        return torch.cat([self.own, self.shared[self.index]], dim=-1)


@dataclass(frozen=True)
class FieldValues(Record):
    """Output of a decoder at M points: a density or a signed distance, and color.

    Attributes:
        rgb: (M, 3) sRGB in [0, 1].
        density: (M,) in 1/m.
        distance: (M,) signed distance to the surface, meters, negative inside.
        gradient: (M, 3) derivative of the distance by the posed point, dimensionless; of length 1 in a true distance.
        normal: (M, 3) the gradient, normalized: unit normals in posed space.
        canonical_normal: (M, 3) the normalized derivative of the distance by the canonical point.
        geometry: (M, G) input of `Decoder.color`, of a decoder that can compute the color later.
    """

    rgb: Float[Tensor, "m 3"] | None = None
    density: Float[Tensor, " m"] | None = None
    distance: Float[Tensor, " m"] | None = None
    gradient: Float[Tensor, "m 3"] | None = None
    normal: Float[Tensor, "m 3"] | None = None
    canonical_normal: Float[Tensor, "m 3"] | None = None
    geometry: Float[Tensor, "m g"] | None = None
