"""The compiled kernels under threads and forks: concurrent calls, in loader workers, and after a fork."""

import os
import signal
import sys
import threading
import time

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headfields.ops.dispatch import native
from headfields.ops.hash_grid import hash_grid
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.ops.spherical_harmonics import spherical_harmonics
from headfields.ops.triangle_bvh import TriangleBVH

pytestmark = pytest.mark.skipif(native is None, reason="the compiled module is not installed")
LAYOUT = HashGridLayout(levels=3, features=2, log2_table_size=8, base_resolution=3, finest_resolution=50)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def work(seed: int) -> list[Tensor]:
    """A few kernels, with enough items for every thread of the pool."""
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randint(100, (300, 3), generator=generator)
    bvh = TriangleBVH(faces, torch.rand(100, 3, generator=generator))
    points = torch.rand(6000, 3, generator=generator)
    table = torch.randn(LAYOUT.entries, 2, generator=generator, requires_grad=True)
    features = hash_grid(points, table, LAYOUT)
    (gradient,) = torch.autograd.grad(features.square().sum(), table)
    closest = bvh.closest(points)
    return [closest.distance, closest.face, features.detach(), gradient, spherical_harmonics(points, 4)]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(x.equal(y) for x, y in zip(a, b, strict=True))


def test_calls_from_several_threads(three_threads):
    expected, results = [work(seed) for seed in range(4)], {}

    def call(seed: int) -> None:
        results[seed] = all(equal(work(seed), expected[seed]) for _ in range(5))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == {seed: True for seed in range(4)}


def finish(child: int, seconds: float) -> int:
    """The exit status of a child, which is ended if it takes longer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_the_pool_works_does_not_hang(three_threads):
    """The child's kernels run on threads of its own, also where the parent forked in the middle of a call."""
    faces, vertices = torch.randint(100, (300, 3)), torch.rand(100, 3)
    bvh, points = TriangleBVH(faces, vertices), torch.rand(20000, 3)
    expected = bvh.closest(points).face
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            bvh.closest(points)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:  # nothing here but the kernel: torch's own threads do not survive a fork
                face = torch.empty(len(points), dtype=torch.long)
                native.bvh_closest(
                    *(bvh._tree[k] for k in (2, 3, 4, 1, 0, 5, 6)),
                    points,
                    None,
                    float("inf"),
                    face,
                    None,
                    None,
                    None,
                    3,
                )
                os._exit(0 if face.tolist() == expected.tolist() else 1)
            assert finish(child, 60) == 0
    finally:
        stop.set()
        busy.join()


class Distances(Dataset):
    """A data set whose items are computed by a kernel, as a loader of captures may do."""

    def __init__(self) -> None:
        self.bvh = TriangleBVH(torch.arange(30).view(10, 3), torch.rand(30, 3))
        self.points = torch.rand(8, 2000, 3)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Tensor:
        return self.bvh.closest(self.points[index]).distance


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loader_workers_may_call_kernels(three_threads):
    data = Distances()
    expected = torch.stack([data[k] for k in range(len(data))])  # the parent's pool exists before the fork
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.cat(list(loader)).equal(expected)
