"""A person drawn with one rig and tracked with another: how well `track-template` holds whom it is no model of.

`python -m benchmarks.fair_capture --out OUT [--frames 300] [--size 128] [--every 3]`

The subject has a random shape and skin, hair, brows and teeth off the tracked mesh, a shirt that stands off the skin,
relief and folds. Landmarks and mattes err. The template that tracks it is the mean body with another texture and
another expression basis. A sixth of the frames are for testing; expressions that occur nowhere else swell and fade in
some of them. (3VP Avatar's fine field has a test of its own, with exact poses: `benchmarks.mouth_residual`.)

OUT gets recording/, rig.npz, tracking/ with its capture, and overlay.png, the tracked meshes. Finished parts are kept,
and an interrupted tracking is continued.
"""

import argparse
from pathlib import Path

import torch

import headfields as hf
from headfields.cli import main as headfields
from headfields.data import load_capture
from headfields.synthetic.body.person import procedural_rig
from headfields.synthetic.detector_noise import DetectorNoise
from headfields.synthetic.rig_captures import write_rig_capture

IDENTITY, BASIS = 3, 1
LOWEST = -0.24
"""Height of the subject's collar, meters: what is below leaves the images."""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--every", type=int, default=3, help="track every so many frames")
    arguments = parser.parse_args(words)
    out, frames = arguments.out, arguments.frames
    out.mkdir(parents=True, exist_ok=True)
    recording, tracking, path = out / "recording", out / "tracking", out / "rig.npz"
    if not (recording / "truth.npz").exists():
        write_rig_capture(
            procedural_rig(IDENTITY), recording, "talk", frames, arguments.size,
            rate=frames / 12, dressed=True, lowest=LOWEST, noise=DetectorNoise(),
        )  # fmt: skip
    if not path.exists():
        procedural_rig(None, BASIS).save(path)
    if not (tracking / "capture" / "transforms.json").exists():
        command = ["track-template", "--rig", path, "--capture", recording, "--out", tracking, "--quick", "--adapt",
                   "--every", arguments.every, *(["--resume"] if tracking.exists() else [])]  # fmt: skip
        if headfields([str(word) for word in command]):
            raise SystemExit(1)
    capture = load_capture(tracking / "capture")
    test = capture.splits["test"]
    if not len(test):
        raise SystemExit(f"none of the tracked frames in {tracking} is for testing; raise --frames or lower --every")
    chosen = test[torch.linspace(0, len(test) - 1, 4).round().long()].tolist()
    hf.viz.contact_sheet(capture, frames=chosen, path=out / "overlay.png")


if __name__ == "__main__":
    main()
