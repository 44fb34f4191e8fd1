"""fcpw: a vectorized tree, millimeters, queries in one batch; interactions are allocated once and unpacked untimed."""

from typing import Any

import numpy as np

from benchmarks.peers import need
from benchmarks.peers.mesh_peer import MILLIMETERS, MeshPeer
from benchmarks.shapes import Mesh


def _scaled(points: np.ndarray) -> np.ndarray:
    return (points * MILLIMETERS).astype(np.float32)


class FCPW(MeshPeer):
    module = "fcpw"

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.fcpw = need("fcpw")
        self.scene = self.fcpw.scene_3D()
        self.scene.set_object_count(1)
        self.scene.set_object_vertices(_scaled(mesh.vertices32), 0)
        self.scene.set_object_triangles(mesh.faces32, 0)
        self.scene.build(self.fcpw.aggregate_type.bvh_surface_area, True)

    def _prepared(self, *arrays: np.ndarray) -> Any:
        columns = [np.asfortranarray(array) for array in arrays]
        return (*columns, np.full(len(arrays[0]), np.inf, np.float32), self.fcpw.interaction_3D_list())

    def queries(self, points: np.ndarray) -> Any:
        return self._prepared(_scaled(points))

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> Any:
        return self._prepared(_scaled(origins), directions)

    def moved(self, mesh: Mesh) -> Any:
        return self.fcpw.float_3D_list(list(_scaled(mesh.vertices32)))

    def closest(self, queries: Any) -> Any:
        self.scene.find_closest_points(*queries)
        return queries[-1]

    def raycast(self, rays: Any) -> Any:
        self.scene.intersect(*rays)
        return rays[-1]

    def refit(self, vertices: Any) -> Any:
        self.scene.update_object_vertices(vertices, 0)
        self.scene.refit()

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        return np.array([one.d for one in answer]) / MILLIMETERS

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        missed = 2**31 - 1  # the index of a ray that hits nothing, as is -1, also as an unsigned number
        return (
            np.array([np.inf if one.primitive_index in (-1, missed, 2**32 - 1) else one.d for one in answer])
            / MILLIMETERS
        )
