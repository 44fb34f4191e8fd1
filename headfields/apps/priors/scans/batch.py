"""Training data of a prior: sets of scans, and batches of points sampled from them."""

import abc
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_integer, check_shape
from headfields.records import Record

__all__ = ["PointCounts", "ScanBatch", "ScanSet"]


@dataclass(frozen=True)
class PointCounts:
    """Number of points of each kind that a step samples from each scan, and their spread.

    The defaults are those of MonoNPHM's released code (Giebenhain et al. 2024), with lengths divided by 4: one meter is
    four of its units.

    Attributes:
        face: points on the part of the head that expressions move.
        static: points on the rest of the front: hairline, ears, the front of the neck.
        back: points on the back of the head.
        near: off the surface, normally distributed with standard deviation `sigma` along each axis.
        far: uniform in a ball around the center of the head.
        correspondences: pairs of a point on a scan and the same point on the person's neutral scan.
        sigma: meters; 0.05 in the paper's unit.
        radius: radius of the ball, meters; 1 in the paper's unit.
        detail: share of the face and static points that registered meshes sample uniformly over triangles instead of
            area, because meshes are finer at eyes, lips and ears. Our own choice; 0 in the paper.
        features: share of the face points and correspondences that registered meshes with landmarks sample near those
            of eyes and mouth. Our own choice; 0 in the paper.
        lids: share of the correspondences on the face that registered meshes with landmarks draw on lid skin, by area
            times motion (see `MeshScans`). Lids are about a hundredth of the face's area and rarely move: drawn by area
            they are 0.2 % of the squared motion, and a deformation learns to leave them out. Our own choice; 0 in the
            paper.

    >>> from headfields.apps.priors.scans.batch import PointCounts
    >>> PointCounts().scaled(0.25).face
    188
    """

    face: int = 750
    static: int = 250
    back: int = 250
    near: int = 250
    far: int = 125
    correspondences: int = 250
    sigma: float | int = 0.0125
    radius: float | int = 0.25
    detail: float | int = 0.0
    features: float | int = 0.0
    lids: float | int = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value >= 0:
                raise ValueError(f"PointCounts: {item.name} is {value}; expected at least 0")
        if self.detail + self.features > 1 or self.lids > 1:
            raise ValueError(
                f"PointCounts: detail is {self.detail}, features {self.features} and lids {self.lids}; expected "
                "shares: detail and features with a sum of at most 1, lids of at most 1"
            )

    def scaled(self, factor: float | int) -> "PointCounts":
        """All counts multiplied by `factor`; a count above 0 stays at least 1."""
        names = ("face", "static", "back", "near", "far", "correspondences")
        counts = {name: max(round(factor * getattr(self, name)), min(getattr(self, name), 1)) for name in names}
        return replace(self, **counts)


@dataclass(frozen=True)
class ScanBatch(Record):
    """Points of B scans: meters, sRGB in [0, 1], y up, face toward +z, head pose removed.

    Attributes:
        scan, person: (B,) indices of the scan and of its person.
        neutral: (B,) whether it is the person's neutral scan.
        front_points, front_normals, front_rgb: (B, N, 3) on the front of the head: the face, then the static part.
        back_points, back_normals, back_rgb: (B, K, 3) on the back of the head.
        near_points, near_rgb: (B, M, 3) off the surface, and the color of the nearest surface point.
        near_distance: (B, M) signed distance to the surface where `near_known`; 0 elsewhere.
        near_known: (B, M) whether the distance is known. Scans are open surfaces: it is unknown where the nearest
            face is at a rim or is not visible from outside.
        far_points: (B, L, 3) uniform in a ball.
        posed_points, neutral_points: (B, C, 3) corresponding points on the scan and on the person's neutral scan.
        corresponds: (B,) whether the scan has correspondences; the points are 0 if not.
        anchors: (B, A, 3) anchors on the neutral scan; A = 0 for a set without anchors.
        anchored: (B,) whether the scan's person has anchors.
        trusted_back: (B,) whether the back of the head (the hair) agrees with the canonical shape. Elsewhere its
            normals and the colors off the surface do not count, as in MonoNPHM's released code.
    """

    scan: Int[Tensor, " b"]
    person: Int[Tensor, " b"]
    neutral: Bool[Tensor, " b"]
    front_points: Float[Tensor, "b n 3"]
    front_normals: Float[Tensor, "b n 3"]
    front_rgb: Float[Tensor, "b n 3"]
    back_points: Float[Tensor, "b k 3"]
    back_normals: Float[Tensor, "b k 3"]
    back_rgb: Float[Tensor, "b k 3"]
    near_points: Float[Tensor, "b m 3"]
    near_rgb: Float[Tensor, "b m 3"]
    near_distance: Float[Tensor, "b m"]
    near_known: Bool[Tensor, "b m"]
    far_points: Float[Tensor, "b l 3"]
    posed_points: Float[Tensor, "b c 3"]
    neutral_points: Float[Tensor, "b c 3"]
    corresponds: Bool[Tensor, " b"]
    anchors: Float[Tensor, "b a 3"]
    anchored: Bool[Tensor, " b"]
    trusted_back: Bool[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.scan)


