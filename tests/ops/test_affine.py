"""Affine maps and forward skinning of free points, and rotations of every form."""

import pytest
import torch

from headfields.ops import joint_transforms, linear_blend_skinning, rotation_from_quaternion, rotation_matrices
from headfields.ops.affine import affine_inverse, apply_affine, skin_points
from headfields.ops.rotations import rotations_from
from tests.tables import table


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@table("batch", [(), (2,), (1, 2), (0,), (7,)])
def test_inverse(batch: tuple[int, ...]) -> None:
    maps, points = random(*batch, 3, 4), random(*batch, 3)
    inverse, usable = affine_inverse(maps)
    assert bool(usable.all()) and inverse.shape == (*batch, 3, 4)
    torch.testing.assert_close(apply_affine(inverse, apply_affine(maps, points)), points)
    torch.testing.assert_close(inverse[..., :3], torch.linalg.inv(maps[..., :3]))


def test_singular_maps_give_the_identity_and_no_gradient() -> None:
    maps = torch.eye(3, 4).repeat(4, 1, 1)
    maps[1, 2] = 0
    maps[2] = torch.nan
    maps[3] *= 1e-4  # small, and regular
    maps.requires_grad_()
    inverse, usable = affine_inverse(maps)
    assert usable.tolist() == [True, False, False, True]
    assert torch.equal(inverse[1:3], torch.eye(3, 4).repeat(2, 1, 1))
    torch.testing.assert_close(inverse[3, :, :3], 1e4 * torch.eye(3))
    inverse.sum().backward()
    assert maps.grad is not None and bool(maps.grad.isfinite().all()) and not bool(maps.grad[1:3].any())


@pytest.mark.parametrize("size", [1e-37, 1e15, 3e38])
def test_the_size_of_a_map_makes_it_not_singular(size: float) -> None:
    """Determinants of these are beyond float32."""
    inverse, usable = affine_inverse(size * torch.eye(3, 4))
    assert bool(usable)
    torch.testing.assert_close(inverse[:, :3] * size, torch.eye(3), rtol=1e-6, atol=0)


