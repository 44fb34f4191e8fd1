"""INSTA on a capture, compared with two baselines: `python -m benchmarks.insta --capture DIR --out DIR --minutes 12`.

Trains INSTA and the same field without a deformer for the same time, fits the average texture, evaluates all three on
the test frames, over the image and by region of the face, and writes `insta.json` and `comparison.png` (truth, then
the three). Unfinished runs are resumed, finished ones reused.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.cli.train import train
from headfields.data.labels import Label, labels_of
from headfields.training import evaluate
from headfields.viz import save_image, side_by_side

REGIONS = {
    "lips and mouth": labels_of("mouth"), "brows": labels_of("brows"), "eyes": labels_of("eyes"),
    "nose": labels_of("nose"), "other skin": labels_of("skin"), "neck": (Label.NECK,), "hair": (Label.HAIR,),
    "background": labels_of("background"),
}  # fmt: skip
"""Labels by the names that the table prints."""


@torch.no_grad()
def by_region(avatar: Any, capture: Any) -> dict[str, float]:
    """PSNR in dB over all pixels of each region in the test frames, on white."""
    error, count = defaultdict[str, float](float), defaultdict[str, int](int)
    for frame in capture.splits["test"].tolist():
        pixels = capture.pixels(frame, background=1.0)
        if pixels.label is None:
            return {}
        rgb = avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1).view(-1, 3)
        squared = (rgb - pixels.target).square().mean(dim=-1)
        for name, labels in REGIONS.items():
            inside = torch.isin(pixels.label, torch.tensor(labels))
            error[name] += float(squared[inside].sum())
            count[name] += int(inside.sum())
    return {name: -10 * math.log10(max(error[name] / count[name], 1e-12)) for name in REGIONS if count[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    capture = hf.data.load_capture(arguments.capture)
    avatars: dict[str, torch.nn.Module] = {}
    for name, model in (("INSTA", "insta"), ("no deformer", "static_field")):
        run = arguments.out / model
        train(model, arguments.capture, run, minutes=arguments.minutes, resume=True, seed=arguments.seed)
        avatars[name] = hf.Avatar.load(run / "avatar.safetensors")
    avatars["average texture"] = hf.models.AverageTexture(capture.template).fit(capture, capture.splits["train"], True)

    figures = {name: evaluate(avatar, capture, split="test", bar=True) for name, avatar in avatars.items()}
    print(f"{'':16s} {'PSNR':>7s} {'SSIM':>7s} {'in head':>8s} {'s/frame':>8s}")
    for name, result in figures.items():
        print(
            f"{name:16s} {result['psnr']:7.2f} {result['ssim']:7.4f} {result['psnr_masked']:8.2f}"
            f" {result['seconds_per_frame']:8.2f}"
        )
    regions = {name: by_region(avatar, capture) for name, avatar in avatars.items()}
    for region in next(iter(regions.values())):
        print(f"{region:16s} " + "   ".join(f"{name} {psnrs[region]:5.2f}" for name, psnrs in regions.items()))
    (arguments.out / "insta.json").write_text(json.dumps({"whole": figures, "regions": regions}, indent=1) + "\n")

    test = capture.splits["test"]
    columns = []
    for frame in test[:: max(len(test) // 6, 1)][:6].tolist():
        camera, state = capture.camera([frame])[0], capture.state([frame])
        truth = capture.pixels(frame, background=1.0).target.view(*capture.size, 3)
        images = [truth, *(avatar.render(camera, state).rgb.clamp(0, 1) for avatar in avatars.values())]
        columns.append(torch.cat(images, dim=0))
    save_image(arguments.out / "comparison.png", side_by_side(columns))


if __name__ == "__main__":
    main()
