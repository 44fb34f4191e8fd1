"""Optimizers, schedules and parameter groups of a program's own, and that they resume to the same bits."""

import functools
import math

import pytest
import torch

from headfields.losses import HuberColor
from headfields.runs.lazy_adam import lazy_adam
from headfields.training import Trainer
from tests.tables import table
from tests.training.fakes import FakeAvatar, FakeCapture


def make(avatar=None, **options) -> Trainer:
    torch.manual_seed(0)
    options = {
        "rays_per_step": 32,
        "frames_per_step": 2,
        "bar": False,
        "device": "cpu",
        "learning_rate": 1e-2,
        **options,
    }
    return Trainer(FakeAvatar() if avatar is None else avatar, FakeCapture(), [HuberColor()], **options)


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.avatar.parameters()])


class Counting(torch.optim.Optimizer):
    """Keeps its step as an integer and a group entry that it changes, as adaptive optimizers do."""

    def __init__(self, groups, lr=1e-3, growth=1.0):
        super().__init__(groups, {"lr": lr, "growth": growth})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["growth"] *= 1.01
            for parameter in group["params"]:
                if parameter.grad is not None:
                    count = self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1
                    parameter -= group["lr"] * group["growth"] / count * parameter.grad


OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "counting": Counting,
    **{name: getattr(torch.optim, name) for name in (
        "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD", "Adafactor")},
    "lazy": lazy_adam,
    "amsgrad": functools.partial(torch.optim.Adam, amsgrad=True),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_gives_the_bits_of_an_unbroken_run(name, tmp_path):
    through = make(optimizer=OPTIMIZERS[name])
    start = weights(through)
    through.fit(steps=7)
    make(optimizer=OPTIMIZERS[name], out=tmp_path).fit(steps=3)
    resumed = make(optimizer=OPTIMIZERS[name], out=tmp_path)
    resumed.fit(steps=7, resume=True)
    assert torch.equal(weights(through), weights(resumed))
    assert not torch.equal(weights(through), start)


def test_adam_given_as_an_optimizer_is_the_trainers_own():
    adam = functools.partial(torch.optim.Adam, betas=(0.9, 0.99), eps=1e-15, fused=True)
    own, same = make(weight_decay=1e-6), make(optimizer=adam, weight_decay=1e-6)
    own.fit(steps=3), same.fit(steps=3)
    assert torch.equal(weights(own), weights(same))


def test_the_optimizer_gets_named_groups_with_rates():
    given = []

    def build(groups):
        given.extend((group["name"], group["lr"], "weight_decay" in group) for group in groups)
        groups[0]["lr"] = 0.5
        return torch.optim.SGD(groups, weight_decay=0.1)

    trainer = make(optimizer=build, learning_rate=1e-2, network_learning_rate=1e-3, schedule=lambda fraction: 0.5)
    assert given == [("tables", 1e-2, False), ("networks", 1e-3, False)]
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.1]
    trainer.fit(steps=1)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.25, 5e-4]


def test_groups_of_ones_own():
    avatar = FakeAvatar()
    first, *rest = avatar.parameters()
    groups = [{"params": [first], "lr": 0.3, "betas": (0.5, 0.6)}, {"params": iter(rest), "name": "rest"}]
    trainer = make(avatar, parameter_groups=groups, learning_rates={"rest": 0.2}, learning_rate=None)
    built = [(group["name"], group["lr"], group["betas"]) for group in trainer.optimizer.param_groups]
    assert built == [("group_0", 0.3, (0.5, 0.6)), ("rest", 0.2, (0.9, 0.99))]
    assert trainer.fit(steps=2).step == 2
    with pytest.raises(ValueError, match=r"learning_rate=0.5 would change nothing: all parameters have a rate"):
        make(avatar, parameter_groups=[{"params": avatar.parameters(), "lr": 0.3}], learning_rate=0.5)


