import pickle

import numpy as np
import pytest
import scipy.sparse
import torch

from headfields.heads.flame.model import FlameHead
from headfields.synthetic.head.model import procedural_head
from tests.tables import table

SEVEN = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")


def small(components=400, vertices=12, **changes):
    """A random FLAME file of few vertices."""
    generator = np.random.default_rng(0)
    weights, regressor = generator.random((vertices, 5)), generator.random((5, vertices))
    arrays = {
        "v_template": generator.normal(size=(vertices, 3)),
        "f": np.array([[0, 1, 2], [2, 1, 3], [4, 5, 6]], np.uint32),
        "shapedirs": generator.normal(size=(vertices, 3, components)) * 0.01,
        "posedirs": generator.normal(size=(vertices, 3, 36)) * 0.01,
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def save(tmp_path, arrays, kind="npz"):
    path = tmp_path / f"model.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(pickle.dumps(arrays, protocol=2))
    return path


@pytest.mark.parametrize("ext", ["npz", "pkl"])
def test_equals_smplx_on_the_same_file(tmp_path, arrays, ext):
    smplx = pytest.importorskip("smplx", reason="smplx, the oracle of this test, is not installed")
    model = {key: arrays[key] for key in SEVEN}
    path = tmp_path / f"FLAME_NEUTRAL.{ext}"
    if ext == "npz":
        np.savez(path, **model)
    else:
        model["J_regressor"] = scipy.sparse.csc_matrix(model["J_regressor"])
        path.write_bytes(pickle.dumps(model, protocol=2))
    static = {"lmk_face_idx": arrays["lmk_face_idx"][17:], "lmk_b_coords": arrays["lmk_b_coords"][17:]}
    (tmp_path / "flame_static_embedding.pkl").write_bytes(pickle.dumps(static, protocol=2))
    oracle = smplx.FLAME(
        str(tmp_path), ext=ext, batch_size=3, num_betas=300, num_expression_coeffs=100, use_face_contour=False
    )
    head = FlameHead.from_file(path)
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(3, 300, generator=generator)
    expression = torch.randn(3, 100, generator=generator)
    pose = torch.randn(3, 5, 3, generator=generator) * 0.4
    translation = torch.randn(3, 3, generator=generator)
    expected = oracle(
        betas=shape, expression=expression, global_orient=pose[:, 0], neck_pose=pose[:, 1], jaw_pose=pose[:, 2],
        leye_pose=pose[:, 3], reye_pose=pose[:, 4], transl=translation,
    )  # fmt: skip
    state = head(shape, expression, pose, translation)
    assert (state.vertices - expected.vertices).abs().max() < 1e-5
    joints = torch.cat([head.joint_regressor @ head(shape, expression).vertices, torch.ones(3, 5, 1)], -1)
    moved = (state.joint_transforms[:, :, :3] @ joints[..., None])[..., 0]
    assert (moved - expected.joints[:, :5]).abs().max() < 1e-5
    full = FlameHead.from_file(path)
    full.register_buffer("landmark_faces", torch.from_numpy(static["lmk_face_idx"].copy()))
    full.register_buffer("landmark_barycentric", torch.from_numpy(static["lmk_b_coords"].copy()))
    assert (full.landmarks(state.vertices) - expected.joints[:, 5:56]).abs().max() < 1e-5


def test_npz_and_pickle_give_one_model(tmp_path):
    one, other = (FlameHead.from_file(save(tmp_path, small(), kind)) for kind in ("npz", "pkl"))
    for (name, a), (_, b) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@table("key", SEVEN)
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(ValueError, match=f"lacks {key};"):
        FlameHead.from_file(save(tmp_path, small(**{key: None})))


@table(
    ("key", "shape"),
    [
        ("posedirs", (12, 3, 27)),
        ("weights", (11, 5)),
        ("J_regressor", (4, 12)),
        ("kintree_table", (2, 4)),
        ("f", (3, 4)),
        ("shapedirs", (12, 400)),
        ("v_template", (12, 2)),
    ],
)
def test_a_wrong_shape_is_named(tmp_path, key, shape):
    with pytest.raises(ValueError, match=rf"{key} has shape \({shape[0]}, {shape[1]}"):
        FlameHead.from_file(save(tmp_path, small(**{key: np.zeros(shape)})))


def test_a_sparse_regressor_is_read_from_an_npz_too(tmp_path):
    dense = FlameHead.from_file(save(tmp_path, small()))
    sparse = np.array(scipy.sparse.csc_matrix(small()["J_regressor"]), dtype=object)  # which smplx cannot read
    head = FlameHead.from_file(save(tmp_path, small(J_regressor=sparse)))
    assert torch.equal(head.joint_regressor, dense.joint_regressor)


def test_which_components_are_expression_is_never_guessed(tmp_path):
    assert FlameHead.from_file(save(tmp_path, small(400))).expression_count == 100
    path = save(tmp_path, small(150))
    with pytest.raises(ValueError, match=r"150 components.*pass expression_count"):
        FlameHead.from_file(path)
    head = FlameHead.from_file(path, expression_count=50)
    assert (head.shape_count, head.expression_count) == (100, 50)
    assert torch.equal(
        head.expression_basis, torch.from_numpy(small(150)["shapedirs"][:, :, 100:].transpose(2, 0, 1)).float()
    )
    assert FlameHead.from_file(save(tmp_path, small(150, expression_count=np.array(20)))).shape_count == 130
    assert FlameHead.from_file(save(tmp_path, small(150, expression_names=np.array(["a", "b"])))).expression_count == 2
    with pytest.raises(ValueError, match="expression_count is 151"):
        FlameHead.from_file(path, expression_count=151)


def test_fewer_coefficients_are_the_first_ones(tmp_path):
    head = FlameHead.from_file(save(tmp_path, small()))
    shape, expression = torch.randn(2, 100), torch.randn(2, 50)
    padded = head(torch.nn.functional.pad(shape, (0, 200)), torch.nn.functional.pad(expression, (0, 50)))
    state = head(shape, expression)
    torch.testing.assert_close(state.vertices, padded.vertices)
    assert state.expression.shape == (2, 100)
    with pytest.raises(ValueError, match=r"shape has shape \(2, 301\)"):
        head(torch.zeros(2, 301))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches_broadcast_and_keep_gradients(tmp_path, batch):
    head = FlameHead.from_file(save(tmp_path, small()))
    shape = torch.randn(1, 300, requires_grad=True)
    pose = torch.randn(batch, 5, 3, requires_grad=True)
    state = head(shape=shape, pose=pose)
    assert state.vertices.shape == (batch, 12, 3) and state.joint_transforms.shape == (batch, 5, 4, 4)
    state.vertices.square().sum().backward()
    assert shape.grad is not None and pose.grad.isfinite().all()
    with pytest.raises(ValueError, match="batch sizes differ"):
        head(shape=torch.zeros(2, 300), pose=torch.zeros(5, 5, 3))


def test_second_order_in_float64(tmp_path):
    head = FlameHead.from_file(save(tmp_path, small(expression_count=np.array(397)))).double()
    arguments = (torch.randn(1, 3), torch.randn(1, 4), torch.randn(1, 5, 3) * 0.3, torch.randn(1, 3))
    arguments = tuple(a.double().requires_grad_() for a in arguments)
    assert torch.autograd.gradcheck(lambda *a: head(*a).vertices, arguments)
    assert torch.autograd.gradgradcheck(lambda *a: head(*a).vertices, arguments, fast_mode=True)


def test_names_make_coefficients(head):
    weights = head.expression(smile_left=1.0, blink_right=torch.tensor([0.5, 0.25]))
    assert weights.shape == (2, 100)
    assert weights[0, head.expression_names.index("smile_left")] == 1
    assert weights[1, head.expression_names.index("blink_right")] == 0.25
    assert head.shape(width=2.0)[0, head.shape_names.index("width")] == 2
    with pytest.raises(ValueError, match="no direction is called grin"):
        head.expression(grin=1.0)


def test_masks_become_face_masks_and_missing_regions_are_derived(tmp_path, arrays):
    path = tmp_path / "flame.npz"
    np.savez(path, **{key: arrays[key] for key in SEVEN})
    bare = FlameHead.from_file(path)
    assert bare.regions == {}
    template = bare.template()
    procedural = {name: arrays[f"region_{name}"] for name in ("mouth", "eyes", "neck", "face")}
    for name, truth in procedural.items():
        found = template.regions[name][: len(truth)].numpy()
        overlap = (found & truth).sum() / max((found | truth).sum(), 1)
        assert overlap > (0.25 if name in ("mouth", "neck") else 0.45), (name, overlap)
    ids = np.unique(arrays["f"][arrays["region_lips"]])
    masks = tmp_path / "FLAME_masks.pkl"
    masks.write_bytes(pickle.dumps({"lips": ids}, protocol=2))
    masked = FlameHead.from_file(path, masks=masks)
    assert torch.equal(masked.template().regions["mouth"][: len(masked.faces)], masked.regions["lips"])
    with pytest.raises(ValueError, match="has indices in"):
        FlameHead.from_file(path, masks={"lips": np.array([10**6])})


def test_template_is_neutral_with_the_jaw_open(head):
    template = head.template()
    pose = torch.zeros(1, 5, 3)
    pose[0, 2, 0] = np.radians(12)
    torch.testing.assert_close(template.canonical_vertices, head(pose=pose).vertices[0])
    assert template.face_count == len(head.faces)
    added = len(template.faces) - template.face_count
    assert added == 46  # a loop of 48 vertices
    assert template.regions["mouth"][-added:].all() and not template.regions["eyes"][-added:].any()
    assert template.uv_faces.shape == template.faces.shape
    corners = template.uv[template.uv_faces[-added:]]
    assert (corners.amax(1) - corners.amin(1)).max() < 0.2  # the closing faces take their corners' coordinates


def test_poses_by_joint_names(unchecked):
    head = procedural_head()
    pose = head.pose(jaw=torch.tensor([[0.3, 0.0, 0.0]]), neck=torch.zeros(2, 3))
    assert pose.shape == (2, 5, 3) and pose[:, 2, 0].tolist() == [pytest.approx(0.3)] * 2 and pose.count_nonzero() == 2
    opened = (head(pose=pose).vertices[0] - head().vertices[0]).norm(dim=-1)
    assert opened.max() > 0.01 and opened[head.weights[:, 2] == 0].max() < 1e-3  # the rest moves by correctives only
    assert head.pose().shape == (1, 5, 3) and head.pose(jaw=torch.zeros(0, 3)).shape == (0, 5, 3)
    with pytest.raises(ValueError, match="no joint is called spine; there are root, neck, jaw"):
        head.pose(spine=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"jaw \(2, 3\), neck \(3, 3\); expected \(B, 3\)"):
        head.pose(jaw=torch.zeros(2, 3), neck=torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"jaw \(3,\)"):
        head.pose(jaw=torch.zeros(3))
    with pytest.raises(TypeError, match="jaw is a list"):
        head.pose(jaw=[[0.3, 0.0, 0.0]])
