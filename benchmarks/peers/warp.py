"""Warp's own mesh queries, in kernels that do nothing else. On a CPU, a launch runs on one thread."""

from typing import Any

import numpy as np

from benchmarks.peers.mesh_peer import MeshPeer
from benchmarks.shapes import Mesh
from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.kernel
def closest_kernel(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    face: wp.array(dtype=wp.int32),
    uv: wp.array(dtype=wp.vec2),
    distance: wp.array(dtype=wp.float32),
):
    n = wp.tid()
    query = wp.mesh_query_point_no_sign(mesh, points[n], 1.0e6)
    nearest = wp.mesh_eval_position(mesh, query.face, query.u, query.v)
    face[n] = query.face
    uv[n] = wp.vec2(query.u, query.v)
    distance[n] = wp.length(nearest - points[n])


@wp.kernel
def ray_kernel(
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    face: wp.array(dtype=wp.int32),
    uv: wp.array(dtype=wp.vec2),
    distance: wp.array(dtype=wp.float32),
):
    n = wp.tid()
    query = wp.mesh_query_ray(mesh, origins[n], directions[n], 1.0e6)
    if query.result:
        face[n] = query.face
        uv[n] = wp.vec2(query.u, query.v)
        distance[n] = query.t
    else:
        face[n] = -1
        distance[n] = wp.inf


class Warp(MeshPeer):
    module = "warp"
    cuda = None

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.device = device
        self.note = "one thread" if device == "cpu" else ""
        self.mesh = wp.Mesh(
            wp.array(mesh.vertices32, dtype=wp.vec3, device=device),
            wp.array(mesh.faces32.reshape(-1), dtype=wp.int32, device=device),
        )

    def _arrays(self, *inputs: np.ndarray) -> Any:
        count = len(inputs[0])
        arrays = [wp.array(array, dtype=wp.vec3, device=self.device) for array in inputs]
        results = [wp.empty(count, dtype=kind, device=self.device) for kind in (wp.int32, wp.vec2, wp.float32)]
        return count, arrays + results

    def queries(self, points: np.ndarray) -> Any:
        return self._arrays(points)

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> Any:
        return self._arrays(origins, directions)

    def moved(self, mesh: Mesh) -> Any:
        return wp.array(mesh.vertices32, dtype=wp.vec3, device=self.device)

    def closest(self, queries: Any) -> Any:
        count, arrays = queries
        wp.launch(closest_kernel, count, [self.mesh.id, *arrays], device=self.device)
        return arrays[-1]

    def raycast(self, rays: Any) -> Any:
        count, arrays = rays
        wp.launch(ray_kernel, count, [self.mesh.id, *arrays], device=self.device)
        return arrays[-1]

    def refit(self, vertices: Any) -> Any:
        wp.copy(self.mesh.points, vertices)
        self.mesh.refit()

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        return answer.numpy()

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        return answer.numpy()
