"""Rasterization of Gaussians on a head: frames, and training steps."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import headfields as hf
from benchmarks import shapes
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import need
from headfields.ops.reference import rasterize_gaussians as reference

TITLE = "Gaussian rasterization"
TEXT = """Flat Gaussians on the procedural head, which fills the image: "frame" draws color, opacity, depths and normals
without a gradient, "step" is a frame, the mean absolute difference of its color to another image, and the gradient of
means, quaternions, scales, opacities and colors. Their extent follows the distance to their neighbors, so that the
head is covered whatever their number; "extent" multiplies it by 1/4 to 4, and overdraw grows with its square. The
reference is the library's definition in PyTorch; Warp's CPU device runs on one thread. Difference: of color, or of the
gradients, whose scale is their largest value. gsplat runs on CUDA only."""

_REFERENCE = "reference, PyTorch"
_WARP = "Warp kernels"
_GSPLAT = "gsplat"


def cases(settings: Settings) -> Iterator[Case]:
    count, few = settings.pick(20_000, 500), settings.pick(2_000, 200)
    for side in settings.pick((256, 512), (32,)):
        for backward in (False, True):
            scene = Scene(count, side, settings.device)
            kind, rate = ("step", {256: 20, 512: 10}) if backward else ("frame", {256: 60, 512: 25})
            limit = 1e3 / rate[side] if side in rate else None
            size = {"Gaussians": count, "pixels": side * side}
            yield Case(
                f"{kind}, {side}²", size, "frames", 1, scene.contestants(backward, (_WARP, _GSPLAT)), limit=limit
            )
    for backward in (False, True):
        scene = Scene(few, settings.pick(64, 16), settings.device)
        size, everyone = {"Gaussians": few, "pixels": scene.side**2}, (_REFERENCE, _WARP, _GSPLAT)
        label = "step, few" if backward else "frame, few"
        yield Case(label, size, "frames", 1, scene.contestants(backward, everyone))
    for backward in (False, True):
        kind = "step" if backward else "frame"
        for number in settings.pick((1_000, 5_000, 20_000, 80_000, 320_000), (100, 200)):
            scene = Scene(number, settings.pick(256, 32), settings.device)
            size = {"Gaussians": number}
            yield Case(f"growth with Gaussians, {kind}", size, "frames", 1, scene.contestants(backward, (_GSPLAT,)))
        for side in settings.pick((64, 128, 256, 512, 1024), (16, 32)):
            scene = Scene(count, side, settings.device)
            size = {"pixels": side * side}
            yield Case(f"growth with pixels, {kind}", size, "frames", 1, scene.contestants(backward, (_GSPLAT,)))
        for extent in settings.pick((0.25, 0.5, 1.0, 2.0, 4.0), (0.5, 1.0)):
            scene = Scene(count, settings.pick(256, 32), settings.device, extent)
            size = {"overdraw": round(scene.overdraw())}
            yield Case(f"growth with extent, {kind}", size, "frames", 1, scene.contestants(backward, (_GSPLAT,)))


class Scene:
    """Gaussians on the head, one camera in front of it."""

    def __init__(self, count: int, side: int, device: str, extent: float = 1.0) -> None:
        g = torch.Generator().manual_seed(0)
        mesh = shapes.head(0)
        corners = torch.from_numpy(mesh.vertices64).float()[torch.from_numpy(mesh.faces32).long()]
        crosses = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas = 0.5 * crosses.norm(dim=-1)
        face = torch.multinomial(areas, count, replacement=True, generator=g)
        weights = torch.rand(count, 3, generator=g).log()
        means = ((weights / weights.sum(1, keepdim=True))[..., None] * corners[face]).sum(1)
        x, y, z = torch.nn.functional.normalize(crosses[face], dim=-1).unbind(-1)
        quaternions = torch.stack([1 + z, -y, x, torch.zeros_like(x)], -1)  # turns the z axis to the normal
        spacing = (areas.sum() / count).sqrt()
        flat = 0.6 * spacing * extent * torch.tensor([1.0, 1.0, 0.2])
        scales = flat * (0.4 * torch.randn(count, 3, generator=g)).exp()
        opacities = torch.sigmoid(1 + 1.5 * torch.randn(count, generator=g))
        colors, target = torch.rand(count, 3, generator=g), torch.rand(1, side, side, 3, generator=g)
        self.inputs = [tensor.to(device) for tensor in (means, quaternions, scales, opacities, colors)]
        self.target, self.camera = target.to(device), shapes.camera(side).to(device)
        self.side, self.device = side, device

    def overdraw(self) -> float:
        """Gaussians in a pixel of the head, before any is hidden: the mean."""
        means, quaternions, scales, opacities, colors = self.inputs
        image = hf.ops.rasterize_gaussians(means, quaternions, scales, opacities, colors, self.camera)
        area = np.pi * (3.33 / 3 * image.radii).square().sum()
        return float(area / (image.opacity > 0.5).sum().clamp_min(1))

    def _definition(self, *inputs: Tensor) -> Tensor:
        pose, lens = self.camera.world_to_camera[None], self.camera.intrinsics[None]
        means, quaternions, scales, opacities, colors = (tensor[None] for tensor in inputs)
        side = self.side
        rows, _ = reference.project(means, quaternions, scales, opacities, pose, lens, side, side, 0.01, 0.3, False)
        return reference.rasterize(rows, colors, None, None, side, side)[0]

    def _gsplat(self, *inputs: Tensor) -> Tensor:
        pose, lens = self.camera.world_to_camera[None], self.camera.intrinsics[None]
        return need("gsplat", True, self.device).rasterization(*inputs, pose, lens, self.side, self.side)[0]

    def _contestant(self, name: str, draw: Callable[..., Tensor], backward: bool, backend: Any = None) -> Contestant:
        def chosen() -> Any:
            return hf.use_cpu_backend(backend) if backend else contextlib.nullcontext()

        def frame() -> list[Tensor]:
            with chosen():
                return [draw(*self.inputs)]

        def step() -> list[Tensor]:
            with torch.enable_grad(), chosen():
                leaves = [tensor.detach().requires_grad_() for tensor in self.inputs]
                return list(torch.autograd.grad((draw(*leaves) - self.target).abs().mean(), leaves))

        def numbers(answer: list[Tensor]) -> np.ndarray:
            scaled = [part / part.abs().max() if backward else part for part in answer]
            return torch.cat([part.reshape(-1) for part in scaled]).cpu().numpy()

        return Contestant(name, step if backward else frame, numbers, note="one thread" if backend else "")

    def contestants(self, backward: bool, peers: tuple[str, ...]) -> dict[str, Maker]:
        def ours(*inputs: Tensor) -> Tensor:
            means, quaternions, scales, opacities, colors = inputs
            return hf.ops.rasterize_gaussians(means, quaternions, scales, opacities, colors, self.camera).color

        def gsplat() -> Contestant:
            need("gsplat", True, self.device)
            return self._contestant(_GSPLAT, self._gsplat, backward)

        makers: dict[str, Maker] = {
            OURS: lambda: self._contestant(OURS, ours, backward),
            _REFERENCE: lambda: self._contestant(_REFERENCE, self._definition, backward),
            _GSPLAT: gsplat,
        }
        if self.device == "cpu":
            makers[_WARP] = lambda: self._contestant(_WARP, ours, backward, "warp")
        return {name: maker for name, maker in makers.items() if name == OURS or name in peers}
