"""Launches and bytes of a training step of each preset, counted without a GPU: `python -m benchmarks.gpu.counted`.

A step is captured on the tests' pretend device, whose replay says what each launch reads and writes. Images, rays,
samples, frames and tables are small there, so it is counted at several sizes of each, in which bytes are linear, and
extended to those of the recipe `fast`. How long that takes at least follows from a GPU's bandwidth, and from a time
that each launch of a graph takes. What is arithmetic (products, searches in trees, tests of pixels against Gaussians)
is not counted, nor is what a cache keeps from one launch to the next.
"""

from tests.pretend_cuda.device import PretendCuda  # isort: skip, before torch

import argparse
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import headfields as hf
from headfields.ops import HashGridLayout
from headfields.synthetic.captures import write_head_capture
from headfields.training import trainer
from headfields.training.presets import build, preset_arguments
from headfields.training.recipes import recipe_of
from tests.pretend_cuda.programs import Fabric
from tests.pretend_cuda.traffic import Launch

GPUS = {"H200": 4.8e12, "RTX 4090": 1.008e12}
"""Bytes a second of their memory, as NVIDIA's data sheets say."""
LAUNCH = 2.5e-6
"""Seconds that a launch of a graph takes at least, of however little: our own guess, of small kernels on large GPUs."""
PIXELS, SMALL = 512, 24
"""Side of an image, and of those that are counted with."""
STEPS = 5
"""Without a graph at first, and again after what a first step sets; the last is replayed."""


_FIELD = {"rays": 16_384, "marched": 1.25 * 2**20, "samples": 1.25 * 2**18, "frames": 32, "table": 2**18}
"""Rays that `fast` ends with, rows of buffers for 2^18 samples, of which a march along the rays through the shell
around a head makes four times as many, frames of a step, and entries of a hashed level."""
_SPLATS = {"pixels": PIXELS**2, "entries": 1.25 * 400_000}
"""Of an image, and room in the lists of tiles."""
PRESETS: dict[str, dict[str, float]] = {
    "insta": _FIELD,
    "vp360": _FIELD,
    "monoavatar": {"rays": 2048},
    "gaussian_avatars": {**_SPLATS, "count": 60_000},
    "flash_avatar": {**_SPLATS, "count": 14_000},
    "rgb_avatar": {**_SPLATS, "count": 60_353},
}
"""The sizes that the bytes of a step are linear in, with the recipe `fast`."""
_BASE: dict[str, float] = {
    "rays": 256, "marched": 4096, "samples": 2048, "frames": 2, "table": 2**13, "pixels": SMALL**2, "entries": 2048,
    "count": 300,
}  # fmt: skip
_FEW_RAYS = {"monoavatar": 32}
"""Rays of presets whose steps take long; each has 128 samples here."""
_captures: dict[int, Any] = {}


def _capture(side: int) -> Any:
    if side not in _captures:
        folder = Path(tempfile.mkdtemp()) / "head"
        write_head_capture(folder, frames=6, test_frames=1, size=side, samples=1, progress=False)
        _captures[side] = hf.data.load_capture(folder)
    return _captures[side]


def launches(model: str, sizes: Mapping[str, float]) -> list[Launch]:
    """What a captured step of a preset launches, at these sizes."""
    source, recipe = _capture(round(sizes.get("pixels", SMALL**2) ** 0.5)), recipe_of(model, "fast")
    with (
        PretendCuda(runs_triton=False) as device,
        mock.patch.object(trainer, "start_processes", lambda *given: (Fabric(given[3]), None)),
    ):
        arguments = preset_arguments(model, {}, source, recipe)
        if "count" in sizes:
            arguments["count"] = int(sizes["count"])
        if "table" in sizes:
            arguments["log2_table_size"] = int(math.log2(sizes["table"]))
        avatar = build(model, arguments, source)
        rays = {"rays": int(sizes["rays"]), "samples": 0} if "rays" in sizes else {}
        options = recipe.trainer_arguments(avatar, source, **rays)
        options["frames_per_step"] = int(sizes.get("frames", 1))
        options["losses"] = [_from_the_start(loss) for loss in options["losses"]]
        made = trainer.Trainer(avatar, source, device="cuda:0", bar=False, **options)
        rows = {name: int(sizes[of]) for name, of in _ROWS.items() if of in sizes}
        made.progress.extra["sample_rows"] = rows
        made.fit(steps=STEPS)
        if made.graph_reason or not device.traffic:
            raise RuntimeError(f"{model}: a step is no graph: {made.graph_reason}")
        return device.traffic


