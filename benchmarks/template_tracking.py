"""Template tracking against the truth of drawn captures, with and without the photometric term.

    python -m benchmarks.template_tracking --rig RIG.npz --out OUT [--kind talk] [--frames 48] [--size 192]

Draws the capture into OUT (or takes --capture), tracks it twice, and prints surface error (mm), rotation errors of
torso, head and jaw (degrees) and seconds a frame, for front, side and back views; OUT/errors.json has them by frame.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from headfields.data import load_capture
from headfields.rigging import RiggedTemplate
from headfields.synthetic.rig_captures import write_rig_capture
from headfields.synthetic.rig_tracking_error import rig_tracking_error
from headfields.tracking.rig import RigTracker, RigTrackingOptions


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rig", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--kind", choices=("chair", "talk"), default="talk")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rig = RiggedTemplate.from_file(given.rig)
    source = given.capture
    if source is None:
        source = given.out / given.kind
        if not source.exists():
            write_rig_capture(rig, source, given.kind, given.frames, given.size, rate=given.frames / 10)
    capture = load_capture(source)
    options = RigTrackingOptions.quick() if given.quick else RigTrackingOptions()
    frames = list(range(min(given.frames, len(capture))))
    report = {}
    for name, chosen in (("colors, outlines, landmarks", options), ("outlines, landmarks", options.without_color())):
        begin = time.perf_counter()
        folder = given.out / ("with_color" if chosen.scales.color_weight else "without_color")
        tracker = RigTracker(rig, capture, folder, chosen, frames)
        found = tracker.run(resume=folder.exists())
        seconds = (time.perf_counter() - begin) / len(frames)
        for stage, fits in ((1, found.stage1), (2, found.stage2)):
            if not fits:
                continue
            error = rig_tracking_error(source, tracker.body, {frame: fit.pose for frame, fit in fits.items()})
            groups = {"all": None, **error.views}
            table = {view: {"frames": len(error.frames) if rows is None else int(rows.sum()), **error.means(rows)}
                     for view, rows in groups.items()}  # fmt: skip
            report[f"{name}, stage {stage}"] = {"seconds_a_frame": seconds, "failed": len(found.failed), **table}
            print(f"\n{name}, stage {stage}: {len(found.failed)} failed, {seconds:.2f} s a frame")
            print("| view | frames | surface mm | across mm | shape mm | torso ° | head ° | jaw ° |")
            print("|---|---|---|---|---|---|---|---|")
            for view, row in table.items():
                numbers = " | ".join(f"{v:.2f}" for k, v in row.items() if k != "frames")
                print(f"| {view} | {row['frames']} | {numbers} |")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "errors.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
