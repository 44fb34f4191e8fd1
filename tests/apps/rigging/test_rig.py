"""Rigging of a sealed scan of the procedural head, and of a real scan."""

import copy
import math

import pytest
import torch

import headfields as hf
from headfields.apps.retargeting.sources import surface_of_head
from headfields.apps.rigging import RiggedTemplate, rig_template
from headfields.apps.rigging.lips import LipCut
from headfields.apps.rigging.pictures import rig_pictures
from headfields.apps.rigging.rig import _close_lip_gaps
from headfields.heads import FlameHead, SmplxHead
from headfields.mesh import Mesh
from headfields.mesh.files import load_mesh
from headfields.ops.mesh_topology import boundary_loops
from headfields.synthetic.body.model import procedural_body
from tests.shared_data import shared


@pytest.fixture(scope="module")
def rigging(sealed, head):
    return rig_template(sealed, head, progress=False)


def jaw(rig, angle):
    return rig.pose(jaw=torch.tensor([[angle, 0.0, 0.0]]))


def edges_of(faces):
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def growth(rig, state):
    """How much each edge of the skin grows, and where its middle is at rest."""
    edges = edges_of(rig.faces[: len(rig.faces)])
    rest, posed = rig.template_vertices, state.vertices[0]
    before = (rest[edges[:, 0]] - rest[edges[:, 1]]).norm(dim=1)
    after = (posed[edges[:, 0]] - posed[edges[:, 1]]).norm(dim=1)
    return (after - before), rest[edges].mean(1)


def test_the_head_is_recovered_from_its_own_scan(rigging, head, sealed):
    assert not rigging.parted and not rigging.eyes_closed
    assert abs(float(rigging.align.scale) - 1) < 0.05
    rig = rigging.rig
    truth = head.joint_regressor @ head.template_vertices
    joints = rig.joint_regressor @ rig.template_vertices
    assert (joints - truth).norm(dim=1).max() < 0.008
    tree = hf.ops.TriangleBVH(head.faces, head.template_vertices)
    count = len(sealed.vertices)
    found = tree.closest(rig.template_vertices[:count])
    expected = (head.weights[head.faces[found.face]] * found.barycentric[..., None]).sum(1)
    expected[:, 1] += expected[:, 3:].sum(1)
    off = (rig.weights[:count, :3] - expected[:, :3]).abs().amax(1)
    assert off.mean() < 0.03 and off.quantile(0.95) < 0.15
    landmarks = rig.landmarks(rig.template_vertices[None])[0]
    marks = head.landmarks(head.template_vertices[None])[0]
    assert (landmarks - marks).norm(dim=1)[17:].mean() < 0.004
    nose = rig.template_vertices[rig.faces[rig.regions["nose"]]].mean((0, 1))
    assert (nose - head.template_vertices[head.faces[head.regions["nose"]]].mean((0, 1))).norm() < 0.008


def test_expressions_do_what_they_are_called(rigging, head):
    rig = rigging.rig
    assert rig.expression_names == head.expression_names
    with torch.no_grad():
        for name, mark in (("smile_left", 54), ("brow_raise_left", 24), ("pucker", 48)):
            moved = [
                (h.landmarks(h(expression=h.expression(**{name: 1.0})).vertices) - h.landmarks(h().vertices))[0, mark]
                for h in (rig, head)
            ]
            assert (moved[0] - moved[1]).norm() < 0.4 * moved[1].norm(), name


def test_the_mouth_is_cut_and_opens(rigging):
    rig = rigging.rig
    own = len(rig.faces) - int(rig.regions["inner_mouth"].sum())
    assert {"inner_mouth", "teeth", "mouth", "nose"} <= set(rig.regions)
    borders = boundary_loops(rig.faces)
    assert len(borders) == 1  # the neck: the mouth has an inside
    with torch.no_grad():
        lips = rig.landmarks(rig(pose=jaw(rig, 0.3)).vertices)[0, [62, 66]]
        shut = rig.landmarks(rig().vertices)[0, [62, 66]]
    assert (shut[0] - shut[1]).norm() < 0.006
    assert (lips[0] - lips[1]).norm() > 0.018
    with torch.no_grad():
        grown, where = growth(rig, rig(pose=jaw(rig, 0.3)))
    assert own < len(rig.faces) and grown.max() < 0.03
    above = where[:, 1] > -0.03
    assert grown[above].max() < 0.004
    # The texture gives way to a chart for the inside, and shows dark and ivory there.
    inside = rig.uv[rig.uv_faces[rig.regions["teeth"]]].mean(1)
    assert hf.ops.sample_texture(rig.texture, inside).mean() > 0.6


def test_the_neck_turns_without_tears(rigging):
    rig = rigging.rig
    with torch.no_grad():
        turn = torch.tensor([[0.0, 0.5, 0.0]])
        grown, _ = growth(rig, rig(pose=rig.pose(neck=0.5 * turn, head=turn)))
    assert grown.max() < 0.01


