import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from headfields.ops import rotation_from_6d, rotation_matrices
from headfields.ops.rotations import (
    axis_angle,
    left_jacobian,
    rotation_angle,
    rotation_from_euler,
    rotation_from_log_quaternion,
)
from tests.tables import table


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@table("batch", [(), (2,), (1, 2), (0,), (7,)])
def test_axis_angle_undoes_rotation_matrices(batch):
    vectors = random(*batch, 3)
    torch.testing.assert_close(axis_angle(rotation_matrices(vectors)), vectors)


@given(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(0, math.pi))
def test_axis_angle_at_every_angle(axis, angle):
    axis = torch.tensor(axis, dtype=torch.float64)
    if axis.norm() < 1e-3:
        axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    rotation = rotation_matrices(axis / axis.norm() * angle)
    result = axis_angle(rotation)
    assert result.norm() <= math.pi + 1e-12
    torch.testing.assert_close(rotation_matrices(result), rotation, atol=1e-12, rtol=0)


@table("angle", [0.0, 1e-9, 1e-4, 0.19, 0.21, 3.0, math.pi - 1e-4, math.pi])
def test_small_and_large_angles_in_both_precisions(angle):
    vector = torch.tensor([0.6, -0.8, 0.0], dtype=torch.float64) * angle
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-6)):
        result = axis_angle(rotation_matrices(vector.to(dtype)))
        turned = rotation_matrices(result) - rotation_matrices(vector.to(dtype))
        assert turned.abs().max() < tolerance and result.norm().item() == pytest.approx(angle, abs=1e-3)


def test_axis_angle_derivatives():
    for scale in (0.0, 0.05, 1.0, 2.5):
        matrices = rotation_matrices(random(2, 3) * scale).requires_grad_()
        assert torch.autograd.gradcheck(axis_angle, (matrices,))
        assert torch.autograd.gradgradcheck(axis_angle, (matrices,), fast_mode=True)


@pytest.mark.parametrize("rows", [True, False])
def test_six_numbers(rows):
    matrices = rotation_matrices(random(5, 3))
    two = matrices[:, :2] if rows else matrices[:, :, :2].transpose(1, 2)
    six = two.reshape(5, 6)
    torch.testing.assert_close(rotation_from_6d(six, rows), matrices)
    torch.testing.assert_close(rotation_from_6d(six, not rows), matrices.transpose(1, 2))
    skewed = torch.cat([six[:, :3] * 3, six[:, 3:] * 0.5 + six[:, :3]], -1)  # Gram and Schmidt take this out
    torch.testing.assert_close(rotation_from_6d(skewed, rows), matrices)


def test_six_numbers_derivatives():
    six = random(2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotation_from_6d(x, True), (six,))
    assert torch.autograd.gradgradcheck(lambda x: rotation_from_6d(x, True), (six,), fast_mode=True)
    assert rotation_from_6d(torch.zeros(0, 6), True).shape == (0, 3, 3)


@table("batch", [(), (2,), (1, 2), (0,), (7,)])
def test_log_quaternions_are_those_of_the_quaternion(batch):
    """By the exponential map of quaternions, and the textbook's matrix of a unit quaternion."""
    values = random(*batch, 3)
    half = values.norm(dim=-1, keepdim=True)
    w, (x, y, z) = half.cos()[..., 0], (half.sin() / half * values).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    expected = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    torch.testing.assert_close(rotation_from_log_quaternion(values), expected)
    torch.testing.assert_close(rotation_from_log_quaternion(values), torch.linalg.matrix_exp(2 * skew(values)))


def skew(v):
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).unflatten(-1, (3, 3))


@table("scale", [0.0, 1e-9, 1e-3, 0.3, 2.0])
def test_log_quaternion_derivatives(scale):
    values = (random(2, 3) * scale).requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_log_quaternion, (values,))
    assert torch.autograd.gradgradcheck(rotation_from_log_quaternion, (values,), fast_mode=True)


