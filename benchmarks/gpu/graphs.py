"""Steps that are replayed from a CUDA graph learn what steps that are launched one by one do: each preset, 40 steps."""

import math
import statistics
from typing import Any

from benchmarks.gpu.settings import GpuSettings
from benchmarks.gpu.training import PRESETS, load_capture, make_trainer

TOLERANCE = 0.01
"""Median relative difference of a step's loss. Atomic additions alone let runs drift apart, by far less in 40 steps."""


class Losses:
    """A logger that keeps the losses. It gets them where the trainer reads them, which for steps from a graph is later;
    a callback that asked for them would keep steps from being captured."""

    experiment, log_dir = None, None

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "loss" in metrics and step is not None:
            self.losses[step] = metrics["loss"]

    def save(self) -> None:
        """Nothing is kept back."""

    def finalize(self, status: str) -> None:
        """Nothing is open."""


def items(settings: GpuSettings) -> list[str]:
    return [f"{model}, {kind}" for model in PRESETS for kind in ("cpu", "fast")]


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    model, kind = item.split(", ")
    capture, pieces = load_capture(settings), settings.pick((10, 20, 30, 40), (5, 10))
    losses: dict[bool, dict[int, float]] = {}
    result: dict[str, Any] = {"steps": pieces[-1]}
    for graph in (True, False):
        watch = Losses()
        trainer = make_trainer(model, kind, capture, settings, loggers=[watch], graph="auto" if graph else False)
        for steps in pieces:  # what a step has lost is logged about once a second, and always at the end
            trainer.fit(steps=steps)
        losses[graph] = {steps: watch.losses[steps] for steps in pieces}
        if graph:
            result["no graph"] = trainer.graph_reason
    return result | compared([*losses[True].values()], [*losses[False].values()])


def compared(replayed: list[float], launched: list[float]) -> dict[str, Any]:
    """How far apart the losses of two runs are, and the error that this is, if it is one."""
    if not all(map(math.isfinite, [*replayed, *launched])):
        return {"error": "a loss is not finite"}
    apart = statistics.median(
        abs(one - other) / max(abs(other), 1e-12) for one, other in zip(replayed, launched, strict=True)
    )
    result: dict[str, Any] = {"first": launched[0], "last": launched[-1], "apart": apart}
    if apart > TOLERANCE:
        result["error"] = f"losses with and without a graph are {100 * apart:.1f} % apart (median of the steps)"
    return result