def test_it_is_a_head_like_any_other(rigging, tmp_path):
    rig = rigging.rig
    template = rig.template()
    assert template.uv is not None and {"face", "mouth", "eyes", "neck"} <= set(template.regions)
    assert surface_of_head(rig).neutral.shape == rig.template_vertices.shape
    state = rig(expression=torch.zeros(2, rig.expression_count), pose=jaw(rig, 0.1).expand(2, -1, -1))
    assert isinstance(state, hf.HeadState) and len(state) == 2 and state.joint_transforms.shape == (2, 5, 4, 4)
    deformer = hf.deformers.SurfaceCanonicalizer(template.canonical_vertices, template.faces)
    points = state.vertices[1, :40].detach()
    frame = torch.ones(40, dtype=torch.long)
    back = deformer(points, torch.tensor([[0.0, 0, -1]]).expand(40, 3), frame, deformer.prepare(state))
    assert back.valid.all() and (back.points - template.canonical_vertices[:40]).norm(dim=1).max() < 0.003
    expression = torch.zeros(1, rig.expression_count, requires_grad=True)
    rig(expression=expression).vertices.square().sum().backward()
    assert expression.grad.abs().sum() > 0
    assert rig().vertices.shape[0] == 1 and len(rig(expression=torch.zeros(0, 3))) == 0

    read = RiggedTemplate.from_file(rig.save(tmp_path / "rig"))
    buffers = dict(read.named_buffers())
    for name, value in rig.named_buffers():
        close = torch.allclose(buffers[name].double(), value.double(), atol=1 / 400 if name == "texture" else 1e-7)
        assert close, name
    assert read.expression_names == rig.expression_names and read.scale == pytest.approx(rig.scale)
    flame = FlameHead.from_file(tmp_path / "rig.npz")
    torch.testing.assert_close(flame(pose=jaw(rig, 0.2)).vertices, rig(pose=jaw(rig, 0.2)).vertices)
    assert copy.deepcopy(read)(pose=jaw(rig, 0.2)).vertices.isfinite().all()


def test_poses_by_name(rigging, unchecked):
    rig = rigging.rig
    assert rig.pose().shape == (1, 5, 3) and rig.pose(jaw=torch.ones(3, 3), neck=torch.ones(1, 3)).shape == (3, 5, 3)
    with pytest.raises(ValueError, match="no joint is called arm"):
        rig.pose(arm=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"expected \(B, 3\)"):
        rig.pose(jaw=torch.zeros(3))


def with_doubled_seam(mesh):
    """The mesh as exporters write it that keep one texture coordinate a vertex: open along a seam down its middle."""
    left = mesh.vertices[mesh.faces].mean(1)[:, 0] > 0.002
    here = torch.zeros(2, len(mesh.vertices), dtype=torch.bool)
    for side in (0, 1):
        here[side, mesh.faces[left == bool(side)].flatten()] = True
    seam = here.all(0).nonzero()[:, 0]
    number = torch.arange(len(mesh.vertices))
    number[seam] = len(number) + torch.arange(len(seam))
    faces = mesh.faces.clone()
    faces[left] = number[faces[left]]
    vertices = torch.cat([mesh.vertices, mesh.vertices[seam]])
    return Mesh(vertices, faces, uv=torch.cat([mesh.uv, mesh.uv[seam]]), texture=mesh.texture), seam


@pytest.mark.slow
def test_a_seam_with_doubled_vertices_does_not_open(sealed, head):
    scan, seam = with_doubled_seam(sealed)
    assert len(seam) > 80
    assert len(boundary_loops(scan.faces)) > 1 or len(boundary_loops(scan.faces)[0]) > len(seam)
    rigging = rig_template(scan, head, progress=False)
    rig = rigging.rig
    assert len(rigging.scan_to_rig) == len(scan.vertices) and not rigging.parted
    moved = (rig.template_vertices[rigging.scan_to_rig] - scan.vertices).norm(dim=1)
    assert moved.max() < 2e-3 and (moved > 0).sum() < 50  # those that the cut took onto the lips' line
    twin = torch.arange(len(sealed.vertices), len(scan.vertices))
    with torch.no_grad():
        turn = torch.tensor([[0.1, 0.4, 0.1]])
        state = rig(
            expression=rig.expression(smile_left=1.0, brow_raise_left=1.0),
            pose=rig.pose(jaw=0.5 * turn, neck=turn, head=turn),
        )
    posed = state.vertices[0][rigging.scan_to_rig]
    assert (posed - scan.vertices).norm(dim=1).max() > 0.02 and torch.equal(posed[seam], posed[twin])
    assert len(boundary_loops(rig.faces)) == 1  # the lips, which the seam crosses, are cut in one piece
    with torch.no_grad():
        lips = rig.landmarks(rig(pose=jaw(rig, 0.3)).vertices)[0, [62, 66]]
    assert (lips[0] - lips[1]).norm() > 0.018
    # Where the texture has its seam it lies as before, on both sides.
    corners = scan.uv[scan.faces].mean(1)
    kept = (rig.faces[:, None] == rigging.scan_to_rig[scan.faces[:50]]).all(2).nonzero()
    ratio = rig.uv[: len(scan.uv)].amax(0) / scan.uv.amax(0)
    torch.testing.assert_close(rig.uv[rig.uv_faces[kept[:, 0]]].mean(1), corners[kept[:, 1]] * ratio, atol=2e-3, rtol=0)


