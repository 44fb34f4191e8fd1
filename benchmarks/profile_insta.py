"""Profile of a training step and a rendered frame of INSTA, by stage.

`python -m benchmarks.profile_insta --capture DIR`

Trains for `--steps` steps first, so that the occupancy grid has settled, then prints medians per stage. A stage's time
includes the stages indented below it. With `--run`, measures the trained avatar of a run instead.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.training import Trainer
from headfields.training.preset_losses import insta_losses

STAGES = (
    ("prepare: refit, triangle frames", "headfields.avatar.avatar", "AvatarField", "__init__"),
    ("sampler", "headfields.renderers.samplers", "OccupancySampler", "forward"),
    ("  near and far", "headfields.avatar.avatar", "AvatarField", "near_far"),
    ("  canonicalize", "headfields.avatar.avatar", "AvatarField", "canonicalize"),
    ("    closest triangle", "headfields.ops.triangle_bvh", "TriangleBVH", "closest"),
    ("color of what is seen", "headfields.avatar.avatar", "AvatarField", "color"),
    ("encode and decode, both passes", "headfields.avatar.avatar", "AvatarField", "decode"),
    ("  hash grid", "headfields.encoders.hash_grid", "HashGrid", "forward"),
    ("backward", "torch", "Tensor", "backward"),
    ("optimizer", "torch.optim", "Adam", "step"),
    ("average of the weights", "headfields.runs.ema", "ExponentialMovingAverage", "update"),
    ("pixels from the capture", "headfields.data.capture", "Capture", "sample_pixels"),
)


@contextmanager
def timed(into: dict[str, float]) -> Iterator[None]:
    """Within the block, every stage adds its seconds to `into`."""
    undo: list[Callable[[], None]] = []
    for label, module, owner, name in STAGES:
        cls = getattr(__import__(module, fromlist=["_"]), owner)
        original = getattr(cls, name)

        def wrapped(*args: Any, _original: Any = original, _label: str = label, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return _original(*args, **kwargs)
            finally:
                into[_label] += time.perf_counter() - start

        setattr(cls, name, wrapped)
        undo.append(lambda cls=cls, name=name, original=original: setattr(cls, name, original))
    try:
        yield
    finally:
        for restore in undo:
            restore()


def measure(title: str, action: Callable[[], Any], times: int) -> dict[str, float]:
    """Runs `action` that many times; prints and returns median milliseconds of the whole and of each stage."""
    rows: dict[str, list[float]] = defaultdict(list)
    for _ in range(times):
        spent: dict[str, float] = defaultdict(float)
        with timed(spent):
            start = time.perf_counter()
            action()
            spent["whole"] = time.perf_counter() - start
        for label in ("whole", *(stage[0] for stage in STAGES)):
            rows[label].append(1e3 * spent[label])
    medians = {label: statistics.median(values) for label, values in rows.items()}
    print(f"\n{title} (median of {times}, ms)")
    for label, value in medians.items():
        if value:
            print(f"  {label:34s} {value:8.1f}")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of headfields train")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    capture = hf.data.load_capture(arguments.capture)
    if arguments.run:
        avatar = hf.Avatar.load(arguments.run / "avatar.safetensors")
    else:
        avatar = hf.models.insta(capture.template, expression_width=min(64, capture.expression_width or 1))
    trainer = Trainer(avatar, capture, insta_losses(), schedule="constant")
    trainer.fit(steps=0 if arguments.run else arguments.steps)
    step = trainer.progress.step
    figures = {}

    def more() -> None:
        nonlocal step
        step += 20
        trainer.fit(steps=step)

    medians = measure("20 training steps", more, 5)
    figures["training step"] = {label: value / 20 for label, value in medians.items()}
    frame = int(capture.splits["test"][0])
    camera, state = capture.camera([frame])[0], capture.state([frame])
    figures["rendered frame"] = measure("a rendered frame", lambda: avatar.render(camera, state), 5)
    print(f"\n{torch.get_num_threads()} threads;", "; ".join(str(row) for row in hf.backends() if row.in_use))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
