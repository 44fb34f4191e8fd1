"""Every model: milliseconds of a training step and of a frame, what the device does meanwhile, and quality after a
minute."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

import headfields as hf
from benchmarks.gpu.settings import GpuSettings
from benchmarks.gpu.training import load_capture, make_trainer
from headfields.apps.priors import PAPER_RECIPE, PriorTrainer
from headfields.apps.priors.pictures import scan_camera
from headfields.models import mononphm
from headfields.runs.asynchronous import READ_EVERY
from headfields.synthetic import generate_scans, procedural_head
from headfields.training import Callback, evaluate
from headfields.training.recipes import RecipeName

CONFIGURATIONS: dict[str, tuple[str, RecipeName]] = {
    "INSTA, released": ("insta", "released"),
    "INSTA, fast": ("insta", "fast"),
    "INSTA, sizes for a CPU": ("insta", "cpu"),
    "MonoAvatar, as published": ("monoavatar", "released"),
    "MonoAvatar, fast": ("monoavatar", "fast"),
    "3VP Avatar, fast": ("vp360", "fast"),
    "GaussianAvatars, fast": ("gaussian_avatars", "fast"),
    "FlashAvatar, fast": ("flash_avatar", "fast"),
    "RGBAvatar, fast": ("rgb_avatar", "fast"),
}
"""Preset and recipe by the name that the tables print."""
PRIOR = "MonoNPHM's prior, the paper's sizes"

FRAME = 512
MINUTE, MINUTES = 60.0, ("INSTA, released", "INSTA, fast")
"""Seconds of training before quality is measured, of these; others have a third, so that all take minutes."""


class _Clock(Callback):
    """Seconds of a step, with the device's part in it: means of `READ_EVERY`, as the trainer waits no more often."""

    def __init__(self, settings: GpuSettings) -> None:
        self._settings, self.seconds, self._last = settings, list[float](), (0, 0.0)
        self._every = settings.pick(READ_EVERY, 1)

    def on_start(self, trainer: Any) -> None:
        self._last = trainer.progress.step, self._now()

    def on_launch(self, trainer: Any, rendering: Any, taken: Any, step: int) -> None:
        """Says that `on_step` reads no losses, for which each step would be waited for, and none captured."""

    def on_step(self, trainer: Any, outcome: Any) -> None:
        step, (before, began) = trainer.progress.step, self._last
        if step % self._every == 0:
            self._last = step, self._now()
            self.seconds.append((self._last[1] - began) / (step - before))

    def _now(self) -> float:
        self._settings.wait()
        return time.perf_counter()


def items(settings: GpuSettings) -> list[str]:
    return [*CONFIGURATIONS, PRIOR]


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    return _prior(settings) if item == PRIOR else _measured(item, load_capture(settings), settings)


def _measured(name: str, capture: Any, settings: GpuSettings) -> dict[str, Any]:
    warm, steps = settings.pick((6 * READ_EVERY, 5 * READ_EVERY), (2, 3))
    clock = _Clock(settings)
    trainer = make_trainer(*CONFIGURATIONS[name], capture, settings, [clock])
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.fit(steps=warm + steps)
    result: dict[str, Any] = {"step": _milliseconds(clock.seconds[-settings.pick(5, 3) :])}
    if settings.device == "cuda":
        result["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
        result["profile of a step"] = _profile(lambda count: trainer.fit(steps=trainer.progress.step + count))
        result["no graph"] = trainer.graph_reason
    result["frame of 512 x 512"] = _frames(trainer.avatar, capture, settings)
    seconds = settings.pick(MINUTE if name in MINUTES else MINUTE / 3, None)
    settings.write("models", name, result)
    fresh = make_trainer(*CONFIGURATIONS[name], capture, settings)
    fitted = fresh.fit(steps=4) if seconds is None else fresh.fit(minutes=seconds / 60)
    figures = evaluate(fresh.avatar, capture)
    quality = {"seconds": seconds, "steps": fitted.step, "psnr": figures["psnr"], "ssim": figures["ssim"]}
    return result | {"quality": quality}


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median ms": 1e3 * statistics.median(seconds), "quartiles ms": 1e3 * (high - low) / 2}


def _profile(take: Callable[[int], Any], steps: int = 10) -> dict[str, float]:
    """Kernels and copies, replayed or launched, and milliseconds in which the device is busy with them, of a step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        take(steps)
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in events)
    return {"launches": len(events) / steps, "busy ms": busy / 1e3 / steps}


def _frames(avatar: Any, capture: Any, settings: GpuSettings) -> dict[str, float]:
    scale = settings.pick(FRAME, 16) / capture.size[0]
    frames = (capture.splits["test"].tolist() * settings.pick(4, 2))[: settings.pick(20, 2)]
    views = ((capture.camera([frame])[0].scaled(scale), capture.state([frame])) for frame in frames)
    return _drawing(avatar, views, settings)


@torch.no_grad()
def _drawing(avatar: Any, views: Iterable[tuple[hf.Camera, hf.HeadState]], settings: GpuSettings) -> dict[str, float]:
    """How long images of some views take."""
    seconds = []
    for camera, state in views:
        camera, state = camera.to(settings.device), state.to(settings.device)
        settings.wait()
        began = time.perf_counter()
        avatar.render(camera, state)
        settings.wait()
        seconds.append(time.perf_counter() - began)
    result = _milliseconds(seconds)
    return result | {"frames a second": 1e3 / result["median ms"]}


def _prior(settings: GpuSettings) -> dict[str, Any]:
    people, expressions = settings.pick((4, 4), (2, 2))
    scans = generate_scans(procedural_head(), people, expressions, out=settings.out / "scans", progress=False)
    counts = settings.pick(PAPER_RECIPE.counts, PAPER_RECIPE.counts.scaled(0.01))
    template = hf.Template(scans.mean_neutral(), scans.faces)
    avatar = mononphm(template, small=settings.small)
    trainer = PriorTrainer(
        avatar, scans.with_anchors(avatar.deformer.anchors.vertices), PAPER_RECIPE.weights, PAPER_RECIPE.schedule,
        counts, scans_per_step=settings.pick(16, 2), device=settings.device, bar=False,
    )  # fmt: skip
    warm, steps = settings.pick((READ_EVERY, 2 * READ_EVERY), (1, 2))

    def fit(steps: int) -> float:
        settings.wait()
        began = time.perf_counter()
        trainer.fit(steps=trainer.progress.step + steps)
        settings.wait()
        return time.perf_counter() - began

    fit(warm)
    on_cuda = settings.device == "cuda"
    start = fit(warm) if on_cuda else 0.0  # each call captures the step anew
    seconds = (fit(warm + steps if on_cuda else steps) - start) / steps
    result = {"step": {"mean ms": 1e3 * seconds}, "scans": settings.pick(16, 2)}
    if on_cuda:
        result |= {"profile of a step": _profile(fit), "no graph": trainer.graph_reason}
    prior, side = trainer.prior(), settings.pick(FRAME, 16)
    camera, state = scan_camera(scans.center, size=side), prior.state()
    result["frame of 512 x 512"] = _drawing(prior.avatar.eval(), [(camera, state)] * settings.pick(5, 2), settings)
    return result
