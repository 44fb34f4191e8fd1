"""Restricted unpickler: reads pickles and `torch.save` files of arrays without running code from them.

A pickle may name any importable function and call it. This reader knows the names in published morphable models (NumPy
arrays and scalars, scipy.sparse matrices, tensors, plain containers, and chumpy's classes, which no longer import),
puts inert records in their place, and refuses every other name. Arrays are made after the whole file has been read and
checked.
"""

import codecs
import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Shaped
from torch import Tensor

from headfields.files import inert

__all__ = ["ChumpyStandIn", "UnsafePickleError", "load_pickle", "load_torch", "to_array"]

ChumpyStandIn = inert.Chumpy
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001  # torch.save before zip files, and pickled tensors
_SPARSE = {f"{kind}_{what}": kind for kind in ("csc", "csr", "coo") for what in ("matrix", "array")}
_ALIASES = {"posix": "os", "nt": "os", "_io": "io", "_operator": "operator"}
_NESTING = 4  # a pickled tensor holds a nested file, which holds no tensor


class UnsafePickleError(pickle.UnpicklingError, ValueError):
    """The pickle names something other than NumPy, scipy.sparse, tensors, plain containers and chumpy."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError(f"bytes are encoded as {encoding!r}; a numpy pickle uses latin1")
    return codecs.encode(text, encoding)


def _bytes(*args: Any) -> bytes:
    if args and not isinstance(args[0], bytes | bytearray | str | list):  # a number would allocate that many bytes
        raise ValueError(f"bytes are made of a {type(args[0]).__name__}")
    return args[0].encode("latin1") if args and isinstance(args[0], str) else bytes(*args[:1])


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    if isinstance(cls, type) and issubclass(cls, inert.Chumpy | inert.Sparse):
        return cls()
    raise ValueError(f"copyreg would rebuild a {getattr(cls, '__name__', cls)!r}")


_CALLED: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": inert.Array,
    "numpy.core.multiarray.scalar": inert.make_scalar,
    "numpy.core.numeric._frombuffer": inert.frombuffer,
    "numpy.dtype": inert.make_dtype,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "collections.OrderedDict": dict,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
    "copy_reg._reconstructor": _reconstructor,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": inert.TensorView,
    "torch._utils._rebuild_tensor_v2": inert.TensorView,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
_MENTIONED = ("numpy.ndarray", "numpy.matrix", "numpy.matrixlib.defmatrix.matrix", "builtins.object")


class _Unpickler(pickle.Unpickler):
    """Knows a few names. Each gets a new stand-in per file, so that a file cannot affect the next."""

    def __init__(self, file: Any, where: str, depth: int = 0, storage: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self.where, self.depth, self.storage = where, depth, storage

    def find_class(self, module: str, name: str) -> Any:
        stand_in = self._known(module, name)
        if stand_in is None:
            known_as = f" ({_ALIASES[module]}.{name})" if module in _ALIASES else ""
            raise UnsafePickleError(
                f"{self.where}: the file names {module}.{name}{known_as}, which is not one of numpy, scipy.sparse, "
                "torch's tensors, plain containers or chumpy; a pickle can run code, so it was not loaded. If you "
                "trust the file, load it yourself and save its arrays with numpy.savez"
            )
        return stand_in

    def persistent_load(self, identity: Any) -> Any:
        if self.storage is None:
            raise ValueError(f"it refers to {identity!r} outside of the pickle")
        return self.storage(identity)

    def _known(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if module.split(".")[0] == "chumpy" and name.isidentifier():
            return type(name, (inert.Chumpy,), {"name": full})
        if module.split(".")[:2] == ["scipy", "sparse"] and name in _SPARSE:
            return type(name, (inert.Sparse,), {"kind": _SPARSE[name]})
        if full == "torch.storage._load_from_bytes":
            return inert.Name(full, self._nested_storage)
        plain = full.replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
        if plain in _CALLED:
            return inert.Name(full, _CALLED[plain])
        if plain in _MENTIONED or (module == "torch" and name in inert.STORAGES):
            return inert.Name(full)
        return None

    def _nested_storage(self, data: Any) -> Any:
        if self.depth >= _NESTING:
            raise ValueError("pickles are nested too deeply")
        return _legacy(io.BytesIO(inert.as_bytes(data)), self.where, self.depth + 1)


@contextlib.contextmanager
def _explained(where: str, what: str) -> Any:
    """Adds the file's name to any failure but a refusal, which has it."""
    try:
        yield
    except UnsafePickleError:
        raise
    except Exception as error:  # a malformed pickle may raise anything
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(f"{where}: not {what} that can be read: {reason} ({type(error).__name__})") from error


