"""Files of named arrays: npz, npy, pickles and `torch.save`'s are read without running code; npz is written."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headfields.files.atomic import write_bytes
from headfields.files.unpickler import is_legacy_torch, load_pickle, load_torch

__all__ = ["load_arrays", "read_npy", "save_array", "save_arrays"]


def read_npy(data: bytes, where: str) -> Any:
    """The array in the bytes of an npy file. An array of Python objects is read by `load_pickle`; of a 0-d one the
    object is returned.

    Args:
        data: the file's bytes.
        where: the file's name in messages.

    Raises:
        UnsafePickleError: an array of objects names something that `load_pickle` refuses.
        ValueError: no npy file, or a truncated one.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is not None:
            shape, _, dtype = read_header(file)
            if dtype.hasobject:
                array = load_pickle(data[file.tell() :], where)
                if not isinstance(array, np.ndarray) or array.shape != shape:
                    raise ValueError(f"its header says an array of shape {shape}, its pickle holds something else")
                return array.item() if array.ndim == 0 else array
            needed, present = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
            if needed > present:  # before NumPy allocates memory for it
                raise ValueError(f"its header says {needed} bytes of shape {shape} and {dtype}, but it has {present}")
        file.seek(0)
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError) as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: not a whole npy array: {error}") from error


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Reads a file of named arrays without running code from it.

    Formats: npz, a pickled dict, an npy that holds a dict (such as `flame_dynamic_embedding.npy`), and a dict saved by
    `torch.save`. The content of the file decides, not its name.

    Args:
        path: the file.

    Returns:
        Its entries by name: NumPy arrays, scipy.sparse matrices, tensors on the CPU, containers of them, and chumpy
        stand-ins. `hf.files.to_array` turns each into a dense array. Keys of a dict become strings.

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the file names something that could run code; the message has that name (and, for an npz,
            the entry's).
        ValueError: the file has none of these formats, is truncated, or holds no dict.

    >>> import tempfile, numpy as np
    >>> from headfields.files import load_arrays
    >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
    ...     np.savez(file, weights=np.ones((2, 3)))
    ...     _ = file.seek(0)
    ...     load_arrays(file.name)["weights"].shape
    (2, 3)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    data = path.read_bytes()
    content: Any
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = archive.namelist()
                if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
                    return {
                        name.removesuffix(".npy"): read_npy(archive.read(name), f"{path}: {name.removesuffix('.npy')}")
                        for name in names
                        if name.endswith(".npy")
                    }
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path}: not a whole npz archive: {error}") from error
        content = load_torch(data, str(path))
    elif data[:6] == b"\x93NUMPY":
        content = read_npy(data, str(path))
    elif is_legacy_torch(data):
        content = load_torch(data, str(path))
    else:
        content = load_pickle(data, str(path))
    if not isinstance(content, dict):
        shape = f" of shape {content.shape}" if isinstance(content, np.ndarray) else ""
        raise ValueError(f"{path} holds a {type(content).__name__}{shape}; expected a dict of arrays")
    return {str(name): value for name, value in content.items()}


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes named arrays as a compressed npz; the file appears whole, or an older one stays.

    Args:
        path: the file; the suffix `.npz` is added if it is missing, and the folder is created.
        arrays: the arrays by name.

    Returns:
        The path of the file, with its suffix.

    Raises:
        OSError: it cannot be written; the message has the path.
    """
    path = Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    compressed = io.BytesIO()
    np.savez_compressed(compressed, **arrays)  # type: ignore[arg-type]
    return write_bytes(path, compressed.getvalue())


def save_array(path: str | Path, array: np.ndarray) -> Path:
    """Writes one array as npy, as `save_arrays` does."""
    encoded = io.BytesIO()
    np.save(encoded, array)
    return write_bytes(path, encoded.getvalue())
