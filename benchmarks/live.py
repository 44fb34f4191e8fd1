"""Live training: PSNR of the frames ahead while a capture is still being written, beside training with all at hand.

`python -m benchmarks.live --capture DIR --out OUT` copies the training frames of a capture in INSTA's layout to a
folder at 5 frames a second, as a tracker would write them, and trains INSTA on that folder from the first frames on.
Every ten seconds of training it renders the next frames, which have not been written yet, and test frames. Then it
trains as long with all frames at hand, and measures the same frames at the same moments.
"""

import argparse
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.cli.streams import tolerant_stderr
from headfields.data.live import LEAST, LiveCapture, wait_for_frames
from headfields.files.atomic import write_text
from headfields.training.live import LiveFrames
from headfields.training.recipes import recipe_of

AHEAD = 5
"""Frames that are measured: so many after the newest that has been written."""


class Feeder(threading.Thread):
    """Writes the frames of a capture to another folder, one after the other, the list last.

    Args:
        source: a capture in INSTA's layout.
        folder: the folder to write.
        rate: frames a second.
    """

    def __init__(self, source: Path, folder: Path, rate: float) -> None:
        super().__init__(daemon=True)
        self.source, self.folder, self.rate = source, folder, rate
        self.content = json.loads((source / "transforms_train.json").read_text())
        self.written = 0

    def run(self) -> None:
        """Writes until there are no more frames."""
        frames, start = self.content["frames"], time.monotonic()
        for index, frame in enumerate(frames):
            time.sleep(max(start + index / self.rate - time.monotonic(), 0))
            for key, name in frame.items():
                if key.endswith("_path") and (self.source / name).is_file():
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.source / name, self.folder / name)
            named = {**self.content, "frames": frames[: index + 1]}
            write_text(self.folder / "transforms_train.json", json.dumps(named))
            self.written = index + 1


class Measure:
    """A callback: the PSNR of frames ahead and of test frames, every so many seconds of training.

    Args:
        whole: the capture with all frames.
        newest: the number of training frames that have been written by now; a function of seconds.
        every: seconds of training between two measurements.
    """

    def __init__(self, whole: Any, newest: Any, every: float) -> None:
        self.whole, self.newest, self.every = whole, newest, every
        self.rows: list[dict[str, float]] = []

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """Measures when it is time; the clock of training counts it."""
        if trainer.progress.seconds < self.every * (len(self.rows) + 1):
            return
        train, test = self.whole.splits["train"].tolist(), self.whole.splits["test"].tolist()
        newest = int(self.newest(trainer.progress.seconds))
        ahead = train[newest : newest + AHEAD]
        row = {"seconds": trainer.progress.seconds, "steps": trainer.progress.step, "frames": newest}
        with trainer.averaged() as avatar:
            for name, frames in (("ahead", ahead), ("test", test[:: max(len(test) // AHEAD, 1)][:AHEAD])):
                if frames:
                    row[name] = hf.training.evaluate(avatar, self.whole, frames=frames)["psnr"]
        self.rows.append(row)
        print({key: round(value, 2) for key, value in row.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second")
    parser.add_argument("--minutes", type=float, default=1.5, help="of training, each")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two measurements")
    arguments = parser.parse_args()
    whole = hf.data.load_capture(arguments.capture)
    folder = arguments.out / "capture"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(arguments.capture / "canonical.obj", folder / "canonical.obj")
    feeder = Feeder(arguments.capture, folder, arguments.rate)
    feeder.start()
    wait_for_frames(folder, LEAST)
    live = LiveCapture(folder)
    results = {}
    counts: list[tuple[float, int]] = []

    def written(seconds: float) -> int:
        counts.append((seconds, feeder.written))
        return feeder.written

    def written_then(seconds: float) -> int:
        return min(counts, key=lambda entry: abs(entry[0] - seconds))[1]

    for name, capture, newest in (("live", live, written), ("all at hand", whole, written_then)):
        print(name, flush=True)
        torch.manual_seed(0)
        recipe = recipe_of("insta", "cpu", torch.device("cpu"))
        avatar = hf.models.insta(whole.template, **_arguments(recipe, whole))
        measure = Measure(whole, newest, arguments.every)
        callbacks = [measure] if name != "live" else [LiveFrames(), measure]
        options = recipe.trainer_arguments(avatar, capture, **recipe.options)
        options["callbacks"] = [*options["callbacks"], *callbacks]
        trainer = hf.training.Trainer(avatar, capture, seed=0, bar=False, device="cpu", **options)
        trainer.fit(minutes=arguments.minutes)
        results[name] = measure.rows
    write_text(arguments.out / "live.json", json.dumps(results, indent=1) + "\n")


def _arguments(recipe: Any, capture: Any) -> dict[str, Any]:
    from headfields.cli import presets

    return presets.arguments_for("insta", [], capture, recipe)


if __name__ == "__main__":
    with tolerant_stderr():
        main()
