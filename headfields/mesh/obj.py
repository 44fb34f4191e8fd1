"""Wavefront OBJ files: a reader that is fast enough for thousands of frames of one topology, and a writer.

trimesh's reader is not as strict: it takes a face's index 0 for the first vertex and drops faces that are cut short.
"""

import contextlib
import itertools
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headfields.files.images import open_image
from headfields.files.reading import file_bytes
from headfields.mesh.mesh import Mesh

_COLOR_SLACK = 1e-3  # of colors beyond [0, 1]
_MISSING = -(2**40)  # in place of the index of a texture coordinate or normal
_INDEX = rb"\d{1,12}"
_FORMS = {  # of a corner, and which of vertex, texture coordinate and normal it names
    _INDEX: [0],
    _INDEX + rb"/" + _INDEX: [0, 1],
    _INDEX + rb"//" + _INDEX: [0, 2],
    _INDEX + rb"/" + _INDEX + rb"/" + _INDEX: [0, 1, 2],
}


_LONGEST_NUMBER = 64  # characters


class MeshFileError(ValueError):
    """A mesh file cannot be read: the message names the file, the place in it, and the remedy."""


class ObjReader:
    """Reads OBJ files and remembers the last face block: files of one topology are parsed for their vertices alone.

    Several threads may share a reader.
    """

    def __init__(self) -> None:
        # One tuple, replaced as a whole, so that threads never see the block of one file with the faces of another.
        self._last: tuple[bytes, tuple[int, int], Tensor, Tensor | None, np.ndarray | None] | None = None

    def read(self, path: Path, field: str = "mesh_path") -> Mesh:
        """Vertices, faces (polygons are cut into fans) and texture coordinates of a file; the rest is skipped.

        The vertices are float32 in the file's unit. Files with the same faces share one tensor of them, so that
        topologies can be compared with `is`.

        Args:
            path: the file.
            field: its name in error messages.

        Raises:
            MeshFileError: the file cannot be opened, a line is malformed, an index is out of range, or a number is not
                finite.
        """
        return self._read(path, field)[0]

    def _read(self, path: Path, field: str) -> tuple[Mesh, list[bytes], np.ndarray | None]:
        """The mesh, the lines of the file, and the index of the normal at each corner, None if one has none."""
        try:
            data = file_bytes(path)
        except OSError as error:
            reason = error.strerror or "it is no file"
            raise MeshFileError(f"{field}: cannot read {path} ({reason}); check that it is there") from error
        where = f"{field}: {path}"
        lines = _lines(data)
        vertices = _finite(_numbers(lines, b"v ", 3, where), "vertex", where)
        block = b"\n".join([line for line in lines if line[:2] == b"f "])
        uv, counts = None, (0, 0)
        if b"/" in block:  # faces name texture coordinates or normals
            if any(line[:3] == b"vt " for line in lines):
                uv = _finite(_numbers(lines, b"vt", 2, where), "texture coordinate", where)
            counts = (0 if uv is None else len(uv), sum(line[:3] == b"vn " for line in lines))
        relative = b"-" in block  # such an index depends on the lines before the face, too
        last = self._last
        if relative or last is None or last[1] != counts or last[0] != block:
            before = _counts_before_faces(lines) if relative else None
            table, uv_table, normals = _parse_faces(block, (len(vertices), *counts), before, where)
            uv_faces = None if uv_table is None else torch.from_numpy(uv_table)
            last = (block, counts, torch.from_numpy(table), uv_faces, normals)
            self._last = last
        _, _, faces, uv_faces, normals = last
        if len(faces) and int(faces.max()) >= len(vertices):
            raise MeshFileError(
                f"{where}: a face uses vertex {int(faces.max()) + 1}, but there are {len(vertices)} vertices; "
                "export it again"
            )
        coordinates = None if uv is None or uv_faces is None else torch.from_numpy(uv)
        return Mesh(torch.from_numpy(vertices), faces, uv=coordinates, uv_faces=uv_faces), lines, normals


