import time
from collections import Counter

import numpy as np
import pytest
import torch
import trimesh

from headfields.files.arrays import save_arrays
from headfields.heads.flame.model import FlameHead
from headfields.ops.mesh_topology import boundary_loops
from headfields.synthetic.head.model import procedural_head, procedural_head_arrays
from headfields.synthetic.head.shape import EYE_RADIUS
from headfields.synthetic.head.texture import procedural_head_texture

SINGLES = (
    "brow_furrow",
    "brow_inner_raise",
    "mouth_open",
    "pucker",
    "funnel",
    "lip_press",
    "cheek_puff",
    "nose_wrinkle",
)
PAIRS = ("smile", "frown", "brow_raise", "blink", "squint", "eye_wide", "dimple", "mouth_stretch")
PARTS = ("face", "mouth", "lips", "eyes", "nose", "forehead", "scalp", "neck", "boundary", "left_ear", "right_eyeball")


def test_the_file_reads_back_as_the_same_head(tmp_path, head):
    path = save_arrays(tmp_path / "head", procedural_head_arrays())
    assert path.suffix == ".npz"
    read = FlameHead.from_file(path)
    for (name, a), (other, b) in zip(head.named_buffers(), read.named_buffers(), strict=True):
        assert name == other and torch.equal(a, b), name
    assert read.expression_names == head.expression_names and read.shape_names == head.shape_names


def test_it_is_a_head_in_meters(head):
    vertices = head.template_vertices
    size = vertices.amax(0) - vertices.amin(0)
    assert 0.14 < size[0] < 0.20 and 0.25 < size[1] < 0.33 and 0.18 < size[2] < 0.24
    assert 4000 <= len(vertices) <= 6000 and len(head.faces) <= 10_000
    assert head.shape_count == 300 and head.expression_count == 100 and head.parents == (-1, 0, 1, 1, 1)
    tip = vertices[:, 2].argmax()  # the nose is foremost
    assert abs(float(vertices[tip, 0])) < 0.003 and -0.05 < vertices[tip, 1] < -0.02
    again = procedural_head()
    assert torch.equal(again.template_vertices, vertices) and again is not head


def test_topology(head):
    directed = Counter(e for a, b, c in head.faces.tolist() for e in ((a, b), (b, c), (c, a)))
    assert max(directed.values()) == 1
    loops = boundary_loops(head.faces)
    assert len(loops) == 4  # neck, mouth, two eyes
    mesh = trimesh.Trimesh(head.template_vertices.numpy(), head.faces.numpy(), process=False)
    pieces = mesh.split(only_watertight=False)
    assert len(pieces) == 3 and sum(piece.is_watertight for piece in pieces) == 2
    for piece in pieces:
        if piece.is_watertight:  # eyeballs face outward
            assert piece.volume > 0
    assert len(torch.unique(head.faces)) == len(head.template_vertices)
    assert mesh.area_faces.min() > 1e-10
    up = mesh.face_normals[mesh.triangles_center[:, 1] > 0.09]
    assert (up[:, 1] > 0).all()


def test_it_is_symmetric(head):
    from scipy.spatial import cKDTree

    vertices = head.template_vertices.double().numpy()
    distance, _ = cKDTree(vertices).query(vertices * [-1, 1, 1])
    assert distance.max() < 1e-6


def test_weights_and_joints(head):
    weights = head.weights
    assert (weights >= 0).all() and torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-6)
    joints = head.joint_regressor @ head.template_vertices
    expected = torch.tensor([[0, -0.172, -0.022], [0, -0.112, -0.016], [0, -0.018, 0.008]])
    torch.testing.assert_close(joints[:3], expected, atol=1e-5, rtol=0)
    for joint, name in ((3, "left_eyeball"), (4, "right_eyeball")):
        ball = torch.unique(head.faces[head.regions[name]])
        assert (weights[ball, joint] == 1).all()
        distance = (head.template_vertices[ball] - joints[joint]).norm(dim=1)
        torch.testing.assert_close(distance, torch.full_like(distance, EYE_RADIUS * 1e-3), atol=2e-5, rtol=0)
    edges = torch.cat([head.faces[:, [0, 1]], head.faces[:, [1, 2]]])
    assert (weights[edges[:, 0]] - weights[edges[:, 1]]).abs().max() < 0.75


