"""INSTA on a capture, compared with two baselines: `python -m benchmarks.insta --capture DIR --out DIR --minutes 12`.

Trains INSTA and the same field without a deformer equally long, fits the average texture, evaluates all three on the
test frames, over the image and by region of the face, and writes `insta.json`, `comparison.png` (truth, then the three)
and `face.png` (the face in three frames, every pixel as two by two: truth, INSTA, the average texture). Unfinished runs
are resumed, finished ones reused.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from headfields.cli.train import train
from headfields.data.labels import Label
from headfields.training import evaluate
from headfields.training.region_scores import RegionMasks
from headfields.viz import save_image, side_by_side

MODELS = {"insta": "INSTA", "static_field": "no deformer"}
AVERAGE = "average texture"


def rendered(avatar: Any, capture: hf.data.Capture, frame: int) -> Tensor:
    """(H, W, 3) in [0, 1], on white."""
    return avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1)


def by_region(result: Mapping[str, Any]) -> dict[str, float]:
    """PSNR in dB by region, of `evaluate(regions=True)`."""
    return {name[5:]: value for name, value in result.items() if name.startswith("psnr_") and value is not None}


def telling_frames(capture: hf.data.Capture) -> list[int]:
    """The test frames with most of the mouth's inside, with most of the eyes, and, if there is one, a blink."""
    test = capture.splits["test"].tolist()
    labels = [capture.label(frame) for frame in test]
    if any(label is None for label in labels):
        return test[:: max(len(test) // 3, 1)][:3]
    eyes = [int(((label == Label.LEFT_EYE) | (label == Label.RIGHT_EYE)).sum()) for label in labels]
    inside = [int((label == Label.MOUTH_INTERIOR).sum()) for label in labels]
    frames = [test[inside.index(max(inside))], test[eyes.index(max(eyes))]]
    return [*frames, *sorted({*RegionMasks(capture).blinks()} & {*test})[:1]]


def face_crop(image: Tensor, capture: hf.data.Capture, frame: int, side: int) -> Tensor:
    """The square of `side` pixels around the eyes and the mouth, each pixel as two by two."""
    template = capture.template
    faces = torch.stack([template.regions[name] for name in ("eyes", "mouth")]).any(dim=0)
    points = capture.state([frame]).vertices[:, template.faces[faces].unique()]
    pixels = capture.camera([frame]).project(points)[0][0]
    middle = (pixels.amin(dim=0) + pixels.amax(dim=0)) / 2
    left, top = (
        int(min(max(float(c) - side / 2, 0), n - side)) for c, n in zip(middle, capture.size[::-1], strict=True)
    )
    return image[top : top + side, left : left + side].repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="of training, each model; 12 if neither limit is given")
    parser.add_argument("--steps", type=int, help="of training, each model")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    capture = hf.data.load_capture(arguments.capture)
    limits = {"minutes": arguments.minutes, "steps": arguments.steps}
    if all(limit is None for limit in limits.values()):
        limits["minutes"] = 12.0
    avatars: dict[str, Any] = {}
    for model in arguments.models:
        run = arguments.out / model
        if not (run / "avatar.safetensors").exists():
            train(model, arguments.capture, run, resume=True, seed=arguments.seed, **limits)
        avatars[MODELS[model]] = hf.Avatar.load(run / "avatar.safetensors")
    avatars[AVERAGE] = hf.models.baselines.AverageTexture(capture.template).fit(capture, capture.splits["train"], True)

    figures = {
        name: evaluate(avatar, capture, split="test", bar=True, regions=True) for name, avatar in avatars.items()
    }
    print(f"{'':16s} {'PSNR':>7s} {'SSIM':>7s} {'in head':>8s} {'s/frame':>8s}")
    for name, result in figures.items():
        print(
            f"{name:16s} {result['psnr']:7.2f} {result['ssim']:7.4f} {result['psnr_head']:8.2f}"
            f" {result['seconds_per_frame']:8.2f}"
        )
    regions = {name: by_region(result) for name, result in figures.items()}
    for region in next(iter(regions.values())):
        print(f"{region:16s} " + "   ".join(f"{name} {psnrs[region]:5.2f}" for name, psnrs in regions.items()))
    (arguments.out / "insta.json").write_text(json.dumps({"whole": figures, "regions": regions}, indent=1) + "\n")

    test = capture.splits["test"]
    columns = []
    for frame in test[:: max(len(test) // 6, 1)][:6].tolist():
        truth = capture.pixels(frame, background=1.0).target.view(*capture.size, 3)
        columns.append(torch.cat([truth, *(rendered(avatar, capture, frame) for avatar in avatars.values())], dim=0))
    save_image(arguments.out / "comparison.png", side_by_side(columns))
    crops: dict[str, list[Tensor]] = {}
    side = min(capture.size) // 2
    for frame in telling_frames(capture):
        images = {"truth": capture.pixels(frame, background=1.0).target.view(*capture.size, 3)}
        images |= {name: rendered(avatars[name], capture, frame) for name in ("INSTA", AVERAGE) if name in avatars}
        for name, image in images.items():
            crops.setdefault(name, []).append(face_crop(image, capture, frame, side))
    save_image(arguments.out / "face.png", side_by_side([torch.cat(rows) for rows in crops.values()], list(crops)))


if __name__ == "__main__":
    main()
