"""Libraries that answer questions about a triangle mesh, behind one interface.

A peer is a class; making one builds its tree. Its input is put into the library's own type by `queries` and `rays`, and
its answer into numbers by `distance` and `hit`, none of which is timed.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks.case import OURS, Contestant, Maker, PeerMissing
from benchmarks.peers import need
from benchmarks.shapes import Mesh

MILLIMETERS = 1000.0
"""Some ray tests have an absolute tolerance, made for meshes larger than a head is in meters, and there take small
faces for ones without area (libigl misses a third of the rays at 300,000 faces). Those are given millimeters."""


class MeshPeer:
    """A library and the mesh that it was built for. What a library cannot do, its class does not define."""

    module: ClassVar[str]  # whose import tells whether it is installed
    cuda: ClassVar[bool | None] = False  # True: on CUDA only; False: on CPU only; None: on both
    most: ClassVar[int | None] = None  # the most queries that a slow one is given
    note: ClassVar[str] = ""
    fixed: ClassVar[str] = "cannot refit: builds anew"

    closest: Callable[[Any], Any] | None = None  # (queries) -> answer
    raycast: Callable[[Any], Any] | None = None  # (rays) -> answer
    refit: Callable[[Any], Any] | None = None  # (vertices) -> anything

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        raise NotImplementedError

    def queries(self, points: np.ndarray) -> Any:
        """(n, 3) float32 points as the library likes them."""
        return points

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> Any:
        """(n, 3) float32 origins and unit directions, likewise."""
        return origins, directions

    def moved(self, mesh: Mesh) -> Any:
        """What `refit` takes."""
        return mesh.vertices32

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        """(n,) distance of each query to the surface, meters."""
        raise NotImplementedError

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        """(n,) distance along each ray, meters; infinity where it hits nothing."""
        raise NotImplementedError


def _load(name: str, device: str) -> type[MeshPeer]:
    from benchmarks.peers import cuda_meshes, embree, fcpw, headfields, igl, open3d, trimesh, warp

    kinds: dict[str, type[MeshPeer]] = {
        OURS: headfields.Headfields, "Open3D": open3d.Open3D, "fcpw": fcpw.FCPW, "libigl": igl.Libigl,
        "trimesh": trimesh.Trimesh, "trimesh + embreex": embree.TrimeshEmbree, "Warp": warp.Warp,
        "kaolin": cuda_meshes.Kaolin, "cubvh": cuda_meshes.CuBVH,
    }  # fmt: skip
    kind = kinds[name]
    need(kind.module, kind.cuda, device)
    return kind


CLOSEST = (OURS, "Open3D", "fcpw", "libigl", "trimesh", "Warp", "kaolin", "cubvh")
RAYS = (OURS, "Open3D", "trimesh + embreex", "fcpw", "libigl", "Warp", "cubvh")


class Arena:
    """All peers at one mesh, each built once and when it is first needed."""

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        self.mesh, self.device, self.threads = mesh, device, threads
        self._built: dict[str, MeshPeer] = {}

    def _kind(self, name: str, does: str | None = None) -> type[MeshPeer]:
        kind = _load(name, self.device)
        if does and getattr(kind, does) is None:
            raise PeerMissing(f"has no {does}")
        return kind

    def peer(self, name: str, does: str) -> MeshPeer:
        """A library that has the method `does`.

        Raises:
            PeerMissing: it is not installed, does not run on the device, or has no such method.
        """
        kind = self._kind(name, does)
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
        """Refits to another frame, or builds anew where a library cannot; then, untimed, the distances of `probes`."""
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
