"""Rig tracking against the truth of synthetic captures, with and without the photometric term.

    python -m benchmarks.template_tracking --rig RIG.npz --out OUT [--kind talk] [--frames 48] [--size 192]

Writes the capture into OUT (or takes --capture), tracks it twice, and prints surface error (mm), rotation errors of
torso, head and jaw (degrees) and seconds a frame, for front, side and back views; OUT/errors.json has them by frame.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from headfields.apps.rigging import RiggedTemplate
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.apps.tracking.rig.tracker import RigTracker
from headfields.data import load_capture
from headfields.synthetic.rig_captures import write_rig_capture
from headfields.synthetic.rig_tracking_error import rig_tracking_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rig", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--kind", choices=("chair", "talk"), default="talk")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rig = RiggedTemplate.from_file(arguments.rig)
    source = arguments.capture
    if source is None:
        source = arguments.out / arguments.kind
        if not source.exists():
            write_rig_capture(rig, source, arguments.kind, arguments.frames, arguments.size, rate=arguments.frames / 10)
    capture = load_capture(source)
    options = RigTrackingOptions.quick() if arguments.quick else RigTrackingOptions()
    frames = list(range(min(arguments.frames, len(capture))))
    report = {}
    for name, variant in (("colors, outlines, landmarks", options), ("outlines, landmarks", options.without_color())):
        begin = time.perf_counter()
        folder = arguments.out / ("with_color" if variant.scales.color_weight else "without_color")
        tracker = RigTracker(rig, capture, folder, variant, frames)
        result = tracker.run(resume=folder.exists())
        seconds = (time.perf_counter() - begin) / len(frames)
        for stage, fits in ((1, result.stage1), (2, result.stage2)):
            if not fits:
                continue
            error = rig_tracking_error(source, tracker.body, {frame: fit.pose for frame, fit in fits.items()})
            groups = {"all": None, **error.views}
            table = {view: {"frames": len(error.frames) if rows is None else int(rows.sum()), **error.means(rows)}
                     for view, rows in groups.items()}  # fmt: skip
            report[f"{name}, stage {stage}"] = {"seconds_a_frame": seconds, "failed": len(result.failed), **table}
            print(f"\n{name}, stage {stage}: {len(result.failed)} failed, {seconds:.2f} s a frame")
            print("| view | frames | surface mm | across mm | shape mm | torso ° | head ° | jaw ° |")
            print("|---|---|---|---|---|---|---|---|")
            for view, row in table.items():
                numbers = " | ".join(f"{v:.2f}" for k, v in row.items() if k != "frames")
                print(f"| {view} | {row['frames']} | {numbers} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "errors.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
