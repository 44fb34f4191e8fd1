import math

import pytest
import torch

from headfields.metrics import image as metrics
from headfields.training.evaluation import evaluate, picture
from tests.training.fakes import FakeAvatar, FakeCapture


class Cheating(FakeAvatar):
    """Gives the truth with a known error."""

    def __init__(self, capture: FakeCapture, error: float) -> None:
        super().__init__()
        self.capture, self.error = capture, error

    def render(self, camera, state, background=1.0, chunk=16384):
        frame = int((self.capture._expression - state.expression).abs().argmin())
        image = self.capture.image(frame)
        alpha = image[..., 3]
        rgb = image[..., :3] * alpha[..., None] + background * (1 - alpha[..., None])
        from headfields.parts import Rendering

        return Rendering(rgb=rgb - self.error * alpha[..., None], opacity=alpha, depth=alpha)


def test_figures_by_hand():
    capture = FakeCapture()
    result = evaluate(Cheating(capture, 0.1), capture, background=0.0)
    share = capture.image(0)[..., 3].mean().item()
    assert result["frames"] == 4 and [row["frame"] for row in result["per_frame"]] == [8, 9, 10, 11]
    assert result["psnr_head"] == pytest.approx(20, abs=0.01)
    assert result["psnr"] == pytest.approx(20 - 10 * math.log10(share), abs=0.01)
    assert result["ssim_head"] < result["ssim"] < 1
    assert result["seconds_per_frame"] > 0
    assert ("lpips" in result) == metrics.lpips_installed()


def test_a_perfect_avatar_and_chosen_frames():
    capture = FakeCapture()
    result = evaluate(Cheating(capture, 0.0), capture, frames=[3])
    assert result["psnr"] == math.inf and result["ssim"] == pytest.approx(1) and result["frames"] == 1


def test_a_frame_without_foreground_has_no_masked_figures():
    capture = FakeCapture()
    image = capture.image
    capture.image = lambda frame: image(frame) * (torch.tensor([1.0, 1, 1, 0]) if frame == 8 else 1)
    result = evaluate(Cheating(capture, 0.1), capture, frames=[8, 9])
    assert result["per_frame"][0]["psnr_head"] is None
    assert result["psnr_head"] == result["per_frame"][1]["psnr_head"]


def test_picture_is_truth_rendering_error():
    capture = FakeCapture()
    image, psnr = picture(Cheating(capture, 0.1), capture, 9)
    assert image.shape == (24, 60, 3) and image.min() >= 0 and image.max() <= 1
    inside = capture.image(9)[..., 3] > 0
    torch.testing.assert_close(image[:, 40:][inside], torch.full((int(inside.sum()), 3), 0.4), atol=1e-5, rtol=0)
    assert (image[:, 40:][~inside] == 0).all()
    assert psnr == pytest.approx(metrics.psnr(image[:, 20:40], image[:, :20]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "holdout"}, "no split 'holdout'; it has all, test, train, val"),
        ({"frames": []}, "frames is empty; name one or more of capture 'disc'"),
        ({"frames": [-1]}, "frame -1 is out of range"),
    ],
)
def test_bad_frames(options, message):
    with pytest.raises((ValueError, IndexError), match=message):
        evaluate(FakeAvatar(), FakeCapture(), **options)
