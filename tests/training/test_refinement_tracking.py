"""Refinement takes the tracking noise out of a synthetic capture's frames: `tracking_error` before and after."""

from pathlib import Path

import numpy as np
import torch

from headfields.data import load_capture, tracking_error
from headfields.data.procedural import TrackingNoise, write_capture
from headfields.losses import HuberColour, OpacityLoss
from headfields.models import insta
from headfields.training import Trainer, refine_frame

NOISE = TrackingNoise(rotation=1.5, translation=4, depth=6, expression=0, gaze=0, lag=0)


def test_tracking_noise_is_taken_out(tmp_path: Path) -> None:
    drawn = {"frames": 12, "test_frames": 3, "size": 56, "samples": 1, "progress": False}
    exact = load_capture(write_capture(tmp_path / "exact", **drawn))
    noisy = load_capture(write_capture(tmp_path / "noisy", **drawn, noise=NOISE))
    assert exact.head_frame is None and noisy.head_frame is None
    torch.manual_seed(0)
    avatar = insta(
        exact.template, expression_width=16, levels=6, log2_table_size=13, finest_resolution=96, grid_resolution=24,
        step=0.006,
    )  # fmt: skip
    trainer = Trainer(
        avatar, exact, [HuberColour(mouth_weight=1), OpacityLoss(0.1)], rays_per_step=768, learning_rate=2e-2,
        network_learning_rate=3e-3, bar=False, device="cpu", seed=0,
    )  # fmt: skip
    trainer.fit(steps=120)
    tests = noisy.splits["test"].tolist()
    found = {frame: refine_frame(avatar, noisy, frame, steps=40, rays=400, pose_rate=1e-3) for frame in tests}
    before = tracking_error(noisy, frames=tests)
    after = tracking_error(noisy, tests, {frame: (fit.camera, fit.state) for frame, fit in found.items()})
    print(before, "->", after, [(f.psnr_before, f.psnr_after) for f in found.values()])
    assert after.pixels.mean() < before.pixels.mean() / 3
    assert after.rotation.mean() < before.rotation.mean() / 1.5
    assert np.mean([fit.psnr_after - fit.psnr_before for fit in found.values()]) > 2
