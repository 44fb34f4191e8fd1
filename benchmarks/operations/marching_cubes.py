"""Isosurfaces of values on growing grids, and of functions, evaluated everywhere or only near the surface."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import need
from headfields.mesh.isosurface import isosurface
from headfields.ops import marching_cubes
from headfields.ops.dispatch import warp as started_warp

TITLE = "Marching cubes"
TEXT = """*Dense*: values of a bumpy ball on a grid, to vertices and faces. Ours shares vertices and counts in the
interpolation of the vertices in PyTorch. Difference: of the volume, cells. *Sparse*: the surface of a function (a bumpy
ball too, a few operations a point), evaluated coarse to fine, compared with evaluating it at every point of the grid
and with our own dense operation; a network in its place costs more a point, and the ratio tends to that of the points
evaluated."""


def bumpy(points: torch.Tensor) -> torch.Tensor:
    return points.norm(dim=-1) - 0.7 - 0.05 * torch.sin(6 * points[..., 0]) * torch.cos(5 * points[..., 1])


def grid(size: int, device: str) -> torch.Tensor:
    line = torch.linspace(-1, 1, size, device=device)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)


def volume(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.abs((a * np.cross(b, c)).sum(1).sum() / 6)[None]


def cases(settings: Settings) -> Iterator[Case]:
    for size in settings.pick((64, 128, 256), (32,)):
        yield Case("dense", {"side": size}, "points", size**3, _dense(size, settings), {"scikit-image": 6.0})
    for size in settings.pick((128, 256), (64,)):
        yield Case("sparse", {"side": size}, "points", size**3, _sparse(size, settings))


def _dense(size: int, settings: Settings) -> dict[str, Maker]:
    device = settings.device

    def ours() -> Contestant:
        values = bumpy(grid(size, device))
        return Contestant(
            OURS, lambda: marching_cubes(values), lambda s: volume(s.vertices.cpu().numpy(), s.faces.cpu().numpy())
        )

    def skimage() -> Contestant:
        measure = need("skimage.measure", False, device)
        values = bumpy(grid(size, "cpu")).numpy()
        return Contestant(
            "scikit-image", lambda: measure.marching_cubes(values, 0.0), lambda s: volume(s[0], s[1]), note="Lewiner"
        )

    def igl() -> Contestant:
        library = need("igl", False, device)
        points = grid(size, "cpu").reshape(-1, 3).double().numpy()
        values = bumpy(grid(size, "cpu")).reshape(-1).double().numpy()
        scale = (size - 1) / 2
        return Contestant(
            "libigl",
            lambda: library.marching_cubes(values, points, size, size, size, 0.0),
            lambda s: volume(s[0] * scale, s[1]),
        )

    def warp() -> Contestant:
        need("warp", None, device)
        wp = started_warp()
        values = wp.from_torch(bumpy(grid(size, device)))
        kind = getattr(getattr(wp, "geometry", None), "IsoSurfaceMarchingCubes", None) or wp.MarchingCubes  # older Warp
        with wp.ScopedDevice(device):
            cubes = kind(size, size, size)

        def run() -> object:
            cubes.surface(values, 0.0)
            return cubes

        return Contestant(
            "Warp", run, lambda s: volume(s.verts.numpy(), s.indices.numpy().reshape(-1, 3)), note=kind.__name__
        )

    return {OURS: ours, "scikit-image": skimage, "libigl": igl, "Warp": warp}


def _sparse(size: int, settings: Settings) -> dict[str, Maker]:
    device = settings.device
    box = torch.tensor([[-1.0] * 3, [1.0] * 3], device=device)

    def ours() -> Contestant:
        surface = isosurface(bumpy, box, size - 1, lipschitz=1.5, progress=False)
        asked = f"{100 * surface.evaluations / size**3:.1f} % of the points"
        return Contestant(
            OURS, lambda: isosurface(bumpy, box, size - 1, lipschitz=1.5, progress=False),
            lambda s: volume(s.vertices.cpu().numpy(), s.faces.cpu().numpy()), note=asked,
        )  # fmt: skip

    def dense() -> Contestant:
        return Contestant(
            "every point", lambda: marching_cubes(bumpy(grid(size, device)), 0.0, box),
            lambda s: volume(s.vertices.cpu().numpy(), s.faces.cpu().numpy()),
        )  # fmt: skip

    return {OURS: ours, "every point": dense}
