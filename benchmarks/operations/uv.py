"""UV maps: rasterizing a topology's texels, drawing vertex features into a map, interpolating them at points."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import headfields as hf
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import need, numpy_uv

TITLE = "UV rasterization"
TEXT = """The procedural head with its texture coordinates. "Texels": which face, and where on it, each texel of a map
shows, without padding (nvdiffrast and kaolin have none) and with every texel filled, once for a topology. "Draw": 64
features of the vertices as a map, the texels known, forward or forward and backward to the features. "Features at
points": the same at points inside faces, backward to features and barycentrics. The NumPy loop goes over the faces and
is vectorized within each. Difference: of the drawn coordinates of the head, in meters, and of maps or gradients;
coverage at the outline of charts may differ by rounding, and is counted apart."""


def cases(settings: Settings) -> Iterator[Case]:
    head = hf.synthetic.procedural_head()
    assert head.uv is not None and head.uv_faces is not None
    tensors = [x.to(settings.device) for x in (head.template_vertices, head.faces, head.uv, head.uv_faces)]
    for resolution in settings.pick((256, 512, 1024), (64,)):
        size = {"texels": resolution**2, "faces": len(head.faces)}
        makers = texels(*tensors, resolution, settings.device)
        yield Case("texels", size, "texels", resolution**2, makers, tolerance=1e-3)
        filled = {OURS: lambda r=resolution: Contestant(OURS, lambda: _rasterizer(*tensors[1:], r, torch.inf))}
        yield Case("texels, all filled", size, "texels", resolution**2, filled, limit=1000.0)
    for backward in (False, True):
        label = "draw, forward and backward" if backward else "draw, forward"
        for resolution in settings.pick((64, 256), (32,)):
            size = {"texels": resolution**2, "features": 64}
            makers = drawing(*tensors[1:], len(tensors[0]), resolution, backward, settings.device)
            yield Case(label, size, "texels", resolution**2, makers)

    for backward in (False, True):
        label = "features at points, forward and backward" if backward else "features at points, forward"
        for points in settings.pick((65_000,), (500,)):
            size = {"points": points, "vertices": len(tensors[0]), "features": 64}
            makers = at_points(tensors[1], len(tensors[0]), points, backward, settings.device)
            yield Case(label, size, "points", points, makers)


def _rasterizer(faces: Tensor, uv: Tensor, uv_faces: Tensor, resolution: int, padding: float) -> Any:
    return hf.ops.UVRasterizer(faces, uv, uv_faces, resolution, padding)


def texels(
    vertices: Tensor, faces: Tensor, uv: Tensor, uv_faces: Tensor, resolution: int, device: str
) -> dict[str, Maker]:
    """Makers of the contestants; answers are the head's coordinates over the map, infinite outside of faces."""
    numpy = [x.cpu().numpy() for x in (vertices, faces, uv, uv_faces)]

    def coordinates(face: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
        drawn = numpy_uv.draw(numpy[0], numpy[1], (face, barycentric))
        drawn[face < 0] = np.inf
        return drawn.reshape(-1)

    def ours() -> Contestant:
        return Contestant(
            OURS,
            lambda: _rasterizer(faces, uv, uv_faces, resolution, 0.0),
            lambda result: coordinates(result.face.cpu().numpy(), result.barycentric.cpu().numpy()),
        )

    def loop() -> Contestant:
        run = lambda: numpy_uv.rasterize(numpy[2], numpy[3], resolution, resolution)  # noqa: E731
        return Contestant("NumPy loop", run, lambda result: coordinates(*result))

    def nvdiffrast() -> Contestant:
        dr: Any = need("nvdiffrast.torch", True, device)
        context = dr.RasterizeCudaContext()
        # Rows of its image increase with y, ours with -v.
        ends = [2 * uv[:, :1] - 1, 1 - 2 * uv[:, 1:], torch.zeros_like(uv[:, :1]), torch.ones_like(uv[:, :1])]
        clip, triangles = torch.cat(ends, dim=1)[None].contiguous(), uv_faces.int().contiguous()

        def answer(image: Tensor) -> np.ndarray:
            first, second, _, face = image[0].unbind(-1)
            weights = torch.stack([first, second, 1 - first - second], dim=-1)
            return coordinates(face.long().cpu().numpy() - 1, weights.cpu().numpy())

        run = lambda: dr.rasterize(context, clip, triangles, (resolution, resolution))[0]  # noqa: E731
        return Contestant("nvdiffrast", run, answer)

    def kaolin() -> Contestant:
        mesh: Any = need("kaolin.render.mesh", True, device)
        # Its image has y up. The features are the coordinates, so it draws them while it rasterizes.
        corners = (2 * uv[uv_faces.long()] - 1)[None].contiguous()
        depth = torch.zeros_like(corners[..., 0])
        features = vertices[faces.long()][None].contiguous()

        def run() -> Any:
            return mesh.rasterize(resolution, resolution, depth, corners, features)

        def answer(drawn: Any) -> np.ndarray:
            image, face = drawn
            return torch.where(face[..., None] >= 0, image, torch.inf)[0].reshape(-1).cpu().numpy()

        return Contestant("kaolin", run, answer, note="draws the coordinates too")

    return {OURS: ours, "NumPy loop": loop, "nvdiffrast": nvdiffrast, "kaolin": kaolin}


def drawing(
    faces: Tensor, uv: Tensor, uv_faces: Tensor, count: int, resolution: int, backward: bool, device: str
) -> dict[str, Maker]:
    """Makers of the contestants, who all get our texels."""
    rasterizer = _rasterizer(faces, uv, uv_faces, resolution, torch.inf)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, 64, generator=generator).to(device)
    grad = torch.randn(1, 64, resolution, resolution, generator=generator).to(device)
    corners, weights = faces.long()[rasterizer.face], rasterizer.barycentric

    def contestant(name: str, draw: Any) -> Contestant:
        def both() -> Tensor:
            with torch.enable_grad():
                leaf = features.detach().requires_grad_()
                return torch.autograd.grad(draw(leaf), leaf, grad)[0]

        run = both if backward else lambda: draw(features)
        return Contestant(name, run, lambda image: image.reshape(-1).cpu().numpy())

    def indexed(leaf: Tensor) -> Tensor:
        return (leaf[corners] * weights[..., None]).sum(2).permute(2, 0, 1)[None]

    def numpy_draw() -> Contestant:
        texels = (rasterizer.face.cpu().numpy(), weights.cpu().numpy())
        table, triangles = features.cpu().numpy(), faces.cpu().numpy()
        run = lambda: numpy_uv.draw(table, triangles, texels)  # noqa: E731
        return Contestant("NumPy", run, lambda image: image.transpose(2, 0, 1).reshape(-1))

    makers: dict[str, Maker] = {
        OURS: lambda: contestant(OURS, lambda leaf: rasterizer.vertices_to_map(leaf[None])),
        "PyTorch indexing": lambda: contestant("PyTorch indexing", indexed),
    }
    return makers if backward else {**makers, "NumPy": numpy_draw}


