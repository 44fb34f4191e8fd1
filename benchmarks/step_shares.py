"""What a training step of each preset spends its time on: `python -m benchmarks.step_shares CAPTURE [PRESET ...]`.

Each preset is trained with its recipe for a CPU on one thread. After `--warm` steps, `--steps` are timed as they are,
and as many are profiled. An operation of this library counts with all that it calls. What is left of the time of a step
without the profiler is between operations: Python, PyTorch's bookkeeping, and waiting for images.
"""

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import headfields as hf
from headfields.training import Callback, Trainer
from headfields.training.presets import build, preset_arguments, presets
from headfields.training.recipes import recipe_of

_OURS = "headfields::"


class _Watch(Callback):
    """Times steps, then profiles as many."""

    def __init__(self, warm: int, steps: int) -> None:
        self.warm, self.steps = warm, steps
        self.seconds: list[float] = []
        self._before = 0.0
        self.profile: Any = None

    def on_step(self, trainer: Any, outcome: Any) -> None:
        now, step = time.perf_counter(), trainer.progress.step
        if self.warm < step <= self.warm + self.steps:
            self.seconds.append(now - self._before)
        if step == self.warm + self.steps:
            self.profile = profile(activities=[ProfilerActivity.CPU])
            self.profile.__enter__()
        elif step == self.warm + 2 * self.steps:
            self.profile.__exit__(None, None, None)
        self._before = time.perf_counter()


def spent(events: Any, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds a step: in this library's operations and in PyTorch's; and in each operation."""
    parts: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)
    for event in events:
        if not event.name.startswith((_OURS, "aten::")):
            continue
        owner, above = event, event.cpu_parent
        while above is not None:  # the outermost of ours that it is part of
            owner = above if above.name.startswith(_OURS) else owner
            above = above.cpu_parent
        milliseconds = 1e-3 * event.self_cpu_time_total / steps
        parts["ours" if owner.name.startswith(_OURS) else "PyTorch"] += milliseconds
        operations[owner.name] += milliseconds
    return dict(parts), dict(operations)


def watched(capture: Any, model: str, warm: int, steps: int) -> _Watch:
    recipe = recipe_of(model, "cpu")
    avatar = build(model, preset_arguments(model, {}, capture, recipe), capture)
    if recipe.start is not None:
        recipe.start(avatar, capture)
    watch = _Watch(warm, steps)
    options = recipe.trainer_arguments(avatar, capture)
    options["callbacks"] = [*options.get("callbacks", ()), watch]
    Trainer(avatar, capture, device="cpu", bar=False, **options).fit(steps=warm + 2 * steps)
    return watch


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.step_shares", description=__doc__)
    parser.add_argument("capture", type=Path)
    parser.add_argument("presets", nargs="*", default=[], metavar="PRESET", help=", ".join(presets()))
    parser.add_argument("--warm", type=int, default=30, help="steps before, so that occupancy and sizes have settled")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--items", type=int, default=4, help="largest operations that are named")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    capture = hf.data.load_capture(arguments.capture)
    print("| preset | a step, ms | this library | PyTorch | between | largest |\n|---|---|---|---|---|---|")
    for model in arguments.presets or presets():
        found = watched(capture, model, arguments.warm, arguments.steps)
        step = 1e3 * statistics.median(found.seconds)
        parts, operations = spent(found.profile.events(), arguments.steps)
        parts["between"] = max(0.0, step - sum(parts.values()))
        largest = sorted(operations.items(), key=lambda item: -item[1])[: arguments.items]
        named = ", ".join(f"{name.split('::')[1]} {100 * s / step:.0f} %" for name, s in largest)
        columns = " | ".join(f"{100 * parts.get(part, 0.0) / step:.0f} %" for part in ("ours", "PyTorch", "between"))
        print(f"| {model} | {step:.0f} | {columns} | {named} |", flush=True)


if __name__ == "__main__":
    main()
