"""Ablation of the landmark term: a prior tracks a drawn person with landmarks, and with none at all.

`python -m benchmarks.landmark_ablation --out DIR --capture DIR --prior FILE`

The capture's meshes are the truth. A prior that `benchmarks/studies/mononphm.toml` has trained is the folder `run` of
its cell. Each run's folder is one of `headfields track --prior`, which goes on where it was stopped. `landmarks.json`
and `landmarks.png` are written after each part.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from benchmarks.studies.mononphm_rows import track, tracking_errors
from headfields.apps.tracking import PriorTrackingOptions, open_prior
from headfields.apps.tracking.prior.head import PriorHead, TrackingPrior
from headfields.synthetic import procedural_head
from headfields.viz import draw_mesh, save_image, side_by_side


def ablate_landmarks(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tracks the capture with landmarks and without, and compares the fits with images, landmarks and truth.

    Without, the tracker gets none: frames start from the capture's cameras with the expression of the frame before. All
    frames after the first have equally many steps in both, as their number would else depend on landmarks. The truth,
    the capture's meshes, is aligned rigidly to the tracked surface: a single camera leaves the distance of a head
    ambiguous.
    """
    capture = hf.data.load_capture(arguments.capture)
    frames = torch.linspace(0, len(capture) - 1, arguments.frames).round().long().unique().tolist()
    table = {}
    pictures: dict[str, list[Tensor]] = {"image": [image_of(capture, frame) for frame in frames]}
    options = PriorTrackingOptions.quick()
    prior = open_prior(arguments.prior, head=procedural_head())
    measuring = PriorHead(prior, options.stage1.spread, options.coarse, options.fine)
    variants = {"with landmarks": (prior, capture), "without landmarks": without_landmarks(prior, capture)}
    for name, (model, source) in variants.items():
        fits, head = track(model, source, out / name.replace(" ", "_"), frames)
        rows, surfaces = tracking_errors(fits, head, measuring, capture)
        table[name] = {key: sum(row[key] for row in rows.values()) / len(rows) for key in next(iter(rows.values()))}
        pictures[name] = [draw_mesh(surface, square(capture, frame)) for frame, surface in surfaces.items()]
        (out / "landmarks.json").write_text(json.dumps(table, indent=1) + "\n")
        if len(fits) == len(frames):
            columns = [torch.cat(column) for column in pictures.values()]
            save_image(out / "landmarks.png", side_by_side(columns, list(pictures)))
    return table


class WithoutLandmarks:
    """A recording whose frames have no landmarks."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def landmarks(self, frame: int) -> None:
        """None."""


def without_landmarks(prior: TrackingPrior, source: Any) -> tuple[TrackingPrior, WithoutLandmarks]:
    """A prior and a recording that have none: neither the energy nor starts and numbers of steps can use any."""
    return replace(prior, landmarks=None), WithoutLandmarks(source)


def square(capture: hf.data.Capture, frame: int) -> hf.Camera:
    """The frame's camera at an image height of 192 pixels."""
    camera = capture.camera([frame])
    return camera.scaled(192 / camera.size[0])


def image_of(capture: hf.data.Capture, frame: int) -> Tensor:
    """A frame over white, at the size of `square`."""
    image = capture.image(frame)
    rgb = (image[..., :3] * image[..., 3:] + 1 - image[..., 3:]).movedim(-1, 0)[None]
    size = square(capture, frame).size
    return torch.nn.functional.interpolate(rgb, size, mode="area")[0].movedim(0, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capture", type=Path, required=True, help="with true meshes")
    parser.add_argument("--prior", type=Path, required=True, help="to track it with")
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, row in ablate_landmarks(arguments.out, arguments).items():
        print(f"{name:22s} " + "".join(f"  {key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
