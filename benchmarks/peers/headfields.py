"""The library itself."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.mesh_peer import MeshPeer
from benchmarks.shapes import Mesh
from headfields.ops import TriangleBVH
from headfields.ops.triangle_bvh import ClosestPoint


class Headfields(MeshPeer):
    module = "headfields"
    cuda = None

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.device = device
        self.bvh = TriangleBVH(*mesh.tensors(device))

    def queries(self, points: np.ndarray) -> Tensor:
        return torch.from_numpy(points).to(self.device)

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.queries(origins), self.queries(directions)

    def moved(self, mesh: Mesh) -> Tensor:
        return torch.from_numpy(mesh.vertices32).to(self.device)

    def closest(self, queries: Tensor) -> ClosestPoint:
        return self.bvh.closest(queries)

    def raycast(self, rays: tuple[Tensor, Tensor]) -> Any:
        return self.bvh.raycast(*rays)

    def refit(self, vertices: Tensor) -> Any:
        self.bvh.refit(vertices)

    def distance(self, queries: Tensor, answer: ClosestPoint) -> np.ndarray:
        return answer.distance.cpu().numpy()

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        return answer.distance.cpu().numpy()