def test_every_named_expression_moves_its_side(head):
    names = head.expression_names
    assert set(SINGLES) <= set(names) and {f"{p}_{s}" for p in PAIRS for s in ("left", "right")} <= set(names)
    basis = head.expression_basis
    assert (basis[len(names) :] == 0).all() and basis.isfinite().all()
    size = basis.norm(dim=-1)
    assert (size.amax(1)[: len(names)] > 0.002).all() and size.max() < 0.02
    x = head.template_vertices[:, 0]
    for pair in PAIRS:
        left, right = (size[names.index(f"{pair}_{side}")] for side in ("left", "right"))
        assert (left * (x > 0)).sum() > 5 * (left * (x < 0)).sum()
        torch.testing.assert_close(left.sum(), right.sum(), rtol=1e-3, atol=1e-6)


def landmark(head, state, *ids):
    return head.landmarks(state.vertices)[0, list(ids)]


def test_expressions_do_what_they_are_called(head):
    rest = head()

    def shown(**weights):
        return head(expression=head.expression(**weights))

    def gap(state, upper, lower):
        above, below = landmark(head, state, upper, lower)
        return float(above[1] - below[1])

    corner = landmark(head, rest, 54)[0]
    smile = landmark(head, shown(smile_left=1.0), 54)[0] - corner
    assert smile[0] > 0.004 and smile[1] > 0.003
    assert landmark(head, shown(frown_left=1.0), 54)[0, 1] - corner[1] < -0.004
    assert landmark(head, shown(pucker=1.0), 54)[0, 0] - corner[0] < -0.004
    assert gap(shown(mouth_open=1.0), 62, 66) - gap(rest, 62, 66) > 0.006
    assert landmark(head, shown(brow_raise_left=1.0), 24)[0, 1] - landmark(head, rest, 24)[0, 1] > 0.004
    open_eye = gap(rest, 43, 47)
    assert open_eye > 0.006
    assert abs(gap(shown(blink_left=1.0), 43, 47)) < 0.15 * open_eye
    assert gap(shown(eye_wide_left=1.0), 43, 47) > 1.15 * open_eye
    jaw = torch.zeros(1, 5, 3)
    jaw[0, 2, 0] = 0.35
    assert gap(head(pose=jaw), 62, 66) > 0.02
    assert landmark(head, head(pose=jaw), 8)[0, 1] < landmark(head, rest, 8)[0, 1] - 0.015


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_lids_stay_outside_the_eyeball(head, weight):
    state = head(expression=head.expression(blink_left=weight, blink_right=weight))
    center = state.joint_transforms[0, 3, :3] @ torch.cat(
        [head.joint_regressor[3] @ head.template_vertices, torch.ones(1)]
    )
    ids = head.landmark_barycentric[42:48].argmax(1)
    margin = head.faces[head.landmark_faces[42:48], ids]
    distance = (state.vertices[0, margin] - center).norm(dim=1)
    assert distance.min() > EYE_RADIUS * 1e-3


def test_a_blink_covers_the_iris(head):
    state = head(expression=head.expression(blink_left=1.0, blink_right=1.0))
    center = (head.joint_regressor[3] @ head.template_vertices)[:2]
    ball = head.regions["left_eyeball"]

    def foremost(vertices, x, y):
        """The face seen at x and y from the front."""
        corners = vertices[head.faces]
        edges = corners[:, [1, 2, 0], :2] - corners[:, :, :2]
        to = torch.stack([x, y]) - corners[:, :, :2]
        inside = (edges[..., 0] * to[..., 1] - edges[..., 1] * to[..., 0] >= 0).all(1)
        return int(torch.where(inside, corners[..., 2].mean(1), -torch.inf).argmax())

    seen = [(center[0] + x, center[1] + y) for x in (-0.005, 0, 0.005) for y in (-0.004, 0, 0.004)]
    assert not any(ball[foremost(state.vertices[0], x, y)] for x, y in seen)
    assert sum(bool(ball[foremost(head.template_vertices, x, y)]) for x, y in seen) >= 5


