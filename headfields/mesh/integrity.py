"""Checks of PLY, OFF and glTF files against their own headers.

trimesh reads what there is: of a file that was cut short, the faces that are left. Here each count, index and length
that a file states must hold.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from headfields.files.ply import PlyElement, check_ply_names, ply_header
from headfields.mesh.gltf_extensions import COMPONENT_TYPES, WIDTHS, check_extensions, check_filled
from headfields.mesh.obj import MeshFileError

__all__ = ["check_gltf", "check_off", "check_ply"]

_NUMBERS = ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")
_COLORS = _NUMBERS[6:]
_INDEX_LISTS = ("vertex_indices", "vertex_index")
_DEEPEST = 200  # nodes of glTF below each other
_MODES = {0: "points", 4: "triangles", 5: "a triangle strip", 6: "a triangle fan"}


def check_ply(path: Path) -> None:
    """Checks that a PLY file holds what its header says, and that each face has three corners or more that exist.

    Raises:
        MeshFileError: it does not; the message names the file and the element.
    """
    data, where = path.read_bytes(), f"load_mesh: {path}"
    header = ply_header(data, where, MeshFileError)
    elements, start = header.elements, header.start
    _check_elements(elements, where)
    vertices = header.element("vertex")
    if vertices is None or not {"x", "y", "z"} <= {entry.name for entry in vertices.properties}:
        raise MeshFileError(f"{where}: its header has no element vertex with x, y and z; export it again")
    if any(element.name == "tristrips" and element.count for element in elements):
        raise MeshFileError(f"{where}: has tristrips, which are not read; export it with faces")
    if header.layout == "ascii":
        _check_ascii(data[start:], elements, vertices.count, where)
    else:
        _check_binary(data, start, elements, vertices.count, header.order, where)


def _check_elements(elements: list[PlyElement], where: str) -> None:
    """trimesh keeps the last of two elements or properties of a name, and skips rows that have no property."""
    check_ply_names(elements, where, MeshFileError)
    for element in elements:
        for entry in element.properties if element.name == "vertex" else ():
            if entry.length is not None and entry.name in _NUMBERS:
                raise MeshFileError(f"{where}: {entry.name} of a vertex is a list; expected a number")
            if entry.name in _COLORS and entry.kind[0] != "f" and entry.kind != "u1":  # cut to 8 bits by trimesh
                raise MeshFileError(f"{where}: {entry.name} of a vertex has type {entry.kind}; export it as uchar")
        for entry in element.properties if element.name == "face" else ():
            if entry.name in _INDEX_LISTS and entry.kind[0] == "f":
                raise MeshFileError(f"{where}: {entry.name} are floating-point numbers; expected whole ones")


def _check_ascii(body: bytes, elements: list[PlyElement], vertices: int, where: str) -> None:
    lines = [line for line in body.splitlines() if line.strip()]
    expected = sum(element.count for element in elements if element.properties)
    if len(lines) != expected:
        what = "cut short" if len(lines) < expected else "longer than its header says"
        counts = ", ".join(f"{element.count} {element.name}" for element in elements)
        raise MeshFileError(f"{where}: {len(lines)} lines for {counts}; the file is {what}: export it again")
    at = 0
    for element in elements:
        rows = lines[at : at + element.count] if element.properties else []
        at += len(rows)
        for index, row in enumerate(rows):
            place = f"{where}: {element.name} {index}"
            words = row.split()
            used = 0
            for entry in element.properties:
                count = 1
                if entry.length is not None:
                    length = words[used] if used < len(words) else b""
                    if not length.isdigit() or len(length) > 6:
                        raise MeshFileError(f"{place} reads {_short(row)}; expected the length of {entry.name}")
                    count, used = int(length), used + 1
                values = words[used : used + count]
                used += count
                if entry.kind == "u1" and entry.name in _COLORS:
                    _check_color(values, entry.name, place)
                if len(values) == count and element.name == "face" and entry.name in _INDEX_LISTS:
                    _check_corners(values, vertices, place)
            if used != len(words):
                raise MeshFileError(
                    f"{place} reads {_short(row)}, {len(words)} numbers; expected {used}; the file is cut short or "
                    "damaged: export it again"
                )


def _check_color(words: list[bytes], name: str, place: str) -> None:
    for word in words:
        if not word.isdigit() or len(word) > 3 or int(word) > 255:  # trimesh would keep its lowest 8 bits
            raise MeshFileError(f"{place} has {name} {_short(word)}; expected a whole number in [0, 255]")


def _check_corners(words: list[bytes], vertices: int, place: str) -> None:
    try:
        corners = [int(word) for word in words]
    except ValueError:
        raise MeshFileError(f"{place} names the vertices {_short(b' '.join(words))}; expected whole numbers") from None
    if len(corners) < 3 or min(corners) < 0 or max(corners) >= vertices:
        raise MeshFileError(f"{place} has the corners {corners[:8]}; expected three or more in [0, {vertices})")


def _check_binary(data: bytes, at: int, elements: list[PlyElement], vertices: int, order: str, where: str) -> None:
    for element in elements:
        rest = len(data) - at
        smallest = sum(np.dtype(entry.length or entry.kind).itemsize for entry in element.properties)
        if element.count * smallest > rest:
            raise MeshFileError(
                f"{where}: {element.count} {element.name} take {element.count * smallest} bytes or more, and {rest} "
                "are left; the file is cut short: export it again"
            )
        if not element.count or not element.properties:
            continue
        if all(entry.length is None for entry in element.properties):
            at += element.count * smallest
            continue
        end = _uniform_rows(data, at, element, vertices, order, where)
        at = _mixed_rows(data, at, element, vertices, order, where) if end is None else end
    if at != len(data):
        raise MeshFileError(
            f"{where}: {len(data) - at} bytes follow what its header announces; the file is damaged: export it again"
        )


def _uniform_rows(data: bytes, at: int, element: PlyElement, vertices: int, order: str, where: str) -> int | None:
    """The end of an element whose lists have the same lengths in each row, as in the first; None if they differ."""
    fields: list[Any] = []
    place = at
    for number, entry in enumerate(element.properties):
        if entry.length is None:
            fields.append((f"{number}", order + entry.kind))
            place += np.dtype(entry.kind).itemsize
            continue
        kind = np.dtype(order + entry.length)
        if place + kind.itemsize > len(data):
            return None
        count = int(np.frombuffer(data, kind, 1, place)[0])
        if not 0 <= count <= 1_000_000:
            return None
        fields += [(f"{number}n", order + entry.length), (f"{number}", order + entry.kind, (count,))]
        place += kind.itemsize + count * np.dtype(entry.kind).itemsize
    row = np.dtype(fields)
    if at + element.count * row.itemsize > len(data):
        return None
    table = np.frombuffer(data, row, element.count, at)
    for number, entry in enumerate(element.properties):
        if entry.length is None:
            continue
        if (table[f"{number}n"] != row[f"{number}"].shape[0]).any():
            return None
        if element.name == "face" and entry.name in _INDEX_LISTS:
            values = table[f"{number}"]
            bad = (values < 0) | (values >= vertices)
            if values.shape[1] < 3 or bad.any():
                face = int(bad.any(axis=1).argmax())
                raise MeshFileError(
                    f"{where}: face {face} has the corners {values[face][:8].tolist()}; expected three or more in "
                    f"[0, {vertices})"
                )
    return at + element.count * row.itemsize


def _mixed_rows(data: bytes, at: int, element: PlyElement, vertices: int, order: str, where: str) -> int:
    """The end of an element whose lists differ in length, row by row."""
    kinds = [
        (
            entry.name if element.name == "face" else "",
            None if entry.length is None else np.dtype(order + entry.length),
            np.dtype(order + entry.kind),
        )
        for entry in element.properties
    ]
    for index in range(element.count):
        for name, length, kind in kinds:
            count = 1
            if length is not None:
                count = int(np.frombuffer(data[at : at + length.itemsize].ljust(length.itemsize, b"\0"), length)[0])
                at += length.itemsize
            if count < 0 or at + count * kind.itemsize > len(data):
                raise MeshFileError(
                    f"{where}: {element.name} {index} needs {count * kind.itemsize} bytes, and "
                    f"{max(len(data) - at, 0)} are left; the file is cut short or damaged: export it again"
                )
            if name in _INDEX_LISTS:
                corners = np.frombuffer(data, kind, count, at)
                if count < 3 or int(corners.min()) < 0 or int(corners.max()) >= vertices:
                    raise MeshFileError(
                        f"{where}: face {index} has the corners {corners[:8].tolist()}; expected three or more in "
                        f"[0, {vertices})"
                    )
            at += count * kind.itemsize
    return at


def check_off(path: Path) -> None:
    """Checks that an OFF file has as many lines of vertices and faces as it says, and whole faces.

    Raises:
        MeshFileError: it does not; the message names the file and the face.
    """
    where = f"load_mesh: {path}"
    text = path.read_bytes().decode("latin-1")
    lines = [line for line in (raw.partition("#")[0].strip() for raw in text.splitlines()) if line]
    try:
        if "OFF" not in lines[0].upper():
            raise ValueError
        counts = (lines[0].split()[1:] or lines[1].split())[:2]
        vertices, faces = int(counts[0]), int(counts[1])
    except (ValueError, IndexError):
        raise MeshFileError(f"{where}: does not begin with OFF and its counts; export it again") from None
    rows = lines[1 if len(lines[0].split()) > 1 else 2 :]
    if vertices < 0 or faces < 0 or len(rows) != vertices + faces:
        raise MeshFileError(
            f"{where}: {len(rows)} lines for {vertices} vertices and {faces} faces; the file is cut short or damaged: "
            "export it again"
        )
    for index, row in enumerate(rows[vertices:]):
        words = row.split()
        count = int(words[0]) if words[0].isdecimal() and len(words[0]) < 7 else 0
        if len(words) <= count or count < 3:
            raise MeshFileError(f"{where}: face {index} reads {row[:80]!r}; expected its count of corners and these")
        _check_corners([word.encode() for word in words[1 : 1 + count]], vertices, f"{where}: face {index}")


def check_gltf(path: Path) -> None:
    """Checks the accessors of a glTF or GLB file: they lie in their buffers, and those of a mesh fit each other.

    Raises:
        MeshFileError: they do not; the message names the file and the accessor.
    """
    where = f"load_mesh: {path}"
    data, binary = path.read_bytes(), None
    if data[:4] == b"glTF":
        length = int.from_bytes(data[8:12], "little")
        if length != len(data):
            raise MeshFileError(f"{where}: its header says {length} bytes, and it has {len(data)}; export it again")
        size = int.from_bytes(data[12:16], "little")
        text = data[20 : 20 + size]
        binary = max(len(data) - 28 - size, 0)
    else:
        text = data
    try:
        document = json.loads(text)
        _check_document(document, binary, where)
        check_filled(document, where)
    except MeshFileError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise MeshFileError(f"{where}: is not a glTF document that can be read ({error!r}); export it again") from error


def _check_document(document: dict[str, Any], binary: int | None, where: str) -> None:
    check_extensions(document, where)
    buffers, views = document.get("buffers", []), document.get("bufferViews", [])
    if binary is not None and buffers and "uri" not in buffers[0] and not 0 <= buffers[0]["byteLength"] <= binary:
        raise MeshFileError(f"{where}: buffer 0 has {buffers[0]['byteLength']} bytes, and the file {binary}")
    for number, view in enumerate(views):
        size = _entry(buffers, view["buffer"], f"{where}: bufferViews[{number}].buffer")["byteLength"]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or length < 0 or start + length > size:
            raise MeshFileError(f"{where}: bufferViews[{number}] is {start} to {start + length} of {size} bytes")
    accessors = document.get("accessors", [])
    for number, accessor in enumerate(accessors):
        count, width = (
            accessor["count"],
            np.dtype(COMPONENT_TYPES[accessor["componentType"]]).itemsize * WIDTHS[accessor["type"]],
        )
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise MeshFileError(f"{where}: accessors[{number}].count is {count!r}; expected at least 1")
        if "sparse" in accessor:
            raise MeshFileError(f"{where}: accessors[{number}] is sparse, which is not read; export it again without")
        if "bufferView" not in accessor:  # filled by an extension
            continue
        view = _entry(views, accessor["bufferView"], f"{where}: accessors[{number}].bufferView")
        start, stride = accessor.get("byteOffset", 0), view.get("byteStride", width)
        if stride < width:
            raise MeshFileError(
                f"{where}: accessors[{number}] has elements of {width} bytes, and its bufferView one each {stride} "
                "bytes (byteStride); export it again"
            )
        if start < 0 or start + (count - 1) * stride + width > view["byteLength"]:
            raise MeshFileError(
                f"{where}: accessors[{number}] has {count} elements of {width} bytes from byte {start}, more than its "
                f"bufferView of {view['byteLength']}"
            )
    for number, mesh in enumerate(document.get("meshes", [])):
        for primitive in mesh["primitives"]:
            _check_primitive(primitive, accessors, f"{where}: meshes[{number}]")
    _check_tree(document.get("nodes", []), where)
    for number, node in enumerate(document.get("nodes", [])):
        for key, size in (("matrix", 16), ("translation", 3), ("rotation", 4), ("scale", 3)):
            values = np.asarray(node.get(key, np.eye(4) if key == "matrix" else np.ones(size)), np.float64).ravel()
            if len(values) != size or not np.isfinite(values).all():
                raise MeshFileError(f"{where}: nodes[{number}].{key} is {node[key]}; expected {size} finite numbers")
            singular = key == "matrix" and abs(np.linalg.det(values.reshape(4, 4)[:3, :3])) < 1e-30
            if singular or (key == "scale" and not values.all()) or (key == "rotation" and not values.any()):
                raise MeshFileError(f"{where}: nodes[{number}].{key} is {node[key]}, which cannot be undone")


def _check_tree(nodes: list[Any], where: str) -> None:
    """Nodes are trees, as the standard says; the time trimesh takes grows with the square of their depth."""
    parents: dict[int, int] = {}
    for number, node in enumerate(nodes):
        for child in node.get("children", []):
            _entry(nodes, child, f"{where}: nodes[{number}].children")
            if parents.setdefault(child, number) != number:
                raise MeshFileError(f"{where}: nodes[{child}] is a child of nodes {parents[child]} and {number}")
    depths: dict[int, int] = {}
    for number in range(len(nodes)):
        path = []
        at: int | None = number
        while at is not None and at not in depths:
            path.append(at)
            if len(path) > _DEEPEST:
                raise MeshFileError(f"{where}: nodes[{number}] lies below more than {_DEEPEST} nodes, or below itself")
            at = parents.get(at)
        depth = 0 if at is None else depths[at]
        for step, name in enumerate(reversed(path)):
            depths[name] = depth + step + 1
        if depths[number] > _DEEPEST:
            raise MeshFileError(f"{where}: nodes[{number}] lies below more than {_DEEPEST} nodes")


def _check_primitive(primitive: dict[str, Any], accessors: list[Any], where: str) -> None:
    mode = primitive.get("mode", 4)
    if mode not in _MODES:
        raise MeshFileError(f"{where}: a primitive has mode {mode}; read are {', '.join(map(str, _MODES))} (no lines)")
    attributes = {name: _entry(accessors, index, f"{where}: {name}") for name, index in primitive["attributes"].items()}
    if "POSITION" not in attributes:
        raise MeshFileError(f"{where}: a primitive has no POSITION; export it again")
    position = attributes["POSITION"]
    if position["type"] != "VEC3":
        raise MeshFileError(f"{where}: POSITION has type {position['type']}; expected VEC3")
    for name, accessor in attributes.items():
        if accessor["count"] != position["count"]:
            raise MeshFileError(f"{where}: {name} has {accessor['count']} entries, and POSITION {position['count']}")
    corners = position["count"]
    if "indices" in primitive:
        indices = _entry(accessors, primitive["indices"], f"{where}: indices")
        if indices["componentType"] not in (5121, 5123, 5125) or indices["type"] != "SCALAR":
            raise MeshFileError(
                f"{where}: indices have componentType {indices['componentType']} and type {indices['type']}; expected "
                "unsigned whole numbers"
            )
        corners = indices["count"]
    if mode == 4 and corners % 3:
        raise MeshFileError(f"{where}: triangles have {corners} corners, which 3 does not divide; export it again")


def _entry(table: list[Any], index: Any, where: str) -> Any:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(table):
        raise MeshFileError(f"{where} is {index!r}; there are {len(table)}")
    return table[index]


def _short(row: bytes) -> str:
    text = row.decode("latin-1").strip()
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
