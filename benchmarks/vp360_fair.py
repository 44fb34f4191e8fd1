"""3VP Avatar's fine field on a person whom the tracked template is not: drawn with one rig, tracked with another.

`python -m benchmarks.vp360_fair --out OUT [--frames 300] [--size 128] [--every 3] [--steps 300] [--seeds 0 1 2]`

The subject has a random shape and skin, hair, brows and teeth off the tracked mesh, a shirt that stands off the skin,
relief and folds. Landmarks and mattes err. The template that tracks it is the mean body with another texture and
another expression basis, so that a residual is left for a fine field to learn. A sixth of the frames are for testing;
expressions that occur nowhere else (`HELD_OUT`) swell and fade in them. "in" are test frames without, "out" with them,
told by the drawn coefficients.

Every row trains from the same seeds for the same number of steps. PSNR is over the pixels of head, face, mouth and hair
(exact labels, matte opaque) of test frames, and of as many training frames. OUT gets, after each row, fair.json and
fair.md (mean and deviation over the seeds, and the differences to the first row, of which those are bold that Student's
t-test of the pairs of seeds determines at 95 %), and at the end fair.png (truth and rows, the first seed) and
overlay.png (the tracked meshes). Finished parts are reused and interrupted ones continued, and several processes may
share the rows if each has seeds or rows of its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headfields as hf
from benchmarks.rows import Figures, markdown, summary
from benchmarks.vp360_ablation import head_vertices
from headfields.apps.rigging import RiggedTemplate
from headfields.cli import main as headfields
from headfields.data import load_capture, yaw_balanced_weights
from headfields.data.labels import REGION_LABELS, Label
from headfields.synthetic.rig_captures import write_rig_capture
from headfields.synthetic.scene.rig_motion import HELD_OUT
from headfields.training import Trainer
from headfields.training.recipes import VP360
from headfields.viz import save_image, side_by_side

IDENTITY, BASIS = 3, 1
LOWEST = -0.24
"""Height of the subject's collar, meters: what is below leaves the images."""
OUTSIDE = 0.25
"""Coefficient of a held-out expression from which a frame is outside of the training range."""
MEASURED = 24
"""Most test frames, and training frames, that are measured."""
ROWS: dict[str, dict[str, Any]] = {
    "no fine field": {"fields": 0},
    "8 fields": {},
    "colors blended": {"blend": "color"},
    "8 fields, evenly": {"balanced": False},
    "8 fields by pose": {"joints": True},
}


def prepared(arguments: argparse.Namespace) -> tuple[Path, Path, RiggedTemplate]:
    """The recording, its tracking, and the rig that tracked it; drawn and tracked if they are not there."""
    out, frames = arguments.out, arguments.frames
    out.mkdir(parents=True, exist_ok=True)
    recording, tracking, path = out / "recording", out / "tracking", out / "rig.npz"
    if not (recording / "truth.npz").exists():
        write_rig_capture(
            hf.synthetic.body.person.procedural_rig(IDENTITY), recording, "talk", frames, arguments.size,
            rate=frames / 12, dressed=True, lowest=LOWEST, noise=hf.synthetic.detector_noise.DetectorNoise(),
        )  # fmt: skip
    if not path.exists():
        hf.synthetic.body.person.procedural_rig(None, BASIS).save(path)
    if not (tracking / "capture" / "transforms.json").exists():
        command = ["track-template", "--rig", path, "--capture", recording, "--out", tracking, "--quick", "--adapt",
                   "--every", arguments.every, *(["--resume"] if tracking.exists() else [])]  # fmt: skip
        if headfields([str(word) for word in command]):
            raise SystemExit(1)
    if not len(load_capture(tracking / "capture").splits["test"]):
        raise SystemExit(f"none of the tracked frames in {tracking} is for testing; raise --frames or lower --every")
    return recording, tracking / "capture", RiggedTemplate.from_file(path)


def outside_of(recording: Path, tracked: hf.data.Capture, names: tuple[str, ...]) -> torch.Tensor:
    """(F,) whether a tracked frame shows an expression that training frames never do."""
    columns = [3 + names.index(name) for name in HELD_OUT]
    with np.load(recording / "truth.npz") as truth:
        strongest = torch.from_numpy(truth["expression"][:, columns].max(1))
    numbers = [int(Path(name).stem) for name in tracked.frame_names]
    return strongest[numbers] > OUTSIDE