def test_a_schedule_of_ones_own_sees_fraction_and_step():
    seen, rates = [], []

    def warmup(fraction, step):
        seen.append((fraction, step))
        return min(1.0, (step + 1) / 4)

    trainer = make(schedule=warmup, learning_rate=0.4)
    for end in range(1, 6):
        trainer.fit(steps=end if end < 5 else 8)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert seen[-1] == (7 / 8, 7)


def test_a_scheduler_of_pytorch_is_no_schedule():
    with pytest.raises(TypeError, match=r"schedule is a scheduler of PyTorch.*pass a function of the fraction"):
        make(schedule=torch.optim.lr_scheduler.CosineAnnealingLR)


def test_a_schedule_is_recorded_and_compared(tmp_path):
    make(schedule=lambda fraction: 1 - fraction, out=tmp_path).fit(steps=2)
    with pytest.warns(UserWarning, match=r"other options than before: schedule='<lambda>#"):
        make(schedule=lambda fraction: 1 - fraction**2, out=tmp_path).fit(steps=2, resume=True)


@table(
    ("options", "error", "message"),
    [
        ({"optimizer": torch.optim.LBFGS}, ValueError, "LBFGS, which evaluates the loss several times"),
        ({"optimizer": lambda groups: torch.optim.LBFGS(groups[0]["params"])}, ValueError, "LBFGS"),
        ({"optimizer": torch.optim.SGD([torch.zeros(2)])}, TypeError, "optimizer is a SGD; expected a function from"),
        ({"parameter_groups": [torch.zeros(2)]}, TypeError, r"parameter_groups\[0\] is a Tensor; expected dicts"),
        ({"optimizer": lambda groups: None}, TypeError, "optimizer returned a NoneType"),
        ({"optimizer": lambda groups: torch.optim.SGD(groups[:1])}, ValueError, "optimizer lacks network.0.weight"),
        ({"optimizer": lambda groups: torch.optim.SGD([torch.zeros(2, requires_grad=True)])}, ValueError,
         r"a tensor \(2,\) of no parameter"),
        ({"optimizer": torch.optim.SGD, "betas": (0.5, 0.9)}, ValueError, "betas and eps are those of the trainer's"),
        ({"parameter_groups": [{"name": "none"}]}, ValueError, "'none' without 'params'"),
        ({"parameter_groups": []}, ValueError, "parameter_groups lacks table, network"),
        ({"schedule": "cosine"}, ValueError, "schedule is 'cosine'"),
        ({"schedule": lambda: 1.0}, TypeError, "expected 1 to 2 positional arguments"),
    ],
)  # fmt: skip
def test_mistakes_are_named_when_the_trainer_is_built(options, error, message, unchecked):
    with pytest.raises(error, match=message):
        make(**options)


@table("factor", [math.nan, math.inf, -0.1, "1", None])
def test_a_schedule_gives_finite_factors(factor, unchecked):
    with pytest.raises(ValueError, match=r"schedule gives .* at step 0; expected a finite factor"):
        make(schedule=lambda fraction: factor).fit(steps=1)


def test_another_optimizer_does_not_resume(tmp_path):
    make(optimizer=torch.optim.SGD, out=tmp_path).fit(steps=1)
    with pytest.raises(ValueError, match=r"torch\.optim\.sgd\.SGD, and this run has torch\.optim\.adam\.Adam"):
        make(out=tmp_path).fit(steps=2, resume=True)


def test_a_state_that_cannot_be_saved_is_an_error_at_the_first_step(tmp_path):
    class Listing(Counting):
        def step(self, closure=None):
            super().step()
            self.state[self.param_groups[0]["params"][0]]["history"] = [1, 2]

    with pytest.raises(TypeError, match="Listing keeps a list as 'history' of table"):
        make(optimizer=Listing, out=tmp_path).fit(steps=2)
    assert make(optimizer=Listing).fit(steps=2).step == 2  # without a folder there is nothing to save
