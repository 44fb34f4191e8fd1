"""How far Gaussians go beyond a threshold: kernels against the definition, and their gradients."""

import math

import pytest
import torch

from headfields.ops import dispatch
from headfields.ops.reference import splat_excess as reference
from headfields.ops.splat_excess import splat_excess


def gaussians(own, frames, count=23):
    g = torch.Generator().manual_seed(0)
    vectors = 0.6 * torch.randn(own, count, 3, generator=g)
    visible = torch.randn(frames, count, generator=g) > 0
    return (vectors[0] if own == 1 else vectors), visible


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(("own", "frames"), [(1, 1), (1, 3), (3, 3)])
def test_value_and_gradient(device, own, frames, each):
    vectors, visible = gaussians(own, frames)
    leaf, exact = vectors.to(device).requires_grad_(), vectors.double().requires_grad_()
    value = splat_excess(leaf, visible.to(device), 0.4, each)
    expected = reference.splat_excess(exact, visible, 0.4, each)[0]
    torch.testing.assert_close(value.double().cpu(), expected, rtol=1e-5, atol=1e-6)
    (grad,), (truth,) = torch.autograd.grad(2 * value, leaf), torch.autograd.grad(2 * expected, exact)
    torch.testing.assert_close(grad.double().cpu(), truth, rtol=1e-4, atol=1e-7)
    assert 0 < int((grad != 0).any(-1).sum()) < grad[..., 0].numel()


@pytest.mark.parametrize("each", [False, True])
def test_gradient_of_the_definition_by_differences(each):
    vectors, visible = gaussians(2, 2, 6)
    vectors = vectors.double()
    assert torch.autograd.gradcheck(lambda x: splat_excess(x, visible, 0.3, each), vectors.requires_grad_())


def test_edges(device, unchecked):
    for each in (False, True):
        nothing = torch.ones(2, 4, 3, device=device, requires_grad=True)
        value = splat_excess(nothing, torch.zeros(2, 4, dtype=torch.bool, device=device), 0.1, each)
        (grad,) = torch.autograd.grad(value, nothing)
        assert float(value) == 0 and not grad.any()
        still = torch.zeros(2, 4, 3, device=device, requires_grad=True)
        value = splat_excess(still, torch.ones(2, 4, dtype=torch.bool, device=device), 0.0, each)
        (grad,) = torch.autograd.grad(value, still)
        assert float(value) == pytest.approx(0, abs=1e-8) and grad.isfinite().all()
        spoiled = torch.full((1, 3), math.nan, device=device)
        assert splat_excess(spoiled, torch.ones(1, 1, dtype=torch.bool, device=device), 0.1, each).isnan()
        none = torch.zeros(0, 3, device=device)
        assert float(splat_excess(none, torch.zeros(1, 0, dtype=torch.bool, device=device), 0.1, each)) == 0


@pytest.mark.usefixtures("unchecked")
def test_what_the_kernels_refuse():
    vectors, visible = gaussians(3, 3)
    with dispatch.use_cpu_backend("warp"):
        with pytest.raises(ValueError, match=r"splat_excess: .*visible"):
            splat_excess(vectors, visible[:2], 0.1, False)
        leaf = vectors.clone().requires_grad_()
        (grad,) = torch.autograd.grad(splat_excess(leaf, visible, 0.1, True), leaf, create_graph=True)
        with pytest.raises(NotImplementedError, match="splat_excess: a second derivative"):
            grad.sum().backward()
        arguments = leaf, visible, 0.1, True
        torch.library.opcheck(
            torch.ops.headfields.splat_excess, arguments, test_utils=("test_schema", "test_faketensor")
        )
