"""Functions as losses, and what the trainer says of losses that cannot train."""

import functools
import json
import math
import warnings

import pytest
import torch

from headfields.losses import FunctionLoss, HuberColor, OpacityLoss
from headfields.runs.functions import identity
from headfields.training import Trainer
from tests.tables import table
from tests.training.fakes import FakeAvatar, FakeCapture


def make(losses, avatar=None, **options) -> Trainer:
    torch.manual_seed(0)
    options = {"rays_per_step": 64, "frames_per_step": 2, "bar": False, "device": "cpu", **options}
    options.setdefault("schedule", "constant")  # the same steps, however long the run
    return Trainer(FakeAvatar() if avatar is None else avatar, FakeCapture(), losses, **options)


def squared(rendering, batch):
    return (rendering.rgb - batch.target).square().mean()


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.avatar.parameters()])


def test_functions_train_as_losses_do(tmp_path):
    steps = []

    def with_step(rendering, batch, step):
        steps.append(step)
        return 0.1 * (rendering.opacity - batch.alpha).abs().mean()

    trainer = make(
        [
            lambda rendering, batch: (rendering.rgb - batch.target).square().mean(),
            lambda rendering, batch: rendering.opacity.mean() * 1e-3,
            with_step,
            functools.partial(squared),
            OpacityLoss(0.1, name="lambda_2"),
            FunctionLoss(squared, weight=0.5, name="half"),
        ],
        out=tmp_path,
    )
    trainer.fit(steps=3)
    assert steps == [0, 1, 2]
    names = [loss.name for loss in trainer.losses]
    assert names == ["lambda", "lambda_3", "with_step", "partial", "lambda_2", "half"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    terms = [line["terms"] for line in lines if "terms" in line][-1]
    assert list(terms) == names and terms["half"] == pytest.approx(terms["partial"] / 2)


def test_a_lambda_gives_the_bits_of_the_loss_it_repeats():
    color = HuberColor(region_weight=1)
    own, same = make([color]), make(lambda rendering, batch, step: color(rendering, batch, step))
    own.fit(steps=5), same.fit(steps=5)
    assert torch.equal(weights(own), weights(same))


@table(
    ("loss", "error", "message"),
    [
        (lambda r, b: r.rgb - b.target, ValueError, r"loss 'lambda' has shape \(64, 3\); expected a scalar"),
        (lambda r, b: squared(r, b)[None], ValueError, r"loss 'lambda' has shape \(1,\)"),
        (lambda r, b: 0.5, TypeError, "loss 'lambda' returned a float; expected a scalar tensor"),
        (lambda r, b: r.rgb.detach().mean(), ValueError, "loss 'lambda' is .* has no gradient"),
        (lambda r, b: torch.tensor(2.0), ValueError, "loss 'lambda' is 2 and has no gradient"),
    ],
)
def test_a_loss_that_cannot_train_is_an_error_at_the_first_step(loss, error, message, unchecked):
    trainer = make([HuberColor(), loss])
    before = weights(trainer)
    with pytest.raises(error, match=message):
        trainer.fit(steps=3)
    assert trainer.progress.step == 0 and torch.equal(before, weights(trainer))


def test_the_only_loss_needs_a_gradient_even_if_it_is_zero():
    with pytest.raises(ValueError, match="is 0 and has no gradient"):
        make([lambda r, b: torch.zeros(())]).fit(steps=1)


def test_a_loss_that_is_off_at_first_may_be_a_plain_zero():
    late = FunctionLoss(lambda r, b, step: r.opacity.mean() if step > 2 else torch.zeros(()), name="late")
    assert make([HuberColor(), late]).fit(steps=5).step == 5


def test_a_loss_without_rays_or_samples_is_no_error():
    class Empty(FakeAvatar):  # as an avatar that every ray misses
        def forward(self, rays, state, background):
            rendering = super().forward(rays, state, background)
            return rendering.detach().replace(rgb=background)

    assert make([HuberColor(), squared], Empty()).fit(steps=2).step == 2


def test_a_loss_on_frozen_parameters_is_a_warning():
    avatar = FakeAvatar()
    avatar.table.requires_grad_(False)
    frozen = FunctionLoss(lambda r, b: avatar.table.square().mean(), name="frozen")
    with pytest.warns(UserWarning, match="loss 'frozen' is .* has no gradient.*frozen parameters"):
        make([HuberColor(), frozen], avatar).fit(steps=3)


@table(
    ("losses", "error", "message"),
    [
        ([], ValueError, "losses is empty"),
        ([HuberColor], TypeError, r"losses\[0\] is the class HuberColor; expected a loss, so call it"),
        ([torch.nn.MSELoss()], TypeError, r"losses\[0\] is a MSELoss of PyTorch.*lambda rendering, batch: MSELoss\(\)"),
        ([HuberColor(), 3], TypeError, r"losses\[1\] is a int; expected a loss or a function"),
        ([lambda rendering: rendering], TypeError, "takes the arguments .*; expected 2 to 3 positional"),
        ([lambda a, b, c, d: a], TypeError, "expected 2 to 3 positional"),
        ([FunctionLoss(squared), FunctionLoss(squared)], ValueError, "names must be distinct"),
        ([type("Half", (), {"name": "half", "__call__": squared})()], TypeError, "has a name and no weight"),
    ],
)
def test_what_is_no_loss_is_named(losses, error, message, unchecked):
    with pytest.raises(error, match=message):
        make(losses)


def scaled(factor):
    return lambda rendering, batch: squared(rendering, batch) * factor


def test_functions_are_identified_by_code_and_values():
    assert identity(scaled(2)) == identity(scaled(2)) != identity(scaled(3))
    assert identity(functools.partial(squared, 1)) == identity(functools.partial(squared, 1))
    assert identity(squared) != identity(scaled(1))
    assert identity(torch.optim.SGD) == "torch.optim.sgd.SGD"
    assert "0x" not in identity(object())


def test_resuming_with_another_lambda_warns(tmp_path):
    make([scaled(1.0)], out=tmp_path).fit(steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make([scaled(1.0)], out=tmp_path).fit(steps=3, resume=True)
    with pytest.warns(UserWarning, match=r"other options than before: losses=..FunctionLoss"):
        make([scaled(2.0)], out=tmp_path).fit(steps=4, resume=True)


@table(
    "limits",
    [{"minutes": math.nan}, {"minutes": math.inf}, {"minutes": -1}, {"minutes": True}, {"minutes": "3"}, {"steps": -1},
     {"steps": 1.5}, {"steps": True}, {"steps": math.nan}],
)  # fmt: skip
def test_limits_are_numbers(limits, unchecked):
    ((name, value),) = limits.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected"):
        make([squared]).fit(**limits)
