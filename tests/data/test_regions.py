"""Templates: the mouth closed, the regions where the labels say."""

from pathlib import Path

import pytest
import torch

from headfields.data import CaptureError, load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.data.regions import visible_points
from tests.data.tiny import blob, camera, is_lip, tiny_frames
from tests.heads.mouth.test_inner import piercing
from tests.shared_data import shared


def unit_centers(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Face centers on the tiny head's unit sphere."""
    return (vertices[faces].mean(dim=1) - torch.tensor([0.0, 0.02, 0.01])) / torch.tensor([0.08, 0.11, 0.09])


def test_regions_follow_the_labels(written: Path) -> None:
    template = load_capture(written).template
    center = unit_centers(template.canonical_vertices, template.faces)
    mouth, eyes, face = (template.regions[name] for name in ("mouth", "eyes", "face"))
    assert mouth[is_lip(center, 0.2)].all() and not mouth[~is_lip(center, 0.55)].any()
    for side in (-0.4, 0.4):
        distance = (center - torch.tensor([side, 0.3, 0.85])).norm(dim=-1)
        assert eyes[distance < 0.12].all()
        mine = center[:, 0] * side > 0
        assert not eyes[mine & (distance > 0.7)].any()
    assert face[center[:, 2] > 0.5].all()
    assert face[center[:, 2] < -0.5].float().mean() < 0.15  # 48 pixels: the outline's faces get their neighbors' labels
    assert not (mouth & eyes).any() and face[mouth | eyes].all()
    assert template.face_count == len(template.faces)  # nothing was open


def test_open_mouth_is_closed(tmp_path: Path) -> None:
    write_insta(tmp_path / "open", tiny_frames(open_mouth=True), *blob(open_mouth=True))
    capture = load_capture(tmp_path / "open")
    template = capture.template
    own = blob(open_mouth=True)[1]
    assert template.face_count == len(own) < len(template.faces)
    assert torch.equal(template.faces[: len(own)], own)
    assert template.regions["mouth"][len(own) :].all()
    edges = template.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges) and all((b, a) in directed for a, b in directed)  # watertight, oriented alike
    assert any("mouth closed with" in line for line in capture.report)


def test_open_mouth_is_given_an_inside_or_left(tmp_path: Path) -> None:
    write_insta(tmp_path / "open", tiny_frames(open_mouth=True), *blob(open_mouth=True))
    vertices, own = blob(open_mouth=True)
    capture = load_capture(tmp_path / "open", mouth="interior")
    template, state = capture.template, capture.state([1, 0, 1])
    assert capture.inner_mouth is not None and template.face_count == len(own)
    added = len(capture.inner_mouth.index)
    assert added > 100 and len(template.canonical_vertices) == len(vertices) + added == state.vertices.shape[1]
    assert capture.tracked([0]).shape == (1, len(vertices), 3)
    assert torch.equal(state.vertices, capture.inner_mouth.extend(capture.tracked([1, 0, 1])))
    for name in ("mouth", "face", "inner_mouth"):
        assert template.regions[name][len(own) :].all()
    assert template.regions["teeth"].any() and not template.regions["eyes"][len(own) :].any()
    edges = template.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges) and all((b, a) in directed for a, b in directed)
    assert any("mouth given an inside" in line for line in capture.report)
    bare = load_capture(tmp_path / "open", mouth="none")
    assert torch.equal(bare.template.faces, own) and bare.inner_mouth is None
    assert bare.state([0]).vertices.shape[1] == len(vertices)


def test_an_inside_needs_an_open_mouth(written: Path) -> None:
    with pytest.raises(CaptureError, match='nothing is to be added: mouth="none"'):
        load_capture(written, mouth="interior").template  # noqa: B018