def test_identities_keep_lids_on_eyes(head):
    assert len(head.shape_names) >= 8 and (head.shape_basis[len(head.shape_names) :] == 0).all()
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(8, len(head.shape_names), generator=generator) * 1.5
    vertices = head(shape=shape).vertices
    center = torch.einsum("v,bvk->bk", head.joint_regressor[3], vertices)
    ids = head.faces[head.landmark_faces[42:48], head.landmark_barycentric[42:48].argmax(1)]
    distance = (vertices[:, ids] - center[:, None]).norm(dim=-1)
    assert distance.min() > EYE_RADIUS * 1e-3
    assert distance.max() < EYE_RADIUS * 1e-3 + 0.006


def test_regions(head):
    regions = head.regions
    assert set(PARTS) <= set(regions)
    assert all(mask.any() and mask.shape == (len(head.faces),) for mask in regions.values())
    center = head.template_vertices[head.faces].mean(1)
    assert center[regions["scalp"], 1].mean() > 0.03 and center[regions["neck"], 1].max() < -0.05
    assert center[regions["left_ear"], 0].min() > 0.05 and center[regions["nose"], 2].min() > 0.07
    assert not (regions["face"] & regions["scalp"]).any() and not (regions["face"] & regions["neck"]).any()
    assert (regions["lips"] <= regions["mouth"]).all()


def test_texture_coordinates(head):
    uv, faces = head.uv, head.uv_faces
    assert uv.min() >= 0 and uv.max() <= 1 and len(uv) > len(head.template_vertices)
    corners = uv[faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    skin = ~(head.regions["left_eyeball"] | head.regions["right_eyeball"])
    assert (area[skin] > 0).all(), "the skin's layout folds over"
    assert (corners.amax(1) - corners.amin(1)).max() < 0.5  # no face spans the seam
    vertex_of = torch.full((len(uv),), -1)
    vertex_of[faces.flatten()] = head.faces.flatten()
    assert torch.equal(vertex_of[faces], head.faces)  # a coordinate belongs to one vertex


def test_landmarks_are_in_ibug_order(head):
    points = head.landmarks(head().vertices)[0]
    assert points.shape == (68, 3)
    x, y = points[:, 0], points[:, 1]
    assert (x[:16] < x[1:17]).all() and y[8] == y[:17].min()  # along the jaw, from the head's right
    assert (x[17:26] < x[18:27]).all() and (y[27:30] > y[28:31]).all() and (x[31:35] < x[32:36]).all()
    assert x[36] == x[36:42].min() and x[45] == x[42:48].max() and x[48] == x[48:60].min() and x[54] == x[48:60].max()
    assert y[37] > y[41] and y[44] > y[46] and y[51] > y[62] >= y[66] > y[57]
    mirror = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46]
    mirror += [39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
    flipped = points[mirror] * torch.tensor([-1.0, 1, 1])
    assert (flipped - points).norm(dim=1).max() < 0.004


def test_texture_is_deterministic_and_shows_what_it_should():
    image = procedural_head_texture(256)
    assert image.shape == (256, 256, 3) and image.min() >= 0 and image.max() <= 1
    np.testing.assert_array_equal(image, procedural_head_texture(256))
    assert not np.array_equal(image, procedural_head_texture(256, seed=1))
    arrays = procedural_head_arrays()

    def mean(region):
        uv = arrays["uv"][arrays["uv_faces"][arrays[f"region_{region}"]]].mean(1)
        return image[((1 - uv[:, 1]) * 256).astype(int), (uv[:, 0] * 256).astype(int)].mean(0)

    lips, forehead, eye = mean("lips"), mean("forehead"), mean("left_eyeball")
    assert lips[0] - lips[1] > forehead[0] - forehead[1] + 0.05  # redder than skin
    assert abs(eye[0] - eye[2]) < 0.3
    with pytest.raises(ValueError, match="resolution is 0"):
        procedural_head_texture(0)


def test_generation_is_cached():
    procedural_head()
    start = time.perf_counter()
    procedural_head_arrays()
    assert time.perf_counter() - start < 0.1
