"""The same seed on the same backend: the same bits, and nothing that is only looked at changes them."""

import pytest
import torch

from headfields import use_cpu_backend
from headfields.dispatch import native
from tests.training.ball import ball_trainer
from tests.training.test_trainer import same, weights

NATIVE = pytest.param("native", marks=pytest.mark.skipif(native is None, reason="the compiled module is not installed"))


def trained(steps: int, threads: int = 1, rays: int = 512, **options) -> dict[str, torch.Tensor]:
    torch.set_num_threads(threads)
    trainer = ball_trainer(rays, **options)
    trainer.fit(steps=steps)
    return weights(trainer)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("backend", "steps"), [pytest.param(*NATIVE.values, 52, marks=NATIVE.marks), ("warp", 4)])
def test_two_runs_are_the_same_to_the_bit(backend, steps, threads):
    with use_cpu_backend(backend):
        assert same(trained(steps, threads), trained(steps, threads))


def test_pictures_and_checkpoints_do_not_change_what_insta_learns(tmp_path, monkeypatch):
    monkeypatch.setattr("headfields.training.trainer.OVERHEAD_SHARE", 1.0)  # due at every step, however slow they are
    quiet = trained(20, rays=128)
    busy = trained(20, rays=128, out=tmp_path, picture_seconds=0.0, checkpoint_seconds=0.0)
    assert len(list((tmp_path / "images").iterdir())) >= 2
    assert same(quiet, busy)


def test_indexing_backward_is_deterministic_while_training(tmp_path):
    from headfields.losses import HuberColour
    from headfields.training import Trainer
    from tests.training.fakes import FakeAvatar, FakeCapture

    class Watching(HuberColour):
        def __call__(self, rendering, batch, step):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().__call__(rendering, batch, step)

    seen: list[bool] = []
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    Trainer(FakeAvatar(), FakeCapture(), [Watching()], rays_per_step=8, device="cpu", bar=False).fit(steps=1)
    assert seen == [True]
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
