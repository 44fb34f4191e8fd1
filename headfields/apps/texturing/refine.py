"""Mesh refinement: vertices of a proxy displaced until its renderings match posed images."""

import warnings
from dataclasses import dataclass

import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.apps.texturing.bake import bake_texture
from headfields.apps.texturing.exposure import even_out
from headfields.apps.texturing.images import PosedImages
from headfields.losses.silhouette import ObservedSilhouette, observe_silhouette, silhouette_distance
from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.antialias import mesh_edges
from headfields.ops.mesh_topology import uniform_laplacian
from headfields.ops.sparse_system import SymmetricSystem
from headfields.ops.texture import mip_pyramid
from headfields.records import Record
from headfields.renderers.mesh import MeshRenderer
from headfields.runs.nonfinite import SkippedSteps, finite_gradients

_NOISE = 0.1  # fraction of the largest gradient below which a vertex takes smaller steps

__all__ = ["RefineOptions", "RefinedMesh", "refine_mesh"]


@dataclass(frozen=True)
class RefineOptions:
    """Weights, sizes and step of `refine_mesh`; all numbers are our own choice.

    Attributes:
        size: longer side that images are reduced to, pixels.
        views: images per step.
        rate: largest step of a vertex, in diagonals of the mesh; falls to a tenth.
        stiffness: reach of a step over the mesh, in squared edges: the displacement is (1 + stiffness · L)⁻¹ times the
            learned variable (Nicolet et al. 2021, "Large steps in inverse rendering of geometry").
        color, coverage, outline, bending: weights of squared color differences, squared coverage differences, the
            distance of outlines in pixels, and the squared Laplacian of the displacement, in edges.
        bakes: number of times the texture is baked.
        texture: its side, texels.
    """

    size: int = 256
    views: int = 3
    rate: float = 1.5e-3
    stiffness: float = 20.0
    color: float = 1.0
    coverage: float = 1.0
    outline: float = 0.003
    bending: float = 0.05
    bakes: int = 3
    texture: int = 256


@dataclass(frozen=True)
class RefinedMesh(Record):
    """A refined mesh.

    Attributes:
        vertices: (V, 3) meters.
        loss: (steps,) of each step.
    """

    vertices: Float[Tensor, "v 3"]
    loss: Float[Tensor, " s"]


