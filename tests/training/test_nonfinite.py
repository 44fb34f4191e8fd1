"""Steps whose loss or gradient is not finite: what they leave, what is told of them, and when training ends."""

import math
import warnings

import pytest
import torch

from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss
from headfields.runs.folder import RunFolder
from headfields.runs.nonfinite import MOST_IN_ROW, BufferBackup, SkippedSteps, check_weights
from headfields.runs.progress import NanLossError
from headfields.training.trainer import Trainer
from tests.training.ball import BallCapture, ball_trainer
from tests.training.fakes import FakeAvatar, FakeCapture
from tests.training.test_trainer import make, same, weights


class Spoiled(HuberColor):
    """A loss that is multiplied, or whose gradient is, at some steps."""

    def __init__(self, steps, value: float, gradient: bool = False) -> None:
        super().__init__(region_weight=1, name="bad")
        for name, entry in (("steps", steps), ("value", value), ("gradient", gradient)):
            object.__setattr__(self, name, entry)

    def phase(self, step):
        return super().phase(step), step in self.steps

    def __call__(self, rendering, batch, step):
        loss = super().__call__(rendering, batch, step)
        if step not in self.steps:
            return loss
        if self.gradient:
            loss.register_hook(lambda slope: slope * self.value)
            return loss
        return loss * self.value


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights, buffers, average and Adam's moments."""
    tensors = weights(trainer) | {f"ema/{name}": value.clone() for name, value in trainer.ema.average.items()}
    for name, parameter in trainer.avatar.named_parameters():
        for key, value in trainer.optimizer.state[parameter].items():
            tensors[f"adam/{name}/{key}"] = value.clone()
    return tensors


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_bad_step_leaves_everything_as_it_was(tmp_path, value, gradient):
    torch.manual_seed(0)
    avatar = Writing()
    losses = [Spoiled([6], value, gradient), OpacityLoss(0.1)]
    trainer = Trainer(avatar, FakeCapture(), losses, rays_per_step=64, bar=False, device="cpu", out=tmp_path)
    trainer.fit(steps=6)
    before = state(trainer)
    with pytest.warns(UserWarning, match="1 step was skipped, whose loss or gradient was not finite"):
        result = trainer.fit(steps=7)
    assert same(before, state(trainer))
    assert result.step == 7 and result.skipped == 1 and sum(result.skipped_frames.values()) == 8
    (event,) = [entry for entry in RunFolder(tmp_path).read_log() if entry.get("event") == "skipped"]
    assert event["step"] == 6 and ("gradient of" if gradient else "loss bad") in event["what"]
    assert trainer.fit(steps=9).skipped == 1
    assert not torch.equal(before["table"], state(trainer)["table"]), "training goes on"


class Writing(FakeAvatar):
    """Keeps statistics of what it renders, as a normalization does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, rays, state, background):
        rendering = super().forward(rays, state, background)
        if self.training:
            self.mean.lerp_(rendering.rgb.detach().mean(dim=0), 0.1)
        return rendering


class Broken(FakeCapture):
    """A capture whose frame 3 has a NaN, in its image or in its expression."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        if where == "expression":
            self._expression = self._expression.clone()
            self._expression[3] = math.nan

    def image(self, frame):
        image = super().image(frame)
        return image.index_fill(0, torch.tensor([4, 5, 6, 7]), math.nan) if self._bad(frame) else image

    def _bad(self, frame: int) -> bool:
        return self.where == "image" and frame == 3


@pytest.mark.parametrize("where", ["image", "expression"])
def test_the_bad_frame_is_named_and_the_rest_is_learned(tmp_path, where):
    torch.manual_seed(0)
    trainer = Trainer(
        Writing(), Broken(where), [HuberColor(region_weight=1)], rays_per_step=128, frames_per_step=2, bar=False,
        learning_rate=5e-3, device="cpu", out=tmp_path,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"steps were skipped, .* \(frame 3: \d+\)"):
        result = trainer.fit(steps=60)
    assert 5 < result.skipped < 30 and result.skipped_frames == {3: result.skipped}
    assert all(bool(tensor.isfinite().all()) for tensor in state(trainer).values())
    assert math.isfinite(result.psnr)
    again = Trainer(
        Writing(), Broken(where), [HuberColor(region_weight=1)], rays_per_step=128, frames_per_step=2, bar=False,
        learning_rate=5e-3, device="cpu", out=tmp_path,
    )  # fmt: skip
    assert again.fit(steps=60, resume=True).skipped == result.skipped, "the count is part of the checkpoint"