def test_an_inside_where_the_mouth_is_open_and_none_elsewhere(written: Path, tmp_path: Path) -> None:
    write_insta(tmp_path / "open", tiny_frames(open_mouth=True), *blob(open_mouth=True))
    opened, closed = load_capture(tmp_path / "open", mouth="auto"), load_capture(written, mouth="auto")
    assert (opened.mouth, closed.mouth) == ("interior", "close")
    assert "inner_mouth" in opened.template.regions and "inner_mouth" not in closed.template.regions
    assert any("mouth without an inside" in line for line in closed.report)
    assert len(set(closed.report)) == len(closed.report) and closed.inner_mouth is None


def test_the_mouth_option_is_checked(written: Path, unchecked: None) -> None:
    with pytest.raises(CaptureError, match="mouth is 'shut'; expected one of close, interior, none"):
        load_capture(written, mouth="shut")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_inside_of_a_path_traced_captures_mouth() -> None:
    capture = load_capture(shared("captures/ict_a"), mouth="interior")
    mouth = capture.inner_mouth
    assert mouth is not None and len(mouth.loop) == 29
    frames = range(0, len(capture), 12)
    vertices = capture.state(frames).vertices
    for row in vertices:
        assert piercing(row, mouth.faces, mouth.face_count) == 0
    upper = vertices[:, mouth.faces[mouth.face_count :][mouth.part == 1].unique()]
    edge = torch.pdist(upper[0])
    for row in upper:  # rigid but for what the skin of a whole skull does
        assert (torch.pdist(row) - edge).abs().max() < 5e-4


def test_given_regions_win(written: Path) -> None:
    count = len(blob()[1])
    mine = torch.arange(count) % 7 == 0
    template = load_capture(written, regions={"mouth": mine, "ears": ~mine}).template
    assert torch.equal(template.regions["mouth"], mine) and torch.equal(template.regions["ears"], ~mine)
    assert template.regions["eyes"].any()
    with pytest.raises(CaptureError, match=r"regions\['mouth'\] has shape \(5,\)"):
        load_capture(written, regions={"mouth": torch.ones(5, dtype=torch.bool)}).template  # noqa: B018


def test_no_labels_no_regions(tmp_path: Path) -> None:
    write_insta(tmp_path / "bare", tiny_frames(optional=False), *blob())
    capture = load_capture(tmp_path / "bare")
    assert dict(capture.template.regions) == {}
    assert any("no segmentation labels to find the regions mouth, eyes, face" in line for line in capture.report)


def test_only_the_near_side_is_visible() -> None:
    vertices, faces = blob()
    wall = torch.tensor([[-1.0, -1, -0.2], [1, -1, -0.2], [0, 1, -0.2]])  # behind the head, facing the camera
    both = torch.cat([faces, torch.tensor([[0, 1, 2]]) + len(vertices)])
    face, pixel = visible_points(torch.cat([vertices, wall]), both, camera(0.0, 0.0))
    normal_z = torch.linalg.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )[:, 2]
    visible = face.unique()
    visible = visible[visible < len(faces)]
    assert (normal_z[visible] > -1e-5).all() and len(visible) > 0.3 * len(faces)
    assert pixel.min() >= 0 and pixel.max() < 48 * 40
    nothing, _ = visible_points(vertices, faces[:0], camera(0.0, 0.0))
    assert len(nothing) == 0


@pytest.mark.slow
def test_ict_a_regions() -> None:
    template = load_capture(shared("captures/ict_a")).template
    center = template.canonical_vertices[template.faces].mean(dim=1)
    mouth, eyes = center[template.regions["mouth"]], center[template.regions["eyes"]]
    assert template.face_count == 5999 and len(template.faces) > 5999 + 20
    assert 150 < len(mouth) < 600 and (mouth[:, 0].abs() < 0.04).all()
    assert ((mouth[:, 1] > -0.08) & (mouth[:, 1] < -0.02)).all()
    assert 500 < len(eyes) < 2000 and ((eyes[:, 0].abs() > 0.005) & (eyes[:, 0].abs() < 0.06)).all()
    assert ((eyes[:, 1] > 0) & (eyes[:, 1] < 0.07)).all()
    face = center[template.regions["face"]]
    assert (face[:, 1] > -0.13).all()
