"""ARKit's shapes on a head that lacks them. The truth is the procedural head itself, cut differently."""

import pytest
import torch

from benchmarks.shape_transfer import cut_head, transfer_error
from headfields.apps.driving.face_driver import FaceDriver
from headfields.apps.driving.shape_transfer import arkit_shapes, mapping_of_shapes, write_mapping
from headfields.apps.export.arkit import read_mapping
from headfields.apps.faces.arkit import ARKIT_NAMES
from headfields.apps.faces.lines import motion_of_message
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.sources import surface_of_head
from headfields.apps.viewer.articulation import HeadArticulation
from headfields.heads.blendshapes import BlendshapeHead
from headfields.synthetic.head.arkit import procedural_arkit


@pytest.fixture(scope="module")
def shapes(head):
    return arkit_shapes(head, procedural_arkit())


def test_the_procedural_head_has_fifty_that_do_what_they_say(head, shapes) -> None:
    moves, has = shapes
    assert [name for name, given in zip(ARKIT_NAMES, has.tolist(), strict=True) if not given] == [
        "jawForward", "tongueOut",
    ]  # fmt: skip
    rest, left = head.template_vertices, head.template_vertices[:, 0] > 0.005
    for name, move in zip(ARKIT_NAMES, moves, strict=True):
        if name.startswith(("eyeBlink", "mouthSmile", "browOuterUp", "mouthDimple")):
            size = move.norm(dim=-1)
            own, other = size[left].amax(), size[rest[:, 0] < -0.005].amax()
            assert (own > 3 * other) if name.endswith("Left") else (other > 3 * own), name
    ball = head.weights[:, 3] > 0.9  # the left eye's, whose front goes to the head's left when it looks out
    front = rest[:, 2].where(ball, -torch.inf).argmax()
    assert moves[ARKIT_NAMES.index("eyeLookOutLeft")][front, 0] > 0.002
    assert moves[ARKIT_NAMES.index("eyeLookInLeft")][front, 0] < -0.002
    assert moves[ARKIT_NAMES.index("jawOpen")][:, 1].amin() < -0.01


@pytest.mark.slow
def test_shapes_of_another_topology_are_within_a_millimeter(head, shapes) -> None:
    cut = cut_head(head, shapes[0])
    assert len(cut.head.template_vertices) > len(head.template_vertices) and len(cut.truth) == 52
    error = transfer_error(head, cut, *shapes)
    assert error.shape[0] == 50 and cut.truth.norm(dim=-1).amax() > 0.04
    assert error.amax() < 1e-3 and error.quantile(0.95, dim=1).amax() < 1e-4


def test_a_mouth_that_is_never_seen_open_has_two_lips(head) -> None:
    """Neither opened mesh nor landmarks: the border of the faces that close the mouth tells the lips apart."""
    known = surface_of_head(head)
    found = HeadSurface(known.neutral, known.faces, closing=known.closing)
    marks = known.landmarks
    assert (found.lip[marks[[61, 62, 63]]] == 1).all() and (found.lip[marks[[65, 66, 67]]] == -1).all()
    assert torch.equal(found.cavity, known.closing)
    sides = found.lip[found.faces[~found.cavity]]
    assert not ((sides == 1).any(1) & (sides == -1).any(1)).any()
    alone = HeadSurface(known.neutral, head.faces, landmarks=marks)  # no such faces: the landmarks of the inner lips
    assert (alone.lip[marks[[61, 62, 63]]] == 1).all() and (alone.lip[marks[[65, 66, 67]]] == -1).all()


def test_a_mapping_finds_what_a_shape_is_made_of(head, shapes, tmp_path) -> None:
    has = torch.zeros(52, dtype=torch.bool)
    has[[ARKIT_NAMES.index(name) for name in ("jawOpen", "mouthSmileLeft", "eyeLookOutLeft")]] = True
    mapped = mapping_of_shapes(head, shapes[0], has)
    assert len(mapped.recipes) == 3
    assert all(error < 0.03 * mapped.sizes[name] for name, error in mapped.errors.items()), mapped.errors
    assert mapped.recipes["mouthSmileLeft"]["smile_left"] == pytest.approx(1.0, abs=0.05)
    assert mapped.recipes["jawOpen"]["pose:jaw"] == pytest.approx([0.35, 0, 0], abs=0.02)
    assert mapped.recipes["eyeLookOutLeft"]["pose:left_eye"] == pytest.approx([0, 0.55, 0], abs=0.03)
    driver = FaceDriver(HeadArticulation(head), head(), read_mapping(write_mapping(tmp_path / "a.json", mapped)))
    state = driver.state(motion_of_message('{"time": 0, "shapes": {"mouthSmileLeft": 1, "jawOpen": 0.5}}'))
    assert state.pose[0, 2, 0] == pytest.approx(0.175, abs=0.01)


def test_a_head_without_shapes_gives_none(head) -> None:
    bare = BlendshapeHead(head.template_vertices, head.faces, torch.zeros(1, len(head.template_vertices), 3))
    with pytest.raises(ValueError, match="none of ARKit's 52 shapes; its first are expression_000"):
        arkit_shapes(bare)
