"""A head driven by the motion of a face: by name, by a mapping, and what the head lacks."""

import json

import pytest
import torch

from headfields.apps.driving.face_driver import DrivenFace, FaceDriver
from headfields.apps.faces.lines import motion_of_message
from headfields.apps.retargeting.expression_fit import ExpressionFit
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.viewer.articulation import BasisArticulation, HeadArticulation, Rigid
from headfields.heads.blendshapes import BlendshapeHead
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.records import HeadState
from tests.data.tiny import blob


@pytest.fixture(scope="module")
def blendshapes() -> BlendshapeHead:
    template, faces = blob()
    basis = 0.01 * torch.rand(4, len(template), 3, generator=torch.Generator().manual_seed(0))
    names = ("JawOpen", "browInnerUp_L", "browInnerUp_R", "pupil")
    return BlendshapeHead(template, faces, basis, expression_names=names)


def face(**message: object):
    return motion_of_message(json.dumps({"time": 0, **message}))


def test_shapes_move_by_name(blendshapes) -> None:
    driver = FaceDriver(HeadArticulation(blendshapes), blendshapes())
    state = driver.state(face(shapes={"jawOpen": 0.5, "browInnerUp": 0.25, "tongueOut": 1}))
    assert state.expression[0].tolist() == pytest.approx([0.5, 0.25, 0.25, 0])
    assert torch.allclose(state.vertices, blendshapes(expression=state.expression).vertices, atol=1e-7)
    assert len(driver.missing) == 50 and "tongueOut" in driver.missing and "jawOpen" not in driver.missing
    frames = DrivenFace(driver, face(shapes={"jawOpen": 1}))
    assert len(frames) == 1 and frames.state([0]).expression[0, 0] == 1
    turned = driver.state(face(head=[0, 0.5, 0])).vertices[0]  # to the head's left: what is in front goes to +x
    front = blendshapes.template_vertices[:, 2].argmax()
    assert turned[front, 0] > blendshapes.template_vertices[front, 0] + 1e-3


def test_a_mapping_moves_shapes_and_joints(head) -> None:
    mapping = {
        "jawOpen": {"pose:jaw": [0.3, 0, 0], "smile_left": 0.25},
        "eyeLookUpLeft": {"pose:left_eye": [-0.4, 0, 0]},
        "mouthFunnel": {"expression_099": 2.0},
    }
    driver = FaceDriver(HeadArticulation(head), head(), mapping)
    smile = head.expression_names.index("smile_left")
    state = driver.state(face(shapes={"jawOpen": 0.5, "mouthFunnel": 0.5}, jaw=[0.1, 0, 0], left_eye=[0, 0.2, 0]))
    assert state.expression[0, smile] == pytest.approx(0.125) and state.expression[0, 99] == pytest.approx(1.0)
    pose = torch.tensor([[0, 0, 0], [0, 0, 0], [0.25, 0, 0], [0, 0.2, 0], [0, 0, 0]])
    assert torch.allclose(state.pose[0], pose, atol=1e-6)
    exact = head(expression=state.expression, pose=state.pose)
    assert torch.allclose(state.vertices, exact.vertices, atol=1e-6)
    assert torch.allclose(state.joint_transforms, exact.joint_transforms, atol=1e-5)
    looks = driver.state(face(shapes={"eyeLookUpLeft": 0.5}, left_eye=[0, 0.2, 0]))
    assert torch.allclose(looks.pose[0, 3], torch.tensor([-0.2, 0, 0]), atol=1e-6)  # the look says it already
    lids = FaceDriver(HeadArticulation(head), head(), {"eyeLookUpLeft": {"squint_left": 0.5}})
    state = lids.state(face(shapes={"eyeLookUpLeft": 0.5}, left_eye=[0, 0.2, 0]))  # which moves lids, and no eye
    assert torch.allclose(state.pose[0, 3], torch.tensor([0, 0.2, 0]), atol=1e-6)


def test_a_captured_basis_stays_in_its_range(blendshapes) -> None:
    rest = blendshapes()
    surface = HeadSurface(blendshapes.template_vertices, blendshapes.faces)
    fit = ExpressionFit(surface.neutral, blendshapes.expression_basis, torch.zeros(4), torch.full((4,), 0.75))
    articulation = BasisArticulation(fit, (), surface.neutral, blendshapes.expression_names)
    state = FaceDriver(articulation, rest).state(face(shapes={"jawOpen": 1.0}))
    assert state.expression[0].tolist() == pytest.approx([0.75, 0, 0, 0])
    assert torch.allclose(state.vertices, blendshapes(expression=state.expression).vertices, atol=1e-6)


def test_a_head_without_a_face_is_refused(blendshapes) -> None:
    nameless = BlendshapeHead(blendshapes.template_vertices, blendshapes.faces, blendshapes.expression_basis)
    with pytest.raises(ValueError, match=r"none of ARKit's 52 shapes by name .*expression_000.*headfields arkit"):
        FaceDriver(HeadArticulation(nameless), nameless())
    with pytest.raises(ValueError, match="it has no shapes"):
        FaceDriver(Rigid(torch.zeros(3)), HeadState(torch.zeros(1, 3, 3)))
    for mapping, reason in (
        ({"jawOpn": {}}, "jawOpn, which ARKit has not"),
        ({"jawOpen": {"nothing": 1.0}}, "no target nothing"),
        ({"jawOpen": {"pose:root": [0, 0, 0]}}, "no joint root; it has neck, jaw"),
    ):
        with pytest.raises(ValueError, match=reason):
            FaceDriver(HeadArticulation(blendshapes), blendshapes(), mapping)


def test_a_page_plays_it(head, tmp_path) -> None:
    mapping = {"jawOpen": {"pose:jaw": [0.3, 0, 0]}}
    driven = DrivenFace(FaceDriver(HeadArticulation(head), head(), mapping), face(shapes={"jawOpen": 1}))
    page = gaussian_avatars(head.template(), count=20).to_html(tmp_path / "head.html", driven, head, arkit=mapping)
    info = json.loads(page.read_text().partition('id="info" type="application/json">')[2].partition("</script>")[0])
    assert info["clip"]["frames"] == 1
    assert [amount for _, amount in info["face"]["jawOpen"]] == pytest.approx([0.3])
