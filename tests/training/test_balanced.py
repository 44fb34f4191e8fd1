"""Weighted frames and pixels in the trainer: which are drawn, resuming, errors and warnings."""

import pytest
import torch

from headfields.training.frames import draw_frames
from tests.training.ball import ball_trainer
from tests.training.test_trainer import same, weights


def test_frames_are_drawn_by_weight_and_not_twice() -> None:
    frames, generator = torch.arange(10, 16), torch.Generator().manual_seed(0)
    share = torch.tensor([8.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.double)
    drawn = torch.stack([draw_frames(frames, share, 1, generator) for _ in range(2000)])
    assert float((drawn == 10).double().mean()) == pytest.approx(0.8, abs=0.03) and int(drawn.max()) == 12
    assert sorted(draw_frames(frames, share, 6, generator).tolist()) == [10, 11, 12], "those of weight 0 never"
    assert sorted(draw_frames(frames, None, 9, generator).tolist()) == list(range(10, 16))
    first, second = (draw_frames(frames, share, 2, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_resumed_run_draws_what_an_unbroken_one_does(tmp_path) -> None:
    share = torch.linspace(0, 1, 12)
    whole = ball_trainer(32, frame_weights=share)
    whole.fit(steps=4)
    ball_trainer(32, frame_weights=share, out=tmp_path).fit(steps=2)
    rest = ball_trainer(32, frame_weights=share, out=tmp_path)
    rest.fit(steps=4, resume=True)
    assert same(weights(whole), weights(rest))
    plain = ball_trainer(32)
    plain.fit(steps=4)
    assert not same(weights(whole), weights(plain))
    other = ball_trainer(32, frame_weights=share.flip(0), out=tmp_path)
    with pytest.warns(UserWarning, match="frame_weights"):
        other.fit(steps=5, resume=True)


def test_only_frames_with_weight_are_learned_from(monkeypatch) -> None:
    share = torch.zeros(12)
    share[3] = 1.0
    trainer = ball_trainer(64, frame_weights=share, pixel_weights={"mouth": 2.0})
    seen = []
    original = trainer.capture.sample_pixels

    def watched(frames, count, generator, background="random", weights=None):
        seen.append((frames.tolist(), weights))
        return original(frames, count, generator, background)

    monkeypatch.setattr(trainer.capture, "sample_pixels", watched)
    trainer.fit(steps=2)
    assert seen == [([3], {"mouth": 2.0})] * 2


def test_weights_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"frame_weights has shape \(3,\); expected \(12,\)"):
        ball_trainer(64, frame_weights=torch.ones(3))
    for wrong in (torch.full((12,), torch.nan), -torch.ones(12), torch.zeros(12)):
        with pytest.raises(ValueError, match="finite and not negative"):
            ball_trainer(64, frame_weights=wrong)
