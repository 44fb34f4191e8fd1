"""The k nearest vertices of a mesh: queries near the surface and uniform in the box, growth with k, and refit."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import shapes
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import need
from headfields.ops import VertexTree

TITLE = "Nearest vertices"
TEXT = """The procedural head, its edges split until it has as many vertices as said. *Near the surface*: points of the
surface moved by a normal distribution of 8 mm; *spread out*: evenly in its bounding box. Every contestant gets the
same points, in no order, and gives indices and distances (Open3D: their squares). Difference: of distances, meters. A
library that cannot refit builds anew in the rows of *refit*."""

_GOALS = {"scipy": 2.5, "Open3D": 2.5}


def cases(settings: Settings) -> Iterator[Case]:
    count = settings.pick(200_000, 20_000)
    contest = VertexContest(20_000, settings)
    near, uniform = shapes.near_surface(contest.mesh, count), shapes.in_box(contest.mesh, count)
    for k in settings.pick((4, 1, 8, 16), (4,)):
        size = {"vertices": contest.vertices, "points": count, "k": k}
        goals = _GOALS if k == 4 else {}
        yield Case("near the surface", size, "queries", count, contest.queries(near, k), goals)
        yield Case("spread out", size, "queries", count, contest.queries(uniform, k), goals)
    yield Case("refit", {"vertices": contest.vertices}, "vertices", contest.vertices, contest.refits(), limit=1.0)
    count = settings.pick(50_000, 5_000)
    for faces in settings.pick((10_000, 60_000, 200_000), (10_000, 20_000)):
        growing = VertexContest(faces, settings)
        size = {"vertices": growing.vertices, "points": count}
        near = shapes.near_surface(growing.mesh, count)
        yield Case("growth with vertices", size, "queries", count, growing.queries(near, 4))


class VertexContest:
    """The contestants at one mesh."""

    def __init__(self, faces: int, settings: Settings) -> None:
        self.mesh, self.settings = shapes.head(faces), settings
        self.vertices = len(self.mesh.vertices32)

    def queries(self, points: np.ndarray, k: int) -> dict[str, Maker]:
        device, threads = self.settings.device, self.settings.threads

        def ours() -> Contestant:
            tree = VertexTree(torch.from_numpy(self.mesh.vertices32).to(device))
            query = torch.from_numpy(points).to(device)
            return Contestant(OURS, lambda: tree.nearest(query, k), lambda result: result.distance.cpu().numpy())

        def scipy() -> Contestant:
            tree = need("scipy.spatial", False, device).cKDTree(self.mesh.vertices32)
            return Contestant(
                "scipy", lambda: tree.query(points, k, workers=threads), lambda result: result[0].reshape(-1, k)
            )

        def open3d() -> Contestant:
            core = need("open3d", False, device).core
            search = core.nns.NearestNeighborSearch(core.Tensor(self.mesh.vertices32))
            search.knn_index()
            query = core.Tensor(points)

            def numbers(result: Any) -> np.ndarray:
                return np.sqrt(result[1].numpy()).reshape(-1, k)

            return Contestant("Open3D", lambda: search.knn_search(query, k), numbers)

        return {OURS: ours, "scipy": scipy, "Open3D": open3d}

    def refits(self) -> dict[str, Maker]:
        moved = self.mesh.moved(1).vertices32
        device = self.settings.device

        def ours() -> Contestant:
            tree = VertexTree(torch.from_numpy(self.mesh.vertices32).to(device))
            vertices = torch.from_numpy(moved).to(device)
            return Contestant(OURS, lambda: tree.refit(vertices))

        def scipy() -> Contestant:
            tree = need("scipy.spatial", False, device).cKDTree
            return Contestant("scipy", lambda: tree(moved), note="cannot refit: builds anew")

        return {OURS: ours, "scipy": scipy}
