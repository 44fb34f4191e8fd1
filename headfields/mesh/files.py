"""Mesh files: PLY, OBJ and binary glTF are written here; those and more are read with trimesh."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear

FORMATS = (".ply", ".obj", ".glb")
"""Endings of the files that `save_mesh` writes."""


def save_mesh(path: Path | str, mesh: Mesh) -> Path:
    """Writes a mesh, by the ending of the file: `.ply` (binary), `.obj` or `.glb` (binary glTF 2.0).

    Vertices, faces, normals and colors are kept, each where the mesh has it; vertices keep their order. Colors are 8
    bits in PLY, behind the coordinates in OBJ (as MeshLab and Blender read them), and linear light in glTF, as that
    format wants them. A mesh without faces is written as points. The file appears whole or not at all.

    Args:
        path: the file; its folder is made.
        mesh: meters, y up, face toward +z, which is also how glTF has it.

    Returns:
        The path.

    Raises:
        ValueError: another ending; or a vertex that is not finite, or no vertex at all, which glTF cannot hold.
    """
    path = Path(path)
    writers = {".ply": _ply, ".obj": _obj, ".glb": _glb}
    if path.suffix.lower() not in writers:
        raise ValueError(f"save_mesh: {path.name} ends in {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    data = writers[path.suffix.lower()](mesh)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_mesh(path: Path | str) -> Mesh:
    """A mesh or point set from a file that trimesh reads: PLY, OBJ, glTF, STL, OFF.

    Several objects become one; polygons become triangles. A texture is sampled at the vertices for colors. Vertices
    of PLY files keep their order; formats that give a vertex several normals or texture coordinates may split it.

    Args:
        path: the file, in meters (nothing is scaled).

    Returns:
        The mesh, on the CPU, with normals and colors where the file has them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds neither a mesh nor points.
    """
    import trimesh

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_mesh: there is no file {path}")
    options: dict[str, Any] = {"maintain_order": True} if path.suffix.lower() == ".obj" else {}
    try:
        scene = trimesh.load_scene(str(path), process=False, **options)
        # Node by node rather than scene.dump(), which forgets the normals and colors that a file has.
        parts = [
            (scene.geometry[name], scene.graph[node][0])
            for node in scene.graph.nodes_geometry
            for name in [scene.graph[node][1]]
        ]
    except Exception as error:  # whatever a reader stumbles over is the reason to show
        raise ValueError(f"load_mesh: cannot read {path}: {type(error).__name__}: {error}") from error
    linear = path.suffix.lower() in (".glb", ".gltf")
    found = [_from_trimesh(part, place, linear) for part, place in parts]
    meshes = [mesh for mesh in found if mesh is not None]
    if not meshes:
        raise ValueError(f"load_mesh: {path} holds neither a mesh nor points")
    return _joined(meshes)


def _from_trimesh(part: Any, place: np.ndarray, linear: bool) -> Mesh | None:
    vertices = getattr(part, "vertices", None)
    if vertices is None or not (hasattr(part, "visual") or hasattr(part, "colors")):
        return None
    faces = np.asarray(getattr(part, "faces", np.empty((0, 3)))).astype(np.int64).reshape(-1, 3)
    normals = _stored_normals(part)
    colors = _colors(part, len(vertices), linear)
    vertices = np.asarray(vertices)
    if not np.array_equal(place, np.eye(4)):
        vertices = vertices @ place[:3, :3].T + place[:3, 3]
        if normals is not None:
            normals = normals @ np.linalg.inv(place[:3, :3])
            normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
        if np.linalg.det(place[:3, :3]) < 0:
            faces = faces[:, ::-1]
    return Mesh(
        torch.from_numpy(np.array(vertices, np.float32)),
        torch.from_numpy(faces.copy()),
        colors,
        None if normals is None else torch.from_numpy(np.array(normals, np.float32)),
    )


def _stored_normals(part: Any) -> np.ndarray | None:
    """The normals that the file has; asking trimesh for some would compute them where it has none."""
    stored = part._cache.cache.get("vertex_normals") if hasattr(part, "_cache") else None
    if stored is None:
        raw = part.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
        names = getattr(getattr(raw, "dtype", None), "names", None) or ()
        if {"nx", "ny", "nz"} <= set(names):
            stored = np.stack([np.asarray(raw[name]).reshape(-1) for name in ("nx", "ny", "nz")], axis=-1)
    return None if stored is None or np.shape(stored) != np.shape(part.vertices) else np.asarray(stored)


def _colors(part: Any, count: int, linear: bool) -> Tensor | None:
    """Colors of the vertices, sRGB; those of glTF are linear light, but not those of its textures."""
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
    except Exception:  # a texture that is not there: the shape is what is asked for first
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

    def together(tensors: list[Tensor | None]) -> Tensor | None:
        whole = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(whole) if len(whole) == len(tensors) else None

    return Mesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat([mesh.faces + int(start) for mesh, start in zip(meshes, starts, strict=False)]),
        together([mesh.colors for mesh in meshes]),
        together([mesh.normals for mesh in meshes]),
    )


def _arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    vertices = mesh.vertices.detach().cpu().float().numpy()
    if not np.isfinite(vertices).all():
        row = int(np.nonzero(~np.isfinite(vertices).all(axis=1))[0][0])
        raise ValueError(f"save_mesh: vertex {row} is {vertices[row].tolist()}; every coordinate must be finite")
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


def _obj(mesh: Mesh) -> bytes:
    vertices, faces, colors, normals = _arrays(mesh)
    lines = ["# meters, y up, face toward +z"]
    rows = vertices if colors is None else np.concatenate([vertices, colors], axis=1)
    lines += ["v " + " ".join(f"{value:.8g}" for value in row) for row in rows.tolist()]
    if normals is not None:
        lines += ["vn " + " ".join(f"{value:.6g}" for value in row) for row in normals.tolist()]
    corner = "{0}" if normals is None else "{0}//{0}"
    lines += ["f " + " ".join(corner.format(index) for index in row) for row in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


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