def refine_mesh(
    images: PosedImages,
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    uv: Float[Tensor, "t 2"],
    uv_faces: Int[Tensor, "f 3"],
    steps: int,
    options: RefineOptions | None = None,
    seed: int = 0,
    progress: bool = False,
) -> RefinedMesh:
    """Displaces vertices so that the mesh, with a texture baked from the images, matches them.

    Each step renders a few views and compares colors and, with a matte, coverage and outlines. The displacement is
    smoothed by an implicit step of the Laplacian, so that hidden parts move with their surroundings. Adam, with one
    second moment a vertex, optimizes it. The texture is baked again a few times.

    Args:
        images: images with cameras in the frame of the mesh.
        vertices, faces: the proxy, (V, 3) meters and (F, 3).
        uv, uv_faces: (T, 2) and (F, 3), for the texture.
        steps: number of steps; 0 returns the proxy.
        options: weights and sizes.
        seed: seed of the order of views.
        progress: whether to show a progress bar.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, steps is negative, or there is no image.
    """
    op, options = "refine_mesh", options or RefineOptions()
    check_floating(op, "vertices", vertices)
    check_shape(op, "vertices", vertices, "V 3")
    check_integer(op, "faces", faces)
    check_shape(op, "faces", faces, "F 3")
    if steps < 0 or not len(images):
        raise ValueError(
            f"{op}: steps is {steps} and there are {len(images)} images; expected 0 or more, and 1 or more"
        )
    proxy = vertices.detach().float()
    if not steps or not len(faces):
        return RefinedMesh(proxy.clone(), torch.zeros(0))
    reduced = _reduced(images, options.size)
    laplacian = uniform_laplacian(faces, len(proxy))
    smooth = SymmetricSystem(scipy.sparse.identity(len(proxy)) + options.stiffness * laplacian)
    first, second = mesh_edges(faces).ends.unbind(-1)
    edge = float((proxy[faces] - proxy[faces.roll(1, 1)]).norm(dim=-1).mean())
    optimizer = _VertexAdam(proxy, options.rate * float((proxy.amax(0) - proxy.amin(0)).norm()))
    renderer = MeshRenderer(faces, uv, uv_faces)
    observed: dict[int, ObservedSilhouette] = {}
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    losses, skipped = [], SkippedSteps("image")
    current, texture, gains = proxy, None, torch.ones(len(reduced))
    for step in tqdm(range(steps), desc="refining", unit="step", disable=not progress):
        if step * options.bakes // steps != (step - 1) * options.bakes // steps:
            baked = bake_texture(reduced, current, faces, uv, uv_faces, options.texture, keep=6)
            texture, gains = mip_pyramid(baked.texture), baked.gains
        moved = smooth.solve(optimizer.value)
        current = proxy + moved
        difference = (moved[first] - moved[second]) / edge
        bent = torch.zeros_like(moved).index_add(0, first, difference).index_add(0, second, -difference)
        loss = options.bending * bent.square().sum(-1).mean()
        chosen: list[int] = []
        while len(chosen) < min(options.views, len(reduced)):
            order = order or torch.randperm(len(reduced), generator=generator).tolist()
            chosen.append(order.pop())
        for index in chosen:
            camera, color, matte = reduced.view(index)
            rendering = renderer(current, camera, texture=texture)
            target = even_out(color, gains[index])
            both = ((rendering.face >= 0) & (matte > 0.9)).float()[..., None]
            gap = (rendering.color - target * matte[..., None]).square() * both
            share = options.color * gap.sum() / both.sum().clamp(min=1) / 3
            if images.has_matte:
                share = share + options.coverage * (rendering.alpha - matte).square().mean()
                if index not in observed:
                    observed[index] = observe_silhouette(matte)
                share = share + options.outline * silhouette_distance(rendering.crossings, observed[index], 2.0)
            loss = loss + share / len(chosen)
        loss.backward()
        if finite_gradients(loss, [optimizer.value]):
            skipped.accept()
            optimizer.step(0.1 ** (step / steps))
        else:
            optimizer.value.grad = None
            skipped.skip(step, "the loss or a gradient", [images.names[index] for index in chosen])
        losses.append(float(loss.detach()))
        current = current.detach()
    with torch.no_grad():
        current = proxy + smooth.solve(optimizer.value.detach())
    if skipped.total:
        warnings.warn(f"refine_mesh: {skipped.summary()}", stacklevel=2)
    return RefinedMesh(current, torch.tensor(losses))


class _VertexAdam:
    """Adam with one second moment a vertex, bounded below by a part of the largest, so that noise takes small steps."""

    def __init__(self, like: Tensor, rate: float) -> None:
        self.value = torch.zeros_like(like).requires_grad_()
        self.rate, self.count = rate, 0
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like[:, :1])

    def step(self, factor: float) -> None:
        assert self.value.grad is not None
        gradient, self.value.grad = self.value.grad, None
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.98 * self.square + 0.02 * gradient.square().sum(-1, keepdim=True)
        mean, square = self.mean / (1 - 0.9**self.count), self.square / (1 - 0.98**self.count)
        size = square.sqrt()
        with torch.no_grad():
            self.value -= factor * self.rate * mean / (size + _NOISE * size.max() + 1e-20)


def _reduced(images: PosedImages, size: int) -> PosedImages:
    """The images with their longer side at most `size`."""
    factor = size / max(images.camera.size)
    if factor >= 1:
        return images
    camera = images.camera.scaled(factor)
    pixels = []
    for image in images.pixels:
        values = image.float() / 255
        alpha = values[..., 3:]
        packed = torch.cat([values[..., :3] * alpha, alpha], -1).movedim(-1, 0)[None]
        small = torch.nn.functional.interpolate(packed, camera.size, mode="area")[0].movedim(0, -1)
        color = small[..., :3] / small[..., 3:].clamp(min=1e-3)
        pixels.append((torch.cat([color, small[..., 3:]], -1).clamp(0, 1) * 255).round().to(torch.uint8))
    return PosedImages(camera, torch.stack(pixels), images.names, images.report)
