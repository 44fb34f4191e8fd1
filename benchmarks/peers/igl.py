"""libigl: its AABB tree in float64, the Python module's only precision, and millimeters."""

from typing import Any

import numpy as np

from benchmarks.peers import need
from benchmarks.peers.mesh_peer import MILLIMETERS, MeshPeer
from benchmarks.shapes import Mesh


class Libigl(MeshPeer):
    module = "igl"
    note = "float64"

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.mesh = (mesh.vertices64 * MILLIMETERS, mesh.faces64)
        self.tree = need("igl").AABB()
        self.tree.init(*self.mesh)

    def queries(self, points: np.ndarray) -> Any:
        return points.astype(np.float64) * MILLIMETERS

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> Any:
        return origins.astype(np.float64) * MILLIMETERS, directions.astype(np.float64)

    def closest(self, queries: Any) -> Any:
        return self.tree.squared_distance(*self.mesh, queries)

    def raycast(self, rays: Any) -> Any:
        return self.tree.intersect_ray_first(*self.mesh, *rays)

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        return np.sqrt(answer[0]) / MILLIMETERS

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        return np.where(answer[0] < 0, np.inf, answer[1] / MILLIMETERS)
