"""The rigid motion between point sets: found exactly, best where there is none, with derivatives where SVD has none."""

import pytest
import torch

from headfields.ops import rigid_motion, rotation_matrices


def moved(points: torch.Tensor, batch: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    turn = rotation_matrices(1.5 * torch.randn(*batch, 3, generator=generator, dtype=points.dtype))
    shift = torch.randn(*batch, 3, generator=generator, dtype=points.dtype)
    return points @ turn.transpose(-1, -2) + shift[..., None, :], turn, shift


@pytest.mark.parametrize("batch", [(), (0,), (2,), (1, 2)])
@pytest.mark.parametrize("count", [3, 4, 50])
def test_it_finds_the_motion(batch: tuple[int, ...], count: int) -> None:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    there, _, _ = moved(points, batch)
    turn, shift = rigid_motion(there, points)
    torch.testing.assert_close(
        there @ turn.transpose(-1, -2) + shift[..., None, :], points.expand_as(there), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(batch), atol=1e-5, rtol=0)


def test_no_other_motion_is_nearer() -> None:
    generator = torch.Generator().manual_seed(2)
    source, target = (torch.randn(4, 20, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    turn, shift = rigid_motion(source, target)

    def error(turn: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return (source @ turn.transpose(-1, -2) + shift[:, None] - target).square().sum((-2, -1))

    for _ in range(30):
        nudge = rotation_matrices(0.01 * torch.randn(4, 3, generator=generator, dtype=torch.float64))
        step = 0.01 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        assert bool((error(turn @ nudge, shift + step) > error(turn, shift)).all())


def test_derivatives_where_singular_values_meet() -> None:
    """Corners of a cube: equal singular values, where the decomposition has no derivative."""
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    source, _, _ = moved(cube, (2,))
    inputs = (source.requires_grad_(), cube.clone().requires_grad_())
    assert torch.autograd.gradcheck(rigid_motion, inputs)
    assert torch.autograd.gradgradcheck(rigid_motion, inputs)


def test_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match="three pairs or more"):
        rigid_motion(torch.zeros(1, 2, 3), torch.zeros(2, 3))
    with pytest.raises(TypeError, match="rigid_motion: source"):
        rigid_motion(torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, 3))
