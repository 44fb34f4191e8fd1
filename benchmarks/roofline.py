"""How near the hash grid is to what its memory allows: `python -m benchmarks.roofline [--points N] [--rounds N]`.

The floor is measured, not taken from a data sheet: a loop of a few instructions (roofline.cpp) reads, or adds to, the
very rows that the corners of the points have, level by level, with the caches as these leave them, and the features are
written, or read, in order. No hash, no weight, no interpolation, no memory that the system has to clear. What the loop
does besides is to read the numbers of the rows, 4 bytes for each, which the operation computes. Needs a C++ compiler.

Here on one thread, in seconds of its processor, the least of some rounds, which says something on a busy machine too.
`python -m benchmarks --only hash_grid` has the same floor on all threads beside the operation, and what the memory
gives to copies in order and to rows at random.
"""

import argparse
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Contestant, PeerMissing, Settings
from benchmarks.grid_points import along_rays, random_points
from headfields.ops import HashGridLayout, dispatch, hash_grid
from headfields.ops.reference.hash_grid import hash_grid_rows

SIZES = ((2, 19), (8, 18))
"""Features, and the logarithm of the rows of a level."""


@functools.cache
def compiled() -> Any:
    """The loops of roofline.cpp.

    Raises:
        PeerMissing: there is no C++ compiler.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise PeerMissing("no C++ compiler; install g++, or set CXX")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "roofline.so"
        source = Path(__file__).with_suffix(".cpp")
        options = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"]
        subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
        loops = ctypes.CDLL(str(library))
    for loop in (loops.gather_rows, loops.scatter_rows):
        loop.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    loops.gather_rows.restype = loops.read_all.restype = ctypes.c_float
    loops.read_all.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return loops


class Floor:
    """The memory traffic of a hash grid by itself, for one batch of points, on some threads.

    As in the operation, a thread reads for its share of the points, level by level, and adds for whole levels.
    """

    def __init__(self, layout: HashGridLayout, points: Tensor, threads: int) -> None:
        self.loops, self.layout, self.count, self.threads = compiled(), layout, len(points), threads
        self.rows = _rows(points, layout)
        self.table = torch.zeros(layout.entries, layout.features)
        self.features = torch.zeros(len(points), layout.width)
        self.pool = ThreadPoolExecutor(threads)

    def moved(self, forward: bool = True, backward: bool = False) -> int:
        """Bytes, each access counted as its own: rows and features read and written, the gradient's table cleared."""
        rows, features = self.rows.numel() * self.layout.features * 4, self.features.numel() * 4
        table = self.table.numel() * 4
        return forward * (rows + features) + backward * (2 * rows + features + table)

    def forward(self) -> None:
        self._each(self._read, range(self.threads))

    def backward(self) -> None:
        self._each(self._add, reversed(range(self.layout.levels)))

    def both(self) -> None:
        self.forward()
        self.backward()

    def _each(self, action: Callable[[int], None], items: Iterable[int]) -> None:
        _in_parallel(self.pool, self.threads, action, items)

    def _read(self, thread: int) -> None:
        first, last = (self.count * k // self.threads for k in (thread, thread + 1))
        corners = self.rows.shape[1] // max(self.count, 1)
        for level in self.rows:
            part = level[first * corners : last * corners]
            self.loops.gather_rows(self.table.data_ptr(), part.data_ptr(), part.numel(), self.layout.features)
        part = self.features[first:last]
        ctypes.memset(part.data_ptr(), 0, part.numel() * 4)

    def _add(self, level: int) -> None:
        rows, (first, last) = self.rows[level], self.layout.offsets[level : level + 2]
        part = self.table[first:last]
        ctypes.memset(part.data_ptr(), 0, part.numel() * 4)
        self.loops.scatter_rows(self.table.data_ptr(), rows.data_ptr(), rows.numel(), self.layout.features)
        share = self.features.numel() // self.layout.levels
        self.loops.read_all(self.features.data_ptr() + 4 * share * level, share)


def _in_parallel(pool: ThreadPoolExecutor, threads: int, action: Callable[[int], None], items: Iterable[int]) -> None:
    """Each of the items by the next free thread, the caller's among them."""
    rest = iter(items)

    def work() -> None:
        for item in rest:
            action(item)

    others = [pool.submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()


def _rows(points: Tensor, layout: HashGridLayout) -> Tensor:
    """(levels, points x corners) row of the table of each corner, int32."""
    if dispatch.native is None:
        rows = hash_grid_rows(points, layout)
    else:
        rows = torch.empty(len(points), layout.levels, 2**layout.dimensions, dtype=torch.int64)
        sizes = (layout.resolutions, layout.offsets, layout.log2_table_size)
        dispatch.native.hash_grid_rows(points.contiguous(), rows, *sizes, torch.get_num_threads())
    return rows.int().transpose(0, 1).reshape(layout.levels, -1).contiguous()


def memory(settings: Settings) -> Iterator[Case]:
    """What the memory gives by itself: copies in order, rows read and added to at random, in tables of some sizes."""
    count = settings.pick(1 << 20, 1 << 12)
    for width, log2 in SIZES:
        for rows in (1 << 13, 1 << log2, settings.pick(1 << (log2 + 5), 1 << log2)):
            size = {"KB of table": rows * width * 4 >> 10}
            contest = {
                "read": functools.partial(_random, "read", rows, width, count, settings.threads),
                "added to": functools.partial(_random, "added to", rows, width, count, settings.threads),
            }
            yield Case(f"memory alone: rows of {width * 4} bytes, at random", size, "rows", count, contest, seconds=0.5)
    number = settings.pick(1 << 25, 1 << 12)
    copy = {"copied": functools.partial(_copy, number)}
    yield Case("memory alone: in order", {"KB": number * 4 >> 10}, "numbers", number, copy, seconds=0.5)


def _copy(number: int) -> Contestant:
    source, target = torch.ones(number), torch.ones(number)
    return Contestant("copied", lambda: target.copy_(source), moved=2 * 4 * number)


def _random(name: str, rows: int, width: int, count: int, threads: int) -> Contestant:
    loops, pool = compiled(), ThreadPoolExecutor(threads)
    index = torch.randint(rows, (threads, count // threads), generator=torch.Generator().manual_seed(0)).int()
    # A table for each thread to add to; one for all to read from.
    table = torch.ones(1 if name == "read" else threads, rows, width)

    def part(thread: int) -> None:
        own = table[thread % len(table)]
        loop = loops.gather_rows if name == "read" else loops.scatter_rows
        loop(own.data_ptr(), index[thread].data_ptr(), index.shape[1], width)

    moved = index.numel() * width * 4 * (1 if name == "read" else 2)
    return Contestant(name, lambda: _in_parallel(pool, threads, part, range(threads)), work=index.numel(), moved=moved)


def least(rounds: int, *actions: Callable[[], Any]) -> list[float]:
    """The least processor seconds of each action; each round runs all of them."""
    seconds = [float("inf")] * len(actions)
    for _ in range(rounds):
        for place, action in enumerate(actions):
            began = time.thread_time()
            action()
            seconds[place] = min(seconds[place], time.thread_time() - began)
    return seconds


def roofline(layout: HashGridLayout, points: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Bytes, seconds of the floor and of the operation, of the forward pass and of the gradient of the table."""
    floor = Floor(layout, points, 1)
    leaf, grad = floor.table.clone().requires_grad_(), torch.rand(len(points), layout.width)
    out = hash_grid(points, leaf, layout)

    def forward() -> None:
        with torch.no_grad():
            hash_grid(points, leaf, layout)

    def backward() -> None:
        torch.autograd.grad(out, leaf, grad, retain_graph=True)

    times = least(rounds, floor.forward, forward, floor.backward, backward)
    return {
        "forward": {"bytes": floor.moved(), "floor": times[0], "seconds": times[1]},
        "gradient of the table": {"bytes": floor.moved(False, True), "floor": times[2], "seconds": times[3]},
    }


def main(given: list[str] | None = None) -> int:

    parser = argparse.ArgumentParser("benchmarks.roofline", description=__doc__)
    parser.add_argument("--points", type=int, default=1 << 17, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    try:
        compiled()
    except PeerMissing as reason:
        raise SystemExit(f"benchmarks.roofline: {reason}") from None
    print("| features × rows | points | pass | MB moved | floor, ms | GB/s of the floor | headfields, ms | share |")
    print("|---|---|---|---|---|---|---|---|")
    for features, log2 in SIZES:
        layout = HashGridLayout(features=features, log2_table_size=log2)
        for order, points in (("random", random_points(arguments.points)), ("rays", along_rays(arguments.points))):
            for name, row in roofline(layout, points, arguments.rounds).items():
                floor, ours = row["floor"], row["seconds"]
                print(
                    f"| {features} × 2^{log2} | {order} | {name} | {row['bytes'] / 1e6:.0f} | {1e3 * floor:.1f} | "
                    f"{row['bytes'] / floor / 1e9:.1f} | {1e3 * ours:.1f} | {floor / ours:.0%} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
