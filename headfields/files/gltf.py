"""Binary glTF 2.0 documents, built object by object."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["GltfDocument"]

_COMPONENTS = {"f4": 5126, "u1": 5121, "u2": 5123, "u4": 5125}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
ATTRIBUTE, INDEX = 34962, 34963
"""Targets of buffer views: what a vertex has, and which vertices a face has."""


class GltfDocument:
    """A glTF 2.0 document with one buffer, in the making.

    Lists of objects (`nodes`, `meshes`, ...) are filled by `add`, numbers by `accessor`; both return an index.

    >>> import numpy as np
    >>> document = GltfDocument()
    >>> position = document.accessor(np.zeros((3, 3), np.float32), target=34962, bounds=True)
    >>> document.add("meshes", {"primitives": [{"attributes": {"POSITION": position}, "mode": 0}]})
    0
    """

    def __init__(self) -> None:
        self.json: dict[str, Any] = {"asset": {"version": "2.0", "generator": "headfields"}}
        self._data = bytearray()

    def add(self, group: str, entry: Mapping[str, Any]) -> int:
        """Appends an object to a list of the document (`"nodes"`, `"materials"`, ...); returns its index."""
        entries = self.json.setdefault(group, [])
        entries.append(dict(entry))
        return len(entries) - 1

    def use(self, extension: str) -> None:
        """Names an extension that the document uses and that a reader may leave out."""
        used = self.json.setdefault("extensionsUsed", [])
        if extension not in used:
            used.append(extension)

    def view(self, block: bytes, target: int | None = None) -> int:
        """Appends bytes to the buffer, at a multiple of four; returns the index of their view."""
        self._data += b"\0" * (-len(self._data) % 4)
        entry: dict[str, Any] = {"buffer": 0, "byteOffset": len(self._data), "byteLength": len(block)}
        self._data += block
        return self.add("bufferViews", entry if target is None else {**entry, "target": target})

    def accessor(self, array: np.ndarray, target: int | None = None, bounds: bool = False, **more: Any) -> int:
        """Appends numbers to the buffer; returns the index of their accessor.

        Args:
            array: (N,) scalars, (N, 2), (N, 3), (N, 4), or (N, 4, 4) matrices; float32, uint8, uint16 or uint32.
            target: of the buffer view.
            bounds: whether to store minimum and maximum, as positions and times of key frames need.
            more: further entries of the accessor, as `normalized=True`.

        Raises:
            KeyError: another dtype or shape, which no accessor holds.
        """
        array = np.ascontiguousarray(array)
        if array.ndim == 3:  # columns first
            array = np.ascontiguousarray(array.transpose(0, 2, 1))
        flat = array.reshape(len(array), -1) if len(array) else array.reshape(0, max(int(np.prod(array.shape[1:])), 1))
        entry: dict[str, Any] = {
            "componentType": _COMPONENTS[array.dtype.newbyteorder("<").str[1:]],
            "count": len(flat),
            "type": _KINDS[flat.shape[1]],
        }
        entry["bufferView"] = self.view(flat.astype(array.dtype.newbyteorder("<")).tobytes(), target)
        if bounds:
            entry |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        return self.add("accessors", entry | more)

    def texture(self, png: bytes) -> int:
        """Appends a PNG image within the buffer; returns the index of its texture, repeated beyond its edges."""
        image = self.add("images", {"bufferView": self.view(png), "mimeType": "image/png"})
        sampler = self.add("samplers", {"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497})
        return self.add("textures", {"source": image, "sampler": sampler})

    def to_bytes(self) -> bytes:
        """The document as a `.glb` file."""
        document = dict(self.json)
        data = bytes(self._data) + b"\0" * (-len(self._data) % 4)
        if data:
            document["buffers"] = [{"byteLength": len(data)}]
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + (8 + len(data) if data else 0)
        if length >= 2**32:
            raise ValueError(f"a .glb of {length} bytes; its length must be below 4 GiB: write fewer frames or files")
        pieces = [struct.pack("<4sII", b"glTF", 2, length), struct.pack("<I4s", len(text), b"JSON"), text]
        return b"".join([*pieces, struct.pack("<I4s", len(data), b"BIN\0"), data] if data else pieces)
