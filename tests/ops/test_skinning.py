import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck

from headfields.ops.skinning import (
    blend_shapes,
    joint_transforms,
    linear_blend_skinning,
    pose_features,
    rotation_matrices,
)
from tests.tables import table

PARENTS = (-1, 0, 1, 1, 1)


def cross_matrices(axis_angle):
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


@given(st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 1.0]))
def test_rotation_equals_scipy(axis_angle, scale):
    vector = torch.tensor(axis_angle, dtype=torch.float64) * scale
    expected = torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_matrix())
    torch.testing.assert_close(rotation_matrices(vector), expected, atol=1e-13, rtol=0)


@table("size", [0.0, 1e-9, 1e-4, 0.4999, 0.5001, 3.0])
def test_rotation_is_twice_differentiable(size):
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(3, 3, generator=generator, dtype=torch.float64), dim=-1)
    vector = (direction * size).requires_grad_()
    assert gradcheck(rotation_matrices, vector)
    assert gradgradcheck(rotation_matrices, vector, fast_mode=True)


def test_rotation_derivative_at_zero_is_the_cross_product():
    jacobian = torch.autograd.functional.jacobian(rotation_matrices, torch.zeros(3, dtype=torch.float64))
    for axis in range(3):
        torch.testing.assert_close(jacobian[..., axis], cross_matrices(torch.eye(3, dtype=torch.float64)[axis]))


def test_rotation_is_accurate_in_float32():
    vectors = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1)) * 0.4
    expected = torch.from_numpy(Rotation.from_rotvec(vectors.double().numpy()).as_matrix())
    assert (rotation_matrices(vectors).double() - expected).abs().max() < 5e-7


def test_rotation_passes_nan_on_and_leaves_the_rest_alone():
    out = rotation_matrices(torch.tensor([[float("nan"), 0, 0], [float("inf"), 0, 0], [0.1, 0, 0]]))
    assert out[0].isnan().any() and out[1].isnan().any() and out[2].isfinite().all()


def chain_by_hand(pose, joints, parents):
    """One frame, joint by joint, as 4x4 products."""
    world = []
    for j, parent in enumerate(parents):
        local = torch.eye(4, dtype=pose.dtype)
        local[:3, :3] = torch.from_numpy(Rotation.from_rotvec(pose[j].numpy()).as_matrix())
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    back = []
    for j, transform in enumerate(world):
        shift = torch.eye(4, dtype=pose.dtype)
        shift[:3, 3] = -joints[j]
        back.append(transform @ shift)
    return torch.stack(back)


@table("parents", [(-1,), PARENTS, (-1, 0, 1, 2, 0, 4), (-1, 0, 0, 1, 2, 2, 5)])
@table("batch", [(), (2,), (1, 2), (0,)])
def test_joint_transforms_equal_products_of_4x4_matrices(parents, batch):
    generator = torch.Generator().manual_seed(2)
    pose = torch.randn(*batch, len(parents), 3, generator=generator, dtype=torch.float64)
    joints = torch.randn(*batch, len(parents), 3, generator=generator, dtype=torch.float64)
    out = joint_transforms(pose, joints, parents)
    assert out.shape == (*batch, len(parents), 4, 4)
    torch.testing.assert_close(joint_transforms(rotation_matrices(pose), joints, parents), out)
    flat = out.reshape(-1, len(parents), 4, 4)
    for row, (p, j) in enumerate(
        zip(pose.reshape(-1, len(parents), 3), joints.reshape(-1, len(parents), 3), strict=True)
    ):
        torch.testing.assert_close(flat[row], chain_by_hand(p, j, parents))


@pytest.mark.parametrize("form", ["axis-angle", "matrices"])
def test_one_skeleton_serves_a_batch_of_poses(form):
    pose, joints = torch.randn(4, 5, 3), torch.randn(5, 3)
    rotations = pose if form == "axis-angle" else rotation_matrices(pose)
    each = torch.stack([joint_transforms(one, joints, PARENTS) for one in rotations])
    assert torch.equal(joint_transforms(rotations, joints, PARENTS), each)
    assert torch.equal(joint_transforms(rotations[:, None], torch.stack([joints, joints]), PARENTS)[:, 1], each)
    several = torch.stack([joints, 2 * joints])
    torch.testing.assert_close(
        joint_transforms(rotations[0], several, PARENTS)[1], joint_transforms(rotations[0], 2 * joints, PARENTS)
    )


