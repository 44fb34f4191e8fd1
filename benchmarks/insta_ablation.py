"""Ablation of INSTA: Λ, blending, the gate of the expression, the mouth's weight, and the depth prior on unseen yaw.

`python -m benchmarks.insta_ablation --capture DIR --out OUT [--steps 250] [--seeds 3]`

Every row differs from the first in one thing and trains for the same number of steps from the same seeds, on the
training frames; measured are the test frames. The last three rows train on the third of the training frames that see
the head most from the front, and are measured on the third of all frames that turns farthest.

Finished runs are reused, and an interrupted one is continued. OUT gets `ablation.json`, `ablation.md` (mean and
deviation over the seeds, and differences to the first row) and `ablation.png` (truth and rows, first seed). Sizes are
those of the preset and its recipe; rays, samples and frames of a step are fewer, so that a run takes seconds and not
minutes on one thread. The mouth's weight and the depth prior start after a quarter of the steps.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from benchmarks.rows import Figures, markdown, reused, summary
from headfields.data.balance import view_yaw
from headfields.losses import DepthPrior, HuberColor
from headfields.records import PixelBatch
from headfields.training import Trainer, evaluate
from headfields.training.recipes import INSTA
from headfields.training.region_scores import RegionMasks
from headfields.viz import save_image, side_by_side

RAYS, SAMPLES, FRAMES = 512, 2500, 4
"""Rays of the first step, samples to which their number adapts, and frames that they come from."""


@dataclass(frozen=True)
class Variant:
    """What a row changes.

    Attributes:
        options: arguments of `headfields.models.insta`.
        regions: regions of the template replaced by all faces (True) or none (False): of "eyes", which the scaling
            "area" is for, "face", whose neighbors blend, and "mouth", to which the expression is gated.
        mouth: weight of the mouth's color.
        depth: weight of the depth prior.
        front: train on frames from the front, measure turned ones.
    """

    options: dict[str, Any] = field(default_factory=dict)
    regions: dict[str, bool] = field(default_factory=dict)
    mouth: float = 40.0
    depth: float = 0.1
    front: bool = False


BASE, FRONT = "Λ none, published blending", "from the front, depth 0.1"
ROWS = {
    BASE: Variant({"scaling": "none"}),
    "Λ length": Variant({"scaling": "length"}),
    "Λ area": Variant({"scaling": "area"}, {"eyes": True}),
    "Λ area at the eyes (released)": Variant({"scaling": "area"}),
    "released blending": Variant({"scaling": "none", "formula": "released"}),
    "no blending": Variant({"scaling": "none"}, {"face": False}),
    "expression everywhere": Variant({"scaling": "none"}, {"mouth": True}),
    "mouth weight 1": Variant({"scaling": "none"}, mouth=1.0),
    FRONT: Variant({"scaling": "none"}, front=True),
    "from the front, depth 0": Variant({"scaling": "none"}, depth=0.0, front=True),
    "from the front, depth 1.25": Variant({"scaling": "none"}, depth=1.25, front=True),
}
BASELINE = {name: FRONT if row.front else BASE for name, row in ROWS.items() if name not in (BASE, FRONT)}
COLUMNS = (
    "psnr",
    "psnr_head",
    "psnr_eyes",
    "psnr_lids",
    "lids on blinks",
    "psnr_mouth",
    "psnr_brows",
    "psnr_hair",
    "depth, mm",
)


class Ablation:
    """A capture and what its rows train on and are measured on.

    Args:
        capture: the capture.
        steps: of each run.
        stride: of the pixels that are measured, in rows and columns.
        most: number of frames that are measured, evenly spaced ones, and those with the eyes shut.
    """

    def __init__(self, capture: hf.data.Capture, steps: int, stride: int, most: int) -> None:
        self.capture, self.steps = capture, steps
        self.regions = RegionMasks(capture)
        test = capture.splits["test"].tolist()
        yaw = view_yaw(capture).abs()
        trained = capture.splits["train"]
        near = yaw[trained] <= yaw[trained].quantile(1 / 3)
        self.front = torch.zeros(len(capture)).index_fill(0, trained[near], 1.0)
        turned = (yaw >= yaw.quantile(2 / 3)).nonzero()[:, 0]
        self.blinks = set(self.regions.blinks())
        self.frames = {
            front: sorted({*_spaced(frames, most), *(self.blinks & set(frames))})
            for front, frames in ((False, test), (True, turned.tolist()))
        }
        height, width = capture.size
        rows, columns = torch.arange(0, height, stride), torch.arange(0, width, stride)
        self.pixels = (rows[:, None] * width + columns).reshape(-1)

    def avatar(self, row: Variant) -> hf.Avatar:
        """The untrained avatar of a row."""
        template = self.capture.template
        replaced = {name: torch.full((len(template.faces),), value) for name, value in row.regions.items()}
        template = template.replace(regions={**template.regions, **replaced})
        width = min(64, self.capture.expression_width or 0)
        return hf.models.insta(template, expression_width=width, **row.options)

    def train(self, row: Variant, seed: int, folder: Path) -> dict[str, float]:
        """Trains a row with a seed and measures it."""
        torch.manual_seed(seed)
        avatar = self.avatar(row)
        start, chosen = self.steps // 4, INSTA.options
        losses: list[Any] = [HuberColor(region_weight=row.mouth, region_start=start)]
        losses += [DepthPrior(start=start, weight=row.depth)] if row.depth else []
        trainer = Trainer(
            avatar, self.capture, losses, rays_per_step=RAYS, samples_per_step=SAMPLES,
            frames_per_step=FRAMES, learning_rate=chosen["learning_rate"],
            network_learning_rate=chosen["network_learning_rate"], schedule=chosen["schedule"], seed=seed,
            frame_weights=self.front if row.front else None, out=folder, picture_seconds=1e9, bar=False,
        )  # fmt: skip
        result = trainer.fit(steps=self.steps, resume=(folder / "checkpoint").exists())
        if result.interrupted:
            raise SystemExit(f"interrupted at step {result.step}; the same command continues")
        return {"steps": result.step, **self.measured(avatar, self.frames[row.front])}

    @torch.no_grad()
    def measured(self, avatar: hf.Avatar, frames: list[int]) -> dict[str, float]:
        """PSNR by region over the frames, of the lids also in blinks alone, and the mean distance in depth to the
        tracked mesh where it is visible skin and opaque by half, mm."""
        avatar.eval()
        scores = evaluate(avatar, self.capture, frames=frames, regions=True)
        figures = {name: value for name, value in scores.items() if name.startswith("psnr") and value is not None}
        lids = [row["psnr_lids"] for row in scores["per_frame"] if row["frame"] in self.blinks and row.get("psnr_lids")]
        if lids:
            figures["lids on blinks"] = sum(lids) / len(lids)
        apart, count = 0.0, 0
        for frame in frames:
            pixels = self.capture.pixels(frame, background=1.0)[self.pixels]
            rendering = avatar.renderer(pixels.rays, avatar.field(self.capture.state([frame])), pixels.background)
            skin = _skin(pixels)
            if skin is not None and pixels.depth is not None and pixels.depth_scale is not None:
                skin &= rendering.opacity > 0.5
                distance = rendering.depth / rendering.opacity - pixels.depth * pixels.depth_scale
                apart += float(distance[skin].abs().sum())
                count += int(skin.sum())
        return figures | ({"depth, mm": 1e3 * apart / count} if count else {})


def _spaced(frames: list[int], most: int) -> list[int]:
    """At most `most` of the frames, evenly spaced."""
    return [
        frames[index] for index in torch.linspace(0, len(frames) - 1, min(most, len(frames))).round().int().tolist()
    ]


def _skin(pixels: PixelBatch) -> Tensor | None:
    """Mask of the pixels of face and nose on which the mesh has a depth."""
    if pixels.label is None or pixels.depth is None:
        return None
    labels = hf.data.labels.labels_of("skin", "nose", "brows")
    return torch.isin(pixels.label.int(), torch.tensor(labels, dtype=torch.int32)) & (pixels.depth > 0)


@torch.no_grad()
def picture(ablation: Ablation, folders: dict[str, Path], path: Path) -> None:
    """Saves truth and rows, first seed: a test frame with the widest mouth, one with the eyes shut, one turned."""
    capture = ablation.capture
    test, turned = ablation.frames[False], ablation.frames[True]
    inside = [int((label == hf.data.labels.Label.MOUTH_INTERIOR).sum()) for label in map(capture.label, test)]  # type: ignore[union-attr]
    shown = [test[inside.index(max(inside))], *[frame for frame in test if frame in ablation.blinks][:1], turned[0]]
    columns = {"truth": [capture.pixels(frame, background=1.0).target.view(*capture.size, 3) for frame in shown]}
    for name, folder in folders.items():
        avatar = hf.Avatar.load(folder / "avatar.safetensors")
        columns[name] = [
            avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1) for frame in shown
        ]
    save_image(path, side_by_side([torch.cat(images) for images in columns.values()], list(columns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250, help="of training, each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stride", type=int, default=3, help="measures every so many rows and columns of pixels")
    parser.add_argument("--frames", type=int, default=12, help="that are measured, besides those with the eyes shut")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    ablation = Ablation(hf.data.load_capture(arguments.capture), arguments.steps, arguments.stride, arguments.frames)
    rows: dict[str, list[Figures]] = {}
    folders: dict[str, Path] = {}
    for seed in range(arguments.seeds):
        for name in arguments.only:
            folder = arguments.out / f"{list(ROWS).index(name):02d}_{seed}"
            folders.setdefault(name, folder)
            run = reused(folder, lambda name=name, seed=seed, folder=folder: ablation.train(ROWS[name], seed, folder))
            rows.setdefault(name, []).append(run)
            table = summary(rows, COLUMNS, BASELINE)
            text = markdown(table, [column for column in COLUMNS if any(column in row for row in table.values())])
            (arguments.out / "ablation.json").write_text(json.dumps(table, indent=1) + "\n")
            (arguments.out / "ablation.md").write_text(text + "\n")
        print(f"{seed + 1} seeds\n{text}", flush=True)
    picture(ablation, folders, arguments.out / "ablation.png")


if __name__ == "__main__":
    main()