def read_obj(path: Path, texture: Path | bool = True) -> Mesh:
    """Reads all of an OBJ file that a `Mesh` holds; see `load_mesh`.

    Raises:
        FileNotFoundError: the texture is missing.
        MeshFileError: as `ObjReader.read`; the texture is not an image, or lies outside of the file's folder.
    """
    mesh, lines, corners = ObjReader()._read(path, "load_mesh")
    first = next(line for line in lines if line[:2] == b"v ")
    image = _material_image(path, lines) if texture is True else texture
    return mesh.replace(
        colors=_colors(lines, f"load_mesh: {path}") if len(first.split()) >= 7 else None,
        normals=_normals(mesh, lines, corners, f"load_mesh: {path}"),
        texture=_read_texture(image) if isinstance(image, Path) else None,
    )


def obj_lines(mesh: Mesh, material: str | None = None) -> Iterable[str]:
    """The lines of an OBJ file, with the nine digits that give float32 back exactly.

    Args:
        mesh: a mesh on any device.
        material: name of the material library, which defines the material "skin".
    """
    vertices, faces = mesh.vertices.detach().cpu().float(), (mesh.faces + 1).cpu()
    if material is not None:
        yield f"mtllib {material}"
    columns = vertices if mesh.colors is None else torch.cat([vertices, mesh.colors.detach().cpu().clamp(0, 1)], 1)
    yield from _rows("v", columns)
    corners = [faces]
    pattern = "{}"
    uv_faces = mesh.uv_faces
    if mesh.uv is not None and uv_faces is None and len(mesh.uv) == len(mesh.vertices):
        uv_faces = mesh.faces
    if mesh.uv is not None and uv_faces is not None:
        yield from _rows("vt", mesh.uv.detach().cpu())
        corners.append((uv_faces + 1).cpu())
        pattern = "{}/{}"
    if mesh.normals is not None:
        yield from _rows("vn", mesh.normals.detach().cpu())
        corners.append(faces)
        pattern += "/{}" if len(corners) > 2 else "//{}"
    if material is not None:
        yield "usemtl skin"
    line = f"f {pattern} {pattern} {pattern}".format
    yield from (line(*row) for row in torch.stack(corners, -1).flatten(1).tolist())


def _rows(key: str, values: Tensor) -> Iterable[str]:
    line = (key + " {:.9g}" * values.shape[1]).format
    return (line(*row) for row in values.float().tolist())


