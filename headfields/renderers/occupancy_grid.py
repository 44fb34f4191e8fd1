"""Occupancy grid: opacity of cells of space, updated while a field is trained."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.ops.occupancy import lookup_occupancy


class OccupancyGrid(nn.Module):
    """A cubic grid of the largest opacity over a step of a ray in each cell.

    Every observation of a cell sets it to max(decay · old, new), as in Instant-NGP (Müller et al. 2022, appendix E)
    and INSTA. A cell counts as occupied while its value is above min(threshold, mean of the observed cells), and until
    it is first observed. Cells are observed at the training samples themselves and at random
    points (INSTA: at a random point of each refreshed cell only); our own choice, for speed on a CPU.

    Args:
        resolution: cells along each side.
        step: length of a step, over which opacity is measured, meters.
        threshold, decay: INSTA's 0.01 and 0.95.
    """

    merged_over_processes = ("opacity",)
    """Buffers that are merged over training processes; see `headfields.training`."""

    box: Tensor
    opacity: Tensor
    occupied: Tensor

    def __init__(self, resolution: int, step: float, threshold: float = 0.01, decay: float = 0.95) -> None:
        super().__init__()
        self.step = step
        self.threshold = threshold
        self.decay = decay
        self.register_buffer("box", torch.zeros(2, 3))
        self.register_buffer("opacity", torch.full((resolution,) * 3, -1.0))
        self.register_buffer("occupied", torch.ones((resolution,) * 3, dtype=torch.bool))

    def cells(self, points: Float[Tensor, "m 3"]) -> tuple[Int[Tensor, " m"], Bool[Tensor, " m"]]:
        """Flat cell index (M,) of `points` (M, 3), meters, and whether each lies in the box (else the index is 0)."""
        unit = (points - self.box[0]) / (self.box[1] - self.box[0])
        inside = ((unit >= 0) & (unit < 1)).all(dim=-1)
        side = self.opacity.shape[0]
        cell = (unit * side).nan_to_num(0.0).long().clamp(0, side - 1)
        flat = (cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2]
        return flat.masked_fill(~inside, 0), inside

    @torch.no_grad()
    def observe(self, points: Float[Tensor, "m 3"], density: Float[Tensor, " m"]) -> None:
        """Updates the grid with `density` (M,), 1/m, at `points` (M, 3), meters.

        Points outside the box are ignored, and points where the density is NaN, which would stay in the grid for good.
        """
        if not len(points):
            return
        flat, inside = self.cells(points)
        inside = inside & ~density.isnan()
        # A mask would make the host wait for a GPU: points that do not count repeat the first one that does. Where
        # none does, nothing decays and the observation is lower than any value.
        some, first = inside.any(), inside.to(torch.uint8).argmax()[None]
        flat = torch.where(inside, flat, flat[first])
        opacity = -torch.expm1(-density * self.step)
        opacity = torch.where(inside, opacity, torch.where(some, opacity[first], -1.0))
        grid = self.opacity.view(-1)
        # Decay once per cell, also with several points in it: write the decayed value, then the maximum over points.
        grid[flat] = grid[flat] * torch.where(some, self.decay, 1.0)
        grid.scatter_reduce_(0, flat, opacity, reduce="amax")

    @torch.no_grad()
    def refresh(self) -> None:
        """Recomputes which cells are occupied, from the observed opacities."""
        known = self.opacity >= 0
        level = (
            self.opacity[known].mean().clamp_max(self.threshold) if bool(known.any()) else self.opacity.new_tensor(0.0)
        )
        self.occupied.copy_((self.opacity > level) | ~known)

    def lookup(self, points: Float[Tensor, "m 3"]) -> Bool[Tensor, " m"]:
        """True for points in occupied cells; False outside the box."""
        return lookup_occupancy(points, self.occupied, self.box)
