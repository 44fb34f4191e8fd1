"""Files of named arrays: npz, npy, pickles and `torch.save`'s are read without running code; npz is written."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headfields.files.archive import Archive
from headfields.files.atomic import write_bytes
from headfields.files.inert import Budget
from headfields.files.reading import file_bytes, reading
from headfields.files.unpickler import is_legacy_torch, load_pickle, load_torch, unpickle
from headfields.files.versions import FileFormat

__all__ = ["load_arrays", "load_npy", "load_numbers", "read_npy", "save_array", "save_arrays"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_LONGEST_EMPTY = 2**24  # entries along an axis of an array without numbers: no byte in the file stands for them


def read_npy(data: bytes, where: str, budget: Budget | None = None) -> Any:
    """The array in the bytes of an npy file. An array of Python objects is read by `load_pickle`; of a 0-d one the
    object is returned.

    Args:
        data: the file's bytes.
        where: the file's name in messages.
        budget: of the file that the bytes are from; None: they are a whole file.

    Raises:
        UnsafePickleError: an array of objects names something that `load_pickle` refuses.
        ValueError: no npy file, a truncated one, or one of a structured dtype.
    """
    with reading(where, "a whole npy array"):
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:  # 3.0 is for names of fields alone
            raise ValueError(f"it has version {version} of the format; expected 1.0 or 2.0")
        shape, fortran, dtype = read_header(file)
        if dtype.hasobject:
            array = unpickle(data[file.tell() :], where, Budget(len(data)) if budget is None else budget)
            if not isinstance(array, np.ndarray) or array.shape != shape:
                raise ValueError(f"its header says an array of shape {shape}, its pickle holds something else")
            return array.item() if array.ndim == 0 else array
        if dtype.kind not in "biufcSU" or dtype.subdtype is not None:
            raise ValueError(f"it has dtype {dtype}; only numbers and text are read")
        count = math.prod(shape)
        needed, present = count * dtype.itemsize, len(data) - file.tell()
        if needed > present or (count and not dtype.itemsize):  # before NumPy allocates memory for it
            raise ValueError(f"its header says {needed} bytes of shape {shape} and {dtype}, but it has {present}")
        if not count:
            if max(shape) > _LONGEST_EMPTY:
                raise ValueError(f"its header says an empty array of shape {shape}")
            return np.empty(shape, dtype)
        flat = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype, count, file.tell())
        flat = flat.astype(bool) if dtype.kind == "b" else flat.copy()  # bytes other than 0 and 1 are no valid bool
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def load_npy(path: str | Path, error: type[ValueError] = ValueError) -> np.ndarray:
    """The array of numbers, or of text, in an npy file.

    Raises:
        FileNotFoundError: no such file.
        error: it is no npy file, is cut short, or holds Python objects.
    """
    with reading(path, "an npy file", error):
        array = read_npy(file_bytes(path), str(path))
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise ValueError("it holds Python objects; expected numbers")
        return array


def load_numbers(
    path: str | Path, error: type[ValueError] = ValueError, kind: FileFormat | None = None
) -> dict[str, np.ndarray]:
    """The arrays of numbers, or of text, in an npz file by name.

    Args:
        path: the file.
        error: the class of the errors about its content.
        kind: the format of a file of the library's own, whose version is checked; None: a published format.

    Raises:
        FileNotFoundError: no such file.
        FileVersionError: it has another version of the format.
        error: it is no npz file, is cut short, or an entry is no array, or one of Python objects.
    """
    with reading(path, "an npz file", error):
        data = file_bytes(path)
        if data[:4] not in _ZIP:
            raise ValueError("it is no zip archive")
        arrays = _npz(Archive(data), str(path), Budget(len(data)))
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.hasobject:
                raise ValueError(f"{path}: {name} holds Python objects; expected numbers")
        if kind is not None:
            kind.check(path, arrays)
            del arrays["format"]
        return arrays


def _npz(archive: Archive, where: str, budget: Budget) -> dict[str, Any]:
    return {
        name.removesuffix(".npy"): read_npy(archive.read(name), f"{where}: {name.removesuffix('.npy')}", budget)
        for name in archive.names
        if name.endswith(".npy")
    }


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Reads a file of named arrays without running code from it.

    Formats: npz, a pickled dict, an npy that holds a dict (such as `flame_dynamic_embedding.npy`), and a dict saved by
    `torch.save`. The content of the file decides, not its name.

    Args:
        path: the file.

    Returns:
        Its entries by name: NumPy arrays, scipy.sparse matrices, tensors on the CPU, containers of them, and chumpy
        stand-ins. `hf.files.unpickler.to_array` turns each into a dense array. Keys of a dict become strings.

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the file names something that could run code; the message has that name (and, for an npz,
            the entry's).
        ValueError: the file has none of these formats, is truncated, or holds no dict.

    >>> import tempfile, numpy as np
    >>> from headfields.files.arrays import load_arrays
    >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
    ...     np.savez(file, weights=np.ones((2, 3)))
    ...     _ = file.seek(0)
    ...     load_arrays(file.name)["weights"].shape
    (2, 3)
    """
    path = Path(path)
    with reading(path, "a file of arrays"):
        content = _content(file_bytes(path), str(path))
        if not isinstance(content, dict):
            shape = f" of shape {content.shape}" if isinstance(content, np.ndarray) else ""
            raise ValueError(f"{path} holds a {type(content).__name__}{shape}; expected a dict of arrays")
        return {str(name): value for name, value in content.items()}


def _content(data: bytes, where: str) -> Any:
    if data[:4] in _ZIP:
        archive = Archive(data)
        if any(name == "data.pkl" or name.endswith("/data.pkl") for name in archive.names):
            return load_torch(data, where)
        return _npz(archive, where, Budget(len(data)))
    if data[:6] == b"\x93NUMPY":
        return read_npy(data, where)
    return load_torch(data, where) if is_legacy_torch(data) else load_pickle(data, where)


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], kind: FileFormat | None = None) -> Path:
    """Writes named arrays as a compressed npz; the file appears whole, or an older one stays.

    Args:
        path: the file; the suffix `.npz` is added if it is missing, and the folder is created.
        arrays: the arrays by name.
        kind: the format of a file of the library's own, whose version is added; None: a published format.

    Returns:
        The path of the file, with its suffix.

    Raises:
        OSError: it cannot be written; the message has the path.
    """
    path = Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    compressed = io.BytesIO()
    arrays = arrays if kind is None else kind.stamp(arrays)
    np.savez_compressed(compressed, **arrays)
    return write_bytes(path, compressed.getvalue())


def save_array(path: str | Path, array: np.ndarray) -> Path:
    """Writes one array as npy, as `save_arrays` does."""
    encoded = io.BytesIO()
    np.save(encoded, array)
    return write_bytes(path, encoded.getvalue())
