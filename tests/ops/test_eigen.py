"""Eigenvectors of 3 × 3 matrices: Jacobi's rotations against LAPACK, also where eigenvalues meet."""

import pytest
import torch

from headfields.ops import rigid
from headfields.ops.dispatch import use_cpu_backend
from headfields.ops.eigen import symmetric_eigen
from headfields.ops.log_strain import log_strain

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.cuda),
]


def matrices() -> torch.Tensor:
    """Symmetric matrices of all kinds: random, of wide range, diagonal, with equal values, of rank 2, 1 and 0."""
    g = torch.Generator().manual_seed(0)
    full = torch.randn(200, 3, 3, generator=g, dtype=torch.float64)
    turn = torch.linalg.qr(full[:7])[0]
    values = torch.tensor([
        [1, 1, 1], [2, 2, 5], [1, 5, 5], [0, 3, 4], [0, 0, 2], [0, 0, 0], [1, 1 + 1e-12, 1 + 2e-12]
    ], dtype=torch.float64)  # fmt: skip
    special = (turn * values[:, None]) @ turn.mT
    scaled = full * torch.logspace(-30, 30, 200, dtype=torch.float64)[:, None, None]
    return torch.cat([full + full.mT, scaled + scaled.mT, torch.diag_embed(values), (special + special.mT) / 2])


@pytest.mark.parametrize("device", DEVICES)
def test_values_and_vectors(device: str) -> None:
    given = matrices()
    with use_cpu_backend("warp"):
        values, vectors = (tensor.cpu() for tensor in symmetric_eigen(given.to(device)))
    size = given.abs().amax(dim=(1, 2)).clamp_min(1e-300)
    assert bool((values.diff(dim=1) >= 0).all())
    off = (values - torch.linalg.eigvalsh(given)).abs().amax(1) / size
    assert off.max() < 1e-14
    put_together = (vectors * values[:, None]) @ vectors.mT
    assert ((put_together - given).abs().amax(dim=(1, 2)) / size).max() < 1e-14
    unit = torch.eye(3, dtype=torch.float64).expand_as(given)
    torch.testing.assert_close(vectors.mT @ vectors, unit, rtol=0, atol=1e-14)


def test_no_matrices_float32_and_what_it_refuses() -> None:
    for backend in ("native", "warp"):
        with use_cpu_backend(backend):  # type: ignore[arg-type]
            values, vectors = symmetric_eigen(torch.zeros(0, 3, 3))
            assert values.shape == (0, 3) and vectors.shape == (0, 3, 3) and vectors.dtype == torch.float32
            with pytest.raises(ValueError, match=r"symmetric_eigen: .*matrices"):
                torch.ops.headfields.symmetric_eigen(torch.zeros(2, 3, 2, dtype=torch.float64))
            with pytest.raises(TypeError, match=r"symmetric_eigen: matrices has dtype torch\.float32"):
                torch.ops.headfields.symmetric_eigen(torch.zeros(2, 3, 3))
    torch.library.opcheck(torch.ops.headfields.symmetric_eigen, (matrices()[:3],))


def test_the_strain_is_the_same_with_either() -> None:
    jacobians = torch.eye(3) + 0.2 * torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(1))
    jacobians[:5] = torch.eye(3)
    results = []
    for backend in ("native", "warp"):
        with use_cpu_backend(backend):  # type: ignore[arg-type]
            given = jacobians.clone().requires_grad_()
            energy = log_strain(given)
            (first,) = torch.autograd.grad(energy.sum(), given, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), given)
            results.append((energy.detach(), first.detach(), second))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_rotation_by_eigenvectors(dtype: torch.dtype) -> None:
    """That of the singular vectors; where several fit, one of those."""
    g = torch.Generator().manual_seed(2)
    moment = torch.randn(300, 3, 3, generator=g, dtype=torch.float64)
    moment[0], moment[1], moment[2] = 0.0, torch.eye(3), -torch.eye(3)
    moment[3] = torch.outer(moment[10, 0], moment[10, 1])  # points on one line
    moment[4:8] = moment[11:15, :, :2] @ moment[11:15, :2]  # in one plane
    moment = (moment / moment.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)).to(dtype)
    ours, theirs = rigid._by_eigenvectors(moment), rigid._by_singular_vectors(moment)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    unit = torch.eye(3, dtype=dtype).expand_as(ours)
    torch.testing.assert_close(ours @ ours.mT, unit, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.linalg.det(ours), torch.ones(300, dtype=dtype), rtol=0, atol=tolerance)
    trace = (ours * moment).sum((1, 2)), (theirs * moment).sum((1, 2))
    assert bool((trace[0] >= trace[1] - tolerance).all()), "it maximizes the same"
    torch.testing.assert_close(ours[4:], theirs[4:], rtol=0, atol=2e-3 if dtype == torch.float32 else 1e-9)
