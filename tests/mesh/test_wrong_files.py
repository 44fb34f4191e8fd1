"""Mesh files that are wrong: each is an error that names the file and the place, or a tolerance of docs/files.md."""

import contextlib
import copy
import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.mesh import load_mesh, save_mesh
from headfields.mesh.mesh import Mesh
from headfields.mesh.obj import MeshFileError
from tests.tables import table

VERTICES = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1], [0.1, 0.1, 0.1]])
FACES = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 2, 4]])
COLORED = Mesh(VERTICES, FACES, colors=VERTICES * 9, normals=torch.nn.functional.normalize(VERTICES + 1, dim=-1))

COLORS = ("red", "green", "blue")
HEADER = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
element face 3
property list uchar int vertex_indices
end_header
"""
PLACES, CORNERS = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n", "3 0 1 2\n3 1 2 3\n3 0 2 3\n"
COLORED_PLY = HEADER.replace("element face", "".join(f"property uchar {c}\n" for c in COLORS) + "element face")
PLY: dict[str, tuple[str, str]] = {
    "vertices twice": (HEADER.replace("element face", "element vertex 1\nproperty float x\nelement face"), "twice"),
    "a coordinate twice": (HEADER.replace("float z\n", "float z\nproperty float x\n"), "vertex, or a property of it"),
    "rows without a property": (HEADER.replace("element vertex", "element other 3\nelement vertex"), "3 other without"),
    "a list as a coordinate": (HEADER.replace("property float x", "property list uchar float x"), "x of a vertex is a"),
    "colors of 16 bits": (COLORED_PLY.replace("uchar red", "ushort red"), "red of a vertex has type u2"),
    "a color of 300": (COLORED_PLY + "0 0 0 0 300 0\n" + "0 0 0 0 0 0\n" * 3 + CORNERS, "vertex 0 has green '300'"),
    "a color of -5": (COLORED_PLY + "0 0 0 0 0 -5\n" + "0 0 0 0 0 0\n" * 3 + CORNERS, "vertex 0 has blue '-5'"),
    "cut after two faces": (HEADER + PLACES + "3 0 1 2\n3 1 2 3\n", "6 lines for 4 vertex, 3 face.*cut short"),
    "cut within a face": (HEADER + PLACES + "3 0 1 2\n3 1 2 3\n3 0 2", "face 2 reads '3 0 2', 3 numbers; expected 4"),
    "without its faces": (HEADER + PLACES, "cut short"),
    "cut in its vertices": (HEADER + "0 0 0\n1 0 0\n", "cut short"),
    "a vertex of two numbers": (HEADER + "0 0 0\n1 0\n0 1 0\n0 0 1\n" + CORNERS, "vertex 1 reads '1 0', 2 numbers"),
    "more faces than announced": (HEADER + PLACES + CORNERS + "3 0 1 2\n", "longer than its header says"),
    "a fraction for a corner": (HEADER + PLACES + CORNERS.replace("1 2 3", "1 2 2.5"), "face 1 .*whole numbers"),
    "corners of type float": (HEADER.replace("uchar int", "uchar float") + PLACES + CORNERS, "floating-point numbers"),
    "a negative corner": (HEADER + PLACES + CORNERS.replace("1 2 3", "1 2 -1"), r"face 1 has the corners \[1, 2, -1\]"),
    "a corner out of range": (HEADER + PLACES + CORNERS.replace("1 2 3", "1 2 9"), "face 1 has the corners"),
    "NaN": (HEADER + PLACES.replace("0 0 0", "0 0 nan") + CORNERS, r"vertices\[0\] is \[0.0, 0.0, nan\]"),
    "infinity": (HEADER + PLACES.replace("0 0 0", "0 0 inf") + CORNERS, "must be finite"),
    "a face of two corners": (HEADER + PLACES + CORNERS.replace("3 1 2 3", "2 1 2"), "three or more"),
    "a face without corners": (HEADER + PLACES + CORNERS.replace("3 1 2 3", "0"), "three or more"),
    "a face of the wrong length": (HEADER + PLACES + CORNERS.replace("3 1 2 3", "4 1 2 3"), "4 numbers; expected 5"),
    "more vertices announced": (HEADER.replace("vertex 4", "vertex 5") + PLACES + CORNERS, "cut short"),
    "fewer vertices announced": (HEADER.replace("vertex 4", "vertex 3") + PLACES + CORNERS, "longer"),
    "a negative count": (HEADER.replace("vertex 4", "vertex -4") + PLACES + CORNERS, "element vertex -4"),
    "text called binary": (HEADER.replace("ascii", "binary_little_endian") + PLACES + CORNERS, "cut short|damaged"),
    "strips": (HEADER.replace("element face", "element tristrips") + PLACES + CORNERS, "tristrips"),
    "no z": (HEADER.replace("property float z\n", "") + PLACES + CORNERS, "with x, y and z"),
}


def binary(change: Callable[[bytearray], Any]) -> Callable[[Path], bytes]:
    def data(folder: Path) -> bytes:
        content = bytearray(save_mesh(folder / "whole.ply", COLORED).read_bytes())
        return bytes(change(content) or content)

    return data


def start(data: bytes) -> int:
    return data.index(b"end_header\n") + 11


def put(at: int, value: bytes, body: bool = True) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        place = start(bytes(data)) + at if body else len(data) + at
        data[place : place + len(value)] = value

    return change


NAN = struct.pack("<f", float("nan"))
BINARY_PLY = {
    "cut by a byte": (binary(lambda data: data[:-1]), "cut short|are left"),
    "cut in its vertices": (binary(lambda data: data[:-80]), "cut short"),
    "bytes at its end": (binary(lambda data: data + b"abc"), "3 bytes follow"),
    "another face at its end": (binary(lambda data: data + data[-13:]), "13 bytes follow"),
    "NaN": (binary(put(0, NAN)), r"vertices\[0\] is \[nan"),
    "NaN in a normal": (binary(put(12, NAN)), r"normals\[0\]"),
    "a wrong length of a face": (binary(put(-13, b"\xc8", body=False)), "face 3 needs 800 bytes"),
    "a face of two corners": (binary(put(-26, b"\x02", body=False)), "three or more|face 3"),
    "a negative corner": (binary(put(-4, struct.pack("<i", -2), body=False)), r"face 3 has the corners \[0, 2, -2\]"),
    "a corner out of range": (binary(put(-4, struct.pack("<i", 77), body=False)), r"expected .* in \[0, 5\)"),
}

SQUARE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
OBJ = {
    "an underscore in a number": (SQUARE.replace("v 1 0 0", "v 1_0 0 0") + "f 1 2 3\n", "1_0"),
    "an underscore in a corner": (SQUARE + "f 1 2 0_3\n", "0_3"),
    "NaN in a texture coordinate": (SQUARE + "vt nan 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n", "texture coordinate 0 is"),
    "NaN in a normal": (SQUARE + "vn nan 0 1\nf 1//1 2//1 3//1\n", "normal 0 is"),
    "NaN in a color": ("v 0 0 0 nan 0 0\nv 1 0 0 0 0 0\nv 0 1 0 0 0 0\nf 1 2 3\n", "vertex 0 has the color"),
    "colors up to 255": ("v 0 0 0 255 0 0\nv 1 0 0 0 9 0\nv 0 1 0 0 0 0\nf 1 2 3\n", r"expected numbers in \[0, 1\]"),
    "a normal out of range": (SQUARE + "vn 0 0 1\nf 1//1 2//1 3//5\n", "face 1 uses normal 5, but the file has 1"),
    "a texture coordinate out of range": (SQUARE + "vt 0 0\nf 1/1 2/1 3/5\n", "face 1 uses texture coordinate 5"),
    "one of a face beside faces without": (SQUARE + "vt 0 0\nf 1/1 2/1 3/9\nf 2 3 4\n", "texture coordinate 9"),
    "too negative a texture coordinate": (SQUARE + "vt 0 0\nf 1/1 2/1 3/-5\n", "texture coordinate -3"),
    "too negative a vertex": (SQUARE + "f 1 2 -9\n", "face 1 uses vertex -4"),
    "vertex 0": (SQUARE + "f 0 1 2\n", "face 1"),
    "a fraction": (SQUARE + "f 1 2 3.5\n", "face 1 reads"),
    "four parts of a corner": (SQUARE + "f 1/1/1/1 2 3\n", "face 1 reads"),
    "two corners": (SQUARE + "f 1 2 3\nf 1 2\n", "face 2 reads 'f 1 2'"),
}

OFF_FILE = "OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 1 2 3\n"
OFF = {
    "without a face": (OFF_FILE[:-8], "5 lines for 4 vertices and 2 faces"),
    "cut within a face": (OFF_FILE[:-3], "face 1 reads '3 1 2'"),
    "a face too many": (OFF_FILE + "3 0 1 3\n", "7 lines"),
    "a fraction": (OFF_FILE.replace("3 1 2 3", "3 1 2 2.5"), "face 1 .*whole numbers"),
    "a negative corner": (OFF_FILE.replace("3 1 2 3", "3 1 2 -1"), "face 1 has the corners"),
    "NaN": (OFF_FILE.replace("0 1 0\n", "0 nan 0\n"), "must be finite"),
}


def glb(change: Callable[[dict[str, Any]], Any], tail: bytes = b"", data: dict[int, bytes] | None = None) -> Any:
    def made(folder: Path) -> bytes:
        content = save_mesh(folder / "whole.glb", COLORED).read_bytes()
        size = struct.unpack("<I", content[12:16])[0]
        document = copy.deepcopy(json.loads(content[20 : 20 + size]))
        body = bytearray(content[28 + size :])
        for at, value in (data or {}).items():
            at %= len(body)
            body[at : at + len(value)] = value
        change(document)
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(body)) + struct.pack("<I4s", len(text), b"JSON")
        return head + text + struct.pack("<I4s", len(body), b"BIN\0") + bytes(body) + tail

    return made


def accessor(number: int, **entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["accessors"][number].update(entries)


def primitive(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["meshes"][0]["primitives"][0].update(entries)


def node(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["nodes"][0].update(entries)


def chain(length: int, last: list[int]) -> list[dict[str, Any]]:
    return [{"children": [index + 1]} for index in range(length - 1)] + [{"mesh": 0, "children": last}]


GLTF = {
    "nodes below each other": (glb(lambda d: d.update(nodes=chain(3000, []))), "below more than 200 nodes"),
    "a node below itself": (glb(lambda d: d.update(nodes=chain(5, [0]))), "or below itself"),
    "a node below two": (glb(lambda d: d.update(nodes=[*chain(3, []), {"children": [2]}])), "a child of nodes 1 and 3"),
    "a sparse accessor": (glb(accessor(0, sparse={"count": 1})), r"accessors\[0\] is sparse"),
    "more positions than bytes": (glb(accessor(0, count=50)), r"accessors\[0\] has 50 elements"),
    "fewer positions than normals": (glb(accessor(0, count=3)), "NORMAL has 5 entries, and POSITION 3"),
    "fewer normals": (glb(accessor(1, count=3)), "NORMAL has 3 entries"),
    "corners that 3 does not divide": (glb(accessor(3, count=11)), "11 corners"),
    "corners of type float": (glb(accessor(3, componentType=5126)), "unsigned whole numbers"),
    "positions of two numbers": (glb(accessor(0, type="VEC2")), "POSITION has type VEC2"),
    "an accessor beyond its view": (glb(accessor(0, byteOffset=9999)), r"accessors\[0\]"),
    "no element": (glb(accessor(0, count=0)), r"accessors\[0\].count is 0"),
    "a view beyond its buffer": (glb(lambda d: d["bufferViews"][3].update(byteOffset=99999)), r"bufferViews\[3\]"),
    "a buffer beyond its file": (glb(lambda d: d["buffers"][0].update(byteLength=99999)), "buffer 0 has 99999"),
    "a negative accessor": (glb(primitive(indices=-1)), "indices is -1"),
    "an accessor that is not there": (glb(primitive(indices=17)), "indices is 17; there are 4"),
    "lines": (glb(primitive(mode=1)), "mode 1"),
    "no position": (glb(lambda d: d["meshes"][0]["primitives"][0]["attributes"].pop("POSITION")), "no POSITION"),
    "NaN in a node": (glb(node(translation=[float("nan"), 0, 0])), r"nodes\[0\].translation"),
    "a node of size 0": (glb(node(scale=[0, 0, 0])), r"nodes\[0\].scale"),
    "a matrix of three numbers": (glb(node(matrix=[1, 2, 3])), "expected 16 finite numbers"),
    "bytes at its end": (glb(lambda d: None, tail=b"abcd"), "its header says"),
    "NaN": (glb(lambda d: None, data={0: NAN}), r"vertices\[0\]"),
    "a corner out of range": (glb(lambda d: None, data={-4: struct.pack("<I", 77)}), "faces holds indices"),
    "a stride of one byte": (glb(lambda d: d["bufferViews"][0].update(byteStride=1)), r"one each 1 bytes"),
    "an unknown extension": (
        glb(lambda d: d.update(extensionsRequired=["ACME_shape"])),
        "extension ACME_shape",
    ),
    "meshopt": (glb(lambda d: d.update(extensionsRequired=["EXT_meshopt_compression"])), "meshopt.*decompress"),
    "an accessor without data": (glb(lambda d: d["accessors"][0].pop("bufferView")), "POSITION has no data"),
    "not JSON's shape": (glb(lambda d: d.update(meshes=[7])), "not a glTF document"),
}
CASES: list[tuple[str, str, Any, str]] = [
    (ending, name, content, reason)
    for ending, table in ((".ply", PLY), (".ply", BINARY_PLY), (".obj", OBJ), (".off", OFF), (".glb", GLTF))
    for name, (content, reason) in table.items()
]


@table(("ending", "name", "content", "reason"), CASES)
def test_a_wrong_file_is_an_error_with_its_name(tmp_path, ending, name, content, reason):
    path = tmp_path / f"scan{ending}"
    path.write_bytes(content(tmp_path) if callable(content) else content.encode())
    with pytest.raises(MeshFileError, match=rf"scan\{ending}.*(?:{reason})") as caught:
        load_mesh(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "vertices", "faces"),
    [
        ("quads.ply", HEADER + PLACES + CORNERS.replace("3 1 2 3", "4 0 1 2 3"), 4, 4),
        ("crlf.ply", (HEADER + PLACES + CORNERS).replace("\n", "\r\n"), 4, 3),
        ("points.ply", HEADER.replace("face 3", "face 0") + PLACES, 4, 0),
        ("whole.off", OFF_FILE, 4, 2),
        ("one_line.off", OFF_FILE.replace("OFF\n", "OFF "), 4, 2),
        ("commented.off", OFF_FILE.replace("OFF\n", "OFF\n# made by hand\n\n"), 4, 2),
        ("tabs.obj", (SQUARE + "f 1 2 3\n").replace("f ", "f\t").replace("v ", "v\t"), 4, 1),
        ("indented.obj", SQUARE + "  f 1 2 3\n", 4, 1),
        ("old_mac.obj", (SQUARE + "f 1 2 3\n").replace("\n", "\r"), 4, 1),
        ("crlf.obj", (SQUARE + "f 1 2 3\n").replace("\n", "\r\n"), 4, 1),
        ("mixed.obj", SQUARE + "vt 0 0\nf 1/1 2/1 3/1\nf 2 3 4\n", 4, 2),
        ("twice.obj", SQUARE + "f 1 1 2\n", 4, 1),
        ("tiled.obj", SQUARE + "vt -3 7\nf 1/1 2/1 3/1\n", 4, 1),
        ("some_colors.obj", "v 0 0 0 1 1 1\nv 1 0 0\nv 0 1 0 1 1 1\nf 1 2 3\n", 3, 1),
        ("no_library.obj", "mtllib gone.mtl\n" + SQUARE + "f 1 2 3\n", 4, 1),
    ],
)
def test_tolerances(tmp_path, name, content, vertices, faces):
    (tmp_path / name).write_bytes(content.encode())
    mesh = load_mesh(tmp_path / name)
    assert (len(mesh.vertices), len(mesh.faces)) == (vertices, faces)


def test_negative_indices_count_from_the_lines_before_the_face(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvn 0 0 1\nf -3/-1/-1 -2/-1/-1 -1/-1/-1\n"
    (tmp_path / "two.obj").write_text(text + text.replace("vt 0", "vt 1") + "f -1/1/1 -2/1/1 -3/1/1\n")
    mesh = load_mesh(tmp_path / "two.obj")
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5], [5, 4, 3]]
    assert mesh.uv_faces.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]] and mesh.normals is not None


MESH = SQUARE + "vt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"


@table(
    ("library", "image"),
    [
        ("/etc/passwd", "x.png"),
        ("../skin.mtl", "skin.png"),
        ("skin.mtl", "../secret.png"),
        ("skin.mtl", "sub/../../secret.png"),
        ("skin.mtl", "..\\secret.png"),
        ("skin.mtl", "ABSOLUTE/secret.png"),
        ("skin.mtl", "C:\\secret.png"),
        ("skin.mtl", "link.png"),
        ("linked.mtl", "skin.png"),
        ("skin.mtl", "-s 1 1 1 ../secret.png"),
    ],
)
def test_no_file_outside_of_the_scans_folder_is_read(tmp_path, library, image):
    folder = tmp_path / "scan"
    folder.mkdir()
    Image.new("RGB", (2, 2), (9, 9, 9)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for place in (tmp_path / "skin.mtl", folder / "skin.mtl"):
        place.write_text(f"newmtl skin\nmap_Kd {image.replace('ABSOLUTE', str(tmp_path))}\n")
    (folder / "linked.mtl").symlink_to(tmp_path / "skin.mtl")
    (folder / "scan.obj").write_text(f"mtllib {library}\n{MESH}")
    with pytest.raises(MeshFileError, match="leads out of the folder"):
        load_mesh(folder / "scan.obj")
    assert load_mesh(folder / "scan.obj", texture=False).texture is None
    assert load_mesh(folder / "scan.obj", texture=tmp_path / "secret.png").texture is not None  # asked for by the user


@pytest.mark.parametrize("place", ["skin 1.png", "sub/skin.png"])
def test_materials_within_the_folder_are_read(tmp_path, place):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (2, 2), (51, 0, 0)).save(tmp_path / place)
    (tmp_path / "sub" / "skin.mtl").write_text(f"newmtl a\nmap_Kd {place.removeprefix('sub/')}\n")
    (tmp_path / "scan.obj").write_text(f"mtllib sub/skin.mtl\n{MESH}")
    assert load_mesh(tmp_path / "scan.obj").texture[0, 0].tolist() == pytest.approx([0.2, 0, 0])


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_16_bit_textures_are_scaled(tmp_path, ending):
    Image.fromarray(np.array([[0, 13107], [32768, 65535]], np.uint16)).save(tmp_path / f"skin{ending}")
    (tmp_path / "scan.obj").write_text(MESH)
    texture = load_mesh(tmp_path / "scan.obj", texture=tmp_path / f"skin{ending}").texture
    torch.testing.assert_close(texture[..., 0].flatten(), torch.tensor([0, 0.2, 0.5, 1]), atol=1e-4, rtol=0)
    assert texture.shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [(np.zeros((2, 2), np.float32), "floating-point"), (np.full((2, 2), 70000, np.int32), "more than 16 bits")],
)
def test_textures_of_other_depths(tmp_path, pixels, reason):
    Image.fromarray(pixels).save(tmp_path / "skin.tiff")
    (tmp_path / "scan.obj").write_text(MESH)
    with pytest.raises(MeshFileError, match=rf"skin\.tiff.*{reason}"):
        load_mesh(tmp_path / "scan.obj", texture=tmp_path / "skin.tiff")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_the_scale_is_a_positive_number(tmp_path, scale):
    (tmp_path / "scan.obj").write_text(MESH)
    with pytest.raises(ValueError, match="load_mesh: scale is"):
        load_mesh(tmp_path / "scan.obj", scale=scale)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_a_gltf_file_names_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.bin")
    document = {"asset": {"version": "2.0"}, "buffers": [{"byteLength": 4, "uri": "pipe.bin"}]}
    (tmp_path / "scan.gltf").write_text(json.dumps(document))
    with within_seconds(20), pytest.raises(MeshFileError, match=r"scan.gltf.*a pipe"):
        load_mesh(tmp_path / "scan.gltf")


@contextlib.contextmanager
def within_seconds(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise KeyboardInterrupt(f"not read within {seconds} seconds")  # which no reader takes for a damaged file

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
