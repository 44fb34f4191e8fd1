"""PLY files: the header, and the numbers of an element without lists; plain NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from headfields.files.reading import brief

__all__ = ["PlyElement", "PlyHeader", "PlyProperty", "check_ply_names", "ply_bytes", "ply_header", "ply_table"]

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class PlyProperty:
    """A property of an element; `kind` and `length` are NumPy's names of types, without an order of bytes.

    Attributes:
        name: its name.
        kind: the type of a number.
        length: the type of a list's length; None for a number.
    """

    name: str
    kind: str
    length: str | None = None


@dataclass(frozen=True)
class PlyElement:
    """An element: rows of properties.

    Attributes:
        name: its name.
        count: number of rows.
        properties: in the file's order.
    """

    name: str
    count: int
    properties: list[PlyProperty]


@dataclass(frozen=True)
class PlyHeader:
    """The header of a file.

    Attributes:
        layout: "ascii", "binary_little_endian" or "binary_big_endian".
        elements: in the file's order.
        start: where the data begin.
    """

    layout: str
    elements: list[PlyElement]
    start: int

    @property
    def order(self) -> str:
        """The order of bytes, as NumPy writes it."""
        return "<" if "little" in self.layout else ">"

    def element(self, name: str) -> PlyElement | None:
        """The element of a name."""
        return next((element for element in self.elements if element.name == name), None)


def ply_header(data: bytes, where: str, error: type[ValueError] = ValueError) -> PlyHeader:
    """The header at the start of a file's bytes.

    Args:
        data: the file.
        where: operation and file, for messages.
        error: the class of the errors.

    Raises:
        error: it is no PLY file, or a line of its header is wrong.
    """
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise error(f"{where}: no 'ply' header with 'end_header'; the file is cut short or no PLY")
    layout, elements = "", []
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        try:
            if not words or words[0] in ("comment", "obj_info"):
                continue
            if words[0] == "format" and words[1] in ("ascii", "binary_little_endian", "binary_big_endian"):
                layout = words[1]
            elif words[0] == "element":
                count = int(words[2])
                if count < 0:
                    raise ValueError
                elements.append(PlyElement(words[1], count, []))
            elif words[0] == "property" and words[1] == "list":
                if _TYPES[words[2]][0] == "f":
                    raise ValueError
                elements[-1].properties.append(PlyProperty(words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                elements[-1].properties.append(PlyProperty(words[2], _TYPES[words[1]]))
            else:
                raise ValueError
        except (ValueError, IndexError, KeyError):
            raise error(f"{where}: its header has the line {line[:80]!r}; export it again") from None
    if not layout:
        raise error(f"{where}: its header has no format; export it again")
    start = end + len(b"end_header")
    start += 2 if data[start : start + 2] == b"\r\n" else 1
    return PlyHeader(layout, elements, start)


def check_ply_names(elements: list[PlyElement], where: str, error: type[ValueError] = ValueError) -> None:
    """Raises `error` if two elements, or two properties of one, have one name, or rows have no property."""
    for element in elements:
        names = [entry.name for entry in element.properties]
        if len(set(names)) != len(names) or sum(other.name == element.name for other in elements) > 1:
            raise error(f"{where}: its header has element {element.name}, or a property of it, twice")
        if element.count and not names:
            raise error(f"{where}: its header has {element.count} {element.name} without a property")


def ply_table(data: bytes, name: str, where: str, error: type[ValueError] = ValueError) -> dict[str, np.ndarray]:
    """The numbers of the element `name`, a column a property: the file must hold what its header says, and no more.

    Args:
        data: the file.
        name: the element; others are read over.
        where: operation and file, for messages.
        error: the class of the errors.

    Returns:
        (N,) arrays by property, in the file's type (float64 in ascii files).

    Raises:
        error: there is no such element, an element with rows has lists, the file is cut short or longer, or a word of
            an ascii file is no number.
    """
    header = ply_header(data, where, error)
    check_ply_names(header.elements, where, error)
    if header.element(name) is None:
        present = ", ".join(element.name for element in header.elements) or "none"
        raise error(f"{where}: its header has no element {name} (it has {present}); export it again")
    for element in header.elements:
        lists = [entry.name for entry in element.properties if entry.length is not None]
        if lists and (element.count or element.name == name):
            raise error(f"{where}: {lists[0]} of {element.name} is a list; expected numbers")
    if header.layout == "ascii":
        return _ascii_table(data[header.start :], header, name, where, error)
    table: Any = None
    at = header.start
    for element in header.elements:
        row = np.dtype([(entry.name, header.order + entry.kind) for entry in element.properties if not entry.length])
        needed = element.count * row.itemsize
        if needed > len(data) - at:
            raise error(
                f"{where}: {element.count} {element.name} take {needed} bytes, and {len(data) - at} are left; the file "
                "is cut short: export it again"
            )
        if element.name == name:
            table = np.frombuffer(data, row, element.count, at) if row.itemsize else np.zeros(0, row)
        at += needed
    if at != len(data):
        raise error(
            f"{where}: {len(data) - at} bytes follow what its header announces; the file is damaged: export it again"
        )
    return {column: table[column].astype(table[column].dtype.newbyteorder("=")) for column in table.dtype.names or ()}


def _ascii_table(
    body: bytes, header: PlyHeader, name: str, where: str, error: type[ValueError]
) -> dict[str, np.ndarray]:
    lines = [line for line in body.splitlines() if line.strip()]
    expected = sum(element.count for element in header.elements if element.properties)
    if len(lines) != expected:
        what = "cut short" if len(lines) < expected else "longer than its header says"
        raise error(f"{where}: {len(lines)} lines for {expected} rows; the file is {what}: export it again")
    at, columns = 0, {}
    for element in header.elements:
        width = len(element.properties)
        rows = [line.split() for line in lines[at : at + element.count]] if width else []
        at += len(rows)
        for index, row in enumerate(rows):
            if len(row) != width:
                raise error(f"{where}: {element.name} {index} has {len(row)} numbers; expected {width}")
        if element.name != name:
            continue
        words = [word for row in rows for word in row]
        try:
            if any(b"_" in word for word in words):  # Python reads 1_0 as 10
                raise ValueError
            values = np.array([float(word) for word in words]).reshape(len(rows), width)
        except ValueError:
            bad = next(word for word in words if not _is_number(word))
            raise error(f"{where}: {element.name} has {brief(bad.decode('latin-1'))}; expected a number") from None
        columns = {entry.name: values[:, place] for place, entry in enumerate(element.properties)}
    return columns


def _is_number(word: bytes) -> bool:
    try:
        return b"_" not in word and float(word) is not None
    except ValueError:
        return False


def ply_bytes(columns: dict[str, np.ndarray], name: str = "vertex") -> bytes:
    """A binary, little-endian PLY file of one element, with float32 numbers, in the order of the columns.

    >>> import numpy as np
    >>> from headfields.files.ply import ply_bytes, ply_table
    >>> ply_table(ply_bytes({"x": np.ones(2, np.float32)}), "vertex", "an example")
    {'x': array([1., 1.], dtype=float32)}
    """
    count = len(next(iter(columns.values())))
    head = ["ply", "format binary_little_endian 1.0", f"element {name} {count}"]
    head += [f"property float {column}" for column in columns] + ["end_header", ""]
    table = np.empty((count, len(columns)), "<f4")
    for place, values in enumerate(columns.values()):
        table[:, place] = values
    return "\n".join(head).encode() + table.tobytes()