def load_pickle(source: str | Path | bytes, where: str | None = None) -> Any:
    """Reads a pickle of arrays without running code from it; any protocol, Python 2's as latin1.

    Args:
        source: path of the file, or its bytes.
        where: its name in error messages; the path if None.

    Returns:
        The object: NumPy arrays, scipy.sparse matrices (checked), tensors on the CPU, plain containers, and
        `ChumpyStandIn`s for chumpy objects; `to_array` turns each of those into an array.

    Raises:
        UnsafePickleError: the file names anything else; the message has the name. It is a ValueError too.
        ValueError: the file is no pickle, is truncated, or its content is inconsistent.
        OSError: the file cannot be read.

    >>> import pickle
    >>> from headfields.files import load_pickle
    >>> load_pickle(pickle.dumps({"version": (2, 0)}))
    {'version': (2, 0)}
    >>> load_pickle(b"cos\\nsystem\\n(S'ls'\\ntR.")
    Traceback (most recent call last):
    headfields.files.unpickler.UnsafePickleError: ...os.system...
    """
    where = where or (f"load_pickle: {len(source)} bytes" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with _explained(where, "a pickle of arrays"):
        return inert.resolve(_Unpickler(io.BytesIO(data), where).load(), {})


def load_torch(source: str | Path | bytes, where: str | None = None) -> Any:
    """Reads a file of `torch.save`, in its zip format or the one before, as `load_pickle` reads a pickle.

    Every tensor comes to the CPU, whatever device it was on.

    Args:
        source: path of the file, or its bytes.
        where: its name in error messages; the path if None.

    Raises:
        UnsafePickleError, ValueError, OSError: as `load_pickle`.
    """
    where = where or (f"load_torch: {len(source)} bytes" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with _explained(where, "a file of torch.save"):
        content = _zipped(data, where) if data[:4] == b"PK\x03\x04" else _legacy(io.BytesIO(data), where, 0)
        return inert.resolve(content, {})


def is_legacy_torch(data: bytes) -> bool:
    """Whether the bytes begin like a file of `torch.save` from before its zip format."""
    return _LEGACY_MAGIC.to_bytes(10, "little") in data[:32]


def _storage_of(identity: Any) -> tuple[str, inert.Storage]:
    """The key and an empty storage of a persistent id in a pickle of `torch.save`."""
    kind, storage_type, key, _, count, *view = identity
    name = storage_type.name.removeprefix("torch.") if isinstance(storage_type, inert.Name) else None
    if kind != "storage" or name not in inert.STORAGES or any(entry is not None for entry in view):
        raise ValueError(f"a tensor has a storage of {kind!r}, {name or storage_type!r}")
    return str(key), inert.Storage(inert.STORAGES[name], count)


def _zipped(data: bytes, where: str) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n == "data.pkl" or (n.endswith("/data.pkl") and n.count("/") == 1)]
        if len(pickles) != 1:
            raise ValueError(f"the archive has no data.pkl; it has {', '.join(names[:5]) or 'nothing'}")
        prefix = pickles[0].removesuffix("data.pkl")
        if prefix + "byteorder" in names and archive.read(prefix + "byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine; save it again on a little-endian one")
        storages: dict[str, inert.Storage] = {}

        def storage(identity: Any) -> inert.Storage:
            key, empty = _storage_of(identity)
            if key not in storages:
                empty.raw = archive.read(f"{prefix}data/{key}")
                storages[key] = empty
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), where, 0, storage).load()


def _legacy(file: io.BytesIO, where: str, depth: int) -> Any:
    def load(storage: Callable[[Any], Any] | None = None) -> Any:
        return _Unpickler(file, where, depth, storage).load()

    if load() != _LEGACY_MAGIC or load() != _LEGACY_VERSION:
        raise ValueError("it does not begin as torch.save writes")
    system = load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine; save it again on a little-endian one")
    storages: dict[str, inert.Storage] = {}

    def storage(identity: Any) -> inert.Storage:
        key, empty = _storage_of(identity)
        return storages.setdefault(key, empty)

    content = load(storage)
    for key in load():
        entry = storages[str(key)]
        if int.from_bytes(file.read(8), "little") != entry.count:
            raise ValueError(f"storage {key} does not have the {entry.count} elements that the pickle declares")
        entry.raw = file.read(entry.count * entry.dtype.itemsize)
    return content


def to_array(value: Any, name: str = "value") -> Shaped[np.ndarray, "..."]:
    """A dense array from an array, sparse matrix, tensor, number, list or chumpy stand-in.

    Raises:
        ValueError: the value is a chumpy class that stores no numbers, or an array of Python objects; the message has
            `name`.

    >>> import scipy.sparse
    >>> from headfields.files import to_array
    >>> to_array(scipy.sparse.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if scipy.sparse.issparse(value):
        return np.asarray(value.todense())
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    if isinstance(value, inert.Chumpy):
        return _chumpy_array(value, name)
    if isinstance(value, list | tuple) and any(isinstance(entry, Tensor | inert.Chumpy) for entry in value):
        value = [to_array(entry, name) for entry in value]
    if isinstance(value, set | frozenset):
        value = sorted(value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"to_array: {name} is no array: {error}") from error
    if array.dtype == object:
        if array.ndim == 0 and not isinstance(array.item(), np.ndarray | dict) and array.item() is not None:
            return to_array(array.item(), name)
        raise ValueError(f"to_array: {name} is an array of Python objects; save it as a dense array of numbers")
    return array


def _chumpy_array(value: inert.Chumpy, name: str) -> np.ndarray:
    state, kind = value.__dict__, value.name.rpartition(".")[2]
    if kind == "Ch" and "x" in state:
        return to_array(state["x"], name)
    if kind == "Select" and {"a", "idxs"} <= set(state):
        flat = to_array(state["a"], name).ravel()
        indices = to_array(state["idxs"], name).astype(np.int64).ravel()
        if indices.size and not -len(flat) <= indices.min() <= indices.max() < len(flat):
            raise ValueError(f"to_array: {name} is a {value.name} whose idxs reach beyond its {len(flat)} numbers")
        shape = state.get("preferred_shape")
        return flat[indices] if shape is None else flat[indices].reshape(_sizes(shape, name))
    if kind == "Reshape" and {"a", "newshape"} <= set(state):
        return to_array(state["a"], name).reshape(_sizes(state["newshape"], name))
    if kind == "transpose" and "a" in state:
        axes = state.get("axes")
        return np.transpose(to_array(state["a"], name), None if axes is None else _sizes(axes, name))
    raise ValueError(
        f"to_array: {name} is a {value.name}, which stores no array of its own (it has {sorted(state)}); "
        "open the file where chumpy is installed and save it with numpy.savez"
    )


def _sizes(value: Any, name: str) -> tuple[int, ...]:
    return tuple(int(size) for size in to_array(value, name).ravel())