_ROWS = {"marched": "marched", "samples": "samples", "visible": "samples", "tiles": "entries"}
"""The sizes that buffers have; too small ones change nothing in what is launched."""


def _from_the_start(loss: Any) -> Any:
    return replace(loss, start=0) if getattr(loss, "start", 0) else loss


def counted(model: str) -> list[Launch]:
    """What a step launches, with the bytes at full sizes: those at small ones, and their growth with each size.

    Raises:
        RuntimeError: sizes change what is launched.
    """
    full = PRESETS[model]
    base = {name: _BASE[name] for name in full}
    if model in _FEW_RAYS:
        base["rays"] = _FEW_RAYS[model]
    at_base = launches(model, base)
    grown = [[launch.bytes, launch.requested] for launch in at_base]
    for name, size in full.items():
        larger = base | {name: (4 if name == "pixels" else 2) * base[name]}
        least, more, most = (_amount(name, each) for each in (base[name], larger[name], size))
        share = (most - least) / (more - least)
        other = launches(model, larger)
        if [each.name for each in other] != [each.name for each in at_base]:
            raise RuntimeError(f"{model}: with other {name} it launches other kernels")
        for total, small, large in zip(grown, at_base, other, strict=True):
            total[0] += share * (large.bytes - small.bytes)
            total[1] += share * (large.requested - small.requested)
    return [replace(each, bytes=b, requested=r) for each, (b, r) in zip(at_base, grown, strict=True)]


def _amount(name: str, size: float) -> float:
    """What bytes are linear in: of tables the entries of all levels, of which coarse ones have fewer than others."""
    if name != "table":
        return size
    return HashGridLayout(16, 8, int(math.log2(size)), 16, 2048).entries


def milliseconds(found: list[Launch], bandwidth: float) -> float:
    return 1e3 * sum(max(LAUNCH, each.bytes / bandwidth) for each in found)


def groups(found: list[Launch]) -> list[tuple[str, int, float]]:
    """What is launched from each file of the package, and backward by operation: name, launches, bytes; by bytes."""
    table: dict[str, list[float]] = {}
    for each in found:
        file = each.place.split(":")[0]
        is_kernel = each.name.startswith(("warp ", "triton "))
        name = each.name if is_kernel else f"{each.name}, backward" if file == "(autograd)" else file
        entry = table.setdefault(name, [0, 0.0])
        entry[0] += 1
        entry[1] += each.bytes
    return sorted(((name, int(n), b) for name, (n, b) in table.items()), key=lambda row: -row[2])


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.gpu.counted", description=__doc__)
    parser.add_argument("presets", nargs="*", choices=[*PRESETS, []], default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--items", type=int, default=3, help="the largest items of each that are named")
    parser.add_argument("--json", type=Path, help="writes each launch there")
    arguments = parser.parse_args()
    columns = [f"ms at least, {gpu}" for gpu in GPUS]
    print(f"| a step, counted, not measured | launches | GB | {' | '.join(columns)} | most GB |")
    print("|---|---|---|---|---|---|")
    details = {}
    for name in arguments.presets:
        found = counted(name)
        details[name] = [vars(each) for each in found]
        times = " | ".join(f"{milliseconds(found, bandwidth):.2f}" for bandwidth in GPUS.values())
        most = "; ".join(f"{item} {size / 1e9:.2f} ({n})" for item, n, size in groups(found)[: arguments.items])
        gigabytes = sum(each.bytes for each in found) / 1e9
        print(f"| {name} | {len(found)} | {gigabytes:.2f} | {times} | {most} |", flush=True)
        requested = sum(each.requested for each in found)
        if requested:
            print(f"{name}: rows of tables that threads ask the cache for: {requested / 1e9:.2f} GB")
    if arguments.json:
        arguments.json.write_text(json.dumps(details, indent=1))


if __name__ == "__main__":
    main()
