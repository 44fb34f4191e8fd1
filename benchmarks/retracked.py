"""A capture tracked from its own images, beside the exact one with the same frames, for studies of what tracking costs.

`python -m benchmarks.retracked --capture DIR --head HEAD --out OUT [--every 3]`

Takes a capture with exact meshes and cameras, and makes OUT/tracked from its images, mattes and labels and from its
landmarks, moved by normal noise, with `headfields capture` and a head that does not know the person. OUT/exact has the
same frames and splits. `headfields compare benchmarks/studies/tracking_cost.toml` trains on both. Finished parts are
kept, and an interrupted one is continued.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.capture_truth import noisy_landmarks
from headfields.cli import main as headfields
from headfields.data import load_capture
from headfields.data.save import save_capture


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
    arguments = parser.parse_args(words)
    out, exact = arguments.out, load_capture(arguments.capture)
    out.mkdir(parents=True, exist_ok=True)
    tracked, landmarks = out / "tracked", out / "landmarks.npz"
    if not landmarks.is_file():
        np.savez(landmarks, landmarks=noisy_landmarks(exact, arguments.noise))
    if not (tracked / "transforms.json").is_file():
        options = {"--every": arguments.every, "--frames": arguments.frames, "--focal": arguments.focal}
        command = [
            "capture", arguments.capture, "--head", arguments.head, "--out", tracked, "--landmarks", landmarks,
            "--crop", "none", *[part for pair in options.items() if pair[1] is not None for part in pair],
            *(["--quick"] if arguments.quick else []), *(["--resume"] if tracked.exists() else []),
        ]  # fmt: skip
        if headfields([str(word) for word in command]):
            raise SystemExit(1)
    own = load_capture(tracked)
    if exact.size != own.size:
        raise SystemExit(f"{arguments.capture} has images of {exact.size} and the tracked capture of {own.size}")
    numbers = torch.tensor([int(Path(name).stem) for name in own.frame_names]) * arguments.every
    if not (out / "exact" / "transforms.json").is_file():
        for name, rows in own.splits.items():
            exact.splits[name] = numbers[rows]
        save_capture(exact, out / "exact", numbers)
    print(f"{len(own)} frames in {tracked} and in {out / 'exact'}")


if __name__ == "__main__":
    main()
