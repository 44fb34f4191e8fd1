"""trimesh: candidates by an R-tree, distances by NumPy."""

from typing import Any

import numpy as np

from benchmarks.peers import need
from benchmarks.peers.mesh_peer import MeshPeer
from benchmarks.shapes import Mesh


class Trimesh(MeshPeer):
    module = "trimesh"
    most = 5000
    note = "one thread"

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        need("rtree")
        self.near = need("trimesh.proximity").closest_point
        self.mesh = need("trimesh").Trimesh(mesh.vertices64, mesh.faces64, process=False)
        assert self.mesh.triangles_tree is not None  # this builds the tree

    def queries(self, points: np.ndarray) -> Any:
        return points.astype(np.float64)

    def closest(self, queries: Any) -> Any:
        return self.near(self.mesh, queries)

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        return answer[1]
