"""Presets of Gaussians beside INSTA and MonoAvatar on one budget:
`python -m benchmarks.gaussian_presets --capture DIR --out OUT --seconds 180`.

The budget is processor time of one thread, so that a machine which does other work too gives the same comparison: a
short training of each preset, in OUT/probe, says what a step costs, and the run has as many steps as the budget pays
for. `--minutes` is wall time instead. Writes `gaussian_presets.json` and `.md` (PSNR, SSIM, milliseconds of processor
time a frame, megabytes, PSNR by region), `gaussian_presets.png` (the four figures), `faces.png` (eyes and mouth, two by
two pixels for each) and `hair.png`. Unfinished runs are resumed, finished ones reused.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from benchmarks.insta import by_region, face_crop, rendered, telling_frames
from headfields.cli import open_run
from headfields.cli.train import train
from headfields.training import evaluate
from headfields.training.frames import view_of
from headfields.viz import save_image, side_by_side

MODELS = {
    "gaussian_avatars": "GaussianAvatars", "flash_avatar": "FlashAvatar", "rgb_avatar": "RGBAvatar", "insta": "INSTA",
    "monoavatar": "MonoAvatar",
}  # fmt: skip
FIGURES = {"psnr": "PSNR, dB", "ssim": "SSIM", "milliseconds": "ms of a thread a frame", "megabytes": "MB"}


def processor_seconds(model: str, capture: Path, out: Path, steps: int, seed: int) -> float:
    """Processor time of a training run; resumed and finished runs count what they still had to do."""
    before = time.process_time()
    if not (out / "avatar.safetensors").exists():
        train(model, capture, out, resume=True, seed=seed, steps=steps)
    return time.process_time() - before


def steps_within(seconds: float, model: str, capture: Path, out: Path, seed: int, probe: int) -> int:
    """Steps that the budget pays for, at the price of two thirds of a probe's steps: runs of `probe` and of three times
    as many, after one that reads the capture and loads what is loaded once.

    Raises:
        ValueError: the longer run took no more time.
    """
    record = out / f"{model}.json"
    if not record.exists():
        spent = [processor_seconds(model, capture, out / f"{model}_{n}", n, seed) for n in (2, probe, 3 * probe)]
        each = (spent[2] - spent[1]) / (2 * probe)
        if not each > 0:
            raise ValueError(f"{model}: {3 * probe} steps took no longer than {probe}; delete {out}, and raise --probe")
        record.write_text(json.dumps({"step": each, "start": max(spent[1] - probe * each, 0.0)}))
    price = json.loads(record.read_text())
    return max(round((seconds - price["start"]) / price["step"]), 1)


def frame_milliseconds(avatar: Any, capture: hf.data.Capture, frames: int = 8) -> float:
    """Median processor time of a frame of one thread, milliseconds; each frame is drawn once before."""
    threads, spent = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for frame in capture.splits["test"].tolist()[:frames]:
            view = view_of(capture, frame, torch.device("cpu"))
            avatar.render(*view)
            before = time.process_time()
            avatar.render(*view)
            spent.append(1e3 * (time.process_time() - before))
    finally:
        torch.set_num_threads(threads)
    return sorted(spent)[len(spent) // 2]


def measured(avatar: Any, capture: hf.data.Capture, run: Path, limit: int | None) -> dict[str, Any]:
    """All figures of a trained avatar."""
    test = capture.splits["test"].tolist()
    frames = test if limit is None else test[:: max(len(test) // limit, 1)][:limit]
    result = evaluate(avatar, capture, frames=frames, bar=True, regions=True)
    figures = {name: result[name] for name in ("psnr", "ssim", "psnr_head")}
    return {
        **figures, "milliseconds": frame_milliseconds(avatar, capture),
        "megabytes": (run / "avatar.safetensors").stat().st_size / 1e6, "frames": len(frames),
        "regions": by_region(result),
    }  # fmt: skip


def markdown(results: dict[str, dict[str, Any]]) -> str:
    regions = [name for name in next(iter(results.values()))["regions"] if name not in ("image", "head")]
    names = {"model": "", "steps": "steps", **FIGURES, **{name: name for name in regions}}
    rows = ["| " + " | ".join(names.values()) + " |", "|---" * len(names) + "|"]
    for model, row in results.items():
        figures = [f"{row['psnr']:.2f}", f"{row['ssim']:.3f}", f"{row['milliseconds']:.0f}", f"{row['megabytes']:.1f}"]
        figures += [f"{row['regions'][name]:.1f}" if name in row["regions"] else "" for name in regions]
        rows.append("| " + " | ".join([MODELS[model], str(row["steps"]), *figures]) + " |")
    return "\n".join(rows) + "\n"


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel a figure, one bar a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    figure, panels = plt.subplots(1, len(FIGURES), figsize=(11, 2.4), sharey=True)
    names = [MODELS[model] for model in results][::-1]
    for panel, (key, title) in zip(panels, FIGURES.items(), strict=True):
        values = [row[key] for row in results.values()][::-1]
        panel.barh(names, values, color="#4477aa")
        panel.set_title(title, fontsize=9)
        if key in ("milliseconds", "megabytes"):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(ticker.ScalarFormatter())
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        else:
            low, high = min(values), max(values)
            panel.set_xlim(low - 0.3 * max(high - low, 1e-3), high + 0.1 * max(high - low, 1e-3))
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def hair_crop(image: Tensor, capture: hf.data.Capture, frame: int, side: int) -> Tensor:
    """The square of `side` pixels at the top of the matte, each pixel as two by two."""
    alpha = capture.image(frame)[..., 3] > 0.5
    rows, columns = (alpha.any(axis).nonzero()[:, 0] for axis in (1, 0))
    height, width = capture.size
    top = max(int(rows.min()) - 4, 0) if len(rows) else 0
    left = int(columns.float().mean()) - side // 2 if len(columns) else 0
    left, top = min(max(left, 0), width - side), min(top, height - side)
    return image[top : top + side, left : left + side].repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)


def pictures(
    avatars: dict[str, Any], sources: dict[str, hf.data.Capture], capture: hf.data.Capture, out: Path
) -> None:  # fmt: skip
    """`faces.png` and `hair.png`: a row a frame, the truth first."""
    side = min(capture.size) // 2
    frames = telling_frames(capture)
    for name, crop, chosen in (("faces", face_crop, frames), ("hair", hair_crop, frames[:2])):
        columns: dict[str, list[Tensor]] = {}
        for frame in chosen:
            images = {"truth": capture.pixels(frame, background=1.0).target.view(*capture.size, 3)}
            images |= {MODELS[model]: rendered(avatar, sources[model], frame) for model, avatar in avatars.items()}
            for caption, image in images.items():
                columns.setdefault(caption, []).append(crop(image, capture, frame, side))
        save_image(out / f"{name}.png", side_by_side([torch.cat(each) for each in columns.values()], list(columns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--seconds", type=float, help="of processor time of one thread, each model")
    budget.add_argument("--minutes", type=float, help="of wall time, each model")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--limit", type=int, help="test frames at most; all if not given")
    parser.add_argument("--probe", type=int, default=30, help="steps of the shorter of two probes, 3 or more")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    capture = hf.data.load_capture(arguments.capture)
    out: Path = arguments.out
    (out / "probe").mkdir(parents=True, exist_ok=True)
    if arguments.seconds is not None:
        torch.set_num_threads(1)
    avatars: dict[str, Any] = {}
    sources: dict[str, hf.data.Capture] = {}
    results: dict[str, dict[str, Any]] = {}
    for model in arguments.models:
        run = out / model
        record = run / "measured.json"
        if arguments.seconds is None:
            if not (run / "avatar.safetensors").exists():
                train(model, arguments.capture, run, resume=True, seed=arguments.seed, minutes=arguments.minutes)
        else:
            steps = steps_within(
                arguments.seconds, model, arguments.capture, out / "probe", arguments.seed, arguments.probe
            )
            processor_seconds(model, arguments.capture, run, steps, arguments.seed)
        avatars[model] = hf.load_avatar(run / "avatar.safetensors").eval()
        sources[model] = open_run.capture_of(
            open_run.open_run(run)[1], None, 2048
        )  # with the run's mouth and head frame
        if not record.exists():
            lines = (run / "log.jsonl").read_text().splitlines()
            last = max((json.loads(line).get("step", 0) for line in lines), default=0)
            record.write_text(
                json.dumps({"steps": last, **measured(avatars[model], sources[model], run, arguments.limit)})
            )
        results[model] = json.loads(record.read_text())
        (out / "gaussian_presets.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / "gaussian_presets.md").write_text(markdown(results))
        print(markdown(results), flush=True)
    draw(results, out / "gaussian_presets.png")
    pictures(avatars, sources, capture, out)


if __name__ == "__main__":
    main()
