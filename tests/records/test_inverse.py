"""Inverses of 3×3 matrices in closed form, against elimination."""

import torch

from headfields.records.inverse import inverse_3x3, inverse_intrinsics

MATRICES = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2 * torch.eye(3)


def test_as_by_elimination() -> None:
    torch.testing.assert_close(inverse_3x3(MATRICES), torch.linalg.inv(MATRICES))
    lens = torch.tensor([[2431.5, 0, 511.3], [0, 2429.0, 377.7], [0, 0, 1]])
    torch.testing.assert_close(inverse_3x3(lens), torch.linalg.inv(lens.double()).float(), rtol=3e-7, atol=0)
    assert torch.equal(inverse_intrinsics(lens), torch.linalg.inv(lens))
    torch.testing.assert_close(inverse_intrinsics(lens), inverse_3x3(lens), rtol=3e-7, atol=0)
    for shape in ((3, 3), (0, 3, 3), (2, 1, 3, 3)):
        matrices = torch.eye(3).expand(shape)
        assert torch.equal(inverse_3x3(matrices), matrices)


def test_derivatives_as_by_elimination() -> None:
    one, other = (MATRICES.clone().requires_grad_() for _ in range(2))
    seed = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for matrices, inverse in ((one, inverse_3x3(one)), (other, torch.linalg.inv(other))):
        (first,) = torch.autograd.grad(inverse, matrices, seed, create_graph=True)
        results.append((first, torch.autograd.grad(first.square().sum(), matrices)[0]))
    torch.testing.assert_close(*results)


def test_singular_matrices_have_no_finite_inverse() -> None:
    singular = torch.stack([torch.zeros(3, 3), torch.ones(3, 3), torch.eye(3) * torch.nan, torch.eye(3)])
    assert inverse_3x3(singular).isfinite().all(dim=(-1, -2)).tolist() == [False, False, False, True]
