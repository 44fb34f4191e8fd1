"""Landmark files in the published layouts, on the procedural head."""

import pickle

import numpy as np
import pytest
import torch

from headfields.heads import FlameHead
from headfields.heads.landmarks import ContourLandmarks, Landmarks, head_yaw, read_embeddings
from headfields.ops import rotation_matrices
from headfields.records import Camera
from tests.heads.flame.published import embedding, write_landmark_files
from tests.heads.flame.test_model import SEVEN
from tests.tables import table


@pytest.fixture(scope="module")
def files(tmp_path_factory, arrays):
    """A folder of what users have: the model, and every landmark file in its own layout."""
    folder = tmp_path_factory.mktemp("flame")
    np.savez(folder / "FLAME_NEUTRAL.npz", **{key: arrays[key] for key in SEVEN})
    write_landmark_files(folder, arrays)
    return folder


def by_hand(vertices, triangles, faces, weights):
    """The points, one by one."""
    return torch.stack(
        [torch.from_numpy(w).float() @ vertices[triangles[f]] for f, w in zip(faces, weights, strict=True)]
    )


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("flame_static_embedding.pkl", "static", 51),
        ("mediapipe_landmark_embedding.npz", "static", 105),
        ("landmark_embedding.npy", "static", 51),
        ("landmark_embedding.npy", "full", 68),
    ],
)
def test_landmarks_of_each_file(files, head, name, kind, count):
    landmarks = Landmarks.from_file(files / name, kind)
    vertices = head(expression=torch.randn(2, 3)).vertices
    found = landmarks(vertices, head.faces)
    assert found.shape == (2, count, 3)
    source = read_embeddings(files / name)[kind]
    torch.testing.assert_close(found[1], by_hand(vertices[1], head.faces, source.faces, source.barycentric))
    if count == 105:
        assert landmarks.indices.tolist() == list(range(0, 420, 4))


def test_both_contour_files_are_one_table(files):
    one, other = (
        ContourLandmarks.from_file(files / name) for name in ("flame_dynamic_embedding.npy", "landmark_embedding.npy")
    )
    assert torch.equal(one.faces, other.faces) and torch.equal(one.barycentric, other.barycentric)
    assert one.faces.shape == (79, 17)


@table(
    ("degrees", "row"), [(0, 0), (-1, 1), (-39, 39), (-60, 39), (1, 40), (39, 78), (60, 78), (-12.4, 12), (12.4, 51)]
)
def test_the_row_of_a_yaw(files, degrees, row):
    contour = ContourLandmarks.from_file(files / "flame_dynamic_embedding.npy")
    rotation = rotation_matrices(torch.tensor([[0.0, float(np.radians(degrees)), 0.0]]))
    assert head_yaw(rotation).item() == pytest.approx(degrees, abs=1e-3)
    nod = rotation_matrices(torch.tensor([[0.3, 0.0, 0.0]]))
    assert contour.rows(rotation).tolist() == [row] and contour.rows(rotation @ nod).tolist() == [row]
    assert contour.rows(rotation * float("nan")).tolist() == [0]


@pytest.mark.parametrize("neck_joint", [0, 1])
def test_equals_smplx(files, head, neck_joint):
    """smplx looks at the root alone (NECK_IDX = 0); with 1, as FLAME's own code has it, it is our definition."""
    smplx = pytest.importorskip("smplx", reason="smplx, the oracle of this test, is not installed")

    class Oracle(smplx.FLAME):
        NECK_IDX = neck_joint

    oracle = Oracle(
        str(files), ext="npz", batch_size=40, num_betas=300, num_expression_coeffs=100, use_face_contour=True
    )
    generator = torch.Generator().manual_seed(0)
    pose = torch.randn(40, 5, 3, generator=generator) * 0.5
    if neck_joint == 0:
        pose[:, 1] = 0
    ours = FlameHead.from_file(
        files / "FLAME_NEUTRAL.npz",
        landmarks=files / "flame_static_embedding.pkl",
        contour=files / "flame_dynamic_embedding.npy",
    )
    expected = oracle(
        global_orient=pose[:, 0], neck_pose=pose[:, 1], jaw_pose=pose[:, 2], leye_pose=pose[:, 3], reye_pose=pose[:, 4]
    ).joints[:, 5:]
    state = ours(pose=pose)
    found = ours.landmarks(state.vertices, ours.skull_rotation(state))
    assert found.shape == (40, 68, 3)
    assert (found - torch.cat([expected[:, 51:], expected[:, :51]], 1)).abs().max() < 1e-5


def test_the_contour_follows_a_camera_too(files, head):
    """Turning the camera one way is turning the head the other."""
    ours = FlameHead.from_file(files / "FLAME_NEUTRAL.npz", landmarks=files / "landmark_embedding.npy")
    turn = rotation_matrices(torch.tensor([[0.0, 0.4, 0.0]]))[0]
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    world_to_camera = torch.eye(4)
    world_to_camera[:3, :3] = flip @ turn
    camera = Camera(world_to_camera[None], torch.eye(3)[None], (8, 8))
    still = ours()
    turned = ours(pose=torch.tensor([0.0, 0.4, 0.0]).expand(1, 5, 3) * torch.eye(5)[0, :, None])
    torch.testing.assert_close(ours.skull_rotation(still, camera), ours.skull_rotation(turned), atol=1e-6, rtol=0)
    assert ours.contour.rows(ours.skull_rotation(still, camera)).tolist() == [39 + 23]