def train(
    name: str, seed: int, arguments: argparse.Namespace, tracked: Path, recording: Path, rig: RiggedTemplate
) -> dict[str, float]:
    """Figures of one row with one seed: trained and measured, or from the file of an earlier run."""
    folder = arguments.out / "rows" / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}"
    if (folder / "figures.json").exists():
        return json.loads((folder / "figures.json").read_text())
    options = dict(ROWS[name])
    balanced, joints = options.pop("balanced", True), options.pop("joints", False)
    capture = load_capture(tracked)
    head = head_vertices(rig, len(capture.template.canonical_vertices))
    torch.manual_seed(seed)
    avatar = hf.models.vp360(
        capture.template, capture.expression_width or 0, joints=(rig.jaw_joint, rig.neck_joint) if joints else (),
        **options,
    )  # fmt: skip
    chosen = VP360.options
    trainer = Trainer(
        avatar, capture, VP360.losses_for(chosen, avatar), rays_per_step=chosen["rays"],
        samples_per_step=chosen["samples"], frames_per_step=chosen["frames"], learning_rate=chosen["learning_rate"],
        network_learning_rate=chosen["network_learning_rate"], schedule=chosen["schedule"], seed=seed,
        frame_weights=yaw_balanced_weights(capture, vertices=head) if balanced else None, bar=False, device="cpu",
        out=folder, picture_seconds=1e9,
    )  # fmt: skip
    result = trainer.fit(steps=arguments.steps, resume=(folder / "checkpoint").exists())
    if result.interrupted:
        raise SystemExit(f"interrupted at step {result.step}; the same command continues")
    avatar.save(folder / "avatar.safetensors")
    figures = measured(avatar, capture, outside_of(recording, capture, tuple(rig.expression_names)))
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def spread(frames: torch.Tensor) -> list[int]:
    """At most `MEASURED` of the frames, evenly."""
    return frames[torch.linspace(0, len(frames) - 1, min(MEASURED, len(frames))).round().long()].unique().tolist()


@torch.no_grad()
def measured(avatar: hf.Avatar, capture: hf.data.Capture, outside: torch.Tensor) -> dict[str, float]:
    """PSNR by group of frames and region, dB, and the numbers of frames."""
    test, trained = capture.splits["test"], capture.splits["train"]
    groups = {"in": spread(test[~outside[test]]), "out": spread(test[outside[test]]), "seen": spread(trained)}
    skip = torch.tensor([int(Label.BACKGROUND), int(Label.CLOTH)])
    face = torch.tensor([*REGION_LABELS["face"], *REGION_LABELS["mouth"], *REGION_LABELS["eyes"]])
    regions = {
        "head": lambda label: ~torch.isin(label, skip),
        "face": lambda label: torch.isin(label, face),
        "mouth": lambda label: torch.isin(label, torch.tensor(REGION_LABELS["mouth"])),
        "hair": lambda label: label == int(Label.HAIR),
    }
    figures: dict[str, float] = {}
    for group, frames in groups.items():
        figures[f"{group} frames"] = len(frames)
        errors = {name: [0.0, 0] for name in regions}
        for frame in frames:
            image, label = capture.image(frame), capture.label(frame)
            assert label is not None
            rendering = avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1)
            squared = (rendering - image[..., :3]).square().mean(-1)
            for name, within in regions.items():
                mask = within(label.long()) & (image[..., 3] > 0.99)
                errors[name][0] += float(squared[mask].sum())
                errors[name][1] += int(mask.sum())
        for name, (total, count) in errors.items():
            if count:
                figures[f"{group} {name}"] = float(-10 * torch.tensor(total / count).log10())
    return figures


@torch.no_grad()
def pictures(arguments: argparse.Namespace, tracked: Path, recording: Path, rig: RiggedTemplate) -> None:
    """Saves the tracked meshes over the images, and truth and rows of four test frames."""
    capture = load_capture(tracked)
    test = capture.splits["test"]
    chosen = test[torch.linspace(0, len(test) - 1, 4).round().long()].tolist()
    hf.viz.contact_sheet(capture, frames=chosen, path=arguments.out / "overlay.png")
    columns = {"truth": [capture.image(f)[..., :3] * capture.image(f)[..., 3:] + 1 - capture.image(f)[..., 3:]
                         for f in chosen]}  # fmt: skip
    for name in ROWS:
        path = arguments.out / "rows" / f"{name.replace(', ', '_').replace(' ', '_')}_0" / "avatar.safetensors"
        if path.exists():
            avatar = hf.Avatar.load(path)
            columns[name] = [
                avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1) for frame in chosen
            ]
    save_image(arguments.out / "fair.png", side_by_side([torch.cat(c) for c in columns.values()], list(columns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--every", type=int, default=3, help="track every so many frames")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS)[:4])
    arguments = parser.parse_args()
    recording, tracked, rig = prepared(arguments)
    rows: dict[str, list[Figures]] = {}
    for seed in arguments.seeds:
        for name in arguments.only:
            rows.setdefault(name, []).append(train(name, seed, arguments, tracked, recording, rig))
            print(name, seed, {key: round(value, 2) for key, value in rows[name][-1].items()}, flush=True)
            columns = [key for key in rows[arguments.only[0]][0] if not key.endswith("frames")]
            table = summary(rows, columns, dict.fromkeys(arguments.only[1:], arguments.only[0]))
            (arguments.out / "fair.json").write_text(json.dumps({"runs": rows, "table": table}, indent=1) + "\n")
            (arguments.out / "fair.md").write_text(markdown(table, columns) + "\n")
    print((arguments.out / "fair.md").read_text())
    pictures(arguments, tracked, recording, rig)


if __name__ == "__main__":
    main()
