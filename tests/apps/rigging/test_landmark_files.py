import json

import pytest
import torch

from headfields.apps.rigging.landmarks import parse_landmarks, read_scan_landmarks
from headfields.mesh.files import load_mesh


def test_names_numbers_and_lists(tmp_path):
    path = tmp_path / "marks.json"
    path.write_text(json.dumps({"landmarks": {"nose_tip": [0, 1, 2], "36": [1, 2, 3]}, "eyes": "closed"}))
    landmarks = read_scan_landmarks(path)
    assert landmarks.indices.tolist() == [30, 36] and landmarks.eyes_closed is True and landmarks.lips is None
    assert torch.equal(landmarks.points[1], torch.tensor([1.0, 2, 3]).double())
    listing = [None] * 68
    listing[8] = [0, 0, 1]
    path.write_text(json.dumps({"landmarks": listing, "lips": [[0, 0, 0], [1, 0, 0], [2, 0, 0]]}))
    landmarks = read_scan_landmarks(path)
    assert landmarks.indices.tolist() == [8] and landmarks.lips.shape == (3, 3) and landmarks.eyes_closed is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", 'has no "landmarks"'),
        ('{"landmarks": {"nose": [0, 0, 0]}}', "'nose' is neither one of 0 to 67"),
        ('{"landmarks": {"68": [0, 0, 0]}}', "'68' is neither"),
        ('{"landmarks": {"8": [0, 0]}}', "8 is \\[0, 0\\]; expected three finite numbers"),
        ('{"landmarks": {"8": [0, 0, NaN]}}', "three finite numbers"),
        ('{"landmarks": {}, "eyes": "shut"}', "eyes is 'shut'"),
    ],
)
def test_malformed_files(tmp_path, text, message):
    path = tmp_path / "marks.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scan_landmarks(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json is not a file"):
        read_scan_landmarks(tmp_path / "none.json")
    assert len(parse_landmarks({}).points) == 0


def test_a_scan_with_its_material(tmp_path):
    from PIL import Image

    (tmp_path / "scan.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3 4/4\n"
    )
    (tmp_path / "a.mtl").write_text("newmtl skin\nmap_Kd color.png\n")
    Image.new("RGB", (3, 2), (255, 0, 51)).save(tmp_path / "color.png")
    mesh = load_mesh(tmp_path / "scan.obj", scale=0.01)
    assert mesh.faces.shape == (2, 3) and mesh.texture.shape == (2, 3, 3) and mesh.vertices.max() == 0.01
    torch.testing.assert_close(mesh.texture[0, 0], torch.tensor([1.0, 0, 0.2]))
    with pytest.raises(FileNotFoundError, match="texture"):
        load_mesh(tmp_path / "scan.obj", texture=tmp_path / "no.png")
    (tmp_path / "a.mtl").unlink()
    assert load_mesh(tmp_path / "scan.obj").texture is None
