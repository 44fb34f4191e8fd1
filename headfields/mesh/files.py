"""Mesh files: OBJ, PLY and glTF, read and written."""

import contextlib
import io
import os
import urllib.parse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from headfields.files.atomic import replacing, write_bytes, write_image
from headfields.files.gltf import ATTRIBUTE, INDEX, GltfDocument
from headfields.files.reading import file_bytes, reading
from headfields.mesh.gltf_extensions import dequantized
from headfields.mesh.integrity import check_gltf, check_off, check_ply
from headfields.mesh.mesh import Mesh
from headfields.mesh.obj import MeshFileError, obj_lines, read_obj
from headfields.mesh.seams import split_at_seams
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear
from headfields.ops.vectors import unit_vectors

FORMATS = (".ply", ".obj", ".glb")
"""Endings of the files that `save_mesh` writes."""


def save_mesh(path: Path | str, mesh: Mesh) -> Path:
    """Writes a mesh as PLY (binary), OBJ or binary glTF 2.0, by the ending of the file: `.ply`, `.obj` or `.glb`.

    Vertices keep their order, and normals and colors are written where the mesh has them: colors with 8 bits in
    PLY, behind the coordinates in OBJ (as MeshLab and Blender read them), and as linear light in glTF, as its
    standard demands. OBJ and glTF also take texture coordinates and the texture: `NAME.mtl` and `NAME.png` are
    written next to `NAME.obj`; a `.glb` holds the image, and a vertex on a seam of the texture again behind the
    others. A mesh without faces is written as points. The file appears whole or not at all.

    Args:
        path: the file; its folder is made.
        mesh: meters, y up, face toward +z, as glTF has it too.

    Returns:
        The path.

    Raises:
        ValueError: another ending; a vertex that is not finite; a texture, for PLY; or no vertex at all, which glTF
            cannot hold.
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
    if mesh.texture is not None and ending == ".ply":
        raise ValueError(
            f"save_mesh: {path.name} cannot hold the texture; write an .obj or .glb, or mesh.replace(texture=None)"
        )
    vertices = mesh.vertices.detach().cpu()
    if not bool(vertices.isfinite().all()):
        row = int((~vertices.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"save_mesh: vertex {row} is {vertices[row].tolist()}; every coordinate must be finite")
    if mesh.texture is None or ending == ".glb":
        return write_bytes(path, writers[ending](mesh))
    image, material = path.with_suffix(".png"), path.with_suffix(".mtl")
    # Nested: all three are written before the first is moved, so that an old mesh keeps its own texture.
    with replacing(path) as new_path, replacing(material) as new_material, replacing(image) as new_image:
        new_path.write_bytes(_obj(mesh, material.name))
        new_material.write_text(f"newmtl skin\nKd 1 1 1\nmap_Kd {image.name}\n", encoding="utf-8")
        write_image(new_image, _pixels(mesh.texture))
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
    import trimesh

    class Folder(trimesh.resolvers.FilePathResolver):
        """The files that a mesh names: a pipe among them would be waited for, a device read without an end."""

        def get(self, name: str) -> bytes:
            plain = urllib.parse.unquote(name.strip())  # glTF writes a space as %20
            for choice in (name.strip(), plain, plain.lstrip("/"), os.path.basename(plain)):
                with contextlib.suppress(ValueError):  # it leads out of the folder
                    if (file := self.absolute(choice)).exists():
                        return file_bytes(file)
            raise FileNotFoundError(f"there is no file {name} in {self.parent}")

    _CHECKS.get(path.suffix.lower(), lambda _: None)(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)  # in an image within a glTF
            floats = dequantized(path) if path.suffix.lower() in (".glb", ".gltf") else None
            source: dict[str, Any] = {"file_obj": str(path)}
            if floats is not None:
                source = {"file_obj": io.BytesIO(floats), "file_type": path.suffix.lower()[1:]}
            scene = trimesh.load_scene(**source, resolver=Folder(str(path)), process=False)
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
            normals = unit_vectors(torch.from_numpy(normals)).numpy()
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
    document = GltfDocument()
    node = {"mesh": document.add("meshes", {"primitives": [gltf_primitive(document, mesh)]})}
    document.json["scenes"] = [{"nodes": [document.add("nodes", node)]}]
    document.json["scene"] = 0
    return document.to_bytes()


def gltf_primitive(document: GltfDocument, mesh: Mesh) -> dict[str, Any]:
    """Adds a mesh's numbers and its material to a document; returns the primitive.

    A vertex on a seam of the texture is several in glTF: the mesh's own come first, in order, then the copies that
    `split_at_seams` makes.

    Raises:
        ValueError: the mesh has no vertices, which glTF cannot hold.
    """
    if not len(mesh.vertices):
        raise ValueError("save_mesh: the mesh has no vertices, and glTF holds no empty ones; write a .ply")
    vertices, faces, colors, normals = _arrays(mesh)
    rows, uv = np.arange(len(vertices)), None
    if mesh.uv is not None and len(faces):
        split = split_at_seams(mesh.map(lambda tensor: tensor.detach().cpu()))
        rows, faces = split.vertex.numpy(), split.faces.numpy()
        uv = (split.uv.float() * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])).numpy()  # v is down in glTF
    attributes = {"POSITION": document.accessor(vertices[rows], ATTRIBUTE, bounds=True)}
    if normals is not None:
        attributes["NORMAL"] = document.accessor(_unit_normals(normals)[rows], ATTRIBUTE)
    if uv is not None:
        attributes["TEXCOORD_0"] = document.accessor(uv, ATTRIBUTE)
    if colors is not None and mesh.texture is None:
        attributes["COLOR_0"] = document.accessor(linear_from_srgb(torch.from_numpy(colors)).numpy()[rows], ATTRIBUTE)
    look: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    if mesh.texture is not None and uv is not None:
        png = io.BytesIO()
        PIL.Image.fromarray(_pixels(mesh.texture)).save(png, "PNG")
        look["baseColorTexture"] = {"index": document.texture(png.getvalue())}
    material = document.add("materials", {"doubleSided": True, "pbrMetallicRoughness": look})
    primitive: dict[str, Any] = {"attributes": attributes, "material": material, "mode": 4 if len(faces) else 0}
    if len(faces):
        primitive["indices"] = document.accessor(faces.astype(np.uint32).reshape(-1), INDEX)
    return primitive


def _unit_normals(normals: np.ndarray) -> np.ndarray:
    """Unit normals; of a vertex without one, whose normal is 0, any: glTF demands that all have length 1."""
    ahead = torch.tensor([0.0, 0.0, 1.0])
    return unit_vectors(torch.from_numpy(normals).float().nan_to_num(0.0, 0.0, 0.0), ahead).numpy()


def _pixels(texture: Tensor) -> np.ndarray:
    return texture.detach().cpu().float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
