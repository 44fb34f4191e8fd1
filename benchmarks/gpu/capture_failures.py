"""Steps that cannot be captured: the reason is given, random numbers go on, and training does, too."""

import math
from typing import Any

import torch

from benchmarks.gpu.graphs import Losses
from benchmarks.gpu.settings import GpuSettings
from benchmarks.gpu.training import load_capture, make_trainer


class Reading:
    """A loss that reads a number in each step, so that the host waits."""

    name, weight = "reading", 0.0

    def phase(self, step: int) -> bool:
        return True

    def __call__(self, rendering: Any, *_: Any) -> torch.Tensor:
        return rendering.rgb.mean() * rendering.rgb.detach().mean().item()


class Failing:
    """A loss that raises while a step is captured, and only then."""

    name, weight = "failing", 0.0

    def phase(self, step: int) -> bool:
        return True

    def __call__(self, rendering: Any, *_: Any) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("planted: this loss fails while it is captured")
        mean: torch.Tensor = rendering.rgb.mean()
        return mean


CASES: dict[str, tuple[Any, str]] = {
    "a loss that waits": (Reading, "waits for the GPU"),
    "a loss that fails": (Failing, "planted: this loss fails while it is captured"),
}
"""The loss, and what the reason has to say."""


def items(settings: GpuSettings) -> list[str]:
    return list(CASES)[: 2 if settings.device == "cuda" else 1]  # elsewhere no stream says whether it is captured


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    loss, expected = CASES[item]
    watch, steps = Losses(), settings.pick(40, 6)
    trainer = make_trainer(
        "gaussian_avatars",
        "fast",
        load_capture(settings),
        settings,
        more_losses=[loss()],
        loggers=[watch],
        graph="auto",
    )
    trainer.fit(steps=steps)
    torch.rand(1, device=settings.torch_device)  # an error where the generator is left capturing
    reason = trainer.graph_reason
    result: dict[str, Any] = {"steps": trainer.progress.step, "no graph": reason}
    if trainer.progress.step != steps or not all(map(math.isfinite, watch.losses.values())):
        result["error"] = f"{trainer.progress.step} of {steps} steps were taken, losses are {watch.losses}"
    elif settings.device == "cuda" and expected not in reason:
        result["error"] = f"the reason is {reason!r}; it should say {expected!r}"
    return result
