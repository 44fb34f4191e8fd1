"""Scans as point clouds with normals of one person, to fit a prior without a mesh."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.priors.scans.batch import PointCounts, ScanBatch, ScanSet, ball, generator
from headfields.ops._checks import check_floating, check_shape

__all__ = ["PointScans"]


class PointScans(ScanSet):
    """S scans of one person as points on the front of the head; without back, correspondences and anchors.

    Points off the surface are displaced along the normals, and the displacement is their signed distance. This holds
    while it is small against the radius of curvature, so `PointCounts.sigma` is clamped to 5 mm.

    Args:
        points: (S, N, 3) meters, in the head's frame.
        normals: (S, N, 3) outward; need not be of length 1.
        rgb: (S, N, 3) sRGB in [0, 1]; gray if None, and then the color loss should be off.
        name: name of the person.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, there is no scan or point, or a value is not finite.
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
                    f"PointScans: {what} has shape {tuple(tensor.shape)} and points {tuple(points.shape)}; pass as many"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"PointScans: {what} has values that are not finite; remove those points")
        if not points.numel():
            raise ValueError(f"PointScans: points has shape {tuple(points.shape)}; pass at least one scan and point")
        self.points, self.rgb = points.float(), colors.float()
        self.normals = torch.nn.functional.normalize(normals.float(), dim=-1)
        count = len(points)
        self.people, self.scans = (name,), tuple(f"{name}/{number:03d}" for number in range(count))
        self.person, self.neutral = torch.zeros(count, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        self.anchors, self.anchored = torch.zeros(1, 0, 3), torch.zeros(1, dtype=torch.bool)
        self.center = points.float().reshape(-1, 3).mean(0)

    def sample(self, scans: Int[Tensor, " b"], counts: PointCounts, seed: int) -> ScanBatch:
        """Samples points of B scans; see `ScanSet.sample`."""
        self._check_scans(scans)
        scans, random, batch = scans.long(), generator(seed, 3), len(scans)

        def drawn(count: int) -> tuple[Tensor, Tensor, Tensor]:
            index = torch.randint(self.points.shape[1], (batch, count), generator=random)
            row = scans[:, None]
            return self.points[row, index], self.normals[row, index], self.rgb[row, index]

        front, normals, rgb = drawn(counts.face + counts.static)
        surface, outward, near_rgb = drawn(counts.near)
        distance = min(float(counts.sigma), 5e-3) * torch.randn(batch, counts.near, generator=random)
        empty = torch.zeros(batch, 0, 3)
        return ScanBatch(
            scan=scans, person=self.person[scans], neutral=scans == 0,
            front_points=front, front_normals=normals, front_rgb=rgb,
            back_points=empty, back_normals=empty, back_rgb=empty,
            near_points=surface + distance[..., None] * outward, near_rgb=near_rgb, near_distance=distance,
            near_known=torch.ones(batch, counts.near, dtype=torch.bool),
            far_points=self.center + ball(batch, counts.far, counts.radius, random),
            posed_points=empty, neutral_points=empty, corresponds=torch.zeros(batch, dtype=torch.bool),
            anchors=torch.zeros(batch, 0, 3), anchored=torch.zeros(batch, dtype=torch.bool),
            trusted_back=torch.ones(batch, dtype=torch.bool),
        )  # fmt: skip
