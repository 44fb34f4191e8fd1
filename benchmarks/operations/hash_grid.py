"""The hash grid: forward, and forward and backward to the table."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks import shapes
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import compiled, need
from headfields.ops import HashGridLayout, hash_grid
from headfields.ops.reference.hash_grid import hash_grid as reference

TITLE = "Hash grid"
TEXT = """16 levels from 16 to 2048 cells an axis, float32. *Random*: points evenly in the cube, in no order; *rays*: 64
samples along each ray of an image of the head, ray by ray. The reference is the library's definition in vectorized
PyTorch. The Warp kernels are written for this comparison, for these features and no more, and on a CPU run on one
thread; their launch goes through the points of one level after another, or (*points outer*) through the levels of one
point after another. Backward is to the table, whose gradient is made anew, as in training. Difference: of features, or
of the table's gradient. tiny-cuda-nn places its vertices elsewhere, so its answers cannot be compared."""

_REFERENCE = "reference, PyTorch"
_COMPILED = "reference, torch.compile"
_WARP = "Warp kernel"
_WARP_POINTS = "Warp kernel, points outer"


def cases(settings: Settings) -> Iterator[Case]:
    count = settings.pick(1 << 17, 1 << 13)
    for features, log2 in ((2, 19), (8, 18)):
        layout = HashGridLayout(features=features, log2_table_size=log2)
        table = table_of(layout, settings.device)
        kind = f"{features} × 2^{log2}"
        for order, points in (("random", random_points(count)), ("rays", along_rays(count))):
            size = {"points": count}
            contest = _contestants(layout, table, points.to(settings.device))
            warp = {_WARP: 5.0, _WARP_POINTS: 5.0}
            yield Case(f"{kind}, {order}: forward", size, "points", count, contest(False), warp)
            yield Case(f"{kind}, {order}: forward, backward", size, "points", count, contest(True), {_REFERENCE: 30.0})
    layout = HashGridLayout()
    table = table_of(layout, settings.device)
    for count in settings.pick((1 << 10, 1 << 13, 1 << 16, 1 << 19), (1 << 10, 1 << 12)):
        contest = _contestants(layout, table, random_points(count).to(settings.device))
        yield Case("growth with points, forward", {"points": count}, "points", count, contest(False))


def table_of(layout: HashGridLayout, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(layout.entries, layout.features, generator=generator) * 2 - 1).to(device)


def random_points(count: int) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1))


def along_rays(count: int) -> Tensor:
    """64 samples a ray, in a cube of 1 m around the head."""
    origins, directions = (torch.from_numpy(x) for x in shapes.camera_rays(256))
    rows = torch.linspace(0.3, 0.7, count // 64) * len(origins)
    ray = rows.long()
    distance = torch.linspace(0.8, 1.2, 64)
    points = origins[ray, None] + distance[:, None] * directions[ray, None]
    return (points.reshape(-1, 3) + 0.5).contiguous()


def _contestants(layout: HashGridLayout, table: Tensor, points: Tensor) -> Callable[[bool], dict[str, Maker]]:
    grad = torch.rand(len(points), layout.width, generator=torch.Generator().manual_seed(2)).to(points.device)

    def by_torch(name: str, function: Callable[[Tensor], Tensor], backward: bool, compare: bool = True) -> Contestant:
        def forward() -> Tensor:
            return function(table)

        def both() -> Tensor:
            with torch.enable_grad():
                leaf = table.detach().requires_grad_()
                return torch.autograd.grad(function(leaf), leaf, grad)[0]

        return Contestant(name, both if backward else forward, _numbers if compare else None)

    def warp(name: str, backward: bool) -> Contestant:
        from benchmarks.peers.warp_grid import WarpGrid

        grid = WarpGrid(layout, points, table, points_outer=name == _WARP_POINTS)
        shaped = grad.view(len(points), layout.levels, layout.features)

        def both() -> Tensor:
            grid.forward()
            return grid.backward(shaped)

        note = "one thread" if points.device.type == "cpu" else ""
        return Contestant(name, both if backward else grid.forward, _numbers, note=note)

    def tiny_cuda_nn(backward: bool) -> Contestant:
        tcnn = need("tinycudann", True, points.device.type)
        encoding = tcnn.Encoding(3, {
            "otype": "HashGrid", "n_levels": layout.levels, "n_features_per_level": layout.features,
            "log2_hashmap_size": layout.log2_table_size, "base_resolution": layout.base_resolution,
            "per_level_scale": layout.growth,
        }, dtype=torch.float32)  # fmt: skip

        def both() -> Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(encoding(points), encoding.params, grad)[0]

        return Contestant("tiny-cuda-nn", both if backward else lambda: encoding(points))

    def by_compiler(backward: bool) -> Contestant:
        function = compiled(lambda t: reference(points, t, layout), points.device.type)
        return by_torch(_COMPILED, function, backward)

    def contest(backward: bool) -> dict[str, Maker]:
        return {
            OURS: lambda: by_torch(OURS, lambda t: hash_grid(points, t, layout), backward),
            _REFERENCE: lambda: by_torch(_REFERENCE, lambda t: reference(points, t, layout), backward),
            _COMPILED: lambda: by_compiler(backward),
            _WARP: lambda: warp(_WARP, backward),
            _WARP_POINTS: lambda: warp(_WARP_POINTS, backward),
            "tiny-cuda-nn": lambda: tiny_cuda_nn(backward),
        }

    return contest


def _numbers(answer: Tensor) -> np.ndarray:
    return answer.reshape(-1).cpu().numpy()
