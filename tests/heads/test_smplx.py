"""Heads converted from smplx models, compared with these models, on files of the procedural head."""

import types

import numpy as np
import pytest
import torch

from headfields.heads import FlameHead, SmplxHead, from_smplx
from headfields.ops import rotation_matrices
from tests.heads.test_landmarks import files  # noqa: F401

smplx = pytest.importorskip("smplx", reason="smplx, the oracle of these tests, is not installed")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("betas", "expressions"), [(10, 10), (300, 100), (0, 50)])
@pytest.mark.parametrize("layer", [False, True])
def test_flame(files, betas, expressions, layer):  # noqa: F811
    make = smplx.FLAMELayer if layer else smplx.FLAME
    model = make(str(files), ext="npz", num_betas=betas, num_expression_coeffs=expressions, batch_size=3)
    head = from_smplx(model)
    assert isinstance(head, FlameHead) and (head.shape_count, head.expression_count) == (betas, expressions)
    shape, expression, pose, shift = random(3, betas), random(3, expressions), random(3, 5, 3) * 0.4, random(3, 3)
    turn = rotation_matrices(pose)[:, :, None] if layer else pose
    expected = model(
        betas=shape, expression=expression, global_orient=turn[:, 0], neck_pose=turn[:, 1], jaw_pose=turn[:, 2],
        leye_pose=turn[:, 3], reye_pose=turn[:, 4], transl=shift,
    )  # fmt: skip
    state = head(shape, expression, pose, shift)
    assert (state.vertices - expected.vertices).abs().max() < 1e-5
    landmarks = expected.joints[:, 5:56] if expected.joints.shape[1] >= 56 else expected.joints[:, -51:]
    assert (head.landmarks(state.vertices) - landmarks).abs().max() < 1e-5
    assert not list(head.parameters())


def test_flame_with_contour_in_float64(files):  # noqa: F811
    model = smplx.FLAME(
        str(files), ext="npz", num_betas=300, num_expression_coeffs=100, use_face_contour=True, dtype=torch.float64
    )
    head = from_smplx(model)
    pose = torch.zeros(1, 5, 3, dtype=torch.float64)
    pose[0, 0, 1] = 0.3
    expected = model(global_orient=pose[:, 0])
    state = head(pose=pose)
    assert state.vertices.dtype == torch.float64 and (state.vertices - expected.vertices).abs().max() < 1e-9
    found = head.landmarks(state.vertices, head.skull_rotation(state))
    assert (found - torch.cat([expected.joints[:, 56:], expected.joints[:, 5:56]], 1)).abs().max() < 1e-6
    head.template_vertices.zero_()
    assert model.v_template.abs().sum() > 0  # copies


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """A random SMPL-X file; smplx takes vertices up to 9929 for extra joints."""
    generator = np.random.default_rng(0)
    count, path = 9940, tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"
    weights = generator.random((count, 55), np.float32)
    regressor = np.zeros((55, count), np.float32)
    for joint in range(55):
        np.add.at(regressor[joint], generator.integers(0, count, 8), 1 / 8)
    parents = [-1, *(int(generator.integers(0, joint)) for joint in range(1, 55))]
    index = generator.integers(0, 500, (79, 17))
    np.savez(
        path,
        v_template=generator.normal(size=(count, 3)).astype(np.float32),
        f=generator.integers(0, count, (500, 3)).astype(np.uint32),
        shapedirs=(generator.random((count, 3, 400), np.float32) - 0.5) * 0.01,
        posedirs=(generator.random((count, 3, 486), np.float32) - 0.5) * 0.01,
        J_regressor=regressor,
        kintree_table=np.array([parents, range(55)], np.int64).astype(np.uint32),
        weights=weights / weights.sum(1, keepdims=True),
        hands_componentsl=np.eye(45), hands_componentsr=np.eye(45),
        hands_meanl=generator.normal(size=45) * 0.2, hands_meanr=generator.normal(size=45) * 0.2,
        lmk_faces_idx=index[0, :51] if index.shape[1] > 51 else generator.integers(0, 500, 51),
        lmk_bary_coords=np.full((51, 3), 1 / 3),
        dynamic_lmk_faces_idx=index, dynamic_lmk_bary_coords=np.full((79, 17, 3), 1 / 3),
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("layer", "flat"),
    [
        (False, False),
        (True, True),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(False, True), (True, False)]),
    ],
)
def test_smplx(body, layer, flat):
    make = smplx.SMPLXLayer if layer else smplx.SMPLX
    model = make(
        str(body), num_betas=300, num_expression_coeffs=100, batch_size=2, use_pca=False, flat_hand_mean=flat, ext="npz"
    )
    head = from_smplx(model)
    assert isinstance(head, SmplxHead)
    sizes = dict.fromkeys(("global_orient", "jaw_pose", "leye_pose", "reye_pose"), 3)
    sizes |= {"body_pose": 63, "left_hand_pose": 45, "right_hand_pose": 45}
    parts = {name: random(2, size, seed=i) * 0.3 for i, (name, size) in enumerate(sizes.items())}
    pose = head.pose(**parts)
    given = {k: rotation_matrices(v.reshape(2, -1, 3)) for k, v in parts.items()} if layer else parts
    shape, expression, shift = random(2, 300), random(2, 100), random(2, 3)
    expected = model(betas=shape, expression=expression, transl=shift, **given)
    state = head(shape, expression, pose, shift)
    assert (state.vertices - expected.vertices).abs().max() < 2e-5  # a body of meters, random weights
    assert (head.landmarks(state.vertices) - expected.joints[:, -51:]).abs().max() < 2e-5
    if not layer:
        ours = SmplxHead.from_file(body, relaxed_hands=not flat)
        again = ours(shape, expression, pose, shift)
        torch.testing.assert_close(again.vertices, state.vertices, atol=1e-5, rtol=0)
        assert ours.landmarks(again.vertices, ours.skull_rotation(again)).shape == (2, 68, 3)


