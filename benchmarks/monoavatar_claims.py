"""MonoAvatar's comparison of vertex features (table 2 of the paper), on held-out expressions.

`python -m benchmarks.monoavatar_claims --capture DIR --out DIR`

The paper's table 2 orders, by LPIPS, five sources of vertex features: a static table, codes next to it, codes through
an MLP, codes through transposed convolutions (C) and displacements through a U-Net (D). A sixth row, ours, is D without
its displacements: the network sees positions alone, the same in all frames. Each is trained on the frames without a
wide-open jaw or a strong smile and measured on the frames with one (unseen) and on the capture's other test frames
(seen), for the same number of steps and with several seeds. Codes are expression and, where the capture has it, pose.
Everything but the source is the preset's for a CPU, without tables and further anchors, which would blur the
comparison.

Each row has a rate of its own: that of `--rates` with the highest PSNR on every eighth training frame, after
`--sweep-steps` steps on the others with a seed that the table does not use.

Finished runs are reused, so it can be interrupted; `claims.json` is written after each run, and `claims.png` at the
end.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

import headfields as hf
from headfields.cli.presets import pose_width
from headfields.encoders import (
    CodeFeatures,
    CodeMLPFeatures,
    StaticFeatures,
    UVCodeFeatures,
    UVDisplacementFeatures,
    VertexSource,
)
from headfields.mesh.unwrapping import FEATURE_WEIGHTS, unwrap_template
from headfields.models.monoavatar import SIZES
from headfields.training import Trainer, evaluate
from headfields.training.recipes import MONOAVATAR
from headfields.viz import save_image, side_by_side

SOURCES = ("static", "position", "codes", "codes-mlp", "C", "D")
SWEEP_SEED = 1000
NOTHING_MOVES = 1e9
"""Meters that become 1 in the map of the row "position": displacements vanish, and all else is as in D."""


def held_out(capture: hf.data.Capture, share: float) -> Tensor:
    """(frames,) True where jaw or smile is among the widest `share` of all frames.

    Both are measured on the meshes, as height and width of the mouth region, whatever the expression coefficients
    are. Of an inside of the mouth only the tracked mesh's vertices count.
    """
    tracked = capture.tracked(range(len(capture)))
    mouth = capture.template.faces[capture.template.regions["mouth"]].unique()
    mouth = tracked[:, mouth[mouth < tracked.shape[1]]]
    width, gap, _ = (mouth.amax(dim=1) - mouth.amin(dim=1)).unbind(dim=-1)
    return (gap > gap.quantile(1 - share)) | (width > width.quantile(1 - share))


def source_of(name: str, capture: hf.data.Capture, template: hf.Template) -> VertexSource:
    """The vertex features of a row of the table, in the sizes for a CPU."""
    fields = {"expression": capture.expression_width or 1}
    if pose_width(capture):
        fields["pose"] = pose_width(capture)
    count, sizes = len(template.canonical_vertices), SIZES["cpu"]
    if name == "static":
        return StaticFeatures(count, 32)
    if name == "codes":
        return CodeFeatures(count, fields, 32)
    if name == "codes-mlp":
        return CodeMLPFeatures(count, fields, 32)
    if name == "C":
        return UVCodeFeatures(template, fields, **sizes["C"])
    return UVDisplacementFeatures(template, **sizes["D"], unit=NOTHING_MOVES if name == "position" else 0.01)


def split(capture: hf.data.Capture, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the training frames without extreme expressions, of all unseen frames, and of the seen test frames."""
    wide, indices = held_out(capture, share), torch.arange(len(capture))
    test = torch.zeros(len(capture), dtype=torch.bool)
    test[capture.splits["test"]] = True
    return indices[~wide & ~test], indices[wide], indices[test & ~wide]


def trained(
    name: str, seed: int, steps: int, rate: float, frames: Tensor, capture: hf.data.Capture, out: Path,
    arguments: argparse.Namespace,
) -> tuple[hf.Avatar, int]:  # fmt: skip
    """A row's avatar after `steps` steps on `frames`, and their number."""
    capture.splits["train"] = frames
    torch.manual_seed(seed)
    template = unwrap_template(capture.template, weights=FEATURE_WEIGHTS)
    source = source_of(name, capture, template)
    avatar = hf.models.monoavatar(template, frames=len(capture), source=source, sizes="cpu")
    options = MONOAVATAR.options
    trainer = Trainer(
        avatar, capture, MONOAVATAR.losses_for(options), rays_per_step=arguments.rays,
        samples_per_step=arguments.samples, frames_per_step=options["frames"], learning_rate=rate,
        schedule=options["schedule"], seed=seed, out=out, **MONOAVATAR.trainer,
    )  # fmt: skip
    result = trainer.fit(steps=steps, resume=True)
    if result.interrupted:
        raise SystemExit(f"interrupted at step {result.step} of {out}; the same command continues from there")
    return avatar, result.step


def rate_of(name: str, capture: hf.data.Capture, arguments: argparse.Namespace) -> float:
    """The rate with the highest PSNR on the validation frames: every eighth training frame."""
    if len(arguments.rates) == 1:
        return arguments.rates[0]
    path = arguments.out / f"rates_{name}.json"
    scores: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    train, _, _ = split(capture, arguments.share)
    validation = torch.zeros(len(train), dtype=torch.bool)
    validation[::8] = True
    for rate in arguments.rates:
        if f"{rate:g}" not in scores:
            folder = arguments.out / f"{name}_rate_{rate:g}"
            avatar, _ = trained(
                name, SWEEP_SEED, arguments.sweep_steps, rate, train[~validation], capture, folder, arguments
            )
            scores[f"{rate:g}"] = evaluate(avatar, capture, frames=train[validation][:: arguments.every].tolist())[
                "psnr"
            ]
            path.write_text(json.dumps(scores, indent=1) + "\n")
    return max(arguments.rates, key=lambda rate: scores[f"{rate:g}"])


