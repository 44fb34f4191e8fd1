"""Rigid fits: exact on rigid motion, weighted, differentiable, and what they refuse."""

import pytest
import torch

import headfields as hf
from headfields.ops import fit_rigid, rotation_matrices
from headfields.ops.rigid import nearest_rotation, rigid_transform
from tests.tables import table


def motions(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    turn = rotation_matrices(2 * torch.randn(count, 3, generator=generator, dtype=torch.float64))
    return turn, torch.randn(count, 3, generator=generator, dtype=torch.float64)


def points(count: int) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@table("count", [0, 1, 5])
@table("weighted", [False, True])
def test_recovers_rigid_motion(count: int, weighted: bool) -> None:
    turn, shift = motions(count)
    source = points(9)
    posed = source @ turn.mT + shift[:, None]
    weights = torch.rand(count, 9, dtype=torch.float64) if weighted else None
    result, offset = fit_rigid(source, posed, weights)
    torch.testing.assert_close(result, turn)
    torch.testing.assert_close(offset, shift)


def test_a_mirror_image_is_not_turned_inside_out() -> None:
    source = points(20)
    rotation, _ = fit_rigid(source, (source * torch.tensor([-1.0, 1, 1]))[None])
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(1, dtype=torch.float64))


def test_points_without_weight_do_not_count() -> None:
    turn, shift = motions(2)
    source = points(12)
    posed = source @ turn.mT + shift[:, None]
    posed[:, 8:] += 5.0
    weights = torch.ones(2, 12, dtype=torch.float64)
    weights[:, 8:] = 0.0
    result, offset = fit_rigid(source, posed, weights)
    torch.testing.assert_close(result, turn)
    torch.testing.assert_close(offset, shift)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(weighted: bool) -> None:
    turn, shift = motions(2)
    source = points(6).requires_grad_()
    noise = 0.1 * torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    posed = (source.detach() @ turn.mT + shift[:, None] + noise).requires_grad_()
    weights = (torch.rand(2, 6, dtype=torch.float64) + 0.5).requires_grad_() if weighted else None
    assert torch.autograd.gradcheck(fit_rigid, (source, posed, weights))
    assert torch.autograd.gradgradcheck(fit_rigid, (source, posed, weights), fast_mode=True)


def test_derivatives_where_singular_values_meet() -> None:
    """Corners of a cube: equal singular values, where the decomposition has no derivative."""
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    turn, shift = motions(2)
    inputs = (cube.clone().requires_grad_(), (cube @ turn.mT + shift[:, None]).requires_grad_())
    assert torch.autograd.gradcheck(fit_rigid, inputs)
    assert torch.autograd.gradgradcheck(fit_rigid, inputs, fast_mode=True)


def test_no_other_motion_is_nearer() -> None:
    generator = torch.Generator().manual_seed(2)
    source, posed = points(20), torch.randn(4, 20, 3, generator=generator, dtype=torch.float64)
    turn, shift = fit_rigid(source, posed)

    def error(turn: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return (source @ turn.mT + shift[:, None] - posed).square().sum((-2, -1))

    for _ in range(30):
        nudge = rotation_matrices(0.01 * torch.randn(4, 3, generator=generator, dtype=torch.float64))
        step = 0.01 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        assert bool((error(turn @ nudge, shift + step) > error(turn, shift)).all())


def test_points_on_a_line_have_a_motion_that_fits() -> None:
    line = torch.linspace(-1, 1, 7)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    turn, shift = fit_rigid(line, line[None] + 1.0)
    torch.testing.assert_close(line @ turn[0].mT + shift[0], line + 1.0)


def test_homogeneous() -> None:
    turn, shift = motions(3)
    matrix = rigid_transform(turn, shift)
    torch.testing.assert_close(matrix[:, :3, :3], turn)
    torch.testing.assert_close(matrix[:, :3, 3], shift)
    torch.testing.assert_close(matrix[:, 3], torch.tensor([0, 0, 0, 1.0]).double().expand(3, 4))
    assert rigid_transform(turn[:0], shift[:0]).shape == (0, 4, 4)
    assert nearest_rotation(turn[0])[1] == pytest.approx(3.0)


def test_what_does_not_fit(unchecked: None) -> None:
    source = points(5)
    with pytest.raises(ValueError, match=r"fit_rigid: posed has shape \(2, 4, 3\); expected \(B, 5, 3\)"):
        fit_rigid(source, torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match=r"fit_rigid: weights has shape \(5,\); expected \(2, 5\)"):
        fit_rigid(source, torch.zeros(2, 5, 3).double(), torch.ones(5).double())
    with pytest.raises(TypeError, match=r"fit_rigid: source has dtype torch\.int64"):
        fit_rigid(torch.zeros(5, 3, dtype=torch.long), torch.zeros(2, 5, 3))


def test_a_frame_of_nan_leaves_the_others_alone():
    source, posed = torch.randn(6, 3), torch.randn(4, 6, 3)
    expected = fit_rigid(source, posed)
    posed = posed.index_fill(0, torch.tensor([2]), torch.nan).requires_grad_()
    rotation, translation = fit_rigid(source, posed)
    others = [0, 1, 3]
    assert rotation[2].isnan().all() and translation[2].isnan().all()
    torch.testing.assert_close(rotation[others], expected[0][others])
    torch.testing.assert_close(translation[others], expected[1][others])
    (rotation[others].sum() + translation[others].sum()).backward()
    assert posed.grad[others].isfinite().all()
    bad = torch.eye(3).repeat(3, 1, 1)
    bad[1, 0, 0] = torch.inf
    turned, trace = nearest_rotation(bad)
    assert turned[[0, 2]].equal(torch.eye(3).repeat(2, 1, 1)) and turned[1].isnan().all() and trace[1].isnan()


def test_autocast_leaves_geometry_in_full_precision():
    vertices, transforms = torch.randn(50, 3), torch.randn(3, 4, 4, 4)
    weights = torch.rand(50, 4).softmax(-1)
    basis, pose = torch.randn(5, 50, 3), 0.3 * torch.randn(4, 3)
    zeros, ring = torch.zeros(50, dtype=torch.long), torch.tensor([[0, 1], [1, 0]])
    maps, centroids = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3)
    leaf = vertices.clone().requires_grad_()

    def results():
        return (
            hf.ops.linear_blend_skinning(vertices, weights, transforms),
            hf.ops.blend_shapes(torch.ones(5), basis),
            hf.ops.joint_transforms(pose, vertices[:4], (-1, 0, 1, 2)),
            hf.ops.blended_map(vertices, vertices, zeros, zeros, maps, centroids, ring)[0],
            hf.ops.blended_map(leaf, vertices, zeros, zeros, maps, centroids, ring)[0],
            *fit_rigid(vertices, vertices[None].expand(2, -1, -1) + 1),
        )

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(results(), expected, rtol=0, atol=0)
