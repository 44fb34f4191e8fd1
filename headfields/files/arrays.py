"""One way into every file that holds named arrays: npz, npy, pickles and torch.save's, none of which may run code; and
one way out, npz."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headfields.files.unpickler import is_legacy_torch, load_pickle, load_torch

__all__ = ["load_arrays", "read_npy", "save_arrays"]


def read_npy(data: bytes, where: str) -> Any:
    """The array in an npy file's bytes; one of Python objects goes through `load_pickle`, and 0-d gives the object.

    Raises:
        UnsafePickleError: an array of objects names anything that `load_pickle` refuses.
        ValueError: no npy file, or cut short; `where` is in the message.
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
                found = load_pickle(data[file.tell() :], where)
                if not isinstance(found, np.ndarray) or found.shape != shape:
                    raise ValueError(f"its header says an array of shape {shape}, its pickle holds something else")
                return found.item() if found.ndim == 0 else found
            size, there = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
            if size > there:  # before numpy takes memory for it
                raise ValueError(f"its header says {size} bytes of shape {shape} and {dtype}, but {there} are there")
        file.seek(0)
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError) as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: not a whole npy array: {error}") from error


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Reads a file of named arrays without running code from it: npz, a pickled dict, an npy that holds a dict (as
    `flame_dynamic_embedding.npy` does), or a dict saved with `torch.save`. The content decides, not the name.

    Args:
        path: the file.

    Returns:
        Its entries by name: numpy arrays, scipy.sparse matrices, torch tensors on the CPU, containers of them, and
        chumpy stand-ins; `hf.files.to_array` makes a dense array of any. From a dict, keys become text.

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the file names something that could run code; the message has its name (and, in an npz, the
            entry's).
        ValueError: none of these formats, cut short, or not a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    data = path.read_bytes()
    found: Any
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
        found = load_torch(data, str(path))
    elif data[:6] == b"\x93NUMPY":
        found = read_npy(data, str(path))
    elif is_legacy_torch(data):
        found = load_torch(data, str(path))
    else:
        found = load_pickle(data, str(path))
    if not isinstance(found, dict):
        shape = f" of shape {found.shape}" if isinstance(found, np.ndarray) else ""
        raise ValueError(f"{path} holds a {type(found).__name__}{shape}; expected a dict of arrays")
    return {str(name): value for name, value in found.items()}


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes named arrays as a compressed npz.

    Args:
        path: where to; the suffix `.npz` is added if it has none, and the folder is made.
        arrays: by name.

    Returns:
        The path of the file.
    """
    path = Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return path