def test_poses_from_parts(body, unchecked):
    head = SmplxHead.from_file(body)
    jaw = torch.tensor([[0.2, 0.0, 0.0]])
    assert torch.equal(head.pose(jaw_pose=jaw)[0, 22], jaw[0]) and head.pose().shape == (1, 55, 3)
    assert head.pose(jaw_pose=jaw, body_pose=torch.zeros(4, 63)).shape == (4, 55, 3)
    assert head.pose(jaw_pose=torch.zeros(0, 3)).shape == (0, 55, 3)
    with pytest.raises(ValueError, match="no part is called hand_pose"):
        head.pose(hand_pose=jaw)
    with pytest.raises(ValueError, match=r"left_hand_pose has shape \(1, 12\); expected \(B, 45\)"):
        head.pose(left_hand_pose=torch.zeros(1, 12))
    with pytest.raises(ValueError, match=r"rows; pass B or one for each"):
        head.pose(jaw_pose=torch.zeros(2, 3), leye_pose=torch.zeros(3, 3))


def test_small_smplx_files_are_not_guessed_at(body, tmp_path):
    with np.load(body) as archive:
        arrays = dict(archive)
    arrays["shapedirs"] = arrays["shapedirs"][:, :, :20]
    np.savez(tmp_path / "SMPLX_v1.npz", **arrays)
    with pytest.raises(ValueError, match=r"SMPLX_v1\.npz: shapedirs has 20 components.*pass expression_count"):
        SmplxHead.from_file(tmp_path / "SMPLX_v1.npz")
    head = SmplxHead.from_file(tmp_path / "SMPLX_v1.npz", expression_count=10)
    assert (head.shape_count, head.expression_count) == (10, 10)
    arrays["hands_meanl"] = np.zeros(44)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=r"bad\.npz: hands_meanl has shape \(44,\)"):
        SmplxHead.from_file(tmp_path / "bad.npz", expression_count=10)


def test_other_objects_are_refused_by_what_they_lack():
    with pytest.raises(TypeError, match=r"from_smplx: Linear has no v_template, shapedirs, expr_dirs"):
        from_smplx(torch.nn.Linear(2, 2))
    names = ("v_template", "shapedirs", "expr_dirs", "posedirs", "J_regressor", "lbs_weights", "faces_tensor")
    other = types.SimpleNamespace(**{name: torch.zeros(1) for name in names}, parents=torch.zeros(24))
    with pytest.raises(TypeError, match="has 24 joints; FLAME has 5 and SMPL-X 55"):
        from_smplx(other)
