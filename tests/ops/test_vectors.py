"""Lengths and directions of vectors: values, and derivatives at a vector of zeros."""

import numpy as np
import pytest
import torch
from torch import Tensor

from headfields.ops.vectors import safe_norm, smooth_unit, unit_rows, unit_vectors

VECTORS = torch.tensor([[3.0, 0, 4], [0, 0, 0], [0, -2, 0]], dtype=torch.float64)


def test_values() -> None:
    assert safe_norm(VECTORS).tolist() == [5, 0, 2]
    torch.testing.assert_close(unit_vectors(VECTORS).float(), torch.tensor([[0.6, 0, 0.8], [0, 0, 0], [0, -1, 0]]))
    ahead = torch.tensor([0.0, 0, 1]).double()
    assert torch.equal(unit_vectors(VECTORS, ahead)[1], ahead)
    torch.testing.assert_close(smooth_unit(VECTORS), unit_vectors(VECTORS))
    np.testing.assert_array_equal(unit_rows(VECTORS.numpy()), unit_vectors(VECTORS).numpy())


@pytest.mark.parametrize("function", [safe_norm, unit_vectors, smooth_unit])
def test_derivatives(function) -> None:
    vectors = VECTORS[[0, 2]].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (vectors,)) and torch.autograd.gradgradcheck(
        function, (vectors,), fast_mode=True
    )


@pytest.mark.parametrize("function", [safe_norm, unit_vectors])
def test_derivatives_at_zero_are_zero(function) -> None:
    vectors = torch.zeros(2, 3, requires_grad=True)
    (first,) = torch.autograd.grad(function(vectors).sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(first.sum() + (vectors * 0).sum(), vectors)
    assert not first.any() and not second.any()


@pytest.mark.parametrize("function", [safe_norm, unit_vectors, smooth_unit])
def test_nan_stays(function) -> None:
    out: Tensor = function(torch.tensor([[torch.nan, 1.0, 2.0]]))
    assert out.isnan().any()


def test_batch_shapes() -> None:
    for shape in ((3,), (0, 3), (2, 1, 3)):
        assert safe_norm(torch.ones(shape)).shape == shape[:-1] and unit_vectors(torch.ones(shape)).shape == shape