def test_three_joints_are_not_mistaken_for_matrices(unchecked):
    pose, joints, parents = torch.randn(3, 3, 3), torch.randn(3, 3), (-1, 0, 1)
    each = torch.stack([joint_transforms(one, joints, parents) for one in pose])
    assert torch.equal(joint_transforms(pose, joints[None], parents), each)
    with pytest.raises(ValueError, match=r"read as rotation matrices, and it holds none; .* joints\[None\]"):
        joint_transforms(pose, joints, parents)
    matrices = rotation_matrices(pose[0])
    torch.testing.assert_close(joint_transforms(matrices, joints, parents), each[0])
    with pytest.raises(ValueError, match=r"pose \(4, 5, 3\) and joints \(3, 5, 3\) do not fit"):
        joint_transforms(torch.zeros(4, 5, 3), torch.zeros(3, 5, 3), PARENTS)


def test_zero_pose_leaves_everything_in_place():
    joints = torch.randn(3, 5, 3)
    transforms = joint_transforms(torch.zeros(3, 5, 3), joints, PARENTS)
    torch.testing.assert_close(transforms, torch.eye(4).expand(3, 5, 4, 4))


@table("vertices", [0, 1, 7])
@table("batch", [(), (2,), (1, 2), (0,)])
def test_skinning_is_the_weighted_mean_of_moved_points(batch, vertices):
    generator = torch.Generator().manual_seed(3)
    rest = torch.randn(*batch, vertices, 3, generator=generator)
    weights = torch.rand(vertices, 5, generator=generator).softmax(-1)
    transforms = torch.randn(*batch, 5, 4, 4, generator=generator)
    out = linear_blend_skinning(rest, weights, transforms)
    homogeneous = torch.cat([rest, torch.ones(*batch, vertices, 1)], -1)
    expected = sum(weights[:, j, None] * (homogeneous @ transforms[..., j, :3, :].transpose(-1, -2)) for j in range(5))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_one_mesh_serves_a_batch_of_transforms():
    rest, weights, transforms = torch.randn(7, 3), torch.rand(7, 5).softmax(-1), torch.randn(4, 5, 4, 4)
    torch.testing.assert_close(
        linear_blend_skinning(rest, weights, transforms),
        linear_blend_skinning(rest.expand(4, -1, -1), weights, transforms),
    )


def full(coefficients, basis, pose, joints, weights):
    rotations = rotation_matrices(pose)
    rest = blend_shapes(coefficients, basis) + blend_shapes(pose_features(rotations), basis.new_ones(36, 4, 3) * 0.1)
    return linear_blend_skinning(rest, weights, joint_transforms(rotations, joints, PARENTS))


def pipeline_arguments(batch=2):
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return draw(batch, 3), draw(3, 4, 3), draw(batch, 5, 3), draw(batch, 5, 3), draw(4, 5)


def test_the_whole_pipeline_is_twice_differentiable():
    assert gradcheck(full, pipeline_arguments())
    assert gradgradcheck(full, pipeline_arguments(1), fast_mode=True)


def test_an_empty_batch_keeps_its_gradient():
    coefficients, basis, pose, joints, weights = pipeline_arguments(0)
    out = full(coefficients, basis, pose, joints, weights)
    assert out.shape == (0, 4, 3)
    out.sum().backward()
    assert basis.grad is not None and (basis.grad == 0).all() and pose.grad is not None


def test_it_compiles_whole(unchecked):
    arguments = [argument.detach() for argument in pipeline_arguments()]
    compiled = torch.compile(full, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), full(*arguments))


def test_errors_name_operation_argument_and_shape(unchecked):
    with pytest.raises(ValueError, match=r"rotation_matrices: axis_angle has shape \(2, 4\)"):
        rotation_matrices(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"parents\[1\] is 2"):
        joint_transforms(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), (-1, 2, 0))
    with pytest.raises(ValueError, match=r"parents\[0\] is 0"):
        joint_transforms(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), (0,))
    with pytest.raises(ValueError, match=r"do not fit 5 parents"):
        joint_transforms(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), PARENTS)
    with pytest.raises(ValueError, match=r"blend_shapes: coefficients has shape \(1, 2\).*3 directions"):
        blend_shapes(torch.zeros(1, 2), torch.zeros(3, 4, 3))
    with pytest.raises(ValueError, match=r"weights has shape \(4, 3\); expected \(4, 5\)"):
        linear_blend_skinning(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(5, 4, 4))