def run(name: str, seed: int, capture: hf.data.Capture, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one row with one seed: trained and measured, or from the file of an earlier run."""
    folder = arguments.out / f"{name}_{seed}"
    if (folder / "figures.json").exists():
        return json.loads((folder / "figures.json").read_text())
    train, unseen, seen = split(capture, arguments.share)
    rate = rate_of(name, capture, arguments)
    avatar, steps = trained(name, seed, arguments.steps, rate, train, capture, folder, arguments)
    figures: dict[str, Any] = {"steps": steps, "rate": rate}
    for kind, frames in (("unseen", unseen), ("seen", seen)):
        result = evaluate(avatar, capture, frames=frames[:: arguments.every].tolist())
        figures[kind] = {k: v for k, v in result.items() if k != "per_frame"}
    avatar.save(folder / "avatar.safetensors")
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def table(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Prints and writes mean and standard deviation over the seeds of each finished row."""
    rows: dict[str, Any] = {}
    print(f"{'':10s} {'seeds':>5s} {'rate':>6s}   PSNR unseen      seen             in head unseen   seen")
    for name in SOURCES:
        runs = [result for key, result in results.items() if key.rpartition("_")[0] == name]
        if not runs:
            continue
        rows[name] = {"seeds": len(runs), "steps": statistics.mean(run["steps"] for run in runs)}
        rows[name]["rate"] = runs[0]["rate"]
        cells = []
        for metric in ("psnr", "psnr_head", "ssim", "lpips"):
            for kind in ("unseen", "seen"):
                values = [run[kind][metric] for run in runs if run[kind].get(metric) is not None]
                if values:
                    spread = statistics.stdev(values) if len(values) > 1 else 0.0
                    rows[name][f"{metric} {kind}"] = [statistics.mean(values), spread]
                    if metric in ("psnr", "psnr_head"):
                        cells.append(f"{statistics.mean(values):7.3f} ± {spread:5.3f}")
        print(f"{name:10s} {len(runs):5d} {runs[0]['rate']:6g}   " + "  ".join(cells))
    for one, other, kind, mean, spread, holds in orderings(results):
        rows[f"{one} over {other}, {kind}"] = {"mean": mean, "deviation": spread, "says": holds}
        print(f"{one} over {other}, {kind}: {mean:+.2f} ± {spread:.2f} dB in the head, {holds}")
    (out / "claims.json").write_text(json.dumps(rows, indent=1) + "\n")


CLAIMS = (
    ("D", "static"), ("D", "position"), ("D", "codes"), ("D", "codes-mlp"), ("D", "C"), ("C", "static"), ("C", "codes"),
    ("C", "codes-mlp"),
)  # fmt: skip
"""Orderings of the paper's ablation, and D over position alone."""


def orderings(results: dict[str, dict[str, Any]]) -> Sequence[tuple[str, str, str, float, float, str]]:
    """Each claim's difference of PSNR in the head, by seeds: mean, deviation, and whether it holds.

    A claim holds, or does not, if zero lies outside the 95 % interval of the mean difference (Student's t, so it takes
    two seeds and more than luck); otherwise it is undetermined.
    """
    verdicts = []
    for one, other in CLAIMS:
        for kind in ("unseen", "seen"):
            seeds = {key.rpartition("_")[2] for key in results if key.rpartition("_")[0] == one}
            seeds &= {key.rpartition("_")[2] for key in results if key.rpartition("_")[0] == other}
            values = [
                results[f"{one}_{seed}"][kind]["psnr_head"] - results[f"{other}_{seed}"][kind]["psnr_head"]
                for seed in sorted(seeds)
            ]
            if len(values) > 1:
                mean, spread = statistics.mean(values), statistics.stdev(values)
                width = float(student.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5
                clear = abs(mean) > width
                verdicts.append((one, other, kind, mean, spread, verdict(mean) if clear else "undetermined"))
    return verdicts


def verdict(mean: float) -> str:
    """Which way a difference that is clear goes."""
    return "holds" if mean > 0 else "does not hold"


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
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001, 0.004, 0.016], help="to choose each row's of")
    parser.add_argument("--sweep-steps", type=int, default=400, help="of training, for each rate")
    parser.add_argument("--rays", type=int, default=MONOAVATAR.options["rays"], help="of the first step")
    parser.add_argument("--samples", type=int, default=MONOAVATAR.options["samples"], help="of a step")
    parser.add_argument("--every", type=int, default=1, help="measure every n-th frame")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.15, help="of frames held out for the jaw, and for the smile")
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=SOURCES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for seed in range(arguments.seeds):
        for name in arguments.only:
            capture = hf.data.load_capture(arguments.capture, mouth=MONOAVATAR.mouth)
            results[f"{name}_{seed}"] = run(name, seed, capture, arguments)
            table(results, arguments.out)
    pictures(hf.data.load_capture(arguments.capture, mouth=MONOAVATAR.mouth), arguments.out, arguments.share)


if __name__ == "__main__":
    main()
