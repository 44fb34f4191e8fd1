import json
import signal

import pytest
import torch

from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss
from headfields.losses.surface import DepthPrior
from headfields.training.parameter_groups import parameter_groups
from headfields.training.trainer import Trainer
from tests.tables import table
from tests.training.fakes import FakeAvatar, FakeCapture


def make(seed: int = 0, losses=None, **options) -> Trainer:
    torch.manual_seed(seed)
    losses = [HuberColor(region_weight=1), OpacityLoss(0.1)] if losses is None else losses
    options = {
        "rays_per_step": 256,
        "frames_per_step": 4,
        "learning_rate": 5e-3,
        "seed": seed,
        "bar": False,
        "device": "cpu",
        **options,
    }
    return Trainer(FakeAvatar(), FakeCapture(), losses, **options)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.avatar.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_learns_and_leaves_a_run_folder(tmp_path):
    trainer = make(out=tmp_path / "run", losses=[HuberColor(), DepthPrior(), OpacityLoss()])
    early = trainer.fit(steps=5).psnr
    result = trainer.fit(steps=200)
    assert result.step == 200 and not result.interrupted and result.rays_per_second > 0
    assert result.psnr > early + 3
    assert (tmp_path / "run/checkpoint/last.safetensors").exists()
    assert (tmp_path / "run/images/step_000200.png").exists()
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    last = [entry for entry in log if "loss" in entry][-1]
    assert last["step"] == 200 and set(last["terms"]) == {"color", "depth", "opacity"}
    assert log[-1]["event"] == "end"
    assert trainer.progress.best_psnr > 12


def test_the_avatar_follows_the_drawn_frames():
    trainer = make()
    trainer.fit(steps=3)
    assert trainer.avatar.seen == [(4, 0), (4, 1), (4, 2)]
    assert not trainer.avatar.training


def test_more_frames_a_step_than_the_capture_has():
    trainer = make(frames_per_step=100)
    trainer.fit(steps=1)
    assert trainer.avatar.seen == [(8, 0)]


def test_same_seed_same_weights_and_the_callers_stream_is_left_alone():
    first, second, other = make(seed=1), make(seed=1), make(seed=2)
    before = torch.get_rng_state()
    for trainer in (first, second, other):
        trainer.fit(steps=20)
    assert torch.equal(before, torch.get_rng_state())
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(other))


def test_resuming_gives_the_same_weights_as_going_through(tmp_path):
    through, first = make(out=tmp_path / "a"), make(out=tmp_path / "b")
    through.fit(steps=30)
    first.fit(steps=12)
    second = make(seed=0, out=tmp_path / "b")
    with torch.no_grad():  # what it starts from must not matter
        second.avatar.table.zero_()
    result = second.fit(steps=30, resume=True)
    assert result.step == 30
    assert same(weights(through), weights(second))
    assert second.progress.seconds > first.progress.seconds


def test_pictures_and_checkpoints_do_not_change_what_is_learned(tmp_path, monkeypatch):
    monkeypatch.setattr("headfields.training.outputs.OVERHEAD_SHARE", 1.0)  # however long they take on this machine
    quiet, busy = make(), make(out=tmp_path, picture_seconds=0.0, checkpoint_seconds=0.0)
    quiet.fit(steps=15)
    busy.fit(steps=15)
    assert same(weights(quiet), weights(busy))
    assert len(list((tmp_path / "images").iterdir())) >= 2


def test_fit_again_continues_from_the_unaveraged_weights():
    through, twice = make(), make()
    through.fit(steps=20)
    twice.fit(steps=10)
    twice.fit(steps=20)
    assert same(weights(through), weights(twice))


def test_the_avatar_carries_the_average_between_fits():
    averaged, plain = make(ema=0.95), make(ema=0.0)
    averaged.fit(steps=20)
    plain.fit(steps=20)
    assert not same(weights(averaged), weights(plain))
    averaged._state.swap_average()
    assert same(weights(averaged), weights(plain))


def test_minutes_count_over_resumptions(tmp_path):
    first = make(out=tmp_path)
    first.fit(minutes=0.4 / 60)
    assert 0.4 <= first.progress.seconds < 60
    second = make(out=tmp_path)
    assert second.fit(minutes=0.4 / 60, resume=True).step == first.progress.step
    assert second.fit(minutes=(first.progress.seconds + 0.2) / 60).step > first.progress.step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_step_and_saves(tmp_path, number):
    class Interrupting(HuberColor):
        def __call__(self, rendering, batch, step):
            if step == 4:
                signal.raise_signal(number)
            return super().__call__(rendering, batch, step)

    trainer = make(out=tmp_path, losses=[Interrupting()])
    before = signal.getsignal(number)
    result = trainer.fit(steps=100)
    assert result.interrupted and result.step == 5
    assert signal.getsignal(number) is before
    resumed, through = make(out=tmp_path, losses=[HuberColor()]), make(losses=[HuberColor()])
    assert resumed.fit(steps=9, resume=True).step == 9
    through.fit(steps=9)
    assert same(weights(resumed), weights(through))


def test_exponential_schedule_follows_the_fraction_of_the_run():
    rates = []

    class Watching(HuberColor):
        def __call__(self, rendering, batch, step):
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            return super().__call__(rendering, batch, step)

    trainer = make(losses=[Watching()], schedule="exponential", learning_rate=1e-2)
    trainer.fit(steps=10)
    assert rates == pytest.approx([1e-2 * 0.1 ** (step / 10) for step in range(10)])


def test_parameter_groups():
    avatar = FakeAvatar()
    tables, networks = parameter_groups(avatar, 1e-6)
    assert [id(p) for p in tables["params"]] == [id(avatar.table)] and tables["weight_decay"] == 0
    assert len(networks["params"]) == 4 and networks["weight_decay"] == 1e-6


@table(
    ("options", "message"),
    [
        ({"rays_per_step": 0}, "rays_per_step is 0"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"schedule": "cosine"}, "schedule is 'cosine'"),
        ({"losses": []}, "losses is empty"),
        ({"losses": [HuberColor(), HuberColor()]}, "names must be distinct"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(Exception, match=message):
        make(**options)


def test_fit_needs_an_end_and_resume_needs_a_folder():
    with pytest.raises(ValueError, match="neither steps nor minutes"):
        make().fit()
    with pytest.raises(ValueError, match="run folder"):
        make().fit(steps=1, resume=True)


def test_no_training_frames():
    capture = FakeCapture()
    capture.splits["train"] = capture.splits["train"][:0]
    with pytest.raises(ValueError, match="no training frames"):
        Trainer(FakeAvatar(), capture, [HuberColor()], bar=False)


def test_the_bar_counts_steps_or_seconds(capsys):
    make(bar=True).fit(steps=3)
    assert "3/3" in capsys.readouterr().err
    make(bar=True).fit(minutes=0.2 / 60)
    assert "100%" in capsys.readouterr().err