def test_gradients_and_empty_batches(files, head):
    ours = FlameHead.from_file(
        files / "FLAME_NEUTRAL.npz",
        landmarks=files / "landmark_embedding.npy",
        mediapipe=files / "mediapipe_landmark_embedding.npz",
    )
    pose = torch.zeros(2, 5, 3, requires_grad=True)
    state = ours(pose=pose)
    points = ours.landmarks(state.vertices, ours.skull_rotation(state))
    (points.sum() + ours.mediapipe_landmarks(state.vertices).sum()).backward()
    assert points.shape == (2, 68, 3) and pose.grad.abs().sum() > 0
    nobody = torch.zeros(0, len(ours.template_vertices), 3, requires_grad=True)
    assert ours.landmarks(nobody, torch.zeros(0, 3, 3)).shape == (0, 68, 3)
    ours.mediapipe_landmarks(nobody).sum().backward()
    double = ours.double()
    vertices = double().vertices.requires_grad_()
    few = vertices[:, :50].detach().requires_grad_()
    lifted = lambda x: double.mediapipe_landmarks(torch.cat([x, vertices.detach()[:, 50:]], 1))  # noqa: E731
    assert torch.autograd.gradcheck(lifted, (few,))


def test_what_is_missing_is_said(files, head, unchecked):
    plain = FlameHead.from_file(files / "FLAME_NEUTRAL.npz")
    vertices, rotation = plain().vertices, torch.eye(3)[None]
    with pytest.raises(ValueError, match="no lmk_face_idx and lmk_b_coords; pass landmarks"):
        plain.landmarks(vertices)
    with pytest.raises(ValueError, match="mediapipe_landmark_embedding"):
        plain.mediapipe_landmarks(vertices)
    static = FlameHead.from_file(files / "FLAME_NEUTRAL.npz", landmarks=files / "flame_static_embedding.pkl")
    assert static.landmarks(vertices).shape == (1, 51, 3)
    with pytest.raises(ValueError, match="has no contour"):
        static.landmarks(vertices, rotation)
    moving = FlameHead.from_file(files / "FLAME_NEUTRAL.npz", landmarks=files / "landmark_embedding.npy")
    with pytest.raises(ValueError, match=r"pass rotation=head\.skull_rotation"):
        moving.landmarks(vertices)
    with pytest.raises(ValueError, match=r"rotation has shape \(1, 3, 3\) and vertices \(2"):
        moving.landmarks(vertices.expand(2, -1, -1), rotation)
    with pytest.raises(ValueError, match=r"rotation has shape .* and vertices \(4515, 3\)"):
        moving.contour(vertices[0], head.faces, rotation)
    with pytest.raises(ValueError, match="triangles has 5"):
        moving.mediapipe_landmarks(vertices) if moving.mediapipe else Landmarks.from_file(
            files / "mediapipe_landmark_embedding.npz"
        )(vertices, head.faces[:5])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"lmk_face_idx": np.arange(51)}, r"bad\.pkl has lmk_face_idx but not lmk_b_coords"),
        ({"lmk_face_idx": np.arange(51), "lmk_b_coords": np.full((50, 3), 1 / 3)}, r"bad.*\(51,\) and \(50, 3\)"),
        ({"lmk_face_idx": np.arange(3), "lmk_b_coords": np.full((3, 3), np.nan)}, "not finite"),
        ({"lmk_face_idx": np.array([-1]), "lmk_b_coords": np.full((1, 3), 1 / 3)}, r"faces in \[-1, -1\]"),
        ({"lmk_face_idx": np.array([10**6]), "lmk_b_coords": np.full((1, 3), 1 / 3)}, "made for another mesh"),
        ({"lmk_face_idx": np.array([0.5]), "lmk_b_coords": np.full((1, 3), 1 / 3)}, "whole and real numbers"),
        ({"lmk_face_idx": np.array(["a"]), "lmk_b_coords": np.full((1, 3), 1 / 3)}, "whole and real numbers"),
        ({"vertices": np.zeros(3)}, r"bad\.pkl has none of .*lmk_face_idx.*; it has vertices"),
        ({"lmk_face_idx": np.zeros((79, 17)), "lmk_b_coords": np.full((79, 17, 3), 1 / 3)}, "no static landmarks"),
    ],
)  # fmt: skip
def test_bad_files_are_named(files, tmp_path, content, reason):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=reason):
        FlameHead.from_file(files / "FLAME_NEUTRAL.npz", landmarks=path)


def test_a_table_of_another_size(tmp_path, arrays):
    rows, weights = embedding(arrays, 78, 17)
    path = tmp_path / "dynamic.npy"
    np.save(path, np.array({"lmk_face_idx": rows, "lmk_b_coords": weights}, dtype=object))
    with pytest.raises(ValueError, match="78 rows; expected an odd number"):
        ContourLandmarks.from_file(path)
    with pytest.raises(FileNotFoundError, match="gone"):
        ContourLandmarks.from_file(tmp_path / "gone.npy")