def _numbers(lines: list[bytes], key: bytes, width: int, where: str) -> np.ndarray:
    """The first `width` numbers of each line that starts with `key`, as (N, width) float32."""
    rows = [line for line in lines if line[:2] == key]
    if not rows:
        raise MeshFileError(
            f"{where}: no '{key.decode().strip()}' line; the file is empty, cut short or not an OBJ mesh; "
            "export it again"
        )
    joined = b" ".join(rows)
    tokens = joined.split()
    stride = len(tokens) // len(rows)
    longest = max(map(len, tokens))  # a table of bytes is as wide as its longest entry
    if longest <= _LONGEST_NUMBER and stride > width and len(tokens) == stride * len(rows):
        table = np.array(tokens).reshape(-1, stride)
        if (table[:, 0] == key.strip()).all() and b"_" not in joined:
            # The slow path below names the line; an overflow becomes infinite, which the caller reports.
            with contextlib.suppress(ValueError), np.errstate(over="ignore"):
                return table[:, 1 : width + 1].astype(np.float64).astype(np.float32)
    values = np.empty((len(rows), width), np.float64)
    for index, row in enumerate(rows):
        try:
            numbers = [float(token) for token in row.split()[1 : width + 1]]
            if len(numbers) < width or b"_" in row:  # Python reads 1_0 as 10
                raise ValueError
            values[index] = numbers
        except ValueError:
            text = row.decode(errors="replace").strip()
            raise MeshFileError(
                f"{where}: {key.decode().strip()} line {index + 1} reads {text[:80]!r}; expected {width} numbers"
            ) from None
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _lines(data: bytes) -> list[bytes]:
    """The lines of a file, whatever ends them, each with its keyword and one blank at its start."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\t" in data:
        data = data.replace(b"\t", b" ")
    lines = data.split(b"\n")
    return [line.lstrip() for line in lines] if b"\n " in data or data[:1] == b" " else lines


def _finite(values: np.ndarray, what: str, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        row = int(np.nonzero(~np.isfinite(values).all(axis=1))[0][0])
        raise MeshFileError(
            f"{where}: {what} {row} is {values[row].tolist()}; every number must be finite; export it again"
        )
    return values


def _counts_before_faces(lines: list[bytes]) -> list[tuple[int, int, int]]:
    """How many vertices, texture coordinates and normals come before each face: what negative indices count from."""
    counts = {b"v ": 0, b"vt": 0, b"vn": 0}
    before = []
    for line in lines:
        if line[:2] == b"f ":
            before.append((counts[b"v "], counts[b"vt"], counts[b"vn"]))
        elif line[:2] in counts:
            counts[line[:2]] += 1
    return before


def _parse_faces(
    block: bytes, counts: tuple[int, int, int], before: list[tuple[int, int, int]] | None, where: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Faces (F, 3), and their texture coordinates and normals, each if every corner has one.

    Args:
        block: the lines of the faces.
        counts: how many vertices, texture coordinates and normals there are.
        before: how many of each come before each face; needed for negative indices.
        where: the file in messages.
    """
    for (form, columns), sides in itertools.product(_FORMS.items(), (3, 4)):  # all alike, by far the most common
        if re.fullmatch(rb"(?:f +(?:%b +){%d}%b *\n?)*" % (form, sides - 1, form), block):
            numbers = np.array(re.findall(rb"\d+", block), "S12").astype(np.int64).reshape(-1, sides, len(columns))
            table = np.full((len(numbers), sides, 3), _MISSING, np.int64)
            table[..., columns] = numbers - 1
            fan = [[0, k, k + 1] for k in range(1, sides - 1)]
            return _columns(table[:, fan].reshape(-1, 3, 3), counts, where)
    triangles: list[list[tuple[int, int, int]]] = []  # of each corner: vertex, texture coordinate, normal
    for index, row in enumerate(block.splitlines()):
        start = counts if before is None else before[index]
        try:
            corners = [_corner(token, start) for token in row.split()[1:]]
            if len(corners) < 3 or any(abs(entry) > 2**40 for corner in corners for entry in corner):
                raise ValueError
        except ValueError:
            text = row.decode(errors="replace").strip()
            raise MeshFileError(
                f"{where}: face {index + 1} reads {text[:80]!r}; expected three or more vertex indices"
            ) from None
        triangles += [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]
    return _columns(np.array(triangles, np.int64).reshape(-1, 3, 3), counts, where)


