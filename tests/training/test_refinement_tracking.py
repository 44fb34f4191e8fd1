"""Refinement removes tracking noise from a capture on disk: `tracking_error` before and after."""

from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.data import load_capture
from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from headfields.records import HeadState
from headfields.synthetic.scene.motion import ScriptedMotion
from headfields.synthetic.tracking_error import tracking_error, write_truth
from headfields.synthetic.tracking_noise import TrackingNoise
from headfields.training.refinement import correct_pose, refine_frame
from tests.training.test_refinement import BASIS, CENTER, FACES, VERTICES, painted, view

COUNT = 4
NOISE = TrackingNoise(rotation=1, translation=2, depth=3, expression=0, gaze=0, lag=0, correlation=0)


def write_noisy(folder: Path) -> None:
    """Frames rendered with true poses by an avatar of the head, tracked with noise; writes the truth next to them."""
    avatar = painted()
    still = ScriptedMotion(np.zeros((COUNT, 3)), np.zeros((COUNT, 3)), {}, np.zeros((COUNT, 2)))
    noisy = NOISE.track(still, rate=25)
    frames, vertices, views, weights = [], [], [], []
    for index in range(COUNT):
        weight = torch.tensor([[0.5 + 0.4 * np.sin(index), 0.3]]).float()
        posed = VERTICES + torch.einsum("be,evk->bvk", weight, BASIS)
        true = view(index)
        drawn = avatar.render(true, HeadState(posed, weight, codes={"light": torch.zeros(1, 1)}), background=0.0)
        alpha = drawn.opacity[..., None]
        image = torch.cat([(drawn.rgb / alpha.clamp_min(1e-3)).clamp(0, 1), alpha], -1)
        turn, shift = (torch.from_numpy(track[index]).float() for track in (noisy.angles, noisy.shift))
        tracked = correct_pose(true, turn, shift, CENTER)
        frames.append(
            CapturedFrame((image * 255).round().to(torch.uint8).numpy(), posed[0], tracked, expression=weight[0])
        )
        vertices.append(posed[0].numpy())
        views.append(true.world_to_camera.numpy())
        weights.append(weight[0].numpy())
    write_insta(folder, frames, VERTICES, FACES, test_frames=2)
    write_truth(folder, np.stack(vertices), np.stack(views), np.stack(weights))
    np.savez(folder / "blendshapes.npz", expression=BASIS.numpy().astype(np.float16))


@pytest.mark.slow
def test_tracking_noise_is_removed(tmp_path: Path) -> None:
    write_noisy(tmp_path / "noisy")
    capture = load_capture(tmp_path / "noisy")
    assert capture.head_frame is None
    avatar, tests = painted(), capture.splits["test"].tolist()

    def start(frame: int) -> HeadState:
        return capture.state([frame]).replace(codes={"light": torch.zeros(1, 1)})

    refined = {
        frame: refine_frame(
            avatar, capture, frame, state=start(frame), steps=40, rays=200, pose_rate=1e-3, background=0.0
        )
        for frame in tests
    }  # fmt: skip
    before = tracking_error(capture, frames=tests)
    after = tracking_error(capture, tests, {frame: (fit.camera, fit.state) for frame, fit in refined.items()})
    assert before.rotation.mean() > 0.7 and before.surface.mean() > 1.5
    assert after.rotation.mean() < before.rotation.mean() / 3
    assert after.surface.mean() < before.surface.mean() / 3
    assert after.pixels.mean() < before.pixels.mean() / 5
    assert all(fit.psnr_after > fit.psnr_before for fit in refined.values())
