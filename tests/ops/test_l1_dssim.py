"""The loss of Gaussians' images: the kernels and the definition against structural similarity, and their gradients."""

import pytest
import torch

from headfields.metrics.structural_similarity import ssim_map
from headfields.ops import dispatch
from headfields.ops.l1_dssim import l1_dssim


def images(shape):
    g = torch.Generator().manual_seed(0)
    first, second = torch.rand(shape, generator=g), torch.rand(shape, generator=g)
    second[:, : shape[1] // 2] = first[:, : shape[1] // 2]  # alike, as the background of two images
    return first, second


def by_parts(first, second, dssim):
    similarity = ssim_map(first.movedim(-1, 1), second.movedim(-1, 1), border="zeros")
    return (1 - dssim) * (first - second).abs().mean() + dssim * (1 - similarity).mean()


@pytest.mark.parametrize("shape", [(1, 20, 33, 3), (2, 7, 5, 1), (1, 1, 1, 3), (2, 12, 3, 4)], ids=str)
def test_value_and_gradient(device, shape):
    first, second = images(shape)
    leaf, exact = first.to(device).requires_grad_(), first.double().requires_grad_()
    value, expected = l1_dssim(leaf, second.to(device), 0.2), by_parts(exact, second.double(), 0.2)
    torch.testing.assert_close(value.double().cpu(), expected, rtol=1e-5, atol=1e-7)
    (grad,), (truth,) = torch.autograd.grad(3 * value, leaf), torch.autograd.grad(3 * expected, exact)
    torch.testing.assert_close(grad.double().cpu(), truth, rtol=1e-3, atol=1e-4 * float(truth.abs().max()))


def test_gradient_of_the_definition_by_differences():
    first, second = (x.double() for x in images((1, 6, 7, 2)))
    second = second + 0.1  # no absolute value at its kink
    assert torch.autograd.gradcheck(lambda x: l1_dssim(x, second, 0.7), first.requires_grad_())


def test_edges(device, unchecked):
    none = torch.zeros(1, 0, 4, 3, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(l1_dssim(none, none.detach(), 0.2), none)
    assert grad.shape == none.shape
    first, second = (x.to(device) for x in images((1, 8, 9, 3)))
    assert float(l1_dssim(first, first, 0.5)) == pytest.approx(0, abs=1e-6)
    spoiled = second.clone()
    spoiled[0, 0, 0, 0] = torch.nan
    assert l1_dssim(first, spoiled, 0.2).isnan()
    with pytest.raises(ValueError, match=r"l1_dssim: .*truths"):
        l1_dssim(first, second[:, 1:], 0.2)
    leaf = first.clone().requires_grad_()
    (grad,) = torch.autograd.grad(l1_dssim(leaf, second, 0.2), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="l1_dssim: a second derivative"):
        grad.sum().backward()


def test_registered_as_torch_wants_it():
    first, second = images((1, 6, 7, 3))
    with dispatch.use_cpu_backend("warp"):
        arguments = first.requires_grad_(), second, 0.2
        torch.library.opcheck(torch.ops.headfields.l1_dssim, arguments, test_utils=("test_schema", "test_faketensor"))
