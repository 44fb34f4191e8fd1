"""Live training: PSNR of the frames ahead while a capture is still being written, beside training with all at hand.

`python -m benchmarks.live --capture DIR --out OUT` writes the training frames of a capture in INSTA's layout to a
folder at 5 frames a second, as a tracker would, and trains a preset on that folder from the first frames on. Every ten
seconds it renders the next frames, which have not been written yet, and test frames. Then it trains as many steps with
all frames at hand, and measures the same frames at the same steps.

The clock is that of a machine that makes `--speed` steps a second: frames arrive by the number of steps, so that the
curve is the same on a machine that is slower, or busy. Writes `live.json` and `live.png`.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.cli.streams import tolerant_stderr
from headfields.data.live import LEAST, LiveCapture
from headfields.files.atomic import write_text
from headfields.training.live import LiveFrames
from headfields.training.presets import build, preset_arguments
from headfields.training.recipes import recipe_of


class Feeder:
    """A callback that writes the frames of a capture to another folder as time goes on, the list of them last.

    Args:
        source: a capture in INSTA's layout.
        folder: the folder to write.
        frames_per_step: how many frames arrive while the trainer makes one step.
    """

    def __init__(self, source: Path, folder: Path, frames_per_step: float) -> None:
        self.source, self.folder, self.frames_per_step = source, folder, frames_per_step
        self.content = json.loads((source / "transforms_train.json").read_text())
        self.written = 0

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """Writes what is due, before `LiveFrames` looks."""
        self.write(LEAST + int(trainer.progress.step * self.frames_per_step))

    def write(self, count: int) -> None:
        """Writes the first `count` frames, where they are not there yet."""
        frames = self.content["frames"]
        count = min(count, len(frames))
        if count <= self.written:
            return
        for frame in frames[self.written : count]:
            for key, name in frame.items():
                if key.endswith("_path") and (self.source / name).is_file():
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.source / name, self.folder / name)
        named = {**self.content, "frames": frames[:count]}
        write_text(self.folder / "transforms_train.json", json.dumps(named))
        self.written = count


class Measure:
    """A callback: the PSNR of frames ahead and of test frames, every so many steps.

    Args:
        whole: the capture with all frames.
        newest: the number of training frames that have been written at a step.
        every: steps between two measurements.
        speed: steps a second, for the figures.
        measured: how many frames after the newest that has been written, and how many test frames.
    """

    def __init__(self, whole: Any, newest: Callable[[int], int], every: int, speed: float, measured: int) -> None:
        self.whole, self.newest, self.every, self.speed, self.measured = whole, newest, every, speed, measured
        self.rows: list[dict[str, float]] = []

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """Measures when it is time."""
        step = trainer.progress.step
        if step % self.every:
            return
        train, test = self.whole.splits["train"].tolist(), self.whole.splits["test"].tolist()
        newest = self.newest(step)
        apart = max(len(test) // self.measured, 1)
        parts = {"ahead": train[newest : newest + self.measured], "test": test[::apart][: self.measured]}
        row = {"seconds": step / self.speed, "steps": step, "frames": newest}
        with trainer.averaged() as avatar:
            for name, frames in parts.items():
                if frames:
                    row[name] = hf.training.evaluate(avatar, self.whole, frames=frames)["psnr"]
        self.rows.append(row)
        print({key: round(value, 2) for key, value in row.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="insta", help="the preset")
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second")
    parser.add_argument("--speed", type=float, default=6.0, help="steps of training a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, each")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two measurements")
    parser.add_argument("--measured", type=int, default=5, help="frames ahead, and test frames, that are measured")
    arguments = parser.parse_args()
    whole = hf.data.load_capture(arguments.capture)
    folder = arguments.out / "capture"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(arguments.capture / "canonical.obj", folder / "canonical.obj")
    feeder = Feeder(arguments.capture, folder, arguments.rate / arguments.speed)
    feeder.write(LEAST)
    live = LiveCapture(folder)
    results = {}
    written: dict[int, int] = {}

    def newest(step: int) -> int:
        return written.setdefault(step, feeder.written)

    for name, capture in (("live", live), ("all at hand", whole)):
        print(name, flush=True)
        torch.manual_seed(0)
        recipe = recipe_of(arguments.model, "cpu", torch.device("cpu"))
        avatar = build(arguments.model, preset_arguments(arguments.model, {}, capture, recipe), capture)
        recipe.start(avatar, capture)
        measure = Measure(
            whole, newest, max(round(arguments.every * arguments.speed), 1), arguments.speed, arguments.measured
        )
        callbacks = [measure] if name != "live" else [feeder, LiveFrames(every=1e-3), measure]
        options = recipe.trainer_arguments(avatar, capture, **recipe.options)
        options["callbacks"] = [*options["callbacks"], *callbacks]
        trainer = hf.training.Trainer(avatar, capture, seed=0, bar=False, device="cpu", **options)
        trainer.fit(steps=max(round(arguments.seconds * arguments.speed), 1))
        results[name] = measure.rows
        write_text(arguments.out / "live.json", json.dumps(results, indent=1) + "\n")
    plot(results, arguments.out / "live.png", len(whole.splits["train"]) / arguments.rate, arguments.measured)


def plot(results: dict[str, list[dict[str, float]]], path: Path, whole_after: float, ahead: int) -> None:
    """The curves of both, and the moment at which the capture was whole."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, part in zip(axes, ("ahead", "test"), strict=True):
        for name, rows in results.items():
            points = [(row["seconds"], row[part]) for row in rows if part in row]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.axvline(whole_after, color="gray", linewidth=0.8, linestyle=":")
        axis.set(title={"ahead": f"the next {ahead} frames", "test": "test frames"}[part], xlabel="seconds of training")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR, dB")
    axes[1].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    with tolerant_stderr():
        main()
