"""MonoAvatar's error-correction warp where tracking errs and where it is exact: trained with it and without.

`python -m benchmarks.monoavatar_warp --out OUT [--exact DIR] [--steps 300] [--seeds 0 1 2] [--frames 96] [--size 192]`

The noisy capture is that of `headfields synth OUT/noisy --noise 1`, drawn if it is not there; the exact one is DIR, or
the same capture without noise. The row without the warp is the same avatar with a warp that never starts. Rows of one
capture train for the same number of steps, from the same seeds.

Test frames are measured as they are tracked, without a warp, and again with the head's pose fitted to the image
(`refine_frame`, pose alone): the first figure also counts the test frames' own tracking errors, the second one tells
how sharp the avatar is. PSNR in dB, on white, over the image, the head, the face (skin, brows, eyes, nose, mouth), and
lips with the mouth's inside. warp.json and warp.md have mean and deviation over the seeds, and the difference that the
warp makes, bold if Student's t-test of the pairs of seeds determines it at 95 %. Finished rows are reused and
interrupted ones continued. pictures_noisy.png and pictures_exact.png show the first seed's.
"""

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import headfields as hf
from benchmarks.rows import Figures, markdown, reused, summary
from headfields.cli.open_run import evenly_spaced
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.tracking_noise import TrackingNoise
from headfields.training import Trainer, evaluate
from headfields.training.recipes import MONOAVATAR
from headfields.viz import save_image, side_by_side

ROWS = ("no warp", "warp")
NEVER = 10**9


def captures(arguments: argparse.Namespace) -> dict[str, Path]:
    """Folders of the noisy and of the exact capture; drawn if they are not there."""
    folders = {"noisy": arguments.out / "noisy", "exact": arguments.exact or arguments.out / "exact"}
    for name, folder in folders.items():
        if not (folder / "transforms.json").exists():
            if name == "exact" and arguments.exact:
                raise SystemExit(f"{folder} holds no capture (no transforms.json)")
            noise = TrackingNoise(seed=0) if name == "noisy" else None
            write_head_capture(folder, frames=arguments.frames, size=arguments.size, noise=noise)
    return folders


def avatar_of(name: str, capture: hf.data.Capture, arguments: argparse.Namespace) -> hf.Avatar:
    """The avatar of a row, in the sizes for a CPU."""
    start = arguments.start if name == "warp" else NEVER
    return hf.models.monoavatar(
        capture.template, frames=len(capture), sizes="cpu", start=start, coarse_to_fine=arguments.fade
    )


def trained(name: str, seed: int, capture: hf.data.Capture, folder: Path, arguments: argparse.Namespace) -> hf.Avatar:
    """A row's avatar after training, from its checkpoint if it was interrupted."""
    torch.manual_seed(seed)
    avatar, options = avatar_of(name, capture, arguments), MONOAVATAR.options
    trainer = Trainer(
        avatar, capture, MONOAVATAR.losses_for(options), rays_per_step=arguments.rays,
        samples_per_step=arguments.samples, frames_per_step=options["frames"], learning_rate=options["learning_rate"],
        network_learning_rate=options["network_learning_rate"], schedule=options["schedule"], seed=seed, bar=False,
        device="cpu", out=folder, picture_seconds=1e9, **MONOAVATAR.sampling(capture), **MONOAVATAR.trainer,
    )  # fmt: skip
    result = trainer.fit(steps=arguments.steps, resume=(folder / "checkpoint").exists())
    if result.interrupted:
        raise SystemExit(f"interrupted at step {result.step} of {folder}; the same command continues")
    avatar.save(folder / "avatar.safetensors")
    return avatar


def measured(avatar: hf.Avatar, capture: hf.data.Capture, count: int) -> dict[str, float]:
    """Scores by region of the test frames, as tracked and with fitted poses, and the mean corrections."""
    frames = evenly_spaced(capture.splits["test"].tolist(), count)
    result = evaluate(avatar, capture, frames=frames, regions=True, refine={"codes": False})
    wanted = [f"psnr{region}{kind}" for kind in ("", "_refined") for region in ("", "_head", "_face", "_mouth")]
    names = [*wanted, "refined_degrees", "refined_mm"]
    return {name: result[name] for name in names if result.get(name) is not None} | {"frames": float(len(frames))}


def figures_of(
    name: str, seed: int, capture: hf.data.Capture, folder: Path, arguments: argparse.Namespace
) -> dict[str, float]:
    """Figures of a row with one seed: trained and measured, or from the file of an earlier run."""
    return reused(
        folder, lambda: measured(trained(name, seed, capture, folder, arguments), capture, arguments.measured)
    )


@torch.no_grad()
def pictures(name: str, capture: hf.data.Capture, out: Path, seed: int) -> None:
    """Saves truth and rows of three test frames."""
    frames = evenly_spaced(capture.splits["test"].tolist(), 3)

    def truth(frame: int) -> Float[Tensor, "h w 3"]:
        return capture.pixels(frame, background=1.0).target.view(*capture.size, 3)

    columns = {"truth": [truth(frame) for frame in frames]}
    for row in ROWS:
        path = out / f"{name}_{row.replace(' ', '_')}_{seed}" / "avatar.safetensors"
        if path.exists():
            avatar = hf.Avatar.load(path)
            columns[row] = [
                avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1) for frame in frames
            ]
    save_image(out / f"pictures_{name}.png", side_by_side([torch.cat(c) for c in columns.values()], list(columns)))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exact", type=Path, help="a capture with exact tracking, such as ict_a")
    parser.add_argument("--steps", type=int, default=300, help="of training, each row")
    parser.add_argument("--start", type=int, default=60, help="first step of the warp")
    parser.add_argument("--fade", type=int, default=200, help="steps over which the warp's encoding fades in")
    parser.add_argument("--rays", type=int, default=MONOAVATAR.options["rays"], help="of the first step")
    parser.add_argument("--samples", type=int, default=MONOAVATAR.options["samples"], help="of a step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frames", type=int, default=96, help="of the drawn captures")
    parser.add_argument("--size", type=int, default=192, help="of the drawn captures")
    parser.add_argument("--measured", type=int, default=6, help="most test frames that are measured")
    parser.add_argument("--only", nargs="+", choices=("noisy", "exact"), default=["noisy", "exact"])
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = captures(arguments)
    tables, runs_by_capture, texts = {}, {}, []
    for name in arguments.only:
        capture = hf.data.load_capture(folders[name], mouth=MONOAVATAR.mouth)
        rows: dict[str, list[Figures]] = {row: [] for row in ROWS}
        for seed in arguments.seeds:
            for row in ROWS:
                folder = arguments.out / f"{name}_{row.replace(' ', '_')}_{seed}"
                figures = figures_of(row, seed, capture, folder, arguments)
                rows[row].append(figures)
                print(name, row, seed, {key: round(value, 2) for key, value in figures.items()}, flush=True)
        columns = [key for key in rows[ROWS[0]][0] if key != "frames"]
        tables[name], runs_by_capture[name] = summary(rows, columns, {"warp": "no warp"}), rows
        texts.append(f"{name}\n\n{markdown(tables[name], columns)}\n")
        (arguments.out / "warp.json").write_text(
            json.dumps({"runs": runs_by_capture, "tables": tables}, indent=1) + "\n"
        )
        (arguments.out / "warp.md").write_text("\n".join(texts))
        pictures(name, capture, arguments.out, arguments.seeds[0])
    print((arguments.out / "warp.md").read_text())


if __name__ == "__main__":
    main()
