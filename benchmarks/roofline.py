"""How near the hash grid is to what its memory allows: `python -m benchmarks.roofline [--points N] [--rounds N]`.

The floor is measured, not taken from a data sheet: a loop of a few instructions (roofline.cpp) reads, or adds to, the
very rows that the corners of the points have, level by level, with the caches as these leave them, and the features are
written, or read, in order. No hash, no weight, no interpolation. One thread; seconds of its processor, the least of
some rounds. Needs a C++ compiler.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.operations.hash_grid import along_rays, random_points, table_of
from headfields.ops import HashGridLayout, hash_grid
from headfields.ops.reference.hash_grid import hash_grid_rows

SIZES = ((2, 19), (8, 18))
"""Features, and the logarithm of the rows of a level."""


def compiled() -> Any:
    """The loops of roofline.cpp."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise SystemExit("benchmarks.roofline: no C++ compiler; install g++, or set CXX")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "roofline.so"
        source = Path(__file__).with_suffix(".cpp")
        options = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"]
        subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
        loops = ctypes.CDLL(str(library))
    for loop in (loops.gather_rows, loops.scatter_rows):
        loop.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    loops.gather_rows.restype = ctypes.c_float
    return loops


def least(rounds: int, *actions: Callable[[], Any]) -> list[float]:
    """The least processor seconds of each action; each round runs all of them."""
    seconds = [float("inf")] * len(actions)
    for _ in range(rounds):
        for place, action in enumerate(actions):
            began = time.thread_time()
            action()
            seconds[place] = min(seconds[place], time.thread_time() - began)
    return seconds


def roofline(layout: HashGridLayout, points: Tensor, loops: Any, rounds: int) -> dict[str, dict[str, float]]:
    """Bytes, seconds of the floor and of the operation, of the forward pass and of the gradient of the table."""
    table, width = table_of(layout, "cpu"), layout.features
    by_level = hash_grid_rows(points, layout).int().transpose(0, 1).reshape(layout.levels, -1).contiguous()
    features, grad = torch.empty(len(points), layout.width), torch.rand(len(points), layout.width)
    gradient = torch.empty_like(table)
    leaf = table.clone().requires_grad_()
    out = hash_grid(points, leaf, layout)

    def floor_forward() -> None:
        for level in by_level:
            loops.gather_rows(table.data_ptr(), level.data_ptr(), level.numel(), width)
        features.fill_(1.0)

    def floor_backward() -> None:
        gradient.zero_()
        for level in by_level:
            loops.scatter_rows(gradient.data_ptr(), level.data_ptr(), level.numel(), width)
        grad.sum()

    def forward() -> None:
        with torch.no_grad():
            hash_grid(points, table, layout)

    def backward() -> None:
        torch.autograd.grad(out, leaf, grad, retain_graph=True)

    times = least(rounds, floor_forward, forward, floor_backward, backward)
    rows, stream = by_level.numel() * width * 4, features.numel() * 4
    return {
        "forward": {"bytes": rows + stream, "floor": times[0], "seconds": times[1]},
        "gradient of the table": {
            "bytes": 2 * rows + stream + table.numel() * 4, "floor": times[2], "seconds": times[3],
        },
    }  # fmt: skip


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.roofline", description=__doc__)
    parser.add_argument("--points", type=int, default=1 << 17, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    loops = compiled()
    print("| features × rows | points | pass | MB moved | floor, ms | GB/s of the floor | headfields, ms | share |")
    print("|---|---|---|---|---|---|---|---|")
    for features, log2 in SIZES:
        layout = HashGridLayout(features=features, log2_table_size=log2)
        for order, points in (("random", random_points(arguments.points)), ("rays", along_rays(arguments.points))):
            for name, row in roofline(layout, points, loops, arguments.rounds).items():
                floor, ours = row["floor"], row["seconds"]
                print(
                    f"| {features} × 2^{log2} | {order} | {name} | {row['bytes'] / 1e6:.0f} | {1e3 * floor:.1f} | "
                    f"{row['bytes'] / floor / 1e9:.1f} | {1e3 * ours:.1f} | {floor / ours:.0%} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
