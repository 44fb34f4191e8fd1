import pytest
import torch

from headfields.apps.retargeting.expression_fit import ExpressionFit, regress_expressions


def basis_of(count: int = 5, vertices: int = 30):
    random = torch.Generator().manual_seed(0)
    neutral = torch.randn(vertices, 3, generator=random, dtype=torch.float64)
    return neutral, torch.randn(count, vertices, 3, generator=random, dtype=torch.float64) * 0.01


def test_codes_within_bounds_are_found():
    neutral, basis = basis_of()
    codes = torch.rand(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fit = ExpressionFit(neutral, basis, ridge=1e-10)
    torch.testing.assert_close(fit(neutral + torch.einsum("be,evc->bvc", codes, basis)), codes, atol=1e-7, rtol=0)


def test_the_bounded_optimum_meets_its_conditions():
    """Zero gradient within the bounds, and pointing outward at them."""
    neutral, basis = basis_of(8)
    random = torch.Generator().manual_seed(2)
    low, high = -0.2 * torch.ones(8).double(), 0.5 * torch.ones(8).double()
    weights = torch.rand(30, generator=random, dtype=torch.float64)
    fit = ExpressionFit(neutral, basis, low, high, weights, ridge=1e-3)
    posed = neutral + 0.02 * torch.randn(20, 30, 3, generator=random, dtype=torch.float64)
    codes = fit(posed)
    assert (codes >= low - 1e-9).all() and (codes <= high + 1e-9).all()
    at_low, at_high = codes <= low + 1e-9, codes >= high - 1e-9
    assert at_low.any() and at_high.any() and (~at_low & ~at_high).any()
    flat = basis.flatten(1) * weights.repeat_interleave(3).sqrt()
    normal = flat @ flat.T
    normal = normal + 1e-3 * normal.diagonal().mean() * torch.eye(8)
    slope = codes @ normal - ((posed - neutral).flatten(1) * weights.repeat_interleave(3)) @ basis.flatten(1).T
    scale = slope.abs().max()
    assert (slope[~at_low & ~at_high].abs() < 1e-6 * scale).all()
    assert (slope[at_low] > -1e-6 * scale).all() and (slope[at_high] < 1e-6 * scale).all()


def test_gradients_and_no_frames():
    neutral, basis = basis_of(3, 6)
    fit = ExpressionFit(neutral, basis)
    codes = torch.tensor([[0.5, 0.2, 0.7], [1.4, 0.5, -0.3]]).double()
    posed = (neutral + torch.einsum("be,evc->bvc", codes, basis)).requires_grad_()
    assert torch.autograd.gradcheck(fit, (posed,))
    assert torch.autograd.gradgradcheck(fit, (posed,), fast_mode=True)
    none = posed[:0].detach().requires_grad_()
    fit(none).sum().backward()
    assert none.grad is not None and none.grad.shape == (0, 6, 3)
    assert ExpressionFit(neutral, basis[:0])(posed).shape == (2, 0)


def test_a_linear_head_is_regressed():
    neutral, basis = basis_of()
    codes = torch.rand(12, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    codes[:, 5] = 0.25  # never varies, so it moves nothing
    meshes = neutral + torch.einsum("be,evc->bvc", codes[:, :5], basis)
    found_neutral, found = regress_expressions(codes, meshes)
    torch.testing.assert_close(found_neutral, neutral, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[:5], basis, atol=1e-6, rtol=0)
    assert (found[5] == 0).all()
    constant_neutral, constant = regress_expressions(torch.zeros(4, 2), meshes[:4].float())
    torch.testing.assert_close(constant_neutral, meshes[:4].float().mean(0))
    assert (constant == 0).all()


def test_noise_is_left_out_of_the_slopes():
    """Leaving one out chooses to shrink what the examples cannot tell."""
    random = torch.Generator().manual_seed(4)
    codes = torch.rand(10, 9, generator=random)
    meshes = torch.randn(10, 30, 3, generator=random) * 1e-3
    _, found = regress_expressions(codes, meshes)
    assert found.abs().mean() < 1e-3


def test_errors_name_the_argument(unchecked):
    neutral, basis = basis_of()
    with pytest.raises(ValueError, match=r"basis has shape \(5, 29, 3\); expected \(E, 30, 3\)"):
        ExpressionFit(neutral, basis[:, 1:])
    with pytest.raises(ValueError, match=r"low has shape \(4,\); expected \(5,\)"):
        ExpressionFit(neutral, basis, low=torch.zeros(4))
    with pytest.raises(ValueError, match=r"low\[0\] = 2.0 is above high\[0\] = 1.0"):
        ExpressionFit(neutral, basis, low=torch.full((5,), 2.0))
    with pytest.raises(ValueError, match="ridge is 0"):
        ExpressionFit(neutral, basis, ridge=0)
    with pytest.raises(ValueError, match=r"vertices has shape \(30, 3\); expected \(B, 30, 3\)"):
        ExpressionFit(neutral, basis)(neutral)
    with pytest.raises(ValueError, match="2 rows of codes and 2 meshes"):
        regress_expressions(torch.zeros(2, 1), torch.zeros(2, 3, 3))
