"""`make demo`: INSTA trained on a synthetic capture for three CPU minutes, with pictures and metrics.

Everything is kept in `demo/`. A second run resumes one that was cut off, and prints the results of one that was not.
Remove the folder, or pass another `--out`, to start afresh.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.cli.render import render
from headfields.cli.train import train
from headfields.viz import save_image, side_by_side

OUTPUTS = ("contact_sheet.png", "comparison.png", "expressions.mp4", "turntable.mp4", "figures.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="training time of the avatar; the baseline gets as much"
    )
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    out: Path = arguments.out

    print(f"1. a synthetic capture in {out / 'capture'}")
    hf.synthetic.write_head_capture(out / "capture", frames=arguments.frames, size=arguments.size)
    capture = hf.data.load_capture(out / "capture")
    if not (out / "contact_sheet.png").exists():
        hf.viz.contact_sheet(capture, path=out / "contact_sheet.png")

    print(
        f"2. INSTA, {arguments.minutes:g} minutes; then two baselines: its field without a deformer, an average texture"
    )
    runs = {model: out / model for model in ("insta", "static_field")}
    if (out / "figures.json").exists():  # written last
        figures = json.loads((out / "figures.json").read_text())
    else:
        for model, run in runs.items():
            train(model, out / "capture", run, minutes=arguments.minutes, resume=True)
        avatars = {
            "INSTA": hf.Avatar.load(runs["insta"] / "avatar.safetensors"),
            "no deformer": hf.Avatar.load(runs["static_field"] / "avatar.safetensors"),
            "average texture": hf.models.AverageTexture(capture.template).fit(capture, capture.splits["train"]),
        }
        compare(capture, avatars, out / "comparison.png")
        render(runs["insta"], mode="expressions", out=out / "expressions.mp4", seconds=1.5, fps=12)
        render(runs["insta"], mode="turntable", out=out / "turntable.mp4", degrees=90.0, seconds=3.0, fps=12)
        figures = {name: hf.training.evaluate(avatar, capture, split="test") for name, avatar in avatars.items()}
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")

    print("3. metrics of the test frames")
    for name, result in figures.items():
        print(
            f"   {name:16s} PSNR {result['psnr']:5.2f} dB   SSIM {result['ssim']:.3f}   "
            f"in the head {result['psnr_masked']:5.2f} dB"
        )
    for name in OUTPUTS:
        print(f"   {out / name}")
    print(f"   {runs['insta'] / 'avatar.safetensors'}: headfields.Avatar.load opens it anywhere")


def compare(capture: hf.data.Capture, avatars: Mapping[str, Any], path: Path) -> None:
    """Saves a picture of four test frames in rows: truth, then each avatar."""
    test = capture.splits["test"]
    rows = []
    for frame in test[:: max(len(test) // 4, 1)][:4].tolist():
        truth = capture.pixels(frame, background=1.0).target.view(*capture.size, 3)
        camera, state = capture.camera([frame])[0], capture.state([frame])
        rows.append([truth, *(avatar.render(camera, state).rgb.clamp(0, 1) for avatar in avatars.values())])
    columns = [torch.cat(images, dim=0) for images in zip(*rows, strict=True)]
    save_image(path, side_by_side(columns, ["truth", *avatars]))


if __name__ == "__main__":
    main()