def at_points(faces: Tensor, count: int, points: int, backward: bool, device: str) -> dict[str, Maker]:
    """Makers of the contestants: features of vertices at points inside random faces."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, 64, generator=generator).to(device)
    index = faces.long()[torch.randint(len(faces), (points,), generator=generator).to(device)]
    weights = torch.rand(points, 3, generator=generator).to(device)
    grad = torch.randn(points, 64, generator=generator).to(device)
    ways: dict[str, Any] = {
        OURS: hf.ops.interpolate_rows,
        "PyTorch indexing": lambda table, index, weights: (table[index] * weights[..., None]).sum(1),
        "PyTorch embedding": lambda table, index, weights: (
            torch.nn.functional.embedding(index, table) * weights[..., None]
        ).sum(1),
        "PyTorch embedding_bag": lambda table, index, weights: torch.nn.functional.embedding_bag(
            index, table, per_sample_weights=weights, mode="sum"
        ),
    }

    def maker(name: str) -> Contestant:
        def both() -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in (features, weights)]
                return torch.autograd.grad(ways[name](leaves[0], index, leaves[1]), leaves, grad)

        if not backward:
            return Contestant(name, lambda: ways[name](features, index, weights), lambda answer: _flat((answer,)))
        return Contestant(name, both, _flat)

    return {name: lambda name=name: maker(name) for name in ways}


def _flat(answer: tuple[Tensor, ...]) -> np.ndarray:
    return torch.cat([x.reshape(-1) for x in answer]).cpu().numpy()
