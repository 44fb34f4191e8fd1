"""Softplus and its derivatives against the definition, on every backend."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import softplus
from headfields.ops.dispatch import native
from headfields.ops.reference.softplus import softplus as reference
from tests.tables import table


@table("batch", [(), (2,), (1, 2), (0,), (5, 7), (1003,)])
@table("beta", [1, 100.0])
def test_values_and_derivatives_are_those_of_the_definition(device, batch, beta):
    x = (0.3 * torch.randn(batch)).to(device).requires_grad_()
    wide = x.detach().double().requires_grad_()
    weights = torch.randn(batch).to(device)

    def both(function, at, w):
        value = function(at, beta)
        (first,) = torch.autograd.grad((value * w).sum(), at, create_graph=True)
        (second,) = torch.autograd.grad((first * w).sum(), at, create_graph=True)
        (third,) = torch.autograd.grad((second * w).sum(), at)
        return value, first, second, third

    result, expected = both(softplus, x, weights), both(reference, wide, weights.double())
    for have, want, digits in zip(result, expected, (1e-6, 1e-6, 1e-4, 1e-3), strict=True):
        scale = 1 + float(want.detach().abs().max()) if want.numel() else 1.0
        torch.testing.assert_close(have.double(), want, rtol=digits, atol=digits * scale)
        assert have.dtype == torch.float32 and have.shape == x.shape


@given(st.floats(-(2.0**99), 2.0**99, width=32), st.sampled_from([0.5, 1.0, 20.0, 100.0]))
def test_anywhere(x, beta):
    have = float(softplus(torch.tensor([x]), beta)[0])
    want = float(reference(torch.tensor([x], dtype=torch.float64), beta)[0])
    assert have == pytest.approx(want, rel=2e-5, abs=1e-27 / beta)


def test_infinity_and_nan():
    x = torch.tensor([math.inf, -math.inf, math.nan, 1e38, -1e38], requires_grad=True)
    value = softplus(x, 100.0)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    assert value.detach()[[0, 1, 3, 4]].tolist() == [math.inf, 0.0, float(x.detach()[3]), 0.0] and bool(
        value[2].isnan()
    )
    assert slope[[0, 1, 3, 4]].tolist() == [1.0, 0.0, 1.0, 0.0] and bool(slope[2].isnan())
    assert curve[[0, 1, 3, 4]].tolist() == [0.0] * 4


def test_nothing_denormal_comes_out():
    x = torch.linspace(-2, 0, 20001, requires_grad=True)
    value = softplus(x, 100.0)
    (slope,) = torch.autograd.grad(value.sum(), x)
    if native is not None:  # processors are slow with such numbers, in the products that follow too
        for numbers in (value.detach(), slope):
            assert not bool(((numbers > 0) & (numbers < 1e-31)).any())


def test_other_layouts_and_dtypes():
    x = torch.randn(6, 4)
    torch.testing.assert_close(softplus(x.T, 3.0), reference(x.T, 3.0))
    y = x.T.clone().T.requires_grad_()
    softplus(y, 3.0).backward(torch.ones(4, 6).T)
    torch.testing.assert_close(y.grad, torch.sigmoid(3 * x))
    double = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(softplus, (double, 3.0)) and torch.autograd.gradgradcheck(
        softplus, (double, 3.0), fast_mode=True
    )
    assert softplus(x.bfloat16()).dtype == torch.bfloat16


def test_the_operation_is_registered_as_it_should_be(unchecked):
    if native is None:
        pytest.skip("the compiled module is not installed")
    x = torch.randn(7, requires_grad=True)
    torch.library.opcheck(torch.ops.headfields.softplus.default, (x, 100.0))
    torch.library.opcheck(torch.ops.headfields.softplus_derivative.default, (torch.randn(7), x, 100.0, False))
    compiled = torch.compile(softplus, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), softplus(x))


def test_errors(unchecked):
    with pytest.raises(TypeError, match=r"softplus: x has dtype torch\.int64"):
        softplus(torch.zeros(3, dtype=torch.long))
    for beta in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"softplus: beta is {beta}"):
            softplus(torch.zeros(3), beta)