def test_derivatives() -> None:
    maps = (torch.eye(3, 4).double() + 0.2 * random(2, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: affine_inverse(m)[0], maps)
    assert torch.autograd.gradgradcheck(lambda m: affine_inverse(m)[0], maps, fast_mode=True)
    frame = torch.tensor([1, 0, 1])
    leaves = [x.requires_grad_() for x in (random(3, 3), random(3, 4), random(2, 4, 4, 4))]
    assert torch.autograd.gradcheck(lambda *x: skin_points(*x, frame), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: skin_points(*x, frame)[0], leaves, fast_mode=True)


def test_the_frame_of_points_maps() -> None:
    points, weights, transforms, frame = random(4, 3), random(4, 2), random(1, 2, 4, 4), torch.zeros(4).long()
    mapped = torch.func.vmap(lambda at: skin_points(points, weights, transforms, at)[0])(frame.repeat(2, 1))
    torch.testing.assert_close(mapped[1], skin_points(points, weights, transforms, frame)[0])


def test_free_points_are_skinned_as_vertices_are() -> None:
    vertices, weights, transforms = random(9, 3), random(9, 4).softmax(-1), random(3, 4, 4, 4)
    frame = torch.arange(3).repeat_interleave(9)
    moved, maps = skin_points(vertices.repeat(3, 1), weights.repeat(3, 1), transforms, frame)
    torch.testing.assert_close(moved.view(3, 9, 3), linear_blend_skinning(vertices, weights, transforms))
    torch.testing.assert_close(apply_affine(maps, vertices.repeat(3, 1)), moved)
    mixed = torch.randperm(27, generator=torch.Generator().manual_seed(0))
    again = skin_points(vertices.repeat(3, 1)[mixed], weights.repeat(3, 1)[mixed], transforms, frame[mixed])[0]
    torch.testing.assert_close(again, moved[mixed])
    torch.testing.assert_close(skin_points(vertices, weights, transforms[:1])[0], moved[:9])
    nothing = skin_points(vertices[:0], weights[:0], transforms.requires_grad_(), frame[:0])[0]
    nothing.sum().backward()
    assert nothing.shape == (0, 3) and transforms.grad is not None
    assert skin_points(vertices[:0], weights[:0], transforms[:0], frame[:0])[0].shape == (0, 3)


def test_rotations_of_every_form_pose_alike() -> None:
    vector = random(5, 3) * 0.7
    matrix = rotation_matrices(vector)
    angle = vector.norm(dim=-1, keepdim=True)
    quaternion = torch.cat([(angle / 2).cos(), (angle / 2).sin() * vector / angle], dim=-1)
    forms = {
        "axis_angle": vector, "quaternion": -3 * quaternion, "6d": matrix[:, :, :2].mT.reshape(5, 6), "matrix": matrix,
    }  # fmt: skip
    joints, parents = random(5, 3), (-1, 0, 1, 1, 0)
    expected = joint_transforms(vector, joints, parents)
    for form, values in forms.items():
        torch.testing.assert_close(rotations_from(values, form), matrix)  # type: ignore[arg-type]
        result = joint_transforms(rotations_from(values, form), joints, parents)  # type: ignore[arg-type]
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(rotations_from(matrix[:, :2].reshape(5, 6), "6d", rows=True), matrix)


@pytest.mark.parametrize("form", ["axis_angle", "quaternion", "6d", "matrix"])
@pytest.mark.parametrize("where", ["identity", "elsewhere"])
def test_derivatives_of_every_form_at_the_identity_too(form: str, where: str) -> None:
    identity = {
        "axis_angle": [0.0, 0, 0], "quaternion": [1.0, 0, 0, 0], "6d": [1.0, 0, 0, 0, 1, 0],
        "matrix": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
    }  # fmt: skip
    values = torch.tensor(identity[form], dtype=torch.float64)
    values = (values + (0.3 * random(*values.shape) if where == "elsewhere" else 0)).requires_grad_()
    joints = random(2, 3).requires_grad_()

    def function(values: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        return joint_transforms(rotations_from(values, form).expand(2, 3, 3), joints, (-1, 0))  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(function, (values, joints))
    assert torch.autograd.gradgradcheck(function, (values, joints), fast_mode=True)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (0,)])
def test_quaternions(batch: tuple[int, ...]) -> None:
    result = rotation_from_quaternion(random(*batch, 4))
    torch.testing.assert_close(result @ result.mT, torch.eye(3).double().expand(*batch, 3, 3))
    torch.testing.assert_close(torch.linalg.det(result), torch.ones(batch).double())
    zero = torch.zeros(4, requires_grad=True)
    still = rotation_from_quaternion(zero)
    still.sum().backward()
    assert torch.equal(still, torch.eye(3)) and zero.grad is not None and bool(zero.grad.isfinite().all())


def test_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match="form is 'euler'; expected 'axis_angle'"):
        rotations_from(random(3), "euler")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"values has shape \(3,\)"):
        rotations_from(random(3), "quaternion")
    with pytest.raises(TypeError, match=r"values has dtype torch\.int64"):
        rotations_from(torch.eye(3, dtype=torch.long), "matrix")
    with pytest.raises(ValueError, match=r"weights has shape \(2, 5\); expected \(3, 4\)"):
        skin_points(random(3, 3), random(2, 5), random(1, 4, 4, 4))
    with pytest.raises(ValueError, match="frame is None with 2 rows"):
        skin_points(random(3, 3), random(3, 4), random(2, 4, 4, 4))
    with pytest.raises(IndexError, match="rows 0 to 1"):
        skin_points(random(3, 3), random(3, 4), random(2, 4, 4, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"maps has shape \(4, 4\)"):
        affine_inverse(random(4, 4))


def test_frames_without_transforms_are_named():
    with pytest.raises(IndexError, match="skin_points: frame holds 0, but there are 0; there is nothing to name"):
        skin_points(torch.rand(2, 3), torch.rand(2, 4), torch.zeros(0, 4, 4, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(IndexError, match="skin_points: frame holds 0 to 2; there are rows 0 to 1 of transforms"):
        skin_points(torch.rand(2, 3), torch.rand(2, 4), torch.rand(2, 4, 4, 4), torch.tensor([0, 2]))
