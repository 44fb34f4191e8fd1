"""A whole training step and a rendered frame of INSTA on a capture of the procedural head, by stage."""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from benchmarks.case import OURS, Row, Settings
from benchmarks.memory import peak_growth
from benchmarks.profile_insta import STAGES, timed
from headfields.synthetic.captures import write_head_capture
from headfields.training import Trainer
from headfields.training.preset_losses import insta_losses

TITLE = "INSTA: training step and rendered frame"
TEXT = """A capture of the procedural head, drawn for the run; 2,048 rays a step, sizes of `hf.models.insta`. Measured
once the occupancy grid has settled. *headfields* is the whole; the rows below it are its stages, which include the
stages indented below them. Medians; a step's are of blocks of steps. No peer trains INSTA on a CPU."""

_BLOCK = 10  # steps
_BUDGET = 15.0  # seconds after which no further round starts


def cases(settings: Settings) -> Iterator[Row]:
    side, steps, times = settings.pick((256, 600, (3, 9)), (64, 60, (3, 3)))
    with tempfile.TemporaryDirectory() as folder, torch.enable_grad():
        write_head_capture(Path(folder) / "capture", frames=24, size=side, samples=1, progress=False)
        capture = hf.data.load_capture(Path(folder) / "capture")
        avatar = hf.models.insta(capture.template)
        trainer = Trainer(avatar, capture, insta_losses(), device=settings.device, bar=False)
        _fit(trainer, steps)

        def more() -> None:
            _fit(trainer, trainer.progress.step + _BLOCK)

        size = {"pixels a side": side, "rays": trainer.rays_now}
        yield from _stages("training step", size, more, times, _BLOCK, settings, None)
        frame = int(capture.splits["test"][0])
        camera, state = capture.camera([frame])[0].to(settings.device), capture.state([frame]).to(settings.device)
        for pixels in settings.pick((64, 128, 256, 512), (32, 64)):
            scaled = camera.scaled(pixels / side)
            limit = 1000.0 if pixels == 256 and settings.device == "cpu" else None
            size = {"pixels a side": pixels}
            yield from _stages("rendered frame", size, lambda c=scaled: avatar.render(c, state), times, 1,
                               settings, limit)  # fmt: skip


def _fit(trainer: Trainer, steps: int) -> None:
    """Trains up to a step; SIGINT and SIGTERM, at which the trainer stops early, end the run."""
    if trainer.fit(steps=steps).interrupted:
        raise KeyboardInterrupt


def _stages(
    label: str,
    size: dict[str, int],
    action: Callable[[], Any],
    times: tuple[int, int],
    work: int,
    settings: Settings,
    limit: float | None,
) -> Iterator[Row]:
    """Rows of medians: the whole action, then each stage that took time."""
    memory = peak_growth(action, settings.device)
    synchronize = torch.cuda.synchronize if settings.device == "cuda" else lambda: None
    spent: dict[str, list[float]] = defaultdict(list)
    start = time.perf_counter()
    for turn in range(times[1]):
        if turn >= times[0] and time.perf_counter() - start > _BUDGET:
            break
        once: dict[str, float] = defaultdict(float)
        with timed(once):
            began = time.perf_counter()
            action()
            synchronize()
            once[OURS] = time.perf_counter() - began
        for stage in (OURS, *(entry[0] for entry in STAGES)):
            spent[stage].append(1e3 * once[stage] / work)
    for stage, values in spent.items():
        median = statistics.median(values)
        if median > 0:
            own = stage == OURS
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
            yield Row(
                label, size, stage.replace("  ", "· "), label.rpartition(" ")[2] + "s", 1,
                milliseconds=median, spread=(high - low) / 2 / median, fastest=min(values), rounds=len(values),
                memory=memory if own else None, limit=limit if own else None,
            )  # fmt: skip
