"""Differentiable mesh rendering: antialiased silhouettes and textured pictures."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import headfields as hf
from benchmarks import shapes
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import torch_soft

TITLE = "Differentiable mesh rendering"
TEXT = """A picture of the head, forward and backward to the vertices. "Coverage": the antialiased silhouette (with
depth, normals and barycentrics, which come along), compared with a soft rasterizer (sigmoids of the distance to every
face near a pixel, Liu et al. 2019) in vectorized PyTorch. The two define coverage differently, and the soft one covers
more. Difference: of the derivative of the covered part of the image by the logarithm of the mesh's size, averaged over
nine sub-pixel shifts. "Picture": texture with mip levels, light, depth and normals; no peer here does as much."""

_SHIFTS = 3


def cases(settings: Settings) -> Iterator[Case]:
    for faces in settings.pick((20_000,), (0,)):
        mesh = shapes.head(faces)
        for side in settings.pick((64, 256, 512), (32,)):
            size = {"faces": len(mesh.faces32), "pixels": side * side}
            scene = Scene(mesh, side, settings.device)
            yield Case("coverage", size, "pixels", side * side, scene.coverage())
            yield Case("picture", size, "pixels", side * side, scene.picture(), limit=200.0)


class Scene:
    """One mesh, one camera."""

    def __init__(self, mesh: shapes.Mesh, side: int, device: str) -> None:
        self.faces, self.vertices = mesh.tensors(device)
        self.camera, self.side, self.device = shapes.camera(side).to(device), side, device
        self.renderer = hf.renderers.MeshRenderer(self.faces)

    def _slope(self, run: Any) -> np.ndarray:
        """Derivative of the area with respect to the logarithm of the mesh's size, the mean over sub-pixel shifts."""
        slopes = []
        for row in range(_SHIFTS):
            for column in range(_SHIFTS):
                lens = self.camera.intrinsics.clone()
                lens[..., :2, 2] += torch.tensor([column, row]).to(lens) / _SHIFTS
                with torch.enable_grad():
                    scale = torch.ones((), device=self.device, requires_grad=True)
                    area = run(scale * self.vertices, self.camera.replace(intrinsics=lens)).sum()
                    slopes.append(torch.autograd.grad(area, scale)[0].detach())
        return (torch.stack(slopes).mean() / self.side**2).reshape(1).cpu().numpy()

    def _contestant(self, name: str, run: Any) -> Contestant:
        def both() -> None:
            with torch.enable_grad():
                leaf = self.vertices.detach().requires_grad_()
                run(leaf, self.camera).sum().backward()

        return Contestant(name, both, lambda _: self._slope(run))

    def coverage(self) -> dict[str, Maker]:
        """Makers of the contestants."""

        def soft(vertices: Any, camera: Any) -> Any:
            pixels, _ = camera.project(vertices)
            return torch_soft.coverage(pixels, self.faces, camera.size)

        return {
            OURS: lambda: self._contestant(OURS, lambda vertices, camera: self.renderer(vertices, camera).alpha),
            "PyTorch, soft": lambda: self._contestant("PyTorch, soft", soft),
        }

    def picture(self) -> dict[str, Maker]:
        """Ours alone."""
        uv = 0.5 + 2.5 * self.vertices[:, :2]
        texture = torch.rand(512, 512, 3, generator=torch.Generator().manual_seed(0)).to(self.device)
        renderer = hf.renderers.MeshRenderer(self.faces, uv, self.faces, texture)
        light = torch.zeros(9, 3, device=self.device)
        light[0] = 3.5

        def run(vertices: Any, camera: Any) -> Any:
            image = renderer(vertices, camera, light=light)
            return torch.cat([image.color, image.alpha[..., None], image.depth[..., None]], -1)

        def both() -> None:
            with torch.enable_grad():
                run(self.vertices.detach().requires_grad_(), self.camera).sum().backward()

        return {OURS: lambda: Contestant(OURS, both)}
