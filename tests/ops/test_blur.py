"""Weighted means of images: the C++ kernel and PyTorch's convolution against sums, and their derivatives."""

import pytest
import torch

from headfields.ops import dispatch
from headfields.ops.blur import blur
from tests.tables import table


def by_sums(images, weights):
    reach = len(weights) // 2
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    total = torch.zeros_like(images)
    for row, across in enumerate(weights):
        for column, down in enumerate(weights):
            part = padded[:, row : row + images.shape[1], column : column + images.shape[2]]
            total += across * down * part
    return total


@table("backend", ["native", "warp"])
@table("shape", [(3, 20, 33), (2, 3, 5), (1, 11, 1), (0, 4, 4), (2, 0, 3), (1, 1, 1), (2, 12, 10)])
@table("side", [1, 7, 11])
def test_means_are_those_of_sums(backend, shape, side):
    g = torch.Generator().manual_seed(0)
    images, weights = torch.rand(shape, generator=g), torch.rand(side // 2 + 1, generator=g)
    weights = torch.cat([weights, weights[:-1].flip(0)])
    with dispatch.use_cpu_backend(backend):
        torch.testing.assert_close(blur(images, weights), by_sums(images, weights))


def test_derivatives_and_registration():
    g = torch.Generator().manual_seed(0)
    weights = torch.tensor([0.2, 0.5, 0.2])
    images = torch.rand(2, 5, 6, generator=g)
    leaf = images.clone().requires_grad_()
    upper = torch.rand(images.shape, generator=g)
    (grad,) = torch.autograd.grad(blur(leaf, weights), leaf, upper)
    torch.testing.assert_close(grad, by_sums(upper, weights))
    assert torch.autograd.gradgradcheck(
        lambda x: blur(x, weights.double()), images.double().requires_grad_(), fast_mode=True
    )
    torch.library.opcheck(torch.ops.headfields.blur, (leaf, weights), test_utils="test_schema")
    torch.library.opcheck(torch.ops.headfields.blur, (leaf, weights), test_utils="test_faketensor")
    tangent = torch.func.jvp(lambda x: blur(x, weights), (images,), (upper,))[1]
    torch.testing.assert_close(tangent, by_sums(upper, weights))


@pytest.mark.parametrize("weights", [torch.ones(4), torch.ones(3, 3), torch.ones(3, dtype=torch.float64)])
def test_windows_that_do_not_fit(unchecked, weights):
    with pytest.raises(ValueError, match=r"blur: .*weights"):
        blur(torch.ones(1, 4, 4), weights)
