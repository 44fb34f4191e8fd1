"""Embree through trimesh's `RayMeshIntersector`, which returns only the face."""

from typing import Any

import numpy as np

from benchmarks.peers import need
from benchmarks.peers.mesh_peer import MeshPeer
from benchmarks.shapes import Mesh


class TrimeshEmbree(MeshPeer):
    module = "embreex"
    note = "gives faces alone; one thread"

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.corners = mesh.vertices64[mesh.faces32]
        whole = need("trimesh").Trimesh(mesh.vertices64, mesh.faces64, process=False)
        self.scene = need("trimesh.ray.ray_pyembree").RayMeshIntersector(whole)
        self.scene.intersects_first(mesh.vertices32[:1], mesh.vertices32[:1] + 1)  # builds the tree

    def raycast(self, rays: Any) -> Any:
        return self.scene.intersects_first(*rays)

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        origins, directions = (x.astype(np.float64) for x in rays)
        a, b, c = self.corners[np.maximum(answer, 0)].transpose(1, 0, 2)
        normal = np.cross(b - a, c - a)
        distance = ((a - origins) * normal).sum(1) / (directions * normal).sum(1)
        return np.where(answer < 0, np.inf, distance)
