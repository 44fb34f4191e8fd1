"""Kills a training with SIGKILL at random moments and resumes it until it ends: `python -m ... OUT KILLS`.

Run by `test_killing.py`. Prints one JSON object. Processes are forked from one that has imported everything, so that
a training that lives for a second does not wait ten for its imports.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightning_fabric  # noqa: F401  (slow to import; the forked trainings share it)
import torch

from headfields.files import safetensors as tensor_files
from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss
from headfields.runs.folder import RunFolder
from headfields.training import Trainer, outputs
from tests.training.fakes import FakeAvatar, FakeCapture

STEPS = 16


def train(out: Path, slowly: Callable[[], None] | None) -> None:
    """Trains to the end, unless it is killed."""
    if slowly is not None:
        slowly()
    outputs.OVERHEAD_SHARE = 1.0  # a checkpoint at each step, however long the disk takes over one
    torch.manual_seed(0)
    trainer = Trainer(
        FakeAvatar(), FakeCapture(), [HuberColor(region_weight=1), OpacityLoss(0.1)], rays_per_step=256, out=out,
        schedule="exponential", checkpoint_seconds=0.0, picture_seconds=0.0, bar=False, device="cpu",
    )  # fmt: skip
    trainer.fit(steps=STEPS, resume=True)
    trainer.avatar.save(out / "avatar.safetensors")


def half_a_file(marker: Path) -> Callable[[], None]:
    """From the third checkpoint on, writing stops in the middle of the file."""

    def install() -> None:
        original, calls = tensor_files.save_file, [0]

        def save_file(tensors, path, metadata):
            calls[0] += 1
            original(tensors, path, metadata)
            if calls[0] >= 3:
                os.truncate(path, os.path.getsize(path) // 2)
                marker.touch()
                time.sleep(600)

        tensor_files.save_file = save_file

    return install


def between_moves(marker: Path) -> Callable[[], None]:
    """The third checkpoint is not moved into place."""

    def install() -> None:
        original, calls = os.replace, [0]

        def replace(source, target):
            calls[0] += Path(target).name == "last.safetensors"
            if calls[0] >= 3 and Path(target).name == "last.safetensors":
                marker.touch()
                time.sleep(600)
            original(source, target)

        os.replace = replace

    return install


def live(out: Path, seconds: float | None = None, slowly=None, marker: Path | None = None) -> bool:
    """Forks a training and kills it after a time, or when the marker appears; whether it was still alive."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(out, slowly)
            status = 0
        finally:
            os._exit(status)
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, f"the training failed with status {status}"
            return False
        if (seconds is not None and time.monotonic() - began > seconds) or (marker is not None and marker.exists()):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.002)


def main() -> None:
    out, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    began = time.monotonic()
    live(out / "unbroken")
    whole = time.monotonic() - began
    moments = random.Random(os.getpid())
    torn, steps, leftovers = out / "torn", [], 0
    for name, slow in (("half", half_a_file), ("moves", between_moves)):
        marker = out / name
        assert live(torn, slowly=slow(marker), marker=marker), "it ended before its checkpoint was torn"
    run = RunFolder(torn)
    for _ in range(kills):
        leftovers += len(list(torn.rglob("*.tmp")))
        alive = live(torn, seconds=moments.uniform(0.05, 1.2) * whole)
        steps.append(max((entry["step"] for entry in run.read_log()), default=0))
        if not alive:
            break
    live(torn)
    print(json.dumps({"seconds": whole, "steps": steps, "leftovers": leftovers}))


if __name__ == "__main__":
    main()
