"""OBJ: every form of face, exact numbers, and nothing swallowed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headfields.mesh.files import load_mesh, save_mesh
from headfields.mesh.mesh import Mesh
from headfields.mesh.obj import MeshFileError, ObjReader

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def mesh(tmp_path: Path, text: str):
    (tmp_path / "a.obj").write_text(text)
    return load_mesh(tmp_path / "a.obj")


@pytest.mark.parametrize(
    "face", ["f 1 2 3 4", "f 1/1 2/2 3/3 4/4", "f 1//9 2//9 3//9 4//9", "f -4 -3 -2 -1", "f 1/1/9 2/2/9 3/3/9 4/4/9"]
)
def test_forms_of_a_quad(tmp_path: Path, face: str) -> None:
    text = "# made by hand\no head\n" + SQUARE + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvn 0 0 1\ns 1\n" + face + "\n"
    result = mesh(tmp_path, text)
    assert result.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    has_uv = "/" in face and "//" not in face
    assert (result.uv_faces is not None) == has_uv
    if has_uv:
        assert result.uv.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]] and result.uv_faces.tolist() == [
            [0, 1, 2],
            [0, 2, 3],
        ]


def test_colors_windows_lines_and_a_pentagon(tmp_path: Path) -> None:
    text = SQUARE.replace("\n", " 0.5 0.5 0.5\r\n") + "v 0.5 2 0 1 1 1\r\nf 1 2 3 5 4\r\n"
    result = mesh(tmp_path, text)
    assert result.vertices.tolist()[4] == [0.5, 2, 0] and result.faces.tolist() == [[0, 1, 2], [0, 2, 4], [0, 4, 3]]


@pytest.mark.parametrize("face", ["f 0 1 2", "f 1 2 5", "f 1 2 -5", "f 1 2", "f 1 2 x", "f 1/1 2/2 3/9"])
def test_malformed_faces(tmp_path: Path, face: str) -> None:
    with pytest.raises(MeshFileError, match="face 2"):
        mesh(tmp_path, SQUARE + "vt 0 0\nvt 1 0\nvt 1 1\nf 1/1 2/2 3/3\n" + face + "\n")


def test_reader_notices_another_topology(tmp_path: Path) -> None:
    reader = ObjReader()
    (tmp_path / "a.obj").write_text(SQUARE + "f 1 2 3\n")
    (tmp_path / "b.obj").write_text(SQUARE + "f 1 2 4\n")
    (tmp_path / "c.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 4\n")
    first = reader.read(tmp_path / "a.obj")
    assert reader.read(tmp_path / "a.obj").faces is first.faces
    assert reader.read(tmp_path / "b.obj").faces.tolist() == [[0, 1, 3]]
    with pytest.raises(MeshFileError, match="uses vertex 4, but"):
        reader.read(tmp_path / "c.obj")


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=9, max_size=9))
def test_float32_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("obj") / "a.obj"
    vertices = np.array(values, np.float32).reshape(3, 3)
    save_mesh(path, Mesh(torch.from_numpy(vertices), torch.tensor([[0, 1, 2]])))
    result = load_mesh(path)
    assert np.array_equal(result.vertices.numpy(), vertices) and result.faces.tolist() == [[0, 1, 2]]
