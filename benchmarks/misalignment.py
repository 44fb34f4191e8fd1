"""Refinement of misaligned frames: `python -m benchmarks.misalignment RUN [--capture DIR] [--frames 4]`.

Rotates and shifts the cameras of a run's test frames by known amounts about random axes; a capture written with
tracking noise (`headfields synth OUT --noise 1`, with `truth.npz`) keeps its tracking errors instead. Refines each
frame, and prints errors and PSNR before and after: of each frame, then means, with the maximum in brackets.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

import headfields as hf
from headfields.cli import open_run
from headfields.synthetic.tracking_error import TRUTH
from headfields.training.refinement import correct_pose, refine_frame

COLUMNS = ("degrees", "across mm", "along mm", "pixels", "PSNR")


def errors(camera: hf.Camera, state: hf.HeadState, true: hf.Camera, truth: torch.Tensor) -> list[float]:
    """Pose angle, shift of the head's center across and along the optical axis, mean reprojection error of vertices."""
    one, other = (view.world_to_camera.reshape(4, 4).double() for view in (camera, true))
    cosine = ((one[:3, :3] @ other[:3, :3].T).trace() - 1) / 2
    center = truth.mean(0).double()
    shift = 1000 * ((one[:3, :3] - other[:3, :3]) @ center + one[:3, 3] - other[:3, 3])
    pixels = (camera.project(state.vertices[0])[0] - true.project(truth)[0]).norm(dim=-1).mean()
    degrees = math.degrees(math.acos(min(float(cosine), 1.0)))
    return [degrees, float(shift[:2].norm()), float(shift[2].abs()), float(pixels)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--capture", type=Path, help="another capture than the run was trained on")
    parser.add_argument("--frames", type=int, default=4, help="number of test frames")
    parser.add_argument("--degrees", type=float, default=1.0)
    parser.add_argument("--millimeters", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    run, config = open_run.open_run(arguments.run)
    capture = open_run.capture_of(config, arguments.capture, 2048)
    avatar = open_run.open_avatar(run, config, 2048)
    tracked = capture.path / TRUTH
    truth = np.load(tracked) if tracked.is_file() else None
    generator = torch.Generator().manual_seed(arguments.seed)
    rows, seconds = [], []
    for frame in open_run.at_most(capture.splits["test"].tolist(), arguments.frames):
        camera, state = capture.camera([frame]), capture.state([frame])
        camera = hf.Camera(camera.world_to_camera[0], camera.intrinsics[0], camera.size)
        if truth is None:
            true, vertices = camera, state.vertices[0]
            axes = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator), dim=-1)
            turn, shift = math.radians(arguments.degrees) * axes[0], 1e-3 * arguments.millimeters * axes[1]
            camera = correct_pose(true, turn, shift, vertices.mean(0))
        else:
            true = camera.replace(world_to_camera=torch.from_numpy(truth["world_to_camera"][frame]))
            vertices = torch.from_numpy(truth["vertices"][frame])
        before = time.process_time()
        refined = refine_frame(avatar, capture, frame, camera=camera, state=state)
        seconds.append(time.process_time() - before)
        rows.append(
            [
                *errors(camera, state, true, vertices), refined.psnr_before,
                *errors(refined.camera, refined.state, true, vertices), refined.psnr_after,
            ]
        )  # fmt: skip
        print(frame, "  ".join(f"{value:.3f}" for value in rows[-1]), flush=True)
    table = np.array(rows).reshape(-1, 2, len(COLUMNS))
    for name, pair in zip(COLUMNS, table.transpose(2, 1, 0), strict=True):
        first, last = pair
        print(f"{name:10s} {first.mean():8.3f} ({first.max():.3f}) -> {last.mean():8.3f} ({last.max():.3f})")
    print(f"{np.median(seconds):.1f} s of processor time a frame, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
