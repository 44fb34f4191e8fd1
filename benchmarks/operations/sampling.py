"""Importance sampling of rays, and marching through an occupancy grid."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import shapes
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import need
from headfields.ops import TriangleBVH, inverse_cdf, lookup_occupancy, march_occupancy

TITLE = "Sampling"
TEXT = """*Importance*: 64 intervals a ray from 64 weighted ones, no jitter; the difference is of quantiles, meters.
*Occupancy look-up*: points in a grid of 128³ cells around the head. *March*: rays of an image of the head through that
grid, 2 mm a step; nerfacc's marching is CUDA, so on a CPU it is made of its PyTorch functions: all steps, look-up, and
those kept that are in occupied cells; the difference is of samples a ray, and rays are counted apart where a middle
lies on the border of a cell."""

_NERFACC = "nerfacc, PyTorch"
_STEP, _NEAR, _FAR = 0.002, 0.8, 1.25


def cases(settings: Settings) -> Iterator[Case]:
    for rays in settings.pick((1024, 4096, 16384, 65536), (1024, 4096)):
        size = {"rays": rays, "samples a ray": 64}
        yield Case("importance", size, "samples", rays * 64, _importance(rays, settings.device))
    grid = Grid(settings.device)
    for points in settings.pick((1 << 14, 1 << 17, 1 << 20), (1 << 12, 1 << 14)):
        yield Case("occupancy look-up", {"points": points}, "points", points, grid.lookups(points))
    for side in settings.pick((64, 128, 256), (32, 64)):
        size = {"rays": side * side}
        yield Case("march", size, "rays", side * side, grid.marches(side), tolerance=0.5)


def _importance(rays: int, device: str) -> dict[str, Maker]:
    generator = torch.Generator().manual_seed(0)
    edges = torch.linspace(0.5, 1.5, 65).expand(rays, -1).contiguous().to(device)
    weights = (torch.rand(rays, 64, generator=generator) ** 4 + 1e-3).to(device)

    def ours() -> Contestant:
        def answer(_: Any) -> np.ndarray:
            # nerfacc gives quantiles at the middles of even steps, ours at their ends; half steps have both.
            halves = inverse_cdf(weights, edges, 128, jitter=False)
            return halves.end.view(rays, 128)[:, ::2].cpu().numpy()

        return Contestant(OURS, lambda: inverse_cdf(weights, edges, 64, jitter=False), answer)

    def theirs() -> Contestant:
        sample = need("nerfacc.pdf")._sample_from_weighted
        return Contestant(_NERFACC, lambda: sample(edges, weights, 64), lambda result: result[1].cpu().numpy())

    return {OURS: ours, _NERFACC: theirs}


class Grid:
    """Occupancy of the cells within 2 cm of the head."""

    def __init__(self, device: str, side: int = 128) -> None:
        mesh = shapes.head(0)
        low, high = (torch.from_numpy(bound) for bound in (mesh.vertices32.min(0), mesh.vertices32.max(0)))
        margin = 0.02
        self.device = device
        self.aabb = torch.stack([low - margin, high + margin])
        step = (self.aabb[1] - self.aabb[0]) / side
        axes = [self.aabb[0, k] + step[k] * (torch.arange(side) + 0.5) for k in range(3)]
        centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        near = TriangleBVH(*mesh.tensors("cpu")).closest(centers, max_distance=margin)
        self.occupied = (near.face >= 0).to(device)
        self.aabb = self.aabb.to(device)

    def lookups(self, count: int) -> dict[str, Maker]:
        points = torch.rand(count, 3, generator=torch.Generator().manual_seed(1)).to(self.device)
        points = self.aabb[0] + (0.001 + 0.998 * points) * (self.aabb[1] - self.aabb[0])

        def theirs() -> Contestant:
            query = need("nerfacc.grid")._query
            data, box = self.occupied[None], self.aabb.reshape(-1)
            return Contestant(_NERFACC, lambda: query(points, data, box)[0], _numbers)

        ours = Contestant(OURS, lambda: lookup_occupancy(points, self.occupied, self.aabb), _numbers)
        return {OURS: lambda: ours, _NERFACC: theirs}

    def marches(self, side: int) -> dict[str, Maker]:
        origins, directions = (torch.from_numpy(x).to(self.device) for x in shapes.camera_rays(side))
        rays = len(origins)
        near, far = origins.new_full((rays,), _NEAR), origins.new_full((rays,), _FAR)

        def counts(ray: Tensor) -> np.ndarray:
            return torch.bincount(ray, minlength=rays).cpu().numpy()

        def ours() -> Contestant:
            def run() -> Any:
                return march_occupancy(origins, directions, near, far, self.occupied, self.aabb, _STEP)

            return Contestant(OURS, run, lambda samples: counts(samples.ray))

        def theirs() -> Contestant:
            query = need("nerfacc.grid")._query
            data, box = self.occupied[None], self.aabb.reshape(-1)
            steps = round((_FAR - _NEAR) / _STEP)
            edges = _NEAR + _STEP * torch.arange(steps + 1, device=self.device)
            middle = 0.5 * (edges[1:] + edges[:-1])

            def run() -> Any:
                points = origins[:, None] + middle[:, None] * directions[:, None]
                kept = query(points.reshape(-1, 3), data, box)[0]
                kept = kept & ((points >= self.aabb[0]) & (points < self.aabb[1])).all(-1).reshape(-1)
                index = kept.nonzero()[:, 0]
                ray, step = index // steps, index % steps
                return ray, edges[step], edges[step + 1]

            return Contestant(_NERFACC, run, lambda samples: counts(samples[0]))

        def on_cuda() -> Contestant:
            traverse = need("nerfacc", True, self.device).traverse_grids
            boxes = self.aabb.reshape(1, 6)

            def run() -> Any:
                return traverse(origins, directions, self.occupied[None], boxes, near, far, _STEP)

            return Contestant("nerfacc, CUDA", run, lambda result: counts(result[1].ray_indices))

        return {OURS: ours, _NERFACC: theirs, "nerfacc, CUDA": on_cuda}


def _numbers(answer: Tensor) -> np.ndarray:
    return answer.cpu().numpy()
