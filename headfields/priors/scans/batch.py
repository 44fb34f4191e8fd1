"""What a prior is trained on: points of scans of many people, drawn anew for each step."""

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
    """How many points of each kind a step takes from each scan, and how far they are spread.

    The defaults are those of MonoNPHM's released code (Giebenhain et al. 2024), its lengths divided by 4: it works in
    four times meters.

    Attributes:
        face: on the part of the head that expressions move.
        static: on what else is in front: hairline, ears, the front of the neck.
        back: on the back of the head.
        near: off the surface, by a normal distribution of deviation `sigma` along each axis.
        far: uniform in a ball about the middle of the head.
        correspondences: pairs of a point of a scan and where it is on the same person's neutral one.
        sigma: meters; 0.05 in the paper's unit.
        radius: of the ball, meters; 1 in the paper's unit.
        detail: the share of points on the face and the rest of the front that registered meshes give evenly over their
            triangles instead of their area: meshes are finer where there is more to see (eyes, lips, ears). The
            paper has none of it.
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

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value >= 0:
                raise ValueError(f"PointCounts: {item.name} is {value}; expected 0 or more")
        if self.detail > 1:
            raise ValueError(f"PointCounts: detail is {self.detail}; expected a share, in [0, 1]")

    def scaled(self, factor: float | int) -> "PointCounts":
        """The same shares with `factor` times as many points, at least one where there were some."""
        names = ("face", "static", "back", "near", "far", "correspondences")
        counts = {name: max(round(factor * getattr(self, name)), min(getattr(self, name), 1)) for name in names}
        return replace(self, **counts)


@dataclass(frozen=True)
class ScanBatch(Record):
    """Points of B scans: meters, sRGB in [0, 1], y up, face toward +z, the head's own pose taken out.

    Attributes:
        scan, person: (B,) which scan of the set, and whose.
        neutral: (B,) whether it is that person's neutral one.
        front_points, front_normals, front_rgb: (B, N, 3) on the front of the head, first of the face, then of the rest.
        back_points, back_normals, back_rgb: (B, K, 3) on the back of the head.
        near_points, near_rgb: (B, M, 3) off the surface, and the color of the nearest point on it.
        near_distance: (B, M) signed distance to the surface, where `near_known`; 0 elsewhere.
        near_known: (B, M) whether the set knows the distance: scans are open, and points have none where the nearest
            piece of surface is a rim or was never seen from outside.
        far_points: (B, L, 3) anywhere in a ball.
        posed_points, neutral_points: (B, C, 3) the same points of a head in the scan and in its neutral one.
        corresponds: (B,) whether a scan has such pairs; 0 elsewhere.
        anchors: (B, A, 3) where the anchors are on the neutral scan; A = 0 for a set without.
        anchored: (B,) whether a scan's person has them.
        trusted_back: (B,) whether the back of the head (the hair) is that of the canonical shape.
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

    def __post_init__(self) -> None:
        shapes = {
            "scan": "B", "person": "B", "neutral": "B", "front_points": "B N 3", "front_normals": "B N 3",
            "front_rgb": "B N 3", "back_points": "B K 3", "back_normals": "B K 3", "back_rgb": "B K 3",
            "near_points": "B M 3", "near_rgb": "B M 3", "near_distance": "B M", "near_known": "B M",
            "far_points": "B L 3", "posed_points": "B C 3", "neutral_points": "B C 3", "corresponds": "B",
            "anchors": "B A 3", "anchored": "B", "trusted_back": "B",
        }  # fmt: skip
        self._check(**{name: (shape, getattr(self, name)) for name, shape in shapes.items()})

    def __len__(self) -> int:
        return len(self.scan)


class ScanSet(abc.ABC):
    """S scans of P people, each person with a neutral one, to draw points from.

    Attributes:
        people: P names.
        scans: S names, `person/expression`.
        person: (S,) whose each scan is.
        neutral: (P,) each person's neutral scan.
        anchors: (P, A, 3) where anchors are on the neutral scans, meters; A = 0 without.
        anchored: (P,) whose anchors are known.
        center: (3,) of the ball of far points, meters.
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
        """Points of B scans; the same arguments give the same points.

        Args:
            scans: (B,) which; a scan may be named more than once, and gets other points each time.
            counts: how many of each kind.
            seed: chooses the points.

        Raises:
            TypeError: `scans` holds no integers.
            IndexError: there is no such scan.
        """

    def draw(self, step: int, batch: int, seed: int, extra_neutral: float | int = 0.1) -> Int[Tensor, " b"]:
        """Which scans a step takes: every scan once an epoch in random order, now and then the neutral one instead.

        A function of its arguments alone, so a run that goes on draws what an unbroken one would.

        Args:
            step: from 0.
            batch: how many scans.
            seed: chooses the order.
            extra_neutral: the probability that a scan is replaced by its person's neutral one.
        """
        count = len(self)
        place = torch.arange(step * batch, (step + 1) * batch)
        chosen = torch.empty(batch, dtype=torch.long)
        for epoch in (place // count).unique().tolist():
            order = torch.randperm(count, generator=generator(seed, 1, epoch))
            here = place // count == epoch
            chosen[here] = order[place[here] % count]
        replaced = torch.rand(batch, generator=generator(seed, 2, step)) < extra_neutral
        return torch.where(replaced, self.neutral[self.person[chosen]], chosen)

    def _check_scans(self, scans: Tensor) -> None:
        name = f"{type(self).__name__}.sample"
        check_integer(name, "scans", scans)
        check_shape(name, "scans", scans, "B")
        if len(scans) and not 0 <= int(scans.min()) <= int(scans.max()) < len(self):
            raise IndexError(
                f"{name}: scans holds {int(scans.min())} to {int(scans.max())}; the set has scans 0 to {len(self) - 1}"
            )


def generator(*numbers: int) -> torch.Generator:
    """A random generator that the given numbers choose, well mixed."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
    return torch.Generator().manual_seed(state >> 1)


def ball(batch: int, count: int, radius: float | int, random: torch.Generator) -> Float[Tensor, "b n 3"]:
    """Points (B, N, 3), uniform in a ball about the origin."""
    direction = torch.nn.functional.normalize(torch.randn(batch, count, 3, generator=random), dim=-1)
    return direction * (radius * torch.rand(batch, count, 1, generator=random) ** (1 / 3))
