"""Ablation of 3VP Avatar on a tracked capture from all around.

`python -m benchmarks.vp360_ablation --capture TRACKED --rig RIG.npz --out OUT [--steps 400] [--seeds 1]`

The rows are the paper's ablations and our own choices: no fine field; 1, 4, 8, 16 fields; blended colors in place of
blended deformations; frames drawn evenly in place of balanced over the yaw; inverse skinning in place of the triangles'
frames. Recordings of talking are mostly from the front, which this one need not be: two rows train only on the frames
from the front and every fourth of the others, balanced and evenly drawn. Every row trains from the same seeds for the
same number of steps. Measured are the test frames, all and by view, the lips and mouth where visible, and training
frames from the front, which tell what a row can fit from how it generalizes.

Finished runs are reused. OUT gets ablation.json, ablation.png (truth and rows, one frame from the front, the side
and behind) and the avatars. Without --rig, the row of inverse skinning is left out, and the template's face stands for
the head.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.apps.rigging import RiggedTemplate
from headfields.data import load_capture, yaw_balanced_weights
from headfields.data.balance import view_yaw
from headfields.data.labels import REGION_LABELS
from headfields.metrics.image import psnr, ssim
from headfields.training import Trainer
from headfields.training.recipes import VP360
from headfields.viz import save_image, side_by_side

SEEN = 8
"""Number of measured training frames from the front."""
SHOWN = {"all", "seen front"}
FRONT, SIDE = 50.0, 110.0
"""Degrees: views up to these absolute yaws are from the front, and from the side."""
ROWS: dict[str, dict[str, Any]] = {
    "8 fields": {},
    "no fine field": {"fields": 0},
    "1 field": {"fields": 1},
    "4 fields": {"fields": 4},
    "16 fields": {"fields": 16},
    "colors blended": {"blend": "color"},
    "frames drawn evenly": {"balanced": False},
    "inverse skinning": {"skinned": True},
    "mostly front, balanced": {"thinned": True},
    "mostly front, evenly": {"thinned": True, "balanced": False},
}
THINNED = 4
"""A thinned recording keeps one of this many training frames that are not from the front."""


def head_vertices(rig: RiggedTemplate | None, count: int) -> torch.Tensor | None:
    """Mask of the template's vertices that the skull carries; None without a rig."""
    if rig is None:
        return None
    mask = torch.zeros(count, dtype=torch.bool)
    mask[: len(rig.weights)] = rig.weights.argmax(dim=1) == rig.skull_joint
    return mask


def train(name: str, seed: int, arguments: argparse.Namespace, rig: RiggedTemplate | None) -> dict[str, Any]:
    """Figures of one row with one seed: trained and measured, or from the file of an earlier run."""
    folder = arguments.out / f"{name.replace(' ', '_')}_{seed}"
    if (folder / "figures.json").exists():
        known = json.loads((folder / "figures.json").read_text())
        if known.keys() >= SHOWN:
            return known
    options = dict(ROWS[name])
    balanced, skinned = options.pop("balanced", True), options.pop("skinned", False)
    thinned = options.pop("thinned", False)
    assert rig is not None or not skinned
    capture = load_capture(arguments.capture, skinning=rig.weights if skinned and rig is not None else None)
    head = head_vertices(rig, len(capture.template.canonical_vertices))
    if (folder / "figures.json").exists():  # from before the frames that training has seen were measured
        known |= measured(hf.Avatar.load(folder / "avatar.safetensors"), capture, head)
        (folder / "figures.json").write_text(json.dumps(known, indent=1) + "\n")
        return known
    torch.manual_seed(seed)
    avatar = hf.models.vp360(
        capture.template, capture.expression_width or 0, weights=capture.skinning, **options
    )  # fmt: skip
    weights = frame_weights(capture, head, balanced, thinned)
    chosen = VP360.options
    trainer = Trainer(
        avatar, capture, VP360.losses_for(chosen, avatar), rays_per_step=chosen["rays"],
        samples_per_step=chosen["samples"], frames_per_step=chosen["frames"], learning_rate=chosen["learning_rate"],
        network_learning_rate=chosen["network_learning_rate"], schedule=chosen["schedule"], seed=seed,
        frame_weights=weights, out=folder,
    )  # fmt: skip
    result = trainer.fit(steps=arguments.steps, resume=(folder / "checkpoint").exists())
    if result.interrupted:
        raise SystemExit(f"interrupted at step {result.step}; the same command continues")
    avatar.save(folder / "avatar.safetensors")
    figures = {"steps": result.step, "seconds": result.seconds, **measured(avatar, capture, head)}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def frame_weights(
    capture: hf.data.Capture, head: torch.Tensor | None, balanced: bool, thinned: bool
) -> torch.Tensor | None:
    """Sampling weights of frames: balanced over the yaw or even, over all frames or mostly those from the front."""
    if not thinned:
        return yaw_balanced_weights(capture, vertices=head) if balanced else None
    frames = capture.splits["train"]
    front = view_yaw(capture, frames, head).rad2deg().abs() <= FRONT
    kept = frames[front | ((~front).cumsum(0) % THINNED == 1)]
    mask = torch.zeros(len(capture)).index_fill(0, kept, 1.0)
    if not balanced:
        return mask
    capture.splits["kept"] = kept
    return mask * yaw_balanced_weights(capture, split="kept", vertices=head)


