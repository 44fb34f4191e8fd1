"""Extensions of glTF: which ones a file may require, and quantized attributes as the numbers that they stand for.

trimesh leaves out what it does not know, and takes `KHR_mesh_quantization`'s whole numbers as they are, without
`normalized`. So what changes the shape or the colors is handled here, or refused by name.
"""

import base64
import importlib.util
import json
import struct
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headfields.files.reading import file_bytes
from headfields.mesh.obj import MeshFileError

COMPONENT_TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
"""NumPy's names of glTF's component types."""
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
"""Numbers of an element of an accessor."""
DRACO = "KHR_draco_mesh_compression"
READ = ("KHR_mesh_quantization", "EXT_texture_webp", "KHR_lights_punctual", "KHR_xmp_json_ld")
"""Extensions that a file may require, and that are read, or say nothing of shape and colors; so do KHR_materials_*."""


def check_extensions(document: dict[str, Any], where: str) -> None:
    """Refuses extensions that a file requires and that are not read, and Draco without a decoder.

    Raises:
        MeshFileError: names the extension and the remedy.
    """
    required = [str(name) for name in document.get("extensionsRequired", [])]
    compressed = any(
        DRACO in primitive.get("extensions", {})
        for mesh in document.get("meshes", [])
        for primitive in mesh["primitives"]
    )
    if (compressed or DRACO in required) and not draco_is_read():
        raise MeshFileError(
            f"{where}: is compressed with Draco ({DRACO}); pip install DracoPy (and trimesh 5 or later) reads it, or "
            "export it without compression"
        )
    for name in required:
        if name not in (*READ, DRACO) and not name.startswith("KHR_materials_"):
            remedy = (
                "decompress it (gltfpack -noq, or gltf-transform copy)" if "meshopt" in name else "export it without"
            )
            raise MeshFileError(f"{where}: requires the glTF extension {name}, which is not read; {remedy}")


def draco_is_read() -> bool:
    """Whether trimesh decodes Draco here."""
    if importlib.util.find_spec("DracoPy") is None:
        return False
    try:
        from trimesh.exchange.gltf.extensions import unregistered
    except ImportError:  # before trimesh 5
        return False
    return not unregistered([DRACO], "primitive_preprocess")


def check_filled(document: dict[str, Any], where: str) -> None:
    """Refuses attributes and indices of a mesh that have no data, unless Draco has it: trimesh would read zeros.

    Raises:
        MeshFileError: names the accessor.
    """
    accessors = document.get("accessors", [])
    for number, mesh in enumerate(document.get("meshes", [])):
        for primitive in mesh["primitives"]:
            if DRACO in primitive.get("extensions", {}):
                continue
            used = dict(primitive["attributes"])
            if "indices" in primitive:
                used["indices"] = primitive["indices"]
            for name, index in used.items():
                if "bufferView" not in accessors[index]:
                    raise MeshFileError(f"{where}: meshes[{number}].{name} has no data (accessors[{index}])")


def dequantized(path: Path) -> bytes | None:
    """A glTF or GLB file whose quantized positions, normals and texture coordinates are floats; None if none is.

    Whole numbers that are `normalized` stand for fractions of the largest one (glTF 2.0, section 3.11, "Animations",
    and `KHR_mesh_quantization`), others for themselves.
    """
    data = file_bytes(path)
    binary = data[:4] == b"glTF"
    size = struct.unpack("<I", data[12:16])[0] if binary else 0
    document = json.loads(data[20 : 20 + size] if binary else data)
    chunk = data[28 + size :] if binary else b""
    accessors = document.get("accessors", [])
    quantized = {
        index
        for mesh in document.get("meshes", [])
        for primitive in mesh["primitives"]
        if DRACO not in primitive.get("extensions", {})
        for name, index in primitive["attributes"].items()
        if name.split("_")[0] in ("POSITION", "NORMAL", "TEXCOORD") and accessors[index]["componentType"] != 5126
    }
    if not quantized:
        return None
    floats = bytearray()
    for index in sorted(quantized):
        accessor = accessors[index]
        values = _values(
            document, accessor, lambda buffer: _buffer(document, buffer, chunk, path.parent), f"load_mesh: {path}"
        )
        views = document["bufferViews"]
        block = values.astype("<f4").tobytes()
        views.append({"buffer": len(document["buffers"]), "byteOffset": len(floats), "byteLength": len(block)})
        floats += block
        for entry in ("byteOffset", "normalized", "min", "max"):
            accessor.pop(entry, None)
        accessor |= {"bufferView": len(views) - 1, "componentType": 5126}
    uri = "data:application/octet-stream;base64," + base64.b64encode(floats).decode()
    document["buffers"].append({"byteLength": len(floats), "uri": uri})
    text = json.dumps(document).encode()
    if not binary:
        return text
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest)) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + rest


def _values(
    document: dict[str, Any], accessor: dict[str, Any], buffer: Callable[[int], bytes], where: str
) -> np.ndarray:
    """The numbers (N, width) of an accessor, float64."""
    kind, width = np.dtype(COMPONENT_TYPES[accessor["componentType"]]), WIDTHS[accessor["type"]]
    view = document["bufferViews"][accessor["bufferView"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    count, size = accessor["count"], kind.itemsize * width
    stride = view.get("byteStride", size)
    needed = (count - 1) * stride + size
    content = np.frombuffer(buffer(view["buffer"]), np.uint8)[start : start + needed]
    if len(content) < needed:  # a file beside it that is cut short
        raise MeshFileError(f"{where}: buffers[{view['buffer']}] ends before byte {start + needed}; export it again")
    rows = np.lib.stride_tricks.as_strided(content, (count, size), (stride, 1))
    values = np.ascontiguousarray(rows).view(kind.newbyteorder("<")).astype(np.float64)
    if not accessor.get("normalized", False):
        return values
    return np.maximum(values / np.iinfo(kind).max, -1.0)


def _buffer(document: dict[str, Any], index: int, chunk: bytes, folder: Path) -> bytes:
    uri = document["buffers"][index].get("uri")
    if uri is None:
        return chunk
    if uri.startswith("data:"):
        return base64.b64decode(uri.partition(",")[2])
    return file_bytes(folder / urllib.parse.unquote(uri))
