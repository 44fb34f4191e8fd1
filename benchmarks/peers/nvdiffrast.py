"""Mesh images by the library and by nvdiffrast (CUDA): face, barycentrics and depth of each pixel."""

from typing import Any

import numpy as np
import torch

from benchmarks import shapes
from benchmarks.case import OURS, Contestant, Maker
from benchmarks.peers import need
from headfields.ops import TriangleBVH
from headfields.ops.render_mesh import MeshImage, render_mesh

_NEAR, _FAR = 0.1, 10.0


def images(mesh: shapes.Mesh, size: int, device: str) -> dict[str, Maker]:
    """Makers of the contestants; answers are depths along the optical axis, infinite outside of the mesh."""
    camera = shapes.camera(size).to(device)
    faces, vertices = mesh.tensors(device)

    def depth_of(image: MeshImage) -> np.ndarray:
        return torch.where(image.mask, image.depth, torch.inf).cpu().numpy()

    def ours() -> Contestant:
        bvh = TriangleBVH(faces, vertices)
        return Contestant(OURS, lambda: render_mesh(bvh, camera), depth_of)

    def theirs() -> Contestant:
        dr: Any = need("nvdiffrast.torch", True, device)
        context = dr.RasterizeCudaContext()
        pixels, depth = camera.project(vertices)
        # Rows of clip space increase with the image's here, so that no flip is needed.
        clip = torch.cat([
            (2 * pixels / size - 1) * depth[:, None],
            ((_FAR + _NEAR) * depth - 2 * _FAR * _NEAR)[:, None] / (_FAR - _NEAR),
            depth[:, None],
        ], dim=1)[None].contiguous()  # fmt: skip
        triangles, attribute = faces.int().contiguous(), depth[None, :, None].contiguous()

        def run() -> Any:
            raster, _ = dr.rasterize(context, clip, triangles, (size, size))
            return raster, dr.interpolate(attribute, raster, triangles)[0]

        def answer(result: Any) -> np.ndarray:
            raster, values = result
            return torch.where(raster[0, ..., 3] > 0, values[0, ..., 0], torch.inf).cpu().numpy()

        return Contestant("nvdiffrast", run, answer)

    return {OURS: ours, "nvdiffrast": theirs}
