"""Kaolin and cubvh, on CUDA alone."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import need
from benchmarks.peers.mesh_peer import MeshPeer
from benchmarks.shapes import Mesh


class Kaolin(MeshPeer):
    """Distances from all points to all faces: it has no tree to build."""

    module = "kaolin"
    cuda = True
    most = 20_000
    note = "no tree: all faces"

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        faces, vertices = mesh.tensors(device)
        self.distances = need("kaolin.metrics.trianglemesh", self.cuda, device).point_to_mesh_distance
        self.corners = vertices[faces][None]

    def queries(self, points: np.ndarray) -> Tensor:
        return torch.from_numpy(points).cuda()[None]

    def closest(self, queries: Tensor) -> Any:
        return self.distances(queries, self.corners)

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        return answer[0][0].sqrt().cpu().numpy()


class CuBVH(MeshPeer):
    module = "cubvh"
    cuda = True

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.bvh = need("cubvh", self.cuda, device).cuBVH(mesh.vertices32, mesh.faces32)

    def queries(self, points: np.ndarray) -> Tensor:
        return torch.from_numpy(points).cuda()

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.queries(origins), self.queries(directions)

    def closest(self, queries: Tensor) -> Any:
        return self.bvh.unsigned_distance(queries, return_uvw=True)

    def raycast(self, rays: Any) -> Any:
        return self.bvh.ray_trace(*rays)

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        return answer[0].cpu().numpy()

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        return torch.where(answer[1] < 0, torch.inf, answer[2]).cpu().numpy()
