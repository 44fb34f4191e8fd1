"""OBJ: every form of face, exact numbers, and nothing swallowed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.mesh.files import load_mesh, save_mesh
from headfields.mesh.mesh import Mesh
from headfields.mesh.obj import MeshFileError, ObjReader
from tests.tables import table

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def mesh(tmp_path: Path, text: str):
    (tmp_path / "a.obj").write_text(text)
    return load_mesh(tmp_path / "a.obj")


@table(
    "face", ["f 1 2 3 4", "f 1/1 2/2 3/3 4/4", "f 1//1 2//1 3//1 4//1", "f -4 -3 -2 -1", "f 1/1/1 2/2/1 3/3/1 4/4/1"]
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


@table("face", ["f 0 1 2", "f 1 2 5", "f 1 2 -5", "f 1 2", "f 1 2 x", "f 1/1 2/2 3/9"])
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


@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=9, max_size=9))
def test_float32_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("obj") / "a.obj"
    vertices = np.array(values, np.float32).reshape(3, 3)
    save_mesh(path, Mesh(torch.from_numpy(vertices), torch.tensor([[0, 1, 2]])))
    result = load_mesh(path)
    assert np.array_equal(result.vertices.numpy(), vertices) and result.faces.tolist() == [[0, 1, 2]]


def test_normals_colors_and_texture_survive(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    full = Mesh(
        torch.rand(4, 3, generator=generator), torch.tensor([[0, 1, 2], [0, 2, 3]]),
        colors=torch.rand(4, 3, generator=generator), normals=torch.rand(4, 3, generator=generator),
        uv=torch.rand(6, 2, generator=generator), uv_faces=torch.tensor([[0, 1, 2], [3, 4, 5]]),
        texture=(torch.rand(3, 5, 3, generator=generator) * 255).round() / 255,
    )  # fmt: skip
    for mesh in (full, full.replace(uv=None, uv_faces=None, texture=None), full.replace(normals=None, colors=None)):
        again = load_mesh(save_mesh(tmp_path / "a.obj", mesh))
        for name in ("vertices", "faces", "colors", "normals", "uv", "uv_faces"):
            one, other = getattr(again, name), getattr(mesh, name)
            assert (one is None and other is None) or one.equal(other), name
        assert (again.texture is None) == (mesh.texture is None)
    assert load_mesh(tmp_path / "a.obj", texture=False).texture is None
    torch.testing.assert_close(again.texture, full.texture)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"the texture .*texture=False"):
        load_mesh(tmp_path / "a.obj")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(MeshFileError, match="not a readable image"):
        load_mesh(tmp_path / "a.obj")


def test_uv_of_vertices_and_files_that_hold_no_texture(tmp_path: Path) -> None:
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), uv=torch.eye(3)[:, :2], texture=torch.ones(2, 2, 3))
    again = load_mesh(save_mesh(tmp_path / "a.obj", mesh), scale=0.5)
    assert again.uv.equal(mesh.uv) and again.uv_faces.equal(mesh.faces) and again.vertices.equal(0.5 * mesh.vertices)
    with pytest.raises(ValueError, match=r"a\.ply cannot hold the texture"):
        save_mesh(tmp_path / "a.ply", mesh)
    save_mesh(tmp_path / "a.ply", mesh.replace(texture=None))
    with pytest.raises(ValueError, match=r"needs an \.obj file"):
        load_mesh(tmp_path / "a.ply", texture=tmp_path / "a.png")


@pytest.mark.parametrize("face", ["f 1//1 2//2 3//3\nf 1//2 3//3 2//2", "f 1//1 2//2 3", "f 1 2 3"])
def test_normals_that_differ_between_faces_or_are_missing_are_left_out(tmp_path: Path, face: str) -> None:
    text = SQUARE + "vn 0 0 1\nvn 0 1 0\nvn 1 0 0\n" + face + "\n"
    assert mesh(tmp_path, text).normals is None
