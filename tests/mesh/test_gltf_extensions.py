"""Extensions of glTF that change what its numbers are."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from headfields.mesh import Mesh, load_mesh, save_mesh
from headfields.mesh.gltf_extensions import draco_is_read
from headfields.mesh.obj import MeshFileError
from tests.tables import table

VERTICES = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0.5, 0], [0, 0, -0.25]])
FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def quantized(path: Path, kind: str, normalized: bool, stride: int | None, external: bool) -> tuple[Path, np.ndarray]:
    """A mesh whose positions are whole numbers that a node scales, in a .glb, or a .gltf with its bytes beside it."""
    limit = np.iinfo(kind).max
    whole = np.round(VERTICES.numpy() * limit).clip(np.iinfo(kind).min, limit).astype(kind)
    size = 3 * whole.itemsize
    pitch = stride or size
    rows = np.zeros((len(whole), pitch), np.uint8)
    rows[:, :size] = whole.view(np.uint8).reshape(len(whole), size)
    body = rows.tobytes()
    body += b"\0" * (-len(body) % 4)
    corners = FACES.numpy().astype("<u2").tobytes()
    component = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123}[kind]
    factor = 2.0 if normalized else 2.0 / limit
    document = {
        "asset": {"version": "2.0"}, "extensionsUsed": ["KHR_mesh_quantization"],
        "extensionsRequired": ["KHR_mesh_quantization"], "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "scale": [factor] * 3, "translation": [0, 1, 0]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": component, "count": 4, "type": "VEC3", "normalized": normalized},
            {"bufferView": 1, "componentType": 5123, "count": 6, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": len(body), **({} if stride is None else {"byteStride": stride})},
            {"buffer": 0, "byteOffset": len(body), "byteLength": len(corners)},
        ],
        "buffers": [{"byteLength": len(body + corners), **({"uri": "a b.bin"} if external else {})}],
    }  # fmt: skip
    if external:
        (path.parent / "a b.bin").write_bytes(body + corners)
        path.write_text(json.dumps(document).replace("a b.bin", "a%20b.bin"))
    else:
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        chunk = body + corners
        head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(chunk)) + struct.pack("<I4s", len(text), b"JSON")
        path.write_bytes(head + text + struct.pack("<I4s", len(chunk), b"BIN\0") + chunk)
    expected = np.maximum(whole / limit, -1) * 2 + [0, 1, 0]
    return path, expected


@table(
    ("kind", "normalized", "stride", "external"),
    [
        ("u2", True, 8, False),
        ("i2", True, None, True),
        ("i1", True, 4, True),
        ("u2", False, 8, False),
        ("i2", False, 8, True),
    ],
)
def test_quantized_positions_are_what_they_stand_for(tmp_path, kind, normalized, stride, external) -> None:
    path = tmp_path / ("mesh.gltf" if external else "mesh.glb")
    path, expected = quantized(path, kind, normalized, stride, external)
    mesh = load_mesh(path)
    assert np.allclose(mesh.vertices.numpy(), expected, atol=1e-6)
    assert torch.equal(mesh.faces, FACES)


def test_bytes_beside_it_that_are_cut_short(tmp_path) -> None:
    path, _ = quantized(tmp_path / "mesh.gltf", "u2", True, 8, True)
    (tmp_path / "a b.bin").write_bytes(b"\0" * 7)
    with pytest.raises(MeshFileError, match=r"mesh\.gltf.*buffers\[0\] ends before byte"):
        load_mesh(path)


def test_draco_is_decoded_or_refused(tmp_path, monkeypatch) -> None:
    if not draco_is_read():
        pytest.skip("DracoPy, or trimesh 5, is not installed")
    mesh = trimesh.creation.icosphere(2)
    path = tmp_path / "ball.glb"
    path.write_bytes(trimesh.exchange.gltf.export_glb(trimesh.Scene(mesh), extension_draco=True))
    assert b"KHR_draco_mesh_compression" in path.read_bytes()
    read = load_mesh(path)
    assert len(read.faces) == len(mesh.faces)
    assert np.allclose(read.vertices.norm(dim=1).numpy(), 1, atol=1e-3)
    monkeypatch.setattr("headfields.mesh.gltf_extensions.draco_is_read", lambda: False)
    with pytest.raises(MeshFileError, match=r"ball\.glb: is compressed with Draco .*pip install DracoPy"):
        load_mesh(path)


def test_own_files_need_no_extension(tmp_path) -> None:
    assert torch.equal(load_mesh(save_mesh(tmp_path / "own.glb", Mesh(VERTICES, FACES))).vertices, VERTICES)