def test_weights_are_shares_and_smooth(rigging, sealed):
    weights, faces = rigging.rig.weights, sealed.faces
    assert weights.min() >= 0 and (weights.sum(1) - 1).abs().max() < 1e-5
    edges = edges_of(faces)
    place = rigging.rig.template_vertices
    lips = (place[edges].mean(1) - rigging.landmarks.lips.mean(0).float()).norm(dim=1) < 0.045  # cut apart there
    step = (weights[edges[:, 0]] - weights[edges[:, 1]]).abs().amax(1)
    length = (place[edges[:, 0]] - place[edges[:, 1]]).norm(dim=1)
    assert (step / length.clamp_min(0.002))[~lips].max() < 60  # no more than the whole way in 17 mm


def test_too_few_landmarks(sealed, head):
    with pytest.raises(ValueError, match="1 landmarks are too few"):
        rig_template(sealed, head, {"nose_tip": [0.0, 0.0, 0.1]}, progress=False)
    bare = copy.deepcopy(head)
    bare.landmark_faces = None
    with pytest.raises(ValueError, match="needs 68 landmarks"):
        rig_template(sealed, bare, progress=False)


def test_lips_that_move_alike_stay_together(sealed):
    pair = LipCut(sealed, torch.tensor([0, 1, 2, 6]), torch.tensor([0, 3, 4, 6]), torch.arange(7))
    moved = torch.zeros(1, 7, 3)
    moved[0, 1, 1], moved[0, 3, 1] = 2e-3, 1.9e-3  # noise
    moved[0, 2, 1], moved[0, 4, 1] = 3e-3, -5e-3  # opening
    _close_lip_gaps(moved, pair, 1.0)
    assert torch.equal(moved[0, 1], moved[0, 3]) and abs(float(moved[0, 2, 1] - moved[0, 4, 1]) - 8e-3) < 1e-9


@pytest.mark.slow
def test_a_real_scan(tmp_path):
    mesh = load_mesh(shared("scans/lee_perry_smith/head.obj"))
    rigging = rig_template(mesh, procedural_body(), progress=False)
    rig = rigging.rig
    assert rigging.parted and rigging.eyes_closed and len(rigging.landmarks.points) >= 8
    assert rigging.registration.history[-1] < 1.5e-3
    names = list(rig.expression_names)
    assert rig.expression_basis[names.index("blink_left")].abs().max() == 0
    assert 0.004 < rig.expression_basis[names.index("smile_left")].norm(dim=-1).max() < 0.02
    with torch.no_grad():
        opened = rig(pose=jaw(rig, 0.3))
        lips = rig.landmarks(opened.vertices)[0, [62, 66]]
        assert (lips[0] - lips[1]).norm() > 0.014
        grown, where = growth(rig, opened)
        assert grown[where[:, 1] > 0.045].max() < 0.004  # nothing above the mouth
        outside = ~rig.regions["inner_mouth"]
        skin = edges_of(rig.faces[outside])
        rest, posed = rig.template_vertices, opened.vertices[0]
        stretch = (posed[skin[:, 0]] - posed[skin[:, 1]]).norm(dim=1) - (rest[skin[:, 0]] - rest[skin[:, 1]]).norm(
            dim=1
        )
        assert stretch.max() < 0.012
        turned = rig(pose=rig.pose(neck=torch.tensor([[0.0, 0.35, 0.0]]), head=torch.tensor([[0.0, 0.35, 0.0]])))
        grown, _ = growth(rig, turned)
        assert grown.max() < 0.012
        low = rest[:, 1] < -0.14
        assert (turned.vertices[0] - rest)[low].norm(dim=1).max() < 0.01  # the shoulders stay
    joints = rig.joint_regressor @ rig.template_vertices
    assert joints[12, 1] < joints[15, 1] < joints[22, 1] and abs(float(joints[15, 0])) < 0.01
    assert math.isfinite(float(joints.abs().max()))
    read = SmplxHead.from_file(rig.save(tmp_path / "rig.npz"))
    torch.testing.assert_close(read(pose=jaw(rig, 0.2)).vertices, rig(pose=jaw(rig, 0.2)).vertices)
    sheet = rig_pictures(rigging, tmp_path / "pictures", 32)
    assert sheet.shape[2] == 3 and (tmp_path / "pictures" / "mouth_open.png").is_file()
