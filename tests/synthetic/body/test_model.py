"""The procedural upper body: SMPL-X's file format, one surface with the head, posing."""

import numpy as np
import pytest
import torch

from headfields.files.arrays import save_arrays
from headfields.heads import SmplxHead
from headfields.ops.mesh_topology import boundary_loops
from headfields.synthetic.body.model import procedural_body, procedural_body_arrays
from headfields.synthetic.body.rig import BODY_JOINTS
from headfields.synthetic.body.texture import procedural_body_texture
from headfields.synthetic.body.torso import torso


@pytest.fixture(scope="module")
def body():
    return procedural_body()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_arrays(tmp_path_factory.mktemp("body") / "SMPLX_NEUTRAL", procedural_body_arrays())


def turned(body, **joints):
    pose = body.pose()
    for name, turn in joints.items():
        pose[0, int(name[1:])] = torch.tensor(turn)
    return pose


def test_the_file_reads_back_as_the_same_body(path, body):
    assert path.name == "SMPLX_NEUTRAL.npz"
    read = SmplxHead.from_file(path)
    for (name, a), (other, b) in zip(body.named_buffers(), read.named_buffers(), strict=True):
        assert name == other and torch.equal(a, b), name
    assert read.expression_names == body.expression_names and read.shape_names == body.shape_names
    assert read.hand_components.shape == (2, 45, 45)
    assert torch.equal(read.hand_pose("left", torch.ones(1, 3))[0, :4], torch.tensor([1.0, 1, 1, 0]))


def test_smplx_gives_the_same_vertices(path, body):
    smplx = pytest.importorskip("smplx", reason="smplx, the oracle, is not installed")
    model = smplx.SMPLX(str(path), num_betas=300, num_expression_coeffs=100, use_pca=False, ext="npz")
    generator = torch.Generator().manual_seed(0)
    shape, expression = torch.randn(1, 300, generator=generator), torch.randn(1, 100, generator=generator) * 0.5
    parts = {"body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "global_orient": 3, "left_hand_pose": 45}
    given = {name: torch.randn(1, size, generator=generator) * 0.3 for name, size in parts.items()}
    with torch.no_grad():
        expected = model(betas=shape, expression=expression, **given)
        state = body(shape, expression, body.pose(**given))
        assert (state.vertices - expected.vertices).abs().max() < 1e-5
        assert (state.joint_transforms[:, :, :3, 3]).isfinite().all()
        found = body.landmarks(state.vertices)
    assert (found - expected.joints[:, -68:]).abs().max() < 1e-5


def test_it_is_one_closed_skin(body, head):
    count = len(head.template_vertices)
    assert len(body.template_vertices) >= 9930 and torch.equal(body.faces[: len(head.faces)], head.faces)
    assert torch.equal(body.template_vertices[:count], head.template_vertices)
    loops = boundary_loops(body.faces)
    assert len(loops) == 3 and all(int(loop.max()) < count for loop in loops)  # mouth and lids; none at the neck
    assert len(torch.unique(body.faces)) == len(body.template_vertices)
    # At the seam any two faces at a vertex are less than 37 degrees apart, as where a neck meets shoulders.
    corners = body.template_vertices[body.faces].double()
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert normal.norm(dim=1).min() > 1e-8
    normal = torch.nn.functional.normalize(normal, dim=1)
    border = torch.from_numpy(torso().border)
    for vertex in border[::5].tolist():
        around = normal[(body.faces == vertex).any(1)]
        assert (around @ around.T).min() > 0.8, vertex


def test_it_is_symmetric(body):
    from scipy.spatial import cKDTree

    vertices = body.template_vertices.double().numpy()
    assert cKDTree(vertices).query(vertices * [-1, 1, 1])[0].max() < 1e-4  # 0.05 mm where chest and neck meet
    mirrored = (BODY_JOINTS * [-1, 1, 1])[[16, 17, 20, 21, 25, 40, 0]]
    assert np.allclose(BODY_JOINTS[[17, 16, 21, 20, 40, 25, 0]], mirrored)


def test_weights_and_joints(body):
    weights = body.weights
    assert (weights >= 0).all() and torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-5)
    joints = body.joint_regressor @ body.template_vertices
    assert (joints - torch.from_numpy(BODY_JOINTS * 1e-3).float()).abs().max() < 1e-5
    edges = torch.cat([body.faces[:, [0, 1]], body.faces[:, [1, 2]]])
    below = edges[(edges >= 4515).all(1)]
    assert (weights[below[:, 0]] - weights[below[:, 1]]).abs().max() < 0.3
    used = (weights > 0.5).any(0).nonzero()[:, 0].tolist()
    assert {0, 3, 6, 9, 12, 15, 16, 17, 22, 23, 24} <= set(used)


