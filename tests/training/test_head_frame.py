"""Training on a capture does not depend on whether the head's motion is in its cameras or in its vertices."""

from pathlib import Path

import pytest
import torch

from headfields.data import load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss
from headfields.models import insta
from headfields.training import Trainer, evaluate
from tests.data.moving import jaw_frames, put_pose_into_vertices
from tests.data.tiny import blob


def trained(folder: Path):
    capture = load_capture(folder)
    torch.manual_seed(0)
    avatar = insta(
        capture.template, expression_width=1, levels=4, log2_table_size=10, finest_resolution=48, grid_resolution=16,
        step=0.01,
    )  # fmt: skip
    losses = [HuberColor(region_weight=1), OpacityLoss(0.1)]
    trainer = Trainer(
        avatar, capture, losses, rays_per_step=384, learning_rate=1e-2, network_learning_rate=2e-3, bar=False,
        device="cpu", seed=0,
    )  # fmt: skip
    return capture, avatar, trainer.fit(steps=50)


@pytest.mark.slow
def test_a_short_training_comes_out_the_same(tmp_path: Path) -> None:
    write_insta(tmp_path / "still", jaw_frames(8), *blob(), test_frames=2)
    put_pose_into_vertices(load_capture(tmp_path / "still", head_frame="keep"), tmp_path / "moving")
    (still, one, first), (moving, other, second) = (trained(tmp_path / name) for name in ("still", "moving"))
    assert still.head_frame is None and moving.head_frame is not None
    assert abs(first.psnr - second.psnr) < 0.3
    figures = [evaluate(avatar, capture) for avatar, capture in ((one, still), (other, moving), (one, moving))]
    assert figures[0]["psnr"] > 13  # a gray head has less
    assert abs(figures[0]["psnr"] - figures[1]["psnr"]) < 0.4
    assert abs(figures[0]["psnr"] - figures[2]["psnr"]) < 0.02  # one's avatar in the other's frames
