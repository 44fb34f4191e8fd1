import pytest
import torch
from torch import nn

from headfields.runs.ema import ExponentialMovingAverage


def test_average_by_hand():
    module = nn.Linear(2, 1)
    first = module.weight.detach().clone()
    ema = ExponentialMovingAverage(module, 0.9)
    with torch.no_grad():
        module.weight += 1
    ema.update()
    torch.testing.assert_close(ema.average["weight"], first + 0.1)
    ema.update()
    torch.testing.assert_close(ema.average["weight"], first + 0.1 + 0.09)


def test_swapping_exchanges_storage_and_back_even_after_an_error():
    module = nn.Linear(3, 2)
    ema = ExponentialMovingAverage(module, 0.5)
    with torch.no_grad():
        module.weight.mul_(2)
    raw, average = module.weight.detach().clone(), ema.average["weight"].clone()
    parameter, storage = module.weight, module.weight.data_ptr()
    with pytest.raises(KeyError), ema.swapped():
        assert module.weight is parameter  # the optimizer's hold on it stays good
        assert torch.equal(module.weight, average)
        assert torch.equal(ema.average["weight"], raw)
        raise KeyError
    assert torch.equal(module.weight, raw) and module.weight.data_ptr() == storage


def test_frozen_parameters_and_buffers_are_left_out():
    module = nn.BatchNorm1d(3)
    module.bias.requires_grad_(False)
    assert set(ExponentialMovingAverage(module).average) == {"weight"}


def test_nothing_to_average():
    ema = ExponentialMovingAverage(nn.Identity())
    ema.update()
    with ema.swapped():
        pass


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        ExponentialMovingAverage(nn.Linear(1, 1), decay)
