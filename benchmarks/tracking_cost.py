"""What tracking costs each model: trained on a capture that was tracked from its own images, beside the exact one.

`python -m benchmarks.tracking_cost --capture DIR --head HEAD --out OUT [--every 3] [--steps 400] [--seeds 0]`

Takes a capture with exact meshes and cameras, and makes another from its images, mattes and labels and from its
landmarks, moved by normal noise, with `headfields capture` and a head that does not know the person. INSTA, MonoAvatar
with and without its error-correction warp, and 3VP Avatar are trained on both, on the same images, for the same number
of steps with the recipe for a CPU, and measured on the same test frames: the last of the sequence. Tracking moves the
test frames too, which no avatar can correct; the models of `--refine` are measured also with the pose of each test
frame fitted to its image, as `headfields evaluate --refine` does.

Finished parts are reused and interrupted ones continued. OUT gets, after each row, cost.json and cost.md (mean and
deviation over the seeds, and the difference of each tracked row to its exact one, bold if Student's t-test of the pairs
of seeds determines it at 95 %), and at the end cost.png (truth and rows, one test frame, the first seed).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headfields as hf
from benchmarks.capture_truth import noisy_landmarks
from benchmarks.rows import Figures, markdown, reused, summary
from headfields.cli import main as headfields
from headfields.data import load_capture
from headfields.training import Trainer, evaluate
from headfields.training.presets import build, preset_arguments
from headfields.training.recipes import recipe_of
from headfields.viz import save_image, side_by_side

MODELS = {"INSTA": "insta", "MonoAvatar": "monoavatar", "MonoAvatar without warp": "monoavatar", "3VP": "vp360"}
KINDS = ("exact", "tracked")
KEYS = {"PSNR": "psnr", "PSNR in the head": "psnr_head", "SSIM in the head": "ssim_head"}
REFINED = {"PSNR refined": "psnr_refined", "PSNR in the head refined": "psnr_head_refined",
           "SSIM in the head refined": "ssim_head_refined"}  # fmt: skip
COLUMNS = (*KEYS, *REFINED)
NEVER = 10**9
"""A first step of the warp that no run reaches."""


def prepared(arguments: argparse.Namespace) -> Path:
    """The tracked capture; made if it is not there."""
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tracked, landmarks = out / "tracked", out / "landmarks.npz"
    if not landmarks.is_file():
        np.savez(landmarks, landmarks=noisy_landmarks(load_capture(arguments.capture), arguments.noise))
    if not (tracked / "transforms.json").is_file():
        options = {"--every": arguments.every, "--frames": arguments.frames, "--focal": arguments.focal}
        command = [
            "capture", arguments.capture, "--head", arguments.head, "--out", tracked, "--landmarks", landmarks,
            "--crop", "none", *[part for pair in options.items() if pair[1] is not None for part in pair],
            *(["--quick"] if arguments.quick else []), *(["--resume"] if tracked.exists() else []),
        ]  # fmt: skip
        if headfields([str(word) for word in command]):
            raise SystemExit(1)
    return tracked


def opened(kind: str, model: str, arguments: argparse.Namespace) -> hf.data.Capture:
    """The tracked capture, or the exact one with the frames and splits of the tracked one."""
    mouth = recipe_of(MODELS[model], "cpu").mouth
    tracked = load_capture(arguments.out / "tracked", mouth=mouth)
    if kind == "tracked":
        return tracked
    numbers = torch.tensor([int(Path(name).stem) for name in tracked.frame_names]) * arguments.every
    exact = load_capture(arguments.capture, mouth=mouth)
    if exact.size != tracked.size:
        raise SystemExit(f"{arguments.capture} has images of {exact.size} and the tracked capture of {tracked.size}")
    for name, rows in tracked.splits.items():
        if name != "all":
            exact.splits[name] = numbers[rows]
    return exact


def trained(model: str, kind: str, seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Figures of one run: trained and measured; a run that was interrupted is continued."""
    name, recipe = MODELS[model], recipe_of(MODELS[model], "cpu")
    capture = opened(kind, model, arguments)
    values = preset_arguments(name, {}, capture, recipe)
    if name == "monoavatar":  # the warp begins after an eighth of the steps, or never
        begins = arguments.steps // 8 if model == "MonoAvatar" else NEVER
        values |= {"start": begins, "coarse_to_fine": max(arguments.steps // 2, 1)}
    torch.manual_seed(seed)
    avatar = build(name, values, capture)
    recipe.start(avatar, capture)
    options = {key: getattr(arguments, key) for key in ("rays", "samples") if getattr(arguments, key) is not None}
    trainer = Trainer(
        avatar, capture, seed=seed, out=folder, device="cpu", bar=False, picture_seconds=1e9,
        **recipe.trainer_arguments(avatar, capture, **options),
    )  # fmt: skip
    result = trainer.fit(steps=arguments.steps, resume=(folder / "checkpoint").exists())
    if result.interrupted:
        raise SystemExit(f"interrupted at step {result.step} of {folder}; the same command continues from there")
    avatar.save(folder / "avatar.safetensors")
    rows = evaluate(avatar, capture, frames=measured_frames(capture, arguments.measured))
    return {"steps": float(result.step), "seconds": float(result.seconds)} | chosen(rows, KEYS)


def refined(model: str, kind: str, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Figures of a trained run with the poses of the measured frames fitted to their images."""
    capture = opened(kind, model, arguments)
    avatar = hf.Avatar.load(folder / "avatar.safetensors")
    frames = measured_frames(capture, arguments.measured)
    return chosen(evaluate(avatar, capture, frames=frames, refine=True), REFINED)


def chosen(rows: dict[str, Any], keys: dict[str, str]) -> dict[str, float]:
    """The figures of the columns, by their names in the table."""
    return {column: float(rows[key]) for column, key in keys.items() if rows.get(key) is not None}


def measured_frames(capture: hf.data.Capture, most: int) -> list[int]:
    """At most so many test frames, evenly over them."""
    frames = capture.splits["test"]
    if not len(frames):
        raise SystemExit(f"no frame of {capture.path} is for testing; lower --every or raise --frames")
    return frames[torch.linspace(0, len(frames) - 1, min(most, len(frames))).round().long()].tolist()


def run(arguments: argparse.Namespace) -> dict[str, list[Figures]]:
    """All rows, those that are finished from their files; the table is written after each."""
    prepared(arguments)
    rows: dict[str, list[Figures]] = {}
    baseline = {f"{model}, tracked": f"{model}, exact" for model in MODELS}
    for seed in arguments.seeds:
        for model in arguments.models:
            for kind in KINDS:
                folder = arguments.out / "rows" / f"{model.replace(' ', '_')}_{kind}_{seed}"

                def figures(own: Any = (model, kind, seed), folder: Path = folder) -> dict[str, float]:
                    return trained(*own, arguments, folder)

                values = dict(reused(folder, figures))
                if model in arguments.refine:

                    def fitted(own: Any = (model, kind), folder: Path = folder) -> dict[str, float]:
                        return refined(*own, arguments, folder)

                    values |= reused(folder / "refined", fitted)
                rows.setdefault(f"{model}, {kind}", []).append(values)
                print(
                    f"{model}, {kind}, seed {seed}:",
                    {key: round(value, 2) for key, value in values.items()},
                    flush=True,
                )
                table = summary(rows, COLUMNS, baseline)
                text = {"arguments": vars(arguments), "rows": table}
                (arguments.out / "cost.json").write_text(json.dumps(text, indent=1, default=str) + "\n")
                (arguments.out / "cost.md").write_text(markdown(table, COLUMNS) + "\n")
    return rows


@torch.no_grad()
def picture(arguments: argparse.Namespace) -> None:
    """Saves the first measured test frame and every row's rendering of it."""
    images: list[Any] = []
    titles: list[str] = []
    for model in arguments.models:
        for kind in KINDS:
            capture = opened(kind, model, arguments)
            frame = measured_frames(capture, arguments.measured)[0]
            if not images:
                images.append(capture.pixels(frame, background=1.0).target.view(*capture.size, 3))
                titles.append("truth")
            folder = arguments.out / "rows" / f"{model.replace(' ', '_')}_{kind}_{arguments.seeds[0]}"
            avatar = hf.Avatar.load(folder / "avatar.safetensors")
            images.append(avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1))
            titles.append(f"{model}, {kind}")
    save_image(arguments.out / "cost.png", side_by_side(images, titles))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True, help="a capture with exact meshes and landmarks")
    parser.add_argument("--head", default="procedural", help="procedural, or a file: benchmarks.ict_people writes one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--frames", type=int, help="only the first N of these")
    parser.add_argument("--noise", type=float, default=1.0, help="of landmarks, standard deviation in pixels")
    parser.add_argument("--focal", type=float, help="known focal length, pixels")
    parser.add_argument("--quick", action="store_true", help="track with smaller images and fewer steps")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rays", type=int, help="rays of the first step; the recipe's if not given")
    parser.add_argument("--samples", type=int, help="samples of a step; the recipe's if not given")
    parser.add_argument("--measured", type=int, default=8, help="most test frames that are measured")
    parser.add_argument("--refine", nargs="*", choices=MODELS, default=["INSTA"], metavar="MODEL",
                        help="measure these also with poses fitted to the test images")  # fmt: skip
    arguments = parser.parse_args(words)
    run(arguments)
    picture(arguments)
    print((arguments.out / "cost.md").read_text())


if __name__ == "__main__":
    main()
