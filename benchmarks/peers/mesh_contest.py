"""The contest of all libraries on one triangle mesh: closest points, rays, build and refit."""

import numpy as np

from benchmarks.case import OURS, Contestant, Maker, PeerMissing
from benchmarks.peers import cuda_meshes, embree, fcpw, headfields, igl, need, open3d, trimesh, warp
from benchmarks.peers.mesh_peer import MeshPeer
from benchmarks.shapes import Mesh

PEERS: dict[str, type[MeshPeer]] = {
    OURS: headfields.Headfields, "Open3D": open3d.Open3D, "fcpw": fcpw.FCPW, "libigl": igl.Libigl,
    "trimesh": trimesh.Trimesh, "trimesh + embreex": embree.TrimeshEmbree, "Warp": warp.Warp,
    "kaolin": cuda_meshes.Kaolin, "cubvh": cuda_meshes.CuBVH,
}  # fmt: skip
CLOSEST = (OURS, "Open3D", "fcpw", "libigl", "trimesh", "Warp", "kaolin", "cubvh")
RAYS = (OURS, "Open3D", "trimesh + embreex", "fcpw", "libigl", "Warp", "cubvh")


class MeshContest:
    """All libraries at one mesh, each built once, at its first use."""

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.mesh, self.device, self.threads = mesh, device, threads
        self._built: dict[str, MeshPeer] = {}

    def _kind(self, name: str, method: str | None = None) -> type[MeshPeer]:
        kind = PEERS[name]
        need(kind.module, kind.cuda, self.device)
        if method and getattr(kind, method) is None:
            raise PeerMissing(f"has no {method}")
        return kind

    def peer(self, name: str, method: str) -> MeshPeer:
        """A library that has the method.

        Raises:
            PeerMissing: it is not installed, does not run on the device, or lacks the method.
        """
        kind = self._kind(name, method)
        if name not in self._built:
            self._built[name] = kind(self.mesh, self.device, self.threads)
        return self._built[name]

    def closest(self, points: np.ndarray, names: tuple[str, ...] = CLOSEST) -> dict[str, Maker]:
        def make(name: str) -> Contestant:
            peer = self.peer(name, "closest")
            part = points[: peer.most]
            queries = peer.queries(part)
            return Contestant(
                name, lambda: peer.closest(queries), lambda answer: peer.distance(queries, answer), len(part), peer.note
            )

        return {name: lambda name=name: make(name) for name in names}

    def raycast(self, origins: np.ndarray, directions: np.ndarray, names: tuple[str, ...] = RAYS) -> dict[str, Maker]:
        def make(name: str) -> Contestant:
            peer = self.peer(name, "raycast")
            rays = peer.rays(origins[: peer.most], directions[: peer.most])
            count = len(origins[: peer.most])
            return Contestant(name, lambda: peer.raycast(rays), lambda answer: peer.hit(rays, answer), count, peer.note)

        return {name: lambda name=name: make(name) for name in names}

    def build(self, names: tuple[str, ...] = CLOSEST) -> dict[str, Maker]:
        def make(name: str) -> Contestant:
            kind = self._kind(name)
            return Contestant(name, lambda: kind(self.mesh, self.device, self.threads))

        return {name: lambda name=name: make(name) for name in names}

    def refit(self, probes: np.ndarray, names: tuple[str, ...] = CLOSEST) -> dict[str, Maker]:
        """Refits to another frame, or builds anew where a library cannot; answers with the distances of `probes`."""
        mesh = self.mesh.moved(1)

        def make(name: str) -> Contestant:
            kind = self._kind(name)
            if kind.refit is None:
                held: list[MeshPeer] = []

                def anew() -> None:
                    held[:] = [kind(mesh, self.device, self.threads)]

                return Contestant(name, anew, lambda _: probed(held[0]), note=kind.fixed)
            peer = kind(self.mesh, self.device, self.threads)
            vertices = peer.moved(mesh)
            return Contestant(name, lambda: peer.refit(vertices), lambda _: probed(peer))

        def probed(peer: MeshPeer) -> np.ndarray:
            queries = peer.queries(probes[: peer.most])
            return peer.distance(queries, peer.closest(queries))

        return {name: lambda name=name: make(name) for name in names}
