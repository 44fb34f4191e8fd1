"""Scans that are points with normals alone, of one person: what a prior is fitted to where there is no mesh."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape
from headfields.priors.scans.batch import PointCounts, ScanBatch, ScanSet, ball, generator

__all__ = ["PointScans"]


class PointScans(ScanSet):
    """S scans of one person as points in front, for fitting: no back of the head, no correspondences, no anchors.

    Points off the surface are drawn along the normals of those on it, and their distance is how far they were moved:
    right as long as the surface bends less than that, so `PointCounts.sigma` is cut at 5 mm here.

    Args:
        points: (S, N, 3) meters, in the head's frame.
        normals: (S, N, 3) outward; need not be of length 1.
        rgb: (S, N, 3) sRGB in [0, 1]; gray if None, and then colors should not count.
        name: of the person.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, there is no scan or no point, or a number is not finite.
    """

    def __init__(
        self,
        points: Float[Tensor, "s n 3"],
        normals: Float[Tensor, "s n 3"],
        rgb: Float[Tensor, "s n 3"] | None = None,
        name: str = "someone",
    ) -> None:
        colors = torch.full_like(points, 0.5) if rgb is None else rgb
        for what, tensor in (("points", points), ("normals", normals), ("rgb", colors)):
            check_floating("PointScans", what, tensor)
            check_shape("PointScans", what, tensor, "S N 3")
            if tensor.shape != points.shape:
                raise ValueError(
                    f"PointScans: {what} has shape {tuple(tensor.shape)} and points {tuple(points.shape)}; give as many"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"PointScans: {what} holds numbers that are not finite; leave those points out")
        if not points.numel():
            raise ValueError(f"PointScans: points has shape {tuple(points.shape)}; give at least one scan and point")
        self.points, self.rgb = points.float(), colors.float()
        self.normals = torch.nn.functional.normalize(normals.float(), dim=-1)
        count = len(points)
        self.people, self.scans = (name,), tuple(f"{name}/{number:03d}" for number in range(count))
        self.person, self.neutral = torch.zeros(count, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        self.anchors, self.anchored = torch.zeros(1, 0, 3), torch.zeros(1, dtype=torch.bool)
        self.center = points.float().reshape(-1, 3).mean(0)

    def sample(self, scans: Int[Tensor, " b"], counts: PointCounts, seed: int) -> ScanBatch:
        """Points of B scans; see `ScanSet.sample`. `scans`, `counts` and `seed` as there."""
        self._check_scans(scans)
        scans, random, batch = scans.long(), generator(seed, 3), len(scans)

        def drawn(count: int) -> tuple[Tensor, Tensor, Tensor]:
            index = torch.randint(self.points.shape[1], (batch, count), generator=random)
            row = scans[:, None]
            return self.points[row, index], self.normals[row, index], self.rgb[row, index]

        front, normals, rgb = drawn(counts.face + counts.static)
        on, outward, near_rgb = drawn(counts.near)
        moved = min(float(counts.sigma), 5e-3) * torch.randn(batch, counts.near, generator=random)
        none = torch.zeros(batch, 0, 3)
        return ScanBatch(
            scan=scans, person=self.person[scans], neutral=scans == 0,
            front_points=front, front_normals=normals, front_rgb=rgb,
            back_points=none, back_normals=none, back_rgb=none,
            near_points=on + moved[..., None] * outward, near_rgb=near_rgb, near_distance=moved,
            near_known=torch.ones(batch, counts.near, dtype=torch.bool),
            far_points=self.center + ball(batch, counts.far, counts.radius, random),
            posed_points=none, neutral_points=none, corresponds=torch.zeros(batch, dtype=torch.bool),
            anchors=torch.zeros(batch, 0, 3), anchored=torch.zeros(batch, dtype=torch.bool),
            trusted_back=torch.ones(batch, dtype=torch.bool),
        )  # fmt: skip