class ScanSet(abc.ABC):
    """S scans of P people, each with a neutral scan, from which points are sampled.

    Attributes:
        people: P names.
        scans: S names, `person/expression`.
        person: (S,) index of each scan's person.
        neutral: (P,) index of each person's neutral scan.
        anchors: (P, A, 3) anchors on the neutral scans, meters; A = 0 without anchors.
        anchored: (P,) whether a person's anchors are known.
        center: (3,) center of the ball of far points, meters.
    """

    people: tuple[str, ...]
    scans: tuple[str, ...]
    person: Int[Tensor, " s"]
    neutral: Int[Tensor, " p"]
    anchors: Float[Tensor, "p a 3"]
    anchored: Bool[Tensor, " p"]
    center: Float[Tensor, "3"]

    def __len__(self) -> int:
        return len(self.scans)

    @abc.abstractmethod
    def sample(self, scans: Int[Tensor, " b"], counts: PointCounts, seed: int) -> ScanBatch:
        """Samples points of B scans; deterministic in its arguments.

        Args:
            scans: (B,) scan indices; a repeated scan gets different points each time.
            counts: number of points of each kind.
            seed: seed of the points.

        Raises:
            TypeError: `scans` is not an integer tensor.
            IndexError: a scan index is out of range.
        """

    def draw(self, step: int, batch: int, seed: int, extra_neutral: float | int = 0.1) -> Int[Tensor, " b"]:
        """Scan indices (B,) of a step: each scan once per epoch in random order, some replaced by neutral ones.

        Depends on its arguments alone, so a resumed run draws the same scans as an uninterrupted one.

        Args:
            step: index of the step, from 0.
            batch: number of scans.
            seed: seed of the order.
            extra_neutral: probability that a scan is replaced by its person's neutral scan.
        """
        count = len(self)
        position = torch.arange(step * batch, (step + 1) * batch)
        scans = torch.empty(batch, dtype=torch.long)
        for epoch in (position // count).unique().tolist():
            order = torch.randperm(count, generator=generator(seed, 1, epoch))
            in_epoch = position // count == epoch
            scans[in_epoch] = order[position[in_epoch] % count]
        replaced = torch.rand(batch, generator=generator(seed, 2, step)) < extra_neutral
        return torch.where(replaced, self.neutral[self.person[scans]], scans)

    def _check_scans(self, scans: Tensor) -> None:
        name = f"{type(self).__name__}.sample"
        check_integer(name, "scans", scans)
        check_shape(name, "scans", scans, "B")
        if len(scans) and not 0 <= int(scans.min()) <= int(scans.max()) < len(self):
            raise IndexError(
                f"{name}: scans holds {int(scans.min())} to {int(scans.max())}; the set has scans 0 to {len(self) - 1}"
            )


def generator(*numbers: int) -> torch.Generator:
    """A random generator seeded with a hash of the numbers."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
    return torch.Generator().manual_seed(state >> 1)


def ball(batch: int, count: int, radius: float | int, random: torch.Generator) -> Float[Tensor, "b n 3"]:
    """Points (B, N, 3), uniform in a ball about the origin."""
    direction = torch.nn.functional.normalize(torch.randn(batch, count, 3, generator=random), dim=-1)
    return direction * (radius * torch.rand(batch, count, 1, generator=random) ** (1 / 3))
