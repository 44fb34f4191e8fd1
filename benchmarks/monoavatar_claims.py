"""MonoAvatar's comparison of vertex features (table 1 of the paper), on held-out expressions.

`python -m benchmarks.monoavatar_claims --capture DIR --out DIR`

The paper's table 1 orders five sources of vertex features: a static table, codes next to it, codes through an MLP,
codes through transposed convolutions (C) and displacements through a U-Net (D). Here each is trained on the frames
without a wide-open jaw or a strong smile and measured on the frames with one (unseen) and on the capture's other test
frames (seen), for the same number of steps and with several seeds. Everything but the source is the small preset's.
Finished runs are reused, so it can be interrupted; `claims.json` is written after each run, and `claims.png` at the
end.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from headfields.encoders import (
    CodeFeatures,
    CodeMLPFeatures,
    StaticFeatures,
    UVCodeFeatures,
    UVDisplacementFeatures,
    VertexSource,
)
from headfields.mesh.unwrapping import unwrapped
from headfields.models.monoavatar import SMALL
from headfields.training import Trainer, evaluate
from headfields.training.recipes import MONOAVATAR
from headfields.viz import save_image, side_by_side

SOURCES = ("static", "codes", "codes-mlp", "C", "D")


def held_out(capture: hf.data.Capture, share: float) -> Tensor:
    """(frames,) True where jaw or smile is among the widest `share` of all frames.

    Both are measured on the meshes, as height and width of the mouth region, whatever the expression coefficients
    are.
    """
    state = capture.state(range(len(capture)))
    mouth = state.vertices[:, capture.template.faces[capture.template.regions["mouth"]].unique()]
    width, gap, _ = (mouth.amax(dim=1) - mouth.amin(dim=1)).unbind(dim=-1)
    return (gap > gap.quantile(1 - share)) | (width > width.quantile(1 - share))


def source_of(name: str, capture: hf.data.Capture, template: hf.Template) -> VertexSource:
    """The vertex features of a row of the table, in the small preset's sizes."""
    fields = {"expression": capture.expression_width or 1}
    count = len(template.canonical_vertices)
    if name == "static":
        return StaticFeatures(count, 32)
    if name == "codes":
        return CodeFeatures(count, fields, 32)
    if name == "codes-mlp":
        return CodeMLPFeatures(count, fields, 32)
    if name == "C":
        return UVCodeFeatures(template, fields, **SMALL["C"])
    return UVDisplacementFeatures(template, **SMALL["D"])


def run(name: str, seed: int, capture: hf.data.Capture, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one row with one seed: trained and measured, or from the file of an earlier run."""
    folder = arguments.out / f"{name}_{seed}"
    if (folder / "figures.json").exists():
        return json.loads((folder / "figures.json").read_text())
    wide = held_out(capture, arguments.share)
    indices = torch.arange(len(capture))
    test = torch.zeros(len(capture), dtype=torch.bool)
    test[capture.splits["test"]] = True
    capture.splits["train"] = indices[~wide & ~test]
    torch.manual_seed(seed)
    template = unwrapped(capture.template)
    source = source_of(name, capture, template)
    avatar = hf.models.monoavatar(template, frames=len(capture), source=source, small=True)
    options = MONOAVATAR.options
    trainer = Trainer(
        avatar, capture, MONOAVATAR.losses_for(options), rays_per_step=options["rays"],
        samples_per_step=options["samples"], frames_per_step=options["frames"], learning_rate=options["learning_rate"],
        schedule=options["schedule"], seed=seed, out=folder, **MONOAVATAR.trainer,
    )  # fmt: skip
    result = trainer.fit(steps=arguments.steps, resume=True)
    figures: dict[str, Any] = {"steps": result.step}
    for kind, frames in (("unseen", indices[wide]), ("seen", indices[test & ~wide])):
        figures[kind] = {k: v for k, v in evaluate(avatar, capture, frames=frames.tolist()).items() if k != "per_frame"}
    avatar.save(folder / "avatar.safetensors")
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def table(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Prints and writes mean and standard deviation over the seeds of each finished row."""
    rows: dict[str, Any] = {}
    print(f"{'':10s} {'steps':>6s}   PSNR unseen      seen             SSIM unseen      seen")
    for name in SOURCES:
        runs = [result for key, result in results.items() if key.rpartition("_")[0] == name]
        if not runs:
            continue
        rows[name] = {"seeds": len(runs), "steps": statistics.mean(run["steps"] for run in runs)}
        cells = []
        for metric in ("psnr", "ssim", "psnr_masked", "lpips"):
            for kind in ("unseen", "seen"):
                values = [run[kind][metric] for run in runs if run[kind].get(metric) is not None]
                if values:
                    spread = statistics.stdev(values) if len(values) > 1 else 0.0
                    rows[name][f"{metric} {kind}"] = [statistics.mean(values), spread]
                    if metric in ("psnr", "ssim"):
                        cells.append(f"{statistics.mean(values):7.3f} ± {spread:5.3f}")
        print(f"{name:10s} {rows[name]['steps']:6.0f}   " + "  ".join(cells))
    (out / "claims.json").write_text(json.dumps(rows, indent=1) + "\n")


def pictures(capture: hf.data.Capture, out: Path, share: float) -> None:
    """Saves three unseen frames, and each row's rendering of them with the first seed."""
    frames = held_out(capture, share).nonzero()[:, 0]
    frames = frames[:: max(len(frames) // 3, 1)][:3].tolist()
    columns = {"truth": [capture.pixels(frame, background=1.0).target.view(*capture.size, 3) for frame in frames]}
    for name in SOURCES:
        path = out / f"{name}_0" / "avatar.safetensors"
        if path.exists():
            avatar = hf.Avatar.load(path)
            columns[name] = [
                avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1) for frame in frames
            ]
    save_image(out / "claims.png", side_by_side([torch.cat(images) for images in columns.values()], list(columns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000, help="of training, each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.15, help="of frames held out for the jaw, and for the smile")
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=SOURCES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for seed in range(arguments.seeds):
        for name in arguments.only:
            capture = hf.data.load_capture(arguments.capture)
            results[f"{name}_{seed}"] = run(name, seed, capture, arguments)
            table(results, arguments.out)
    pictures(hf.data.load_capture(arguments.capture), arguments.out, arguments.share)


if __name__ == "__main__":
    main()
