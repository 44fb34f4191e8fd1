import numpy as np
import pytest
import torch

from headfields.heads.blendshapes import BlendshapeHead


def write(tmp_path, **changes):
    generator = np.random.default_rng(0)
    arrays = {
        "template": generator.normal(size=(9, 3)).astype(np.float32),
        "faces": np.array([[0, 1, 2], [3, 4, 5]], np.int32),
        "expression": generator.normal(size=(4, 9, 3)).astype(np.float16),
        "expression_names": np.array(["a", "b", "c", "d"]),
        "identity": generator.normal(size=(2, 9, 3)).astype(np.float16),
        "landmarks": np.array([3, 1], np.int32),
    }
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    path = tmp_path / "head.npz"
    np.savez(path, **arrays)
    return path, arrays


def test_is_the_sum_of_its_shapes(tmp_path):
    path, arrays = write(tmp_path)
    head = BlendshapeHead.from_file(path)
    identity, expression = torch.randn(1, 2), torch.randn(3, 4)
    state = head(identity, expression, translation=torch.ones(3, 3))
    expected = (
        arrays["template"]
        + 1
        + np.einsum("bi,ivk->bvk", identity.numpy(), arrays["identity"].astype(np.float32))
        + np.einsum("be,evk->bvk", expression.numpy(), arrays["expression"].astype(np.float32))
    )
    torch.testing.assert_close(state.vertices, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)
    assert torch.equal(state.expression, expression) and state.pose is None
    assert torch.equal(head.landmarks(state.vertices), state.vertices[:, [3, 1]])


def test_autocast_leaves_heads_as_they_are(tmp_path, head):
    other = BlendshapeHead.from_file(write(tmp_path)[0])
    turn, shape = torch.randn(1, 3), torch.randn(2, head.shape_count)

    def results():
        state = head(shape, pose=head.pose(jaw=turn))
        joints = head.from_template(state)
        return (
            other(expression=torch.ones(1, 4), rotation=turn).vertices,
            state.vertices,
            state.joint_transforms,
            joints,
        )

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(results(), expected, rtol=0, atol=0)


def test_rotation_turns_about_the_origin(tmp_path):
    head = BlendshapeHead.from_file(write(tmp_path)[0])
    state = head(rotation=torch.tensor([[0, torch.pi / 2, 0]]))
    x, y, z = head.template_vertices.unbind(-1)
    torch.testing.assert_close(state.vertices[0], torch.stack([z, y, -x], -1), atol=1e-6, rtol=1e-5)
    assert state.pose.shape == (1, 1, 3)


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_is_twice_differentiable_for_any_batch(tmp_path, batch):
    head = BlendshapeHead.from_file(write(tmp_path)[0]).double()
    inputs = tuple(torch.randn(batch, n, dtype=torch.float64, requires_grad=True) for n in (2, 4, 3, 3))
    state = head(*inputs)
    assert state.vertices.shape == (batch, 9, 3)
    assert torch.autograd.gradcheck(lambda *a: head(*a).vertices, inputs)
    assert torch.autograd.gradgradcheck(lambda *a: head(*a).vertices, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": None}, "lacks template"),
        ({"expression": np.zeros((4, 8, 3))}, r"expression has shape \(4, 8, 3\); expected .* with V = 9"),
        ({"identity": np.zeros((2, 9))}, r"identity has shape \(2, 9\)"),
        ({"faces": np.array([[0, 1, 9]])}, r"faces has indices in \[0, 9\]"),
        ({"expression_names": np.array(["a"])}, "1 expression_names for 4 expressions"),
        ({"landmarks": np.array([-1])}, "landmarks has indices in"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        BlendshapeHead.from_file(write(tmp_path, **changes)[0])


def test_bad_coefficients_are_explained(tmp_path):
    head = BlendshapeHead.from_file(write(tmp_path)[0])
    with pytest.raises(ValueError, match=r"expression has shape \(1, 3\); expected \(B, 4\)"):
        head(expression=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="batch sizes differ"):
        head(torch.zeros(2, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no direction is called e"):
        head.expression(e=1.0)


def test_template_closes_the_mouth(head):
    """A blendshape head made of the procedural one."""
    made = BlendshapeHead(head.template_vertices, head.faces, head.expression_basis[:2], expression_names=("a", "b"))
    template = made.template(expression={"a": 1.0})
    assert len(template.faces) - template.face_count == 46
    torch.testing.assert_close(template.canonical_vertices, made(expression=torch.tensor([[1.0, 0]])).vertices[0])
    assert template.regions["mouth"][template.face_count :].all()
    assert 0 < template.regions["mouth"].sum() < 0.3 * len(template.faces)