def _columns(
    table: np.ndarray, counts: tuple[int, int, int], where: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The faces of a table (F, 3, 3) of vertex, texture coordinate and normal, and the latter two if complete."""
    for column, what in enumerate(("vertex", "texture coordinate", "normal")):
        _check_indices(table[..., column], counts[column], what, where, missing=column > 0)

    def complete(column: int) -> np.ndarray | None:
        whole = counts[column] and not (table[..., column] == _MISSING).any()
        return np.ascontiguousarray(table[..., column]) if whole else None

    return np.ascontiguousarray(table[..., 0]), complete(1), complete(2)


def _corner(token: bytes, before: tuple[int, int, int]) -> tuple[int, int, int]:
    """Vertex, texture coordinate and normal of a corner "v/vt/vn", from 0; `_MISSING` for those that it lacks."""
    parts = token.split(b"/")
    if len(parts) > 3:
        raise ValueError
    parts += [b""] * (3 - len(parts))
    vertex, uv, normal = (_index(part, count) if part else _MISSING for part, count in zip(parts, before, strict=True))
    if vertex == _MISSING:
        raise ValueError
    return vertex, uv, normal


def _index(token: bytes, count: int) -> int:
    """OBJ counts from 1; a negative index counts back from the last element before the face."""
    value = int(token)
    if value == 0 or b"_" in token:  # Python reads 1_0 as 10
        raise ValueError
    return value - 1 if value > 0 else value + count


def _check_indices(faces: np.ndarray, count: int, what: str, where: str, missing: bool = False) -> None:
    bad = (faces < 0) | (faces >= count)
    if missing:
        bad &= faces != _MISSING
    if bad.any():
        row = int(np.nonzero(bad.any(axis=1))[0][0])
        raise MeshFileError(
            f"{where}: face {row + 1} uses {what} {faces[row][bad[row]][0] + 1}, but the file has {count}; "
            "export it again"
        )


def _colors(lines: list[bytes], where: str) -> Tensor | None:
    """The colors behind the coordinates; None if some vertices have none."""
    try:
        colors = _numbers(lines, b"v ", 6, "")[:, 3:]
    except MeshFileError:
        return None
    bad = ~((colors >= -_COLOR_SLACK) & (colors <= 1 + _COLOR_SLACK))  # true for NaN
    if bad.any():
        row = int(bad.any(axis=1).argmax())
        raise MeshFileError(f"{where}: vertex {row} has the color {colors[row].tolist()}; expected numbers in [0, 1]")
    return torch.from_numpy(colors.clip(0, 1))


def _normals(mesh: Mesh, lines: list[bytes], corners: np.ndarray | None, where: str) -> Tensor | None:
    """The file's normals where it gives each vertex one and the same at all of its faces; None otherwise."""
    if not any(line[:3] == b"vn " for line in lines):
        return None
    values = torch.from_numpy(_finite(_numbers(lines, b"vn", 3, where), "normal", where))
    if not len(mesh.faces):
        return values if len(values) == len(mesh.vertices) else None
    if corners is None:
        return None
    index = torch.from_numpy(corners)
    normals = torch.zeros_like(mesh.vertices)
    normals[mesh.faces] = values[index]
    return normals if normals[mesh.faces].equal(values[index]) else None


def _material_image(path: Path, lines: list[bytes]) -> Path | None:
    """The image that the first material with one names; None without a material, or where its file is missing."""

    def value(lines: Iterable[bytes], key: bytes) -> str | None:
        entry = next((line.strip() for line in lines if line.strip().startswith(key + b" ")), None)
        return None if entry is None else entry.removeprefix(key).strip().decode(errors="replace")

    library = value(lines, b"mtllib")
    if library is None:
        return None
    material = _in_folder(path.parent, "", library, f"load_mesh: {path}: mtllib")
    if not material.is_file():
        return None
    image = value(_lines(material.read_bytes()), b"map_Kd")
    if image is None:
        return None
    return _in_folder(path.parent, posixpath.dirname(library), image, f"load_mesh: {material}: map_Kd")


def _in_folder(folder: Path, below: str, name: str, where: str) -> Path:
    """The file in `folder` that a scan names, relative to the folder `below` in it or to `folder` itself.

    A file of a stranger must not have another file of this machine read, so no name may lead out of the folder.
    """
    name = name.replace("\\", "/")
    choices = [name, name.split()[-1]] if name.split() else [name]  # options come before the name; it may have blanks
    paths = [posixpath.normpath(posixpath.join(start, choice)) for choice in choices for start in (below, "")]
    chosen = next((path for path in paths if (folder / path).is_file()), paths[0])
    outside = chosen.startswith(("/", "../")) or chosen == ".." or re.match("[A-Za-z]:", chosen) is not None
    if outside or not Path(os.path.realpath(folder / chosen)).is_relative_to(os.path.realpath(folder)):
        raise MeshFileError(
            f"{where} {name!r} leads out of the folder {folder}; move the file into it, or pass texture=PATH"
        )
    return folder / chosen


def _read_texture(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"load_mesh: the texture {path} is not a file; texture=False reads the shape alone")
    try:
        with open_image(path) as image:
            if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips them at 255
                pixels = np.asarray(image).astype(np.int64)
                if int(pixels.min()) < 0 or int(pixels.max()) > 65535:
                    raise ValueError(f"it holds {pixels.min()} to {pixels.max()}, more than 16 bits")
                return torch.from_numpy(pixels / 65535).float()[..., None].expand(-1, -1, 3).contiguous()
            if image.mode == "F":
                raise ValueError("it holds floating-point numbers; expected 8 or 16 bits")
            return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255
    except Exception as error:  # Pillow's plugins raise any exception of their parsers
        raise MeshFileError(
            f"load_mesh: the texture {path} is not a readable image ({error}); export it again"
        ) from error
