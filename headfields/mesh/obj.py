"""Wavefront OBJ files: a reader that is fast enough for thousands of frames of one topology, and a writer."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headfields.mesh.mesh import Mesh

_NormalTokens = list[tuple[bytes, bytes, bytes]]  # indices of normals as the file writes them; empty where it has none


class MeshFileError(ValueError):
    """A mesh file cannot be read: the message names the file, the place in it, and the remedy."""


class ObjReader:
    """Reads OBJ files and remembers the last face block: files of one topology are parsed for their vertices alone.

    Several threads may share a reader.
    """

    def __init__(self) -> None:
        # One tuple, replaced as a whole, so that threads never see the block of one file with the faces of another.
        self._last: tuple[bytes, int, Tensor, Tensor | None, _NormalTokens] | None = None

    def read(self, path: Path, field: str = "mesh_path") -> Mesh:
        """Vertices, faces (polygons are cut into fans) and texture coordinates of a file; the rest is skipped.

        The vertices are float32 in the file's unit. Files with the same faces share one tensor of them, so that
        topologies can be compared with `is`.

        Args:
            path: the file.
            field: its name in error messages.

        Raises:
            MeshFileError: the file cannot be opened, a line is malformed, an index is out of range, or a vertex is not
                finite.
        """
        return self._read(path, field)[0]

    def _read(self, path: Path, field: str) -> tuple[Mesh, list[bytes], _NormalTokens]:
        """The mesh, the lines of the file, and the index of the normal at each corner as the file writes it."""
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise MeshFileError(f"{field}: cannot read {path} ({error.strerror}); check that it is there") from error
        where = f"{field}: {path}"
        vertices = _numbers(lines, b"v ", 3, where)
        if not np.isfinite(vertices).all():
            row = int(np.nonzero(~np.isfinite(vertices).all(axis=1))[0][0])
            raise MeshFileError(
                f"{where}: vertex {row} is {vertices[row].tolist()}; every coordinate must be finite; export it again"
            )
        uv = _numbers(lines, b"vt", 2, where) if any(line[:3] == b"vt " for line in lines) else None
        block = b"\n".join([line for line in lines if line[:2] == b"f "])
        count = 0 if uv is None else len(uv)
        last = self._last
        if last is None or last[1] != count or last[0] != block:
            table, uv_table, normals = _parse_faces(block, len(vertices), count, where)
            uv_faces = None if uv_table is None else torch.from_numpy(uv_table)
            last = (block, count, torch.from_numpy(table), uv_faces, normals)
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
        MeshFileError: as `ObjReader.read`, or the texture is not an image.
    """
    mesh, lines, corners = ObjReader()._read(path, "load_mesh")
    first = next(line for line in lines if line[:2] == b"v ")
    colors = None
    if len(first.split()) >= 7:
        with contextlib.suppress(MeshFileError):  # some vertices have a color and some have none
            colors = torch.from_numpy(_numbers(lines, b"v ", 6, "")[:, 3:].copy())
    image = _material_image(path, lines) if texture is True else texture
    return mesh.replace(
        colors=colors,
        normals=_normals(mesh, lines, corners),
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
    tokens = b" ".join(rows).split()
    stride = len(tokens) // len(rows)
    if stride > width and len(tokens) == stride * len(rows):
        table = np.array(tokens).reshape(-1, stride)
        if (table[:, 0] == key.strip()).all():
            # The slow path below names the line; an overflow becomes infinite, which the caller reports.
            with contextlib.suppress(ValueError), np.errstate(over="ignore"):
                return table[:, 1 : width + 1].astype(np.float64).astype(np.float32)
    values = np.empty((len(rows), width), np.float64)
    for index, row in enumerate(rows):
        try:
            numbers = [float(token) for token in row.split()[1 : width + 1]]
            if len(numbers) < width:
                raise ValueError
            values[index] = numbers
        except ValueError:
            text = row.decode(errors="replace").strip()
            raise MeshFileError(
                f"{where}: {key.decode().strip()} line {index + 1} reads {text!r}; expected {width} numbers"
            ) from None
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _parse_faces(
    block: bytes, vertices: int, uvs: int, where: str
) -> tuple[np.ndarray, np.ndarray | None, _NormalTokens]:
    """Faces (F, 3), their texture coordinates if every corner has one, and the normals' indices as they are written."""
    tokens = block.split()
    if b"/" not in block and b"-" not in block and len(tokens) % 4 == 0 and tokens[::4] == [b"f"] * (len(tokens) // 4):
        try:  # triangles of plain indices, by far the most common
            faces = (
                np.array([tokens[1::4], tokens[2::4], tokens[3::4]], dtype="S").astype(np.int64).T - 1
                if tokens
                else np.empty((0, 3), np.int64)
            )
            _check_indices(faces, vertices, "vertex", where)
            return np.ascontiguousarray(faces), None, []
        except MeshFileError:
            raise
        except (ValueError, OverflowError):
            pass  # the loop below names the line
    corners, uv_corners = [], []
    normals: _NormalTokens = []
    for index, row in enumerate(block.splitlines()):
        try:
            split = [token.split(b"/") for token in row.split()[1:]]
            polygon = [_index(part[0], vertices) for part in split]
            if len(polygon) < 3:
                raise ValueError
            polygon_uv = [_index(part[1], uvs) if len(part) > 1 and part[1] else -1 for part in split]
            if any(abs(corner) > 2**40 for corner in (*polygon, *polygon_uv)):
                raise ValueError
        except ValueError:
            text = row.decode(errors="replace").strip()
            raise MeshFileError(
                f"{where}: face {index + 1} reads {text!r}; expected three or more vertex indices"
            ) from None
        written = [part[2] if len(part) > 2 else b"" for part in split]
        for k in range(1, len(polygon) - 1):
            corners.append((polygon[0], polygon[k], polygon[k + 1]))
            uv_corners.append((polygon_uv[0], polygon_uv[k], polygon_uv[k + 1]))
            normals.append((written[0], written[k], written[k + 1]))
    faces = np.array(corners, np.int64).reshape(-1, 3)
    uv_faces = np.array(uv_corners, np.int64).reshape(-1, 3)
    _check_indices(faces, vertices, "vertex", where)
    if not uvs or (uv_faces < 0).any():
        return faces, None, normals
    _check_indices(uv_faces, uvs, "texture coordinate", where)
    return faces, uv_faces, normals


def _index(token: bytes, count: int) -> int:
    """OBJ counts from 1; a negative index counts back from the last element."""
    value = int(token)
    if value == 0:
        raise ValueError
    return value - 1 if value > 0 else value + count


def _check_indices(faces: np.ndarray, count: int, what: str, where: str) -> None:
    bad = (faces < 0) | (faces >= count)
    if bad.any():
        row = int(np.nonzero(bad.any(axis=1))[0][0])
        raise MeshFileError(
            f"{where}: face {row + 1} uses {what} {faces[row][bad[row]][0] + 1}, but the file has {count}; "
            "export it again"
        )


def _normals(mesh: Mesh, lines: list[bytes], corners: _NormalTokens) -> Tensor | None:
    """The file's normals where it gives each vertex one and the same at all of its faces; None otherwise."""
    if not any(line[:3] == b"vn " for line in lines):
        return None
    try:
        values = torch.from_numpy(_numbers(lines, b"vn", 3, ""))
        if not len(mesh.faces):
            return values if len(values) == len(mesh.vertices) else None
        index = torch.tensor([[_index(token, len(values)) for token in face] for face in corners])
    except ValueError:  # an index or a number is missing
        return None
    if index.shape != mesh.faces.shape or int(index.min()) < 0 or int(index.max()) >= len(values):
        return None
    normals = torch.zeros_like(mesh.vertices)
    normals[mesh.faces] = values[index]
    return normals if normals[mesh.faces].equal(values[index]) else None


def _material_image(path: Path, lines: list[bytes]) -> Path | None:
    """The image that the first material with one names."""

    def value(lines: Iterable[bytes], key: bytes) -> str | None:
        entry = next((line.strip() for line in lines if line.strip().startswith(key + b" ")), None)
        return None if entry is None else entry.removeprefix(key).strip().decode(errors="replace")

    library = value(lines, b"mtllib")
    if library is None or not (path.parent / library).is_file():
        return None
    image = value((path.parent / library).read_bytes().split(b"\n"), b"map_Kd")
    return None if image is None else path.parent / image.split()[-1]


def _read_texture(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"load_mesh: the texture {path} is not a file; texture=False reads the shape alone")
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255
    except OSError as error:
        raise MeshFileError(
            f"load_mesh: the texture {path} is not a readable image ({error}); export it again"
        ) from error
