"""Scores by region: masks of a capture with labels, and scores by hand."""

import math

import pytest
import torch

from headfields.data import load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.data.labels import Label
from headfields.metrics.image import load_flip
from headfields.training.evaluation import evaluate
from headfields.training.region_scores import MIN_PIXELS, RegionMasks, region_scores
from tests.data.tiny import blob, tiny_frames
from tests.training.fakes import FakeCapture


def test_masks_of_a_capture(tmp_path) -> None:
    write_insta(tmp_path / "a", tiny_frames(3, True), *blob(True))
    capture = load_capture(tmp_path / "a")
    alpha = capture.image(0)[..., 3]
    masks = RegionMasks(capture)(0, alpha)
    assert bool(masks[""].all()) and bool(masks["mouth"].any()) and bool((masks["face"] & masks["mouth"]).any())
    assert bool(masks["lids"].any()) and not bool((masks["lids"] & masks["eyes"]).any())
    assert set(RegionMasks(capture)(0, alpha, names=False)) == {"", "head"}


def test_clothes_are_no_part_of_the_head_and_a_capture_without_labels_has_no_regions() -> None:
    capture = FakeCapture()
    alpha = capture.image(0)[..., 3]
    label = capture.label(0)
    label[12:] = int(Label.CLOTH)
    capture.label = lambda frame: label
    masks = RegionMasks(capture)(0, alpha)
    assert bool((masks["head"] == ((alpha > 0.5) & (torch.arange(24) < 12)[:, None])).all())
    capture.label = lambda frame: None
    assert set(RegionMasks(capture)(0, alpha)) == {"", "head"} and RegionMasks(capture).blinks() == []


def test_a_score_is_of_the_pixels_of_its_region_and_few_pixels_have_none() -> None:
    truth = torch.rand(40, 30, 3)
    mouth = torch.zeros(40, 30, dtype=torch.bool)
    mouth[:4, :8] = True
    few = mouth.clone()
    few[0, 0] = False
    assert int(mouth.sum()) == MIN_PIXELS
    image = torch.where(mouth[..., None], truth - 0.1 * (truth > 0.5) + 0.1 * (truth <= 0.5), truth)
    masks = {"": mouth | True, "head": ~mouth, "mouth": mouth, "eyes": few}
    scores = region_scores(image, truth, masks)
    assert scores["psnr_mouth"] == pytest.approx(20, abs=1e-3) and scores["psnr_head"] == math.inf
    assert scores["psnr_eyes"] is None and "ssim_mouth" not in scores
    assert scores["psnr"] == pytest.approx(20 - 10 * math.log10(MIN_PIXELS / 1200), abs=1e-3)
    assert 0 < scores["ssim"] < scores["ssim_head"] < 1  # windows of the head's border see the mouth
    with pytest.raises(ValueError, match="expected sides of 11"):
        region_scores(image[:10], truth[:10], {})


def test_a_mean_is_over_frames_and_not_over_their_pixels() -> None:
    from tests.training.test_evaluation import Cheating

    capture = FakeCapture()
    cheating = Cheating(capture, 0.0)
    render = cheating.render

    def worse_later(camera, state, background=1.0):
        cheating.error = 0.1 if float(state.expression) < 0.5 else 0.01
        return render(camera, state, background)

    cheating.render = worse_later
    found = evaluate(cheating, capture, frames=[2, 10], regions=True)
    assert found["psnr_head"] == pytest.approx(30, abs=0.01)  # of 20 and 40 dB; pooled, 22.97
    assert found["psnr_mouth_interior"] == pytest.approx(30, abs=0.01) and found["psnr_hair"] is None


def test_flip_is_that_of_its_authors() -> None:
    flip = load_flip()
    if flip is None:
        pytest.skip("flip-evaluator is not installed")
    import flip_evaluator
    import numpy as np

    truth = torch.rand(32, 24, 3, generator=torch.Generator().manual_seed(0))
    image = (truth + 0.05).clamp(0, 1)
    errors = flip(image, truth)
    _, mean, _ = flip_evaluator.evaluate(truth.numpy(), image.numpy(), "LDR", parameters={"ppd": 67.0})
    assert errors.shape == (32, 24) and float(errors.mean()) == pytest.approx(mean, abs=1e-4)
    assert float(flip(truth, truth).max()) == 0 and np.isfinite(mean)
    assert region_scores(image, truth, {"": torch.ones(32, 24, dtype=torch.bool)}, flip=flip)["flip"] > 0
