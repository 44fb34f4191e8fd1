"""Heads whose tracked meshes do not follow the lips, for the study of 3VP Avatar's fine field.

`python -m benchmarks.mouth_residual --out OUT [--people 2] [--frames 240] [--size 128]`

Pose, jaw, eyes and brows of the meshes are exact; of what the lips and cheeks do they have nothing. Images show it, and
the coefficients have it, so a residual is left at the mouth which is a function of the expression, beside teeth, which
no mesh has. Every sixth frame is for testing, so that test frames are as the training's and no more.

OUT gets person_1, person_2, ..., on which `benchmarks/studies/vp360_fair.toml` trains. Finished ones are kept.
"""

import argparse
import json
from pathlib import Path

from headfields.synthetic import write_head_capture

UNFOLLOWED = (
    "smile_left", "smile_right", "frown_left", "frown_right", "pucker", "funnel", "lip_press", "cheek_puff",
    "upper_lip_raise", "lower_lip_depress", "mouth_left", "mouth_right", "dimple_left", "dimple_right",
    "mouth_stretch_left", "mouth_stretch_right", "lip_roll", "chin_raise",
)  # fmt: skip
"""All that the procedural head's lips and cheeks do; the jaw is the meshes' own."""
TEST_EVERY = 6


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args(words)
    for person in range(1, arguments.people + 1):
        folder = arguments.out / f"person_{person}"
        write_head_capture(
            folder, arguments.frames, size=arguments.size, seed=person, identity=person, unfollowed=UNFOLLOWED
        )
        interleave(folder)


def interleave(folder: Path) -> None:
    """Makes every sixth frame the test split, and of these every other one the validation split."""
    whole = json.loads((folder / "transforms.json").read_text())
    frames = whole["frames"]
    test = frames[TEST_EVERY - 1 :: TEST_EVERY]
    train = [frame for index, frame in enumerate(frames) if index % TEST_EVERY != TEST_EVERY - 1]
    for name, chosen in (("train", train), ("test", test), ("val", test[1::2])):
        (folder / f"transforms_{name}.json").write_text(json.dumps({**whole, "frames": chosen}, indent=1) + "\n")


if __name__ == "__main__":
    main()
