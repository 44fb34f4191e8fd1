"""Mesh files: OBJ, PLY and glTF, read and written."""

import contextlib
import json
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headfields.files.atomic import replacing, write_bytes, write_image
from headfields.files.reading import file_bytes, reading
from headfields.mesh.integrity import check_gltf, check_off, check_ply
from headfields.mesh.mesh import Mesh
from headfields.mesh.obj import MeshFileError, obj_lines, read_obj
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear

FORMATS = (".ply", ".obj", ".glb")
"""Endings of the files that `save_mesh` writes."""


def save_mesh(path: Path | str, mesh: Mesh) -> Path:
    """Writes a mesh as PLY (binary), OBJ or binary glTF 2.0, by the ending of the file: `.ply`, `.obj` or `.glb`.

    Vertices keep their order, and normals and colors are written where the mesh has them: colors with 8 bits in PLY,
    behind the coordinates in OBJ (as MeshLab and Blender read them), and as linear light in glTF, as its standard
    demands. OBJ also takes texture coordinates and the texture: `NAME.mtl` and `NAME.png` are written next to
    `NAME.obj`. A mesh without faces is written as points. The file appears whole or not at all.

    Args:
        path: the file; its folder is made.
        mesh: meters, y up, face toward +z, as glTF has it too.

    Returns:
        The path.

    Raises:
        ValueError: another ending; a vertex that is not finite; a texture, for a format other than OBJ; or no vertex at
            all, which glTF cannot hold.
        OSError: a file cannot be written; the message has its path.

    >>> import tempfile, torch, headfields as hf
    >>> mesh = hf.Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    >>> path = hf.mesh.save_mesh(tempfile.mkdtemp() + "/triangle.obj", mesh)
    >>> hf.mesh.load_mesh(path, scale=0.25).vertices.tolist()
    [[0.0, 0.0, 0.0], [0.25, 0.0, 0.0], [0.0, 0.25, 0.0]]
    """
    path = Path(path)
    ending = path.suffix.lower()
    writers = {".ply": _ply, ".obj": _obj, ".glb": _glb}
    if ending not in writers:
        raise ValueError(f"save_mesh: {path.name} ends in {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    if mesh.texture is not None and ending != ".obj":
        raise ValueError(
            f"save_mesh: {path.name} cannot hold the texture; write an .obj, or mesh.replace(texture=None)"
        )
    vertices = mesh.vertices.detach().cpu()
    if not bool(vertices.isfinite().all()):
        row = int((~vertices.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"save_mesh: vertex {row} is {vertices[row].tolist()}; every coordinate must be finite")
    if mesh.texture is None:
        return write_bytes(path, writers[ending](mesh))
    image, material = path.with_suffix(".png"), path.with_suffix(".mtl")
    pixels = mesh.texture.detach().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    # Nested: all three are written before the first is moved, so that an old mesh keeps its own texture.
    with replacing(path) as new_path, replacing(material) as new_material, replacing(image) as new_image:
        new_path.write_bytes(_obj(mesh, material.name))
        new_material.write_text(f"newmtl skin\nKd 1 1 1\nmap_Kd {image.name}\n", encoding="utf-8")
        write_image(new_image, pixels.numpy())
    return path


def load_mesh(path: Path | str, texture: Path | str | bool = True, scale: float = 1.0) -> Mesh:
    """Reads a mesh or point set: OBJ by the library itself; PLY, glTF, STL and OFF by trimesh.

    Several objects become one, and polygons become triangles. Vertices of OBJ and PLY files keep their order; the other
    formats may split a vertex that has several normals or texture coordinates.

    An OBJ file keeps its texture coordinates (if every corner of every face has one) and its texture, and its normals
    if each vertex has one. In the other formats, a texture is sampled at the vertices for their colors. docs/files.md
    says what is tolerated in a file, and what is an error.

    Args:
        path: the file.
        texture: texture of an OBJ: an image; or True for the one that its material names (`map_Kd`), False for none.
        scale: meters per unit of the file: 0.001 for millimeters. glTF is in meters; of the others only you know.

    Returns:
        The mesh, on the CPU, with normals and colors where the file has them.

    Raises:
        FileNotFoundError: the file, or its texture, is missing.
        MeshFileError: it cannot be read, holds less or more than it says, holds neither a mesh nor points, or a number
            is not finite. A ValueError.
        ValueError: scale is not a positive number.
    """
    path = Path(path)
    if not 0 < scale < float("inf"):
        raise ValueError(f"load_mesh: scale is {scale}; expected a positive number of meters per unit")
    if not path.is_file():
        raise FileNotFoundError(f"load_mesh: there is no file {path}")
    is_obj = path.suffix.lower() == ".obj"
    if not is_obj and not isinstance(texture, bool):
        raise ValueError(f"load_mesh: texture is {texture}, which needs an .obj file, and path is {path.name}")
    with reading(path, "a mesh", MeshFileError):
        image = Path(texture) if isinstance(texture, str) else texture
        mesh = read_obj(path, image) if is_obj else _read_with_trimesh(path)
    return mesh if scale == 1.0 else mesh.replace(vertices=mesh.vertices * scale)


_CHECKS = {".ply": check_ply, ".off": check_off, ".glb": check_gltf, ".gltf": check_gltf}


def _read_with_trimesh(path: Path) -> Mesh:
    import PIL.Image
    import trimesh

    class Folder(trimesh.resolvers.FilePathResolver):
        """The files that a mesh names: a pipe among them would be waited for, a device read without an end."""

        def get(self, name: str) -> bytes:
            for choice in (name.strip(), name.strip().lstrip("/"), os.path.basename(name)):  # those of trimesh
                with contextlib.suppress(ValueError):  # it leads out of the folder
                    if (file := self.absolute(choice)).exists():
                        return file_bytes(file)
            raise FileNotFoundError(f"there is no file {name} in {self.parent}")

    _CHECKS.get(path.suffix.lower(), lambda _: None)(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)  # in an image within a glTF
            scene = trimesh.load_scene(str(path), resolver=Folder(str(path)), process=False)
        # Node by node rather than scene.dump(), which forgets the normals and colors that a file has.
        parts = [
            (scene.geometry[name], scene.graph[node][0])
            for node in scene.graph.nodes_geometry
            for name in [scene.graph[node][1]]
        ]
    except Exception as error:  # show the message of any reader that trimesh calls
        raise MeshFileError(f"load_mesh: cannot read {path}: {type(error).__name__}: {error}") from error
    linear = path.suffix.lower() in (".glb", ".gltf")
    try:
        pieces = [_from_trimesh(part, placement, linear) for part, placement in parts]
    except ValueError as error:  # of Mesh
        raise MeshFileError(f"load_mesh: {path}: {error}; export it again") from error
    meshes = [mesh for mesh in pieces if mesh is not None]
    if not meshes:
        raise MeshFileError(f"load_mesh: {path} holds neither a mesh nor points; it may be cut short: export it again")
    mesh = _joined(meshes)
    for name, values in (("vertices", mesh.vertices), ("normals", mesh.normals), ("colors", mesh.colors)):
        if values is not None and not bool(values.isfinite().all()):
            row = int((~values.isfinite()).any(dim=1).nonzero()[0])
            raise MeshFileError(
                f"load_mesh: {path}: {name}[{row}] is {values[row].tolist()}; every number must be finite; export it "
                "again"
            )
    return mesh


def _from_trimesh(part: Any, placement: np.ndarray, linear: bool) -> Mesh | None:
    vertices = getattr(part, "vertices", None)
    if vertices is None or not (hasattr(part, "visual") or hasattr(part, "colors")):
        return None
    faces = np.asarray(getattr(part, "faces", np.empty((0, 3)))).astype(np.int64).reshape(-1, 3)
    normals = _stored_normals(part)
    colors = _colors(part, len(vertices), linear)
    vertices = np.asarray(vertices)
    if not np.array_equal(placement, np.eye(4)):
        vertices = vertices @ placement[:3, :3].T + placement[:3, 3]
        if normals is not None:
            normals = normals @ np.linalg.inv(placement[:3, :3])
            normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
        if np.linalg.det(placement[:3, :3]) < 0:
            faces = faces[:, ::-1]
    return Mesh(
        torch.from_numpy(np.array(vertices, np.float32)),
        torch.from_numpy(faces.copy()),
        colors,
        None if normals is None else torch.from_numpy(np.array(normals, np.float32)),
    )


def _stored_normals(part: Any) -> np.ndarray | None:
    """The normals of the file; trimesh's own property computes them where the file has none."""
    stored = part._cache.cache.get("vertex_normals") if hasattr(part, "_cache") else None
    if stored is None:
        raw = part.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
        names = getattr(getattr(raw, "dtype", None), "names", None) or ()
        if {"nx", "ny", "nz"} <= set(names):
            stored = np.stack([np.asarray(raw[name]).reshape(-1) for name in ("nx", "ny", "nz")], axis=-1)
    return None if stored is None or np.shape(stored) != np.shape(part.vertices) else np.asarray(stored)


def _colors(part: Any, count: int, linear: bool) -> Tensor | None:
    """Colors of the vertices, sRGB; glTF stores linear light, but for its textures."""
    visual = getattr(part, "visual", None)
    colors: Any = None
    try:
        if visual is None:
            colors = part.colors
        elif visual.kind == "vertex":
            colors = visual.vertex_colors
        elif visual.kind == "texture":
            colors = visual.vertex_attributes.get("color")
            image = getattr(visual.material, "image", None) or getattr(visual.material, "baseColorTexture", None)
            if colors is None and visual.uv is not None and len(visual.uv) == count and image is not None:
                colors, linear = visual.to_color().vertex_colors, False
    except Exception:  # read the shape without its texture
        return None
    if colors is None or np.ndim(colors) != 2 or len(colors) != count or not count:
        return None
    colors = np.asarray(colors)
    scale = {"u1": 255.0, "u2": 65535.0}.get(colors.dtype.str[1:], 1.0)
    rgb = torch.from_numpy(colors[:, :3].astype(np.float32) / np.float32(scale))
    return srgb_from_linear(rgb) if linear else rgb


def _joined(meshes: list[Mesh]) -> Mesh:
    if len(meshes) == 1:
        return meshes[0]
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])

    def concatenated(tensors: list[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if len(present) == len(tensors) else None

    return Mesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat([mesh.faces + int(start) for mesh, start in zip(meshes, starts, strict=False)]),
        concatenated([mesh.colors for mesh in meshes]),
        concatenated([mesh.normals for mesh in meshes]),
    )


def _arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    vertices = mesh.vertices.detach().cpu().float().numpy()
    colors = None if mesh.colors is None else mesh.colors.detach().cpu().float().clamp(0, 1).numpy()
    normals = None if mesh.normals is None else mesh.normals.detach().cpu().float().numpy()
    return vertices, mesh.faces.cpu().numpy(), colors, normals


def _ply(mesh: Mesh) -> bytes:
    vertices, faces, colors, normals = _arrays(mesh)
    fields = [(name, "<f4") for name in "xyz"]
    fields += [(name, "<f4") for name in ("nx", "ny", "nz")] if normals is not None else []
    fields += [(name, "u1") for name in ("red", "green", "blue")] if colors is not None else []
    table = np.empty(len(vertices), dtype=fields)
    columns = [vertices, *([normals] if normals is not None else [])]
    for (name, _), column in zip(fields, np.concatenate(columns, axis=1).T, strict=False):
        table[name] = column
    if colors is not None:
        for channel, name in enumerate(("red", "green", "blue")):
            table[name] = np.round(colors[:, channel] * 255)
    header = ["ply", "format binary_little_endian 1.0", "comment meters, y up, face toward +z"]
    header += [f"element vertex {len(vertices)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
    body = table.tobytes()
    if len(faces):
        rows = np.empty(len(faces), dtype=[("n", "u1"), ("corner", "<i4", 3)])
        rows["n"], rows["corner"] = 3, faces
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        body += rows.tobytes()
    return ("\n".join([*header, "end_header"]) + "\n").encode() + body


def _obj(mesh: Mesh, material: str | None = None) -> bytes:
    return "\n".join([*obj_lines(mesh, material), ""]).encode()


def _glb(mesh: Mesh) -> bytes:
    vertices, faces, colors, normals = _arrays(mesh)
    if not len(vertices):
        raise ValueError("save_mesh: the mesh has no vertices, and glTF holds no empty ones; write a .ply")
    if colors is not None:
        colors = linear_from_srgb(torch.from_numpy(colors)).numpy()
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    data = b""

    def add(array: np.ndarray, kind: str, component: int, target: int, **more: Any) -> int:
        nonlocal data
        block = np.ascontiguousarray(array).tobytes()  # four-byte numbers throughout, so all is aligned
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(block), "target": target})
        accessor = {"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": kind}
        accessors.append({**accessor, **more})
        data += block
        return len(accessors) - 1

    corners = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    attributes = {"POSITION": add(vertices, "VEC3", 5126, 34962, **corners)}
    if normals is not None:
        attributes["NORMAL"] = add(normals, "VEC3", 5126, 34962)
    if colors is not None:
        attributes["COLOR_0"] = add(colors, "VEC3", 5126, 34962)
    primitive: dict[str, Any] = {"attributes": attributes, "material": 0, "mode": 4 if len(faces) else 0}
    if len(faces):
        primitive["indices"] = add(faces.astype("<u4").reshape(-1), "SCALAR", 5125, 34963)
    document = {
        "asset": {"version": "2.0", "generator": "headfields"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"doubleSided": True, "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(data)
    return b"".join([
        struct.pack("<4sII", b"glTF", 2, length),
        struct.pack("<I4s", len(text), b"JSON"), text,
        struct.pack("<I4s", len(data), b"BIN\0"), data,
    ])  # fmt: skip
