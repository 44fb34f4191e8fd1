"""What people run: commands from a capture to a picture, density control, the viewer, a second device."""

import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.graphs import Losses
from benchmarks.gpu.settings import GpuSettings
from benchmarks.gpu.training import capture_folder, load_capture, make_trainer
from headfields.apps.viewer.training_view import TrainingView
from headfields.cli import main
from headfields.training import DensityControl


class Failed(Exception):
    """A command ended with an exit code, or a picture is not what it should be."""


def _commands(settings: GpuSettings, *commands: str) -> dict[str, Any]:
    """Runs commands of `headfields` one after the other, in a folder of this part."""
    for name in ("insta", "prior", "tracked", "two"):  # of a try that failed
        shutil.rmtree(settings.out / "programs" / name, ignore_errors=True)
    for command in commands:
        code = main(command.split())
        if code:
            raise Failed(f"headfields {command}: exit code {code}")
    return {"commands": len(commands)}


def _training(settings: GpuSettings) -> dict[str, Any]:
    source, out, device = capture_folder(settings), settings.out / "programs" / "insta", settings.torch_device
    steps = settings.pick(200, 2)
    small = settings.pick("", " --rays 64 --samples 0 --set levels=4 log2_table_size=10 grid_resolution=16")
    train = f"train insta --capture {source} --out {out} --device {device}{small}"
    return _commands(
        settings,
        f"{train} --steps {steps}",
        f"{train} --steps {2 * steps} --resume",
        f"evaluate {out} --device {device}",
        f"render {out} --mode frames --device {device}",
    )


def _prior(settings: GpuSettings) -> dict[str, Any]:
    folder, device = settings.out / "programs", settings.torch_device
    source, steps = capture_folder(settings), settings.pick(200, 1)
    return _commands(
        settings,
        f"train-prior --out {folder / 'prior'} --people 2 --expressions 2 --held-out 0 --steps {steps} --sizes small "
        f"--pictures 0 --device {device}",
        f"track --capture {source} --prior {folder / 'prior'} --out {folder / 'tracked'} --quick --mesh 0 "
        f"{settings.pick('--frames 2', '--frames 1 --stage1-only')} --device {device}",
    )


def _density(settings: GpuSettings) -> dict[str, Any]:
    """Gaussians are added and removed while steps are replayed; the step is captured anew each time."""
    watch, steps = Losses(), settings.pick(120, 12)
    control = DensityControl(start=0, every=settings.pick(20, 4), stop=steps, gradient=1e-12)
    capture = load_capture(settings)
    trainer = make_trainer("gaussian_avatars", "fast", capture, settings, callbacks=[control], loggers=[watch])
    before = len(trainer.avatar.gaussians)
    trainer.fit(steps=steps)
    after = len(trainer.avatar.gaussians)
    if after == before or not all(map(math.isfinite, watch.losses.values())):
        raise Failed(f"{before} Gaussians became {after}, losses {watch.losses}")
    return {"Gaussians before": before, "after": after, "no graph": trainer.graph_reason}


def _viewer(settings: GpuSettings) -> dict[str, Any]:
    """Another thread asks for pictures while steps are replayed."""
    view, pictures = TrainingView(serve=False), list[Any]()
    trainer = make_trainer("gaussian_avatars", "fast", load_capture(settings), settings, more_callbacks=[view])

    def look() -> None:
        while view.scene is None:  # until training begins
            time.sleep(0.01)
        camera = view.scene.first_camera((64, 64))
        for _ in range(settings.pick(20, 2)):
            try:
                pictures.append(view.scene.picture(view.scene.first_view(), camera).rgb)
            except Exception as error:
                pictures.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    trainer.fit(steps=settings.pick(400, 6))
    thread.join(60)
    for picture in pictures:
        if isinstance(picture, Exception):
            raise picture
        if picture.std() == 0:
            raise Failed("a picture that was drawn beside training shows nothing")
    return {"pictures": len(pictures), "no graph": trainer.graph_reason}


def _second_device(settings: GpuSettings) -> dict[str, Any]:
    watch = Losses()
    trainer = make_trainer("insta", "fast", load_capture(settings), settings, loggers=[watch], device="cuda:1")
    trainer.fit(steps=40)
    if not all(map(math.isfinite, watch.losses.values())):
        raise Failed(f"losses {watch.losses}")
    return {"no graph": trainer.graph_reason}


def _two_processes(settings: GpuSettings) -> dict[str, Any]:
    source, out = capture_folder(settings), settings.out / "programs" / "two"
    return _commands(settings, f"train insta --capture {source} --out {out} --devices 2 --device cuda --steps 100")


ALONE: dict[str, Callable[[GpuSettings], dict[str, Any]]] = {
    "train, resume, evaluate and render": _training,
    "train a prior and track with it": _prior,
    "density control": _density,
    "the viewer beside training": _viewer,
}
SEVERAL: dict[str, Callable[[GpuSettings], dict[str, Any]]] = {
    "the second device": _second_device,
    "two processes": _two_processes,
}
FILES = ("train, resume, evaluate and render", "train a prior and track with it")
"""What writes checkpoints, for which tensors of the pretend device have no memory."""


def items(settings: GpuSettings) -> list[str]:
    if settings.device == "pretend":
        return [name for name in ALONE if name not in FILES]
    several = settings.device == "cuda" and torch.cuda.device_count() > 1
    return [*ALONE, *(SEVERAL if several else ())]


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    Path(settings.out / "programs").mkdir(parents=True, exist_ok=True)
    return (ALONE | SEVERAL)[item](settings)
