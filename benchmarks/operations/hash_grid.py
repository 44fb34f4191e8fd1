"""The hash grid: forward, and forward and backward to the table."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks import roofline
from benchmarks.case import OURS, Case, Contestant, Maker, PeerMissing, Settings
from benchmarks.grid_points import along_rays, random_points
from benchmarks.peers import compiled, need
from headfields.ops import HashGridLayout, hash_grid
from headfields.ops.reference.hash_grid import hash_grid as reference

TITLE = "Hash grid"
TEXT = """16 levels from 16 to 2048 cells an axis, float32. *Random*: points evenly in the cube, in no order; *rays*:
64 samples along each ray of an image of the head, ray by ray. The reference is the library's definition in vectorized
PyTorch. The Warp kernels are written for this comparison, for these features and no more, and on a CPU run on one
thread; their launch goes through the points of one level after another, or (*points outer*) through the levels of one
point after another. Backward is to the table, whose gradient is made anew, as in training. Difference: of features,
or of the table's gradient. tiny-cuda-nn places its vertices elsewhere, so its answers cannot be compared. *Memory
alone* is the floor: a compiled loop of a few instructions (`benchmarks/roofline.cpp`) on as many threads, with
prefetching, that reads, or adds to, the very rows of the table that the corners of these points have, level by level,
and writes, or reads, the features in order; no hash, weight or interpolation. Bytes are counted access by access. It
assumes the rows' order and size as they are, and memory that is there already, which the operation gets anew from the
system, cleared; and it reads the numbers of the rows (4 bytes each, in order), which the operation computes, so that
a share above 100% can be: memory is then no longer what bounds the operation. The last cases say what this memory
gives by itself: rows at random in tables that fit into a core's cache, of one level's size, and far beyond the
caches; and a copy in order."""

_REFERENCE = "reference, PyTorch"
_COMPILED = "reference, torch.compile"
_WARP = "Warp kernel"
_WARP_POINTS = "Warp kernel, points outer"
_FLOOR = "memory alone"
_SECONDS = 2.5  # budget of a case: the reference takes seconds a call


def cases(settings: Settings) -> Iterator[Case]:
    count = settings.pick(1 << 17, 1 << 13)
    for features, log2 in roofline.SIZES:
        layout = HashGridLayout(features=features, log2_table_size=log2)
        table = table_of(layout, settings.device)
        kind = f"{features} × 2^{log2}"
        for order, points in (("random", random_points(count)), ("rays", along_rays(count))):
            size = {"points": count}
            contest = _contestants(layout, table, points.to(settings.device))
            for backward, goals in ((False, {_WARP: 5.0, _WARP_POINTS: 5.0}), (True, {_REFERENCE: 30.0})):
                label = f"{kind}, {order}: forward{', backward' * backward}"
                yield Case(label, size, "points", count, contest(backward), goals, seconds=_SECONDS)
    layout = HashGridLayout()
    table = table_of(layout, settings.device)
    for count in settings.pick((1 << 10, 1 << 13, 1 << 16), (1 << 10, 1 << 12)):
        contest = _contestants(layout, table, random_points(count).to(settings.device))
        makers = {name: maker for name, maker in contest(False).items() if name != _WARP_POINTS}
        yield Case("growth with points, forward", {"points": count}, "points", count, makers, seconds=_SECONDS)
    if settings.device == "cpu":
        yield from roofline.memory(settings)


def table_of(layout: HashGridLayout, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(layout.entries, layout.features, generator=generator) * 2 - 1).to(device)


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

    @functools.cache
    def floor() -> roofline.Floor:
        if points.device.type != "cpu":
            raise PeerMissing("runs on a CPU only")
        return roofline.Floor(layout, points, torch.get_num_threads())

    def memory_alone(backward: bool) -> Contestant:
        run = floor().both if backward else floor().forward
        return Contestant(_FLOOR, run, moved=floor().moved(backward=backward))

    def contest(backward: bool) -> dict[str, Maker]:
        makers: dict[str, Maker] = {
            OURS: lambda: by_torch(OURS, lambda t: hash_grid(points, t, layout), backward),
            _REFERENCE: lambda: by_torch(_REFERENCE, lambda t: reference(points, t, layout), backward),
            _COMPILED: lambda: by_compiler(backward),
            _WARP: lambda: warp(_WARP, backward),
            _WARP_POINTS: lambda: warp(_WARP_POINTS, backward),
            "tiny-cuda-nn": lambda: tiny_cuda_nn(backward),
            _FLOOR: lambda: memory_alone(backward),
        }
        if backward:  # the slower one of the two: its order says nothing new there
            del makers[_WARP_POINTS]
        return makers

    return contest


def _numbers(answer: Tensor) -> np.ndarray:
    return answer.reshape(-1).cpu().numpy()