@torch.no_grad()
def measured(avatar: hf.Avatar, capture: hf.data.Capture, head: torch.Tensor | None) -> dict[str, list[float]]:
    """PSNR, SSIM and number of frames: of all test frames, those from the front, the side and behind, and training
    frames from the front. PSNR and number of pixels of lips and mouth in both."""
    test, trained = capture.splits["test"], capture.splits["train"]
    front = trained[view_yaw(capture, trained, head).rad2deg().abs() <= FRONT]
    seen = front[torch.linspace(0, len(front) - 1, min(SEEN, len(front))).round().long()]
    figures: dict[str, list[float]] = {}
    for prefix, frames in (("", test), ("seen ", seen)):
        yaws = view_yaw(capture, frames, head).rad2deg().abs().tolist()
        rows: dict[str, list[tuple[float, float]]] = {}
        error, count = 0.0, 0
        for frame, yaw in zip(frames.tolist(), yaws, strict=True):
            image, label = capture.image(frame), capture.label(frame)
            truth = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
            rendering = avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1)
            scores = float(psnr(rendering, truth)), float(ssim(rendering, truth))
            view = "front" if yaw <= FRONT else "side" if yaw <= SIDE else "back"
            for name in (view,) if prefix else ("all", view):
                rows.setdefault(prefix + name, []).append(scores)
            if label is not None:
                mouth = torch.isin(label, torch.tensor(REGION_LABELS["mouth"], dtype=label.dtype))
                error += float((rendering - truth)[mouth].square().sum())
                count += 3 * int(mouth.sum())
        for name, values in rows.items():
            figures[name] = [*torch.tensor(values).mean(dim=0).tolist(), float(len(values))]
        if count:
            figures[prefix + "mouth"] = [float(-10 * torch.tensor(error / count).log10()), 0.0, float(count // 3)]
    return figures


@torch.no_grad()
def picture(arguments: argparse.Namespace, names: list[str], rig: RiggedTemplate | None) -> None:
    """Saves truth and every row with the first seed: one test frame from the front, the side and behind each."""
    capture = load_capture(arguments.capture, skinning=None if rig is None else rig.weights)
    head = head_vertices(rig, len(capture.template.canonical_vertices))
    frames = capture.splits["test"].tolist()
    yaws = view_yaw(capture, frames, head).rad2deg().abs()
    chosen = list(dict.fromkeys(frames[int((yaws - target).abs().argmin())] for target in (0.0, 80.0, 180.0)))
    columns: dict[str, list[torch.Tensor]] = {"truth": []}
    for frame in chosen:
        image = capture.image(frame)
        columns["truth"].append(image[..., :3] * image[..., 3:] + 1 - image[..., 3:])
    for name in names:
        path = arguments.out / f"{name.replace(' ', '_')}_0" / "avatar.safetensors"
        if path.exists():
            avatar = hf.Avatar.load(path)
            columns[name] = [
                avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1) for frame in chosen
            ]
    save_image(arguments.out / "ablation.png", side_by_side([torch.cat(c) for c in columns.values()], list(columns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True, help="tracked: OUT/capture of headfields track-template")
    parser.add_argument("--rig", type=Path, help="that was tracked")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    rig = None if arguments.rig is None else RiggedTemplate.from_file(arguments.rig)
    names = [name for name in arguments.only if rig is not None or not ROWS[name].get("skinned")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {}
    for seed in range(arguments.seeds):
        for name in names:
            table.setdefault(name, []).append(train(name, seed, arguments, rig))
            (arguments.out / "ablation.json").write_text(json.dumps(table, indent=1) + "\n")
    order = ("all", "front", "side", "back", "mouth", "seen front", "seen mouth")
    columns = [key for key in order if key in table[names[0]][0]]
    print(f"{'':22s}" + "".join(f"{column:>16s}" for column in columns))
    for name in names:
        cells = []
        for column in columns:
            values = [run[column][0] for run in table[name]]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        print(f"{name:22s}" + "".join(f"{cell:>16s}" for cell in cells))
    picture(arguments, names, rig)


if __name__ == "__main__":
    main()
