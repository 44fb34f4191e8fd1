"""Wavefront OBJ meshes, read fast enough for thousands of frames of one topology."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headfields.files.errors import CaptureError


@dataclass(frozen=True)
class ObjMesh:
    """A triangle mesh as NumPy arrays.

    Attributes:
        vertices: (V, 3) float32, the file's units.
        faces: (F, 3) int64, zero-based; polygons are cut into fans.
        uv: (T, 2) float32 texture coordinates, or None.
        uv_faces: (F, 3) int64 indices into `uv`, or None unless every corner of every face has one.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    uv_faces: np.ndarray | None = None


class ObjReader:
    """Reads OBJ files, remembering the last face block: files of one topology are parsed for vertices alone."""

    def __init__(self) -> None:
        # Block and result in one tuple: several threads read through one reader.
        self._last: tuple[bytes, int, np.ndarray, np.ndarray | None] | None = None

    def read(self, path: Path, field: str = "mesh_path") -> ObjMesh:
        """The mesh in `path`.

        Raises:
            CaptureError: the file cannot be opened, a line is malformed, an index out of range
                or a vertex not finite.
        """
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise CaptureError(f"{field}: cannot read {path} ({error.strerror}); check that it is there") from error
        where = f"{field}: {path}"
        vertices = _numbers(lines, b"v ", 3, where)
        if not np.isfinite(vertices).all():
            row = int(np.nonzero(~np.isfinite(vertices).all(axis=1))[0][0])
            raise CaptureError(
                f"{where}: vertex {row} is {vertices[row].tolist()}; every coordinate must be finite; export it again"
            )
        uv = _numbers(lines, b"vt", 2, where) if any(line[:3] == b"vt " for line in lines) else None
        block = b"\n".join([line for line in lines if line[:2] == b"f "])
        count = 0 if uv is None else len(uv)
        last = self._last
        if last is None or last[1] != count or last[0] != block:
            last = (block, count, *_parse_faces(block, len(vertices), count, where))
            self._last = last
        _, _, faces, uv_faces = last
        if len(faces) and faces.max() >= len(vertices):
            raise CaptureError(
                f"{where}: a face uses vertex {faces.max() + 1}, but there are {len(vertices)} vertices; "
                "export it again"
            )
        return ObjMesh(vertices, faces, uv if uv_faces is not None else None, uv_faces)


class PlausibleSize:
    """Whether meshes of one topology are about as large as the canonical one: same unit, order of vertices, no outlier.

    Args:
        canonical: with at least one face.

    Raises:
        CaptureError: the canonical mesh is a single point.
    """

    def __init__(self, canonical: ObjMesh) -> None:
        edges = np.sort(canonical.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        self._edges = np.unique(edges, axis=0)
        self._mean, _, self._extent = self._measures(canonical.vertices)
        if not self._mean > 0:
            raise CaptureError("canonical.obj: all of its vertices are in one place; export it again")

    def fault(self, vertices: np.ndarray) -> str | None:
        """What is wrong with the vertices (V, 3), or None."""
        mean, longest, extent = self._measures(vertices)
        for what, value, usual in (("edges average", mean, self._mean), ("extent is", extent, self._extent)):
            if not usual / 3 < value < usual * 3:
                return f"its {what} {value:.3g} m, canonical.obj's {usual:.3g} m"
        if longest > self._extent:
            return f"it has an edge of {longest:.3g} m, and canonical.obj is {self._extent:.3g} m across"
        return None

    def _measures(self, vertices: np.ndarray) -> tuple[float, float, float]:
        """Mean and greatest length of the edges, diagonal of the bounding box of the vertices in use."""
        ends = vertices[self._edges].astype(np.float64)
        length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        flat = ends.reshape(-1, 3)
        extent = np.linalg.norm(flat.max(axis=0) - flat.min(axis=0))
        return float(length.mean()), float(length.max()), float(extent)


def read_obj(path: Path | str, field: str = "mesh") -> ObjMesh:
    """Reads one OBJ file: vertices, faces (fan-triangulated) and texture coordinates; other statements are skipped.

    Raises:
        CaptureError: as `ObjReader.read`.
    """
    return ObjReader().read(Path(path), field)


def write_obj(
    path: Path | str,
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray | None = None,
    uv_faces: np.ndarray | None = None,
) -> None:
    """Writes vertices (V, 3), with the nine digits that give float32 back exactly, and zero-based faces (F, 3).

    `uv` (T, 2) and `uv_faces` (F, 3), both or neither, are written likewise.
    """
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in np.asarray(vertices, np.float32).tolist()]
    corners = (np.asarray(faces) + 1).tolist()
    if uv is None or uv_faces is None:
        lines += [f"f {a} {b} {c}" for a, b, c in corners]
    else:
        lines += [f"vt {u:.9g} {v:.9g}" for u, v in np.asarray(uv, np.float32).tolist()]
        pairs = zip(corners, (np.asarray(uv_faces) + 1).tolist(), strict=True)
        lines += [f"f {a}/{i} {b}/{j} {c}/{k}" for (a, b, c), (i, j, k) in pairs]
    Path(path).write_text("\n".join([*lines, ""]))


def _numbers(lines: list[bytes], key: bytes, width: int, where: str) -> np.ndarray:
    """The first `width` numbers of each line that starts with `key`, as (N, width) float32."""
    rows = [line for line in lines if line[:2] == key]
    if not rows:
        raise CaptureError(
            f"{where}: no '{key.decode().strip()}' line; the file is empty, cut short or not an OBJ mesh; "
            "export it again"
        )
    tokens = b" ".join(rows).split()
    stride = len(tokens) // len(rows)
    if stride > width and len(tokens) == stride * len(rows):
        table = np.array(tokens).reshape(-1, stride)
        if (table[:, 0] == key.strip()).all():
            # The slow path below names the line; what overflows is infinite, and found by the caller.
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
            raise CaptureError(
                f"{where}: {key.decode().strip()} line {index + 1} reads {text!r}; expected {width} numbers"
            ) from None
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _parse_faces(block: bytes, vertices: int, uvs: int, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    tokens = block.split()
    if b"/" not in block and b"-" not in block and len(tokens) % 4 == 0 and tokens[::4] == [b"f"] * (len(tokens) // 4):
        try:  # triangles of plain indices, by far the most common
            faces = (
                np.array([tokens[1::4], tokens[2::4], tokens[3::4]], dtype="S").astype(np.int64).T - 1
                if tokens
                else np.empty((0, 3), np.int64)
            )
            _check_indices(faces, vertices, "vertex", where)
            return np.ascontiguousarray(faces), None
        except CaptureError:
            raise
        except (ValueError, OverflowError):
            pass  # the loop below names the line
    corners, uv_corners = [], []
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
            raise CaptureError(
                f"{where}: face {index + 1} reads {text!r}; expected three or more vertex indices"
            ) from None
        for k in range(1, len(polygon) - 1):
            corners.append((polygon[0], polygon[k], polygon[k + 1]))
            uv_corners.append((polygon_uv[0], polygon_uv[k], polygon_uv[k + 1]))
    faces = np.array(corners, np.int64).reshape(-1, 3)
    uv_faces = np.array(uv_corners, np.int64).reshape(-1, 3)
    _check_indices(faces, vertices, "vertex", where)
    if not uvs or (uv_faces < 0).any():
        return faces, None
    _check_indices(uv_faces, uvs, "texture coordinate", where)
    return faces, uv_faces


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
        raise CaptureError(
            f"{where}: face {row + 1} uses {what} {faces[row][bad[row]][0] + 1}, but the file has {count}; "
            "export it again"
        )