def test_the_neck_bends_smoothly(body):
    with torch.no_grad():
        rest = body().vertices[0]
        for pose in (turned(body, j12=[0, 0.5, 0], j15=[0, 0.4, 0]), turned(body, j9=[0, 0.4, 0.2], j12=[0.4, 0, 0.3])):
            posed = body(pose=pose).vertices[0]
            edges = torch.cat([body.faces[:, [0, 1]], body.faces[:, [1, 2]], body.faces[:, [2, 0]]])
            edges = edges[(rest[edges].mean(1)[:, 1] < -0.11) & (rest[edges].mean(1)[:, 1] > -0.3)]
            grown = (posed[edges[:, 0]] - posed[edges[:, 1]]).norm(dim=1) / (
                rest[edges[:, 0]] - rest[edges[:, 1]]
            ).norm(dim=1)
            assert grown.min() > 0.3 and grown.max() < 2.0


def test_the_face_is_that_of_the_head(body, head):
    count = len(head.template_vertices)
    with torch.no_grad():
        jaw = torch.tensor([[0.3, 0.0, 0.0]])
        here = body(expression=body.expression(smile_left=1.0), pose=body.pose(jaw_pose=jaw))
        pose = torch.zeros(1, 5, 3)
        pose[0, 2, 0] = 0.3
        there = head(expression=head.expression(smile_left=1.0), pose=pose)
        assert (here.vertices[:, :count] - there.vertices).abs().max() < 1e-6
        landmarks = body.landmarks(here.vertices) - head.landmarks(there.vertices)
        assert landmarks.abs().max() < 1e-6
    template = body.template()
    assert template.face_count == len(body.faces) and {"mouth", "eyes", "neck", "face", "torso"} <= set(
        template.regions
    )
    assert not (template.regions["face"] & template.regions["torso"]).any()


def test_shapes_of_the_torso_leave_the_head_alone(body, head):
    count = len(head.template_vertices)
    with torch.no_grad():
        moved = body(shape=body.shape(shoulder_width=1.0, torso_depth=1.0)).vertices[0] - body.template_vertices
        assert moved[:count].abs().max() < 1e-7 and moved[count:].abs().max() > 0.01
        neck = body(shape=body.shape(neck_thickness=1.0)).vertices[0] - body.template_vertices
    a, b = torch.from_numpy(torso().border[:1]), neck[count:].norm(dim=1)
    assert abs(float(b.max() - neck[a].norm())) < 0.004 and b[-1000:].max() < 1e-4


def test_texture(body):
    extent = body.uv[body.uv_faces]
    assert body.uv.min() >= 0 and body.uv.max() <= 1
    crown = extent[..., 1].amin(1) > 0.97  # the head's chart has a pole there, around which triangles are wide
    assert (extent.amax(1) - extent.amin(1))[~crown].max() < 0.15
    image = procedural_body_texture(64)
    assert image.shape == (64, 64, 3) and image.min() >= 0 and image.max() <= 1
    assert np.array_equal(image, procedural_body_texture(64))
    bare = procedural_body_texture(64, shirt=None)
    assert np.array_equal(bare[:37], image[:37]) and not np.array_equal(bare, image)


def test_the_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        procedural_body_arrays()["v_template"][0] = 0
