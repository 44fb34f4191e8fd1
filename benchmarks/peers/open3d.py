"""Open3D's `RaycastingScene`: Embree, float32 tensors, a set number of threads."""

from typing import Any

import numpy as np

from benchmarks.peers import need
from benchmarks.peers.mesh_peer import MeshPeer
from benchmarks.shapes import Mesh


class Open3D(MeshPeer):
    module = "open3d"
    note = "Embree"

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.core = need("open3d").core
        self.threads = threads
        self.scene = need("open3d").t.geometry.RaycastingScene(nthreads=threads)
        self.scene.add_triangles(self.core.Tensor(mesh.vertices32), self.core.Tensor(mesh.faces32.view(np.uint32)))
        # The first query builds the tree.
        self.scene.compute_closest_points(self.core.Tensor(mesh.vertices32[:1]), nthreads=threads)

    def queries(self, points: np.ndarray) -> Any:
        return self.core.Tensor(points)

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> Any:
        return self.core.Tensor(np.concatenate([origins, directions], axis=1))

    def closest(self, queries: Any) -> Any:
        return self.scene.compute_closest_points(queries, nthreads=self.threads)

    def raycast(self, rays: Any) -> Any:
        return self.scene.cast_rays(rays, nthreads=self.threads)

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        return np.linalg.norm(queries.numpy().astype(np.float64) - answer["points"].numpy(), axis=1)

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        return answer["t_hit"].numpy()