def test_at_zero_a_log_quaternion_turns_by_twice_itself():
    values = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.functional.jacobian(rotation_from_log_quaternion, values)
    torch.testing.assert_close(first.permute(2, 0, 1), 2 * skew(torch.eye(3, dtype=torch.float64)))


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 0.2, 1.0, 2.5])
def test_the_left_jacobian_is_the_derivative_of_the_rotation(scale):
    vectors = random(3, 3) * scale
    for vector, result in zip(vectors, left_jacobian(vectors), strict=True):
        slopes = torch.autograd.functional.jacobian(rotation_matrices, vector).permute(2, 0, 1)
        expected = skew(result.T) @ rotation_matrices(vector)  # of each coordinate
        torch.testing.assert_close(slopes, expected, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(left_jacobian(vectors.float()), left_jacobian(vectors).float(), atol=2e-6, rtol=0)
    assert torch.autograd.gradcheck(left_jacobian, (vectors.requires_grad_(),))
    assert torch.autograd.gradgradcheck(left_jacobian, (vectors,), fast_mode=True)
    assert left_jacobian(vectors[:0]).shape == (0, 3, 3)


def test_compile(unchecked):
    vectors, six = random(4, 3), random(4, 6)
    both = lambda v, x: (axis_angle(rotation_matrices(v)), rotation_from_6d(x, True))  # noqa: E731
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for result, expected in zip(compiled(vectors, six), (vectors, rotation_from_6d(six, True)), strict=True):
        torch.testing.assert_close(result, expected)


def test_errors_name_the_argument(unchecked):
    with pytest.raises(ValueError, match=r"axis_angle: rotations has shape \(2, 3\); expected \(..., 3, 3\)"):
        axis_angle(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"rotation_from_log_quaternion: values has shape \(4,\)"):
        rotation_from_log_quaternion(torch.zeros(4))
    with pytest.raises(TypeError, match=r"rotation_from_6d: values has dtype torch\.int64"):
        rotation_from_6d(torch.zeros(6, dtype=torch.int64), True)
    with pytest.raises(ValueError, match=r"rotation_from_6d: values has shape \(12,\); expected \(..., 6\)"):
        rotation_from_6d(torch.zeros(12), True)


@pytest.mark.parametrize("axes", ["xyz", "yxz", "zxz"])
def test_euler_angles_as_in_scipy(axes):
    angles = random(5, 3)
    expected = torch.from_numpy(Rotation.from_euler(axes.upper(), angles.numpy()).as_matrix())
    torch.testing.assert_close(rotation_from_euler(angles, axes), expected)
    assert torch.autograd.gradgradcheck(
        lambda a: rotation_from_euler(a, axes), (angles.requires_grad_(),), fast_mode=True
    )
    with pytest.raises(ValueError, match="axes is 'xy'; expected three"):
        rotation_from_euler(angles, "xy")


def test_the_angle_of_a_rotation_is_exact_near_zero_and_pi():
    angles = torch.tensor([0.0, 1e-7, 0.5, math.pi - 1e-6])
    vectors = torch.nn.functional.normalize(random(4, 3).float(), dim=-1) * angles[:, None]
    torch.testing.assert_close(rotation_angle(rotation_matrices(vectors)), angles, atol=1e-9, rtol=2e-7)


def test_matrices_of_kernels(device):
    """Small angles, zero, a half turn and several turns, against the definition in float64."""
    vectors = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(0))
    vectors = vectors * torch.tensor([0.0, 1e-6, 1e-3, 0.03, 0.0317, 0.5, 1.0, 3.0, 8.0])[:, None]
    vectors[0, 0] = torch.tensor([0.0, torch.pi, 0.0])
    expected = rotation_matrices(vectors.double())
    torch.testing.assert_close(rotation_matrices(vectors.to(device)).cpu().double(), expected, rtol=0, atol=1e-6)
    leaf = vectors.to(device).requires_grad_()
    torch.testing.assert_close(rotation_matrices(leaf).detach().cpu().double(), expected, rtol=0, atol=1e-6)
    assert rotation_matrices(leaf).requires_grad and rotation_matrices(vectors[:0].to(device)).shape == (0, 9, 3, 3)
    assert rotation_matrices(torch.full((1, 3), torch.nan, device=device)).isnan().all()
