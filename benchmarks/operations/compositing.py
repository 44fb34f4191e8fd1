"""Volume rendering: weights of samples, and color and opacity of rays."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import compiled, need
from headfields.ops import accumulate, weights_from_density
from headfields.ops.compositing import ray_offsets

TITLE = "Compositing"
TEXT = """Density and color of each sample to the color and opacity of each ray; backward to density and color.
nerfacc's functions for dense samples are PyTorch, those for packed ones need CUDA; on a CPU it is given packed samples
padded to the longest ray (before the clock runs). Packed rays have up to 127 samples, a few none. Difference: of color
and opacity, or of the two gradients."""


def cases(settings: Settings) -> Iterator[Case]:
    for backward in (False, True):
        kind = "forward, backward" if backward else "forward"
        for rays in settings.pick((1024, 4096, 16384, 65536), (1024, 4096)):
            samples = Dense(rays, 64, settings.device)
            size = {"rays": rays, "samples a ray": 64}
            yield Case(f"dense, {kind}", size, "samples", rays * 64, samples.contestants(backward))
        for rays in settings.pick((4096, 32768), (1024, 2048)):
            packed = Packed(rays, settings.device)
            work = len(packed.ray)
            size = {"rays": rays, "samples": work}
            yield Case(f"packed, {kind}", size, "samples", work, packed.contestants(backward))


class _Samples:
    """The input of both sides, and how they are run."""

    density: Tensor
    rgb: Tensor
    grads: tuple[Tensor, Tensor]  # of color and opacity

    def _contestant(self, name: str, function: Callable[[Tensor, Tensor], Any], backward: bool) -> Contestant:
        def forward() -> Any:
            return function(self.density, self.rgb)

        def both() -> Any:
            with torch.enable_grad():
                inputs = [self.density.detach().requires_grad_(), self.rgb.detach().requires_grad_()]
                return torch.autograd.grad(function(*inputs), inputs, self.grads)

        return Contestant(name, both if backward else forward, self._numbers)

    def _numbers(self, answer: Any) -> np.ndarray:
        return torch.cat([part.reshape(-1) for part in answer]).cpu().numpy()

    def _grads(self, rays: int, device: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        color, opacity = (torch.rand(rays, width, generator=generator).to(device) for width in (3, 1))
        return color, opacity[:, 0]


class Dense(_Samples):
    def __init__(self, rays: int, count: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        edges = torch.linspace(0.5, 1.5, count + 1).expand(rays, -1)
        self.start, self.end = (x.contiguous().to(device) for x in (edges[:, :-1], edges[:, 1:]))
        self.density = (30 * torch.rand(rays, count, generator=generator) ** 4).to(device)
        self.rgb = torch.rand(rays, count, 3, generator=generator).to(device)
        self.grads = self._grads(rays, device)

    def contestants(self, backward: bool) -> dict[str, Maker]:
        def ours(density: Tensor, rgb: Tensor) -> Any:
            weights = weights_from_density(density, self.start, self.end)
            return accumulate(weights, rgb), accumulate(weights)

        def nerfacc() -> Contestant:
            volrend = need("nerfacc.volrend")

            def function(density: Tensor, rgb: Tensor) -> Any:
                weights, _, _ = volrend.render_weight_from_density(self.start, self.end, density)
                return volrend.accumulate_along_rays(weights, rgb), volrend.accumulate_along_rays(weights)[..., 0]

            return self._contestant("nerfacc, PyTorch", function, backward)

        def formula(density: Tensor, rgb: Tensor) -> Any:
            depth = density * (self.end - self.start)
            transmittance = torch.exp(depth - depth.cumsum(-1))
            weights = transmittance * -torch.expm1(-depth)
            return (weights[..., None] * rgb).sum(1), weights.sum(1)

        return {
            OURS: lambda: self._contestant(OURS, ours, backward),
            "torch.compile": lambda: self._contestant(
                "torch.compile", compiled(formula, self.density.device.type), backward
            ),
            "nerfacc, PyTorch": nerfacc,
        }


class Packed(_Samples):
    def __init__(self, rays: int, device: str) -> None:
        generator = torch.Generator().manual_seed(1)
        counts = torch.randint(0, 128, (rays,), generator=generator)
        self.rays = rays
        self.ray = torch.repeat_interleave(torch.arange(rays), counts).to(device)
        total = len(self.ray)
        self.offsets = ray_offsets(self.ray, rays)
        place = torch.arange(total, device=device) - self.offsets[self.ray]
        self.start = 0.5 + place / 128
        self.end = self.start + 1 / 128
        self.density = (30 * torch.rand(total, generator=generator) ** 4).to(device)
        self.rgb = torch.rand(total, 3, generator=generator).to(device)
        self.grads = self._grads(rays, device)
        self.present = torch.arange(int(counts.max()), device=device) < counts.to(device)[:, None]

    def contestants(self, backward: bool) -> dict[str, Maker]:
        def ours(density: Tensor, rgb: Tensor) -> Any:
            weights = weights_from_density(density, self.start, self.end, offsets=self.offsets)
            return accumulate(weights, rgb, offsets=self.offsets), accumulate(weights, offsets=self.offsets)

        def on_cuda() -> Contestant:
            volrend = need("nerfacc.volrend", True, str(self.ray.device.type))
            pack = torch.stack([self.offsets[:-1], self.offsets.diff()], dim=1)

            def function(density: Tensor, rgb: Tensor) -> Any:
                weights, _, _ = volrend.render_weight_from_density(self.start, self.end, density, packed_info=pack)
                sums = (volrend.accumulate_along_rays(weights, x, self.ray, self.rays) for x in (rgb, None))
                color, opacity = sums
                return color, opacity[:, 0]

            return self._contestant("nerfacc, CUDA", function, backward)

        return {
            OURS: lambda: self._contestant(OURS, ours, backward),
            "nerfacc, padded": lambda: Padded(self).contestant(backward),
            "nerfacc, CUDA": on_cuda,
        }


class Padded(_Samples):
    """Packed samples as nerfacc's dense functions take them; the padding has no density and no length."""

    def __init__(self, packed: Packed) -> None:
        self.present = packed.present

        def pad(values: Tensor) -> Tensor:
            out = values.new_zeros(*self.present.shape, *values.shape[1:])
            out[self.present] = values
            return out

        self.start, self.end, self.density, self.rgb = map(pad, (packed.start, packed.end, packed.density, packed.rgb))
        self.grads = packed.grads
        self.length = len(packed.ray)

    def contestant(self, backward: bool) -> Contestant:
        volrend = need("nerfacc.volrend")

        def function(density: Tensor, rgb: Tensor) -> Any:
            weights, _, _ = volrend.render_weight_from_density(self.start, self.end, density)
            return volrend.accumulate_along_rays(weights, rgb), volrend.accumulate_along_rays(weights)[..., 0]

        made = self._contestant("nerfacc, padded", function, backward)

        def answer(result: Any) -> np.ndarray:
            return self._numbers([part[self.present] for part in result] if backward else result)

        return Contestant(made.name, made.run, answer, note="dense")