@pytest.mark.parametrize("gradient", [False, True])
def test_bad_steps_in_a_row_end_training_by_name(tmp_path, gradient):
    trainer = make(out=tmp_path, losses=[Spoiled(range(6, 99), math.nan, gradient)])
    trainer.fit(steps=6)
    before = weights(trainer)
    what = "gradient of table, network.0.weight" if gradient else "loss bad"
    with pytest.raises(NanLossError, match=rf"^step 15: {what}.* is not finite \(frames .*10th.*\(step 6\)"):
        trainer.fit(steps=99)
    trainer._state.swap_average()
    assert same(before, weights(trainer))
    assert RunFolder(tmp_path).read_log()[-1]["event"] == "nan"


def test_steps_apart_do_not_end_it():
    result = make(losses=[Spoiled([*range(9), *range(10, 19)], math.nan)])
    with pytest.warns(UserWarning, match="18 steps were skipped"):
        assert result.fit(steps=25).skipped == 18


def test_a_nan_in_a_mesh_leaves_the_occupancy_grid_whole():
    class Torn(BallCapture):
        def __init__(self) -> None:
            super().__init__()
            self._vertices = self._vertices.clone()
            self._vertices[3] = math.nan

    trainer = ball_trainer(rays=32)
    trainer.capture = Torn()
    trainer.fit(steps=24)
    grid = trainer.avatar.renderer.sampler.grid
    assert bool(grid.box.isfinite().all()) and bool(grid.opacity.isfinite().all())
    assert bool((grid.opacity > 0).any()), "it has observed the other frames"
    assert all(bool(tensor.isfinite().all()) for tensor in weights(trainer).values())


@pytest.mark.parametrize(("rate", "diverges"), [(1e-2, False), (1.0, True), (1e3, True)])
def test_a_rate_that_is_too_high_is_told(tmp_path, rate, diverges):
    trainer = make(learning_rate=rate, out=tmp_path, picture_seconds=1e9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(steps=60)
    assert any("training diverged: its training PSNR is" in str(warning.message) for warning in caught) == diverges
    assert any(entry.get("event") == "diverged" for entry in RunFolder(tmp_path).read_log()) == diverges


def test_an_occupancy_grid_ignores_a_density_of_nan():
    from headfields.renderers.occupancy_grid import OccupancyGrid

    grid = OccupancyGrid(2, 0.1)
    grid.box.copy_(torch.tensor([[0.0, 0, 0], [1, 1, 1]]))
    grid.observe(torch.full((2, 3), 0.25), torch.tensor([math.nan, 3.0]))
    grid.observe(torch.full((1, 3), 0.75), torch.tensor([math.nan]))
    assert float(grid.opacity[0, 0, 0]) == pytest.approx(1 - math.exp(-0.3)) and float(grid.opacity[1, 1, 1]) == -1


def test_a_backup_copies_what_changed_and_puts_it_back():
    module = torch.nn.BatchNorm1d(3)
    backup = BufferBackup(module)
    backup.keep()
    module(torch.randn(8, 3))
    backup.keep()
    kept = {name: value.clone() for name, value in module.named_buffers()}
    module(torch.full((8, 3), math.nan))
    assert bool(module.running_mean.isnan().all())
    backup.restore()
    assert all(torch.equal(kept[name], value) for name, value in module.named_buffers())


def test_the_count_survives_a_checkpoint():
    first, second = SkippedSteps("scan"), SkippedSteps("scan")
    first.skip(1, "loss", ["b", "a"])
    first.skip(2, "loss", ["a"])
    second.load(first.state())
    assert second == first and second.summary().endswith("(scans a: 2, b: 1)")
    for step in range(3, MOST_IN_ROW):
        second.skip(step, "loss")
    with pytest.raises(NanLossError, match=r"step 99: loss is not finite, the 10th step in a row; do this"):
        second.skip(99, "loss", remedy="do this")


def test_no_message_names_a_checkpoint_that_is_gone(tmp_path):
    trainer = make(out=tmp_path)
    for steps in (2, 4):
        trainer.fit(steps=steps)
    folder = RunFolder(tmp_path)
    assert trainer._state.last_good == f"the last good checkpoint is {folder.checkpoint} (step 4)"
    folder.checkpoint.unlink()
    assert trainer._state.last_good == f"the last good checkpoint is {folder.previous_checkpoint}"
    folder.previous_checkpoint.unlink()
    assert trainer._state.last_good == "there is no checkpoint"
    with torch.no_grad():
        trainer.avatar.table.fill_(math.inf)
    with pytest.raises(NanLossError, match="the weights table are not finite, and are not saved; there is no"):
        trainer.save(tmp_path / "mine.safetensors")


def test_a_buffer_of_nan_is_not_saved():
    module = torch.nn.BatchNorm1d(2)
    module.register_buffer("bound", torch.full((2,), torch.inf))
    check_weights(module, "remedy")
    module.running_mean[1] = torch.nan
    with pytest.raises(NanLossError, match="the weights running_mean are not finite, and are not saved; remedy"):
        check_weights(module, "remedy")
