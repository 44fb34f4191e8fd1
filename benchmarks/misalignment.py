"""Refinement of misaligned frames: `python -m benchmarks.misalignment RUN [--capture DIR] [--frames 4]`.

Takes test frames of a trained run and puts their cameras off by a known turn about and shift along random axes, or,
where the capture was written with tracking noise (`headfields synth OUT --noise 1`, its `truth.npz`), leaves the
tracker's errors as they are. Refines each frame, and prints its errors and its PSNR before and after: each frame's,
then means with the largest in brackets.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

import headfields as hf
from headfields.cli import runs
from headfields.synthetic.tracking_error import TRUTH
from headfields.training import correct_pose, refine_frame

COLUMNS = ("degrees", "across mm", "along mm", "pixels", "PSNR")


def errors(found: hf.Camera, state: hf.HeadState, true: hf.Camera, truth: torch.Tensor) -> list[float]:
    """Angle of the pose, shift of the head's middle across and along the optical axis, mean miss of vertices."""
    one, other = (view.world_to_camera.reshape(4, 4).double() for view in (found, true))
    cosine = ((one[:3, :3] @ other[:3, :3].T).trace() - 1) / 2
    middle = truth.mean(0).double()
    apart = 1000 * ((one[:3, :3] - other[:3, :3]) @ middle + one[:3, 3] - other[:3, 3])
    miss = (found.project(state.vertices[0])[0] - true.project(truth)[0]).norm(dim=-1).mean()
    degrees = math.degrees(math.acos(min(float(cosine), 1.0)))
    return [degrees, float(apart[:2].norm()), float(apart[2].abs()), float(miss)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--capture", type=Path, help="another capture than the run was trained on")
    parser.add_argument("--frames", type=int, default=4, help="how many test frames")
    parser.add_argument("--degrees", type=float, default=1.0)
    parser.add_argument("--millimeters", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    run, config = runs.open_run(arguments.run)
    capture = runs.capture_of(config, arguments.capture, 2048)
    avatar = runs.load_avatar(run, config, 2048)
    tracked = capture.path / TRUTH
    truth = np.load(tracked) if tracked.is_file() else None
    generator = torch.Generator().manual_seed(arguments.seed)
    rows, seconds = [], []
    for frame in runs.evenly_spaced(capture.splits["test"].tolist(), arguments.frames):
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
        found = refine_frame(avatar, capture, frame, camera=camera, state=state)
        seconds.append(time.process_time() - before)
        rows.append(
            [
                *errors(camera, state, true, vertices), found.psnr_before,
                *errors(found.camera, found.state, true, vertices), found.psnr_after,
            ]
        )  # fmt: skip
        print(frame, "  ".join(f"{value:.3f}" for value in rows[-1]), flush=True)
    table = np.array(rows).reshape(-1, 2, len(COLUMNS))
    for name, before_after in zip(COLUMNS, table.transpose(2, 1, 0), strict=True):
        was, now = before_after
        print(f"{name:10s} {was.mean():8.3f} ({was.max():.3f}) -> {now.mean():8.3f} ({now.max():.3f})")
    print(f"{np.median(seconds):.1f} s of processor time a frame, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
