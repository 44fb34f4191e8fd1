"""Restricted unpickler: reads pickles and `torch.save` files of arrays without running code from them.

A pickle may name any importable function and call it. This reader knows the names in published morphable models (NumPy
arrays and scalars, scipy.sparse matrices, tensors, plain containers, and chumpy's classes, which no longer import),
puts inert records in their place, and refuses every other name. Arrays are made after the whole file has been read and
checked.

It stands on pickle's implementation in Python. The one in C allocates what a file's numbers say, and overflows the
stack where a key is a tuple nested deeply enough; a file of arrays has few operations, so its speed is not missed.
`torch.load(weights_only=True)` is not used: it refuses the NumPy arrays of trackers, allocates what a file claims to
hold, and overflows the stack on such a key too (`tests/files/test_hostile_files.py`).
"""

import codecs
import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Shaped
from torch import Tensor

from headfields.files import inert
from headfields.files.archive import Archive
from headfields.files.reading import UnsafePickleError, brief, file_bytes, reading

__all__ = ["ChumpyStandIn", "UnsafePickleError", "load_pickle", "load_torch", "to_array"]

ChumpyStandIn = inert.Chumpy
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001  # torch.save before zip files, and pickled tensors
_SPARSE = {f"{kind}_{what}": kind for kind in ("csc", "csr", "coo") for what in ("matrix", "array")}
_ALIASES = {"posix": "os", "nt": "os", "_io": "io", "_operator": "operator"}
_DEEPEST = 50  # levels of lists, or of chumpy objects, in an array
_BIG_ENDIAN = "it was written on a big-endian machine; save it again on a little-endian one"
_NESTING = 4  # a pickled tensor holds a nested file, which holds no tensor


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError(f"bytes are encoded as {brief(encoding)}; a numpy pickle uses latin1")
    return codecs.encode(text, encoding)


def _bytes(*args: Any) -> bytes:
    if args and not isinstance(args[0], bytes | bytearray | str | list):  # a number would allocate that many bytes
        raise ValueError(f"bytes are made of a {type(args[0]).__name__}")
    return args[0].encode("latin1") if args and isinstance(args[0], str) else bytes(*args[:1])


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, list | tuple):
        inert.check_keys([pair[0] for pair in pairs])
    return dict(pairs)


def _set(entries: Any = ()) -> set[Any]:
    inert.check_keys(entries)
    return set(entries)


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    if isinstance(cls, type) and issubclass(cls, inert.Chumpy | inert.Sparse):
        return cls()
    raise ValueError(f"copyreg would rebuild a {getattr(cls, '__name__', cls)!r}")


_CALLED: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": inert.Array,
    "numpy.core.multiarray.scalar": inert.make_scalar,
    "numpy.core.numeric._frombuffer": inert.frombuffer,
    "numpy.dtype": inert.Dtype,
    "builtins.dict": _dict,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "builtins.set": _set,
    "builtins.frozenset": lambda *entries: frozenset(_set(*entries)),
    "builtins.complex": complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "collections.OrderedDict": _dict,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
    "copy_reg._reconstructor": _reconstructor,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": inert.TensorView,
    "torch._utils._rebuild_tensor_v2": inert.TensorView,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
_MENTIONED = ("numpy.ndarray", "numpy.matrix", "numpy.matrixlib.defmatrix.matrix", "builtins.object")


_OPERATIONS: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


def _checking(code: bytes, keys: slice) -> Callable[[Any], None]:
    """pickle's operation, with a check of what it takes from the stack for keys."""

    def operation(unpickler: Any) -> None:
        inert.check_keys(unpickler.stack[keys])
        _OPERATIONS[code[0]](unpickler)

    return operation


class _Operations(dict[int, Callable[[Any], None]]):
    """pickle's operations by code, with an error for the other bytes."""

    def __missing__(self, code: int) -> Any:
        raise ValueError(f"byte {code:#04x} is not an operation of a pickle")


class _Unpickler(pickle._Unpickler):
    """Knows a few names. Each gets a new stand-in per file, so that a file cannot affect the next.

    Nothing but these stand-ins is called or given a state, and what they make is counted against the budget.
    """

    stack: list[Any]  # of pickle._Unpickler, which type checkers know by `load` alone
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    _unframer: Any

    def __init__(
        self,
        file: Any,
        where: str,
        budget: inert.Budget,
        depth: int = 0,
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.where, self.budget, self.depth, self.storage = where, budget, depth, storage
        self._stand_ins: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        stand_in = self._stand_ins.get((module, name)) or self._known(module, name)
        if stand_in is None:
            known_as = f" ({_ALIASES[module]}.{name})" if module in _ALIASES else ""
            raise UnsafePickleError(
                f"{self.where}: the file names {module[:80]}.{name[:80]}{known_as[:80]}, which is not one of numpy, "
                "scipy.sparse, torch's tensors, plain containers or chumpy; a pickle can run code, so it was not "
                "loaded. If you trust the file, load it yourself and save its arrays with numpy.savez"
            )
        self._stand_ins[module, name] = stand_in
        return stand_in

    def get_extension(self, code: int) -> None:
        raise ValueError(f"it names extension {code} of the program that wrote it")

    def persistent_load(self, identity: Any) -> Any:
        if self.storage is None:
            raise ValueError(f"it refers to {brief(identity)} outside of the pickle")
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
        inner = inert.as_bytes(data)
        self.budget.spend(len(inner))
        return _legacy(io.BytesIO(inner), self.where, self.budget, self.depth + 1)

    def _call(self, function: Any, arguments: Any) -> Any:
        stand_in = isinstance(function, type) and issubclass(function, inert.Chumpy | inert.Sparse)
        if not stand_in and not isinstance(function, inert.Name):
            raise ValueError(f"a {type(function).__name__} is called, which no file of arrays does")
        if not isinstance(arguments, tuple | list):
            raise ValueError(f"a function's arguments are a {type(arguments).__name__}; expected a tuple")
        result = function(*arguments)
        self.budget.spend(64 + inert.size_of(result))
        return result

    def _instantiate(self, klass: Any, args: Any) -> None:  # of INST and OBJ
        self.append(self._call(klass, args))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _new_object(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.append(self._call(cls, arguments))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict):  # attributes of an OrderedDict, as `state_dict` has them
            return
        if not isinstance(target, inert.Name | inert.Array | inert.Dtype | inert.Chumpy | inert.Sparse):
            raise ValueError(f"the state of a {type(target).__name__} is set, which no file of arrays does")
        target.__setstate__(state)
        self.budget.spend(inert.size_of(target if isinstance(target, inert.Array) else state))

    def _frame(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self._unframer.load_frame(min(count, 2**62))
        if self._unframer.current_frame.getbuffer().nbytes != count:
            raise EOFError

    def _bytearray(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))  # as many as there are

    dispatch = _Operations({
        **_OPERATIONS,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _new_object,
        pickle.BUILD[0]: _build,
        pickle.FRAME[0]: _frame,
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.SETITEM[0]: _checking(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _checking(pickle.SETITEMS, slice(None, None, 2)),
        pickle.DICT[0]: _checking(pickle.DICT, slice(None, None, 2)),
        pickle.ADDITEMS[0]: _checking(pickle.ADDITEMS, slice(None)),
        pickle.FROZENSET[0]: _checking(pickle.FROZENSET, slice(None)),
    })  # fmt: skip
    del dispatch[pickle.NEWOBJ_EX[0]]


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
    headfields.files.reading.UnsafePickleError: ...os.system...
    """
    data, where = _opened("load_pickle", source, where)
    return unpickle(data, where, inert.Budget(len(data)))


def _opened(op: str, source: str | Path | bytes, where: str | None) -> tuple[bytes, str]:
    """The bytes of a source, and its name in messages."""
    if isinstance(source, bytes):
        return source, where or f"{op}: {len(source)} bytes"
    return file_bytes(source), where or str(source)


def unpickle(data: bytes, where: str, budget: inert.Budget) -> Any:
    """As `load_pickle`, for a pickle in a file that `budget` belongs to."""
    with reading(where, "a pickle of arrays"):
        return inert.resolve(_Unpickler(io.BytesIO(data), where, budget).load(), budget)


def load_torch(source: str | Path | bytes, where: str | None = None) -> Any:
    """Reads a file of `torch.save`, in its zip format or the one before, as `load_pickle` reads a pickle.

    Every tensor comes to the CPU, whatever device it was on.

    Args:
        source: path of the file, or its bytes.
        where: its name in error messages; the path if None.

    Raises:
        UnsafePickleError, ValueError, OSError: as `load_pickle`.
    """
    data, where = _opened("load_torch", source, where)
    budget = inert.Budget(len(data))
    with reading(where, "a file of torch.save"):
        zipped = data[:4] == b"PK\x03\x04"
        content = _zipped(data, where, budget) if zipped else _legacy(io.BytesIO(data), where, budget, 0)
        return inert.resolve(content, budget)


def is_legacy_torch(data: bytes) -> bool:
    """Whether the bytes begin like a file of `torch.save` from before its zip format."""
    return _LEGACY_MAGIC.to_bytes(10, "little") in data[:32]


def _storage_of(identity: Any) -> tuple[str, inert.Storage]:
    """The key and an empty storage of a persistent id in a pickle of `torch.save`."""
    if not isinstance(identity, tuple | list):
        raise ValueError(f"it refers to {brief(identity)}, which is no storage of a tensor")
    kind, storage_type, key, _, count, *view = identity
    name = storage_type.name.removeprefix("torch.") if isinstance(storage_type, inert.Name) else None
    if kind != "storage" or name not in inert.STORAGES or any(entry is not None for entry in view):
        raise ValueError(f"a tensor has a storage of {brief(kind)}, {name or brief(storage_type)}")
    if not isinstance(key, str | int):
        raise ValueError(f"a tensor's storage is called {brief(key)}")
    return str(key), inert.Storage(inert.STORAGES[name], count)


def _zipped(data: bytes, where: str, budget: inert.Budget) -> Any:
    archive = Archive(data)
    names = archive.names
    pickles = [n for n in names if n == "data.pkl" or (n.endswith("/data.pkl") and n.count("/") == 1)]
    if len(pickles) != 1:
        raise ValueError(f"the archive has no data.pkl; it has {', '.join(names[:5]) or 'nothing'}")
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "byteorder" in names and archive.read(prefix + "byteorder") != b"little":
        raise ValueError(_BIG_ENDIAN)
    storages: dict[str, inert.Storage] = {}

    def storage(identity: Any) -> inert.Storage:
        key, empty = _storage_of(identity)
        if key not in storages:
            empty.raw = archive.read(f"{prefix}data/{key}")
            storages[key] = empty
        return storages[key]

    return _Unpickler(io.BytesIO(archive.read(pickles[0])), where, budget, 0, storage).load()


def _legacy(file: io.BytesIO, where: str, budget: inert.Budget, depth: int) -> Any:
    def load(storage: Callable[[Any], Any] | None = None) -> Any:
        return _Unpickler(file, where, budget, depth, storage).load()

    for number in (_LEGACY_MAGIC, _LEGACY_VERSION):
        start = load()
        if not isinstance(start, int) or start != number:
            raise ValueError("it does not begin as torch.save writes")
    system = load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError(_BIG_ENDIAN)
    storages: dict[str, inert.Storage] = {}

    def storage(identity: Any) -> inert.Storage:
        key, empty = _storage_of(identity)
        return storages.setdefault(key, empty)

    content = load(storage)
    keys = load()
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise ValueError(f"its list of storages is {brief(keys)}")
    for key in keys:
        entry = storages[str(key)]
        if int.from_bytes(file.read(8), "little") != entry.count:
            raise ValueError(f"storage {key} does not have the {entry.count} elements that the pickle declares")
        entry.raw = file.read(entry.count * entry.dtype.itemsize)
    return content


def to_array(value: Any, name: str = "value") -> Shaped[np.ndarray, "..."]:
    """A dense array from an array, sparse matrix, tensor, number, list or chumpy stand-in.

    Raises:
        ValueError: the value is a chumpy class that stores no numbers, contains itself, or is an array of Python
            objects; the message has `name`.

    >>> import scipy.sparse
    >>> from headfields.files.unpickler import to_array
    >>> to_array(scipy.sparse.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    with reading(name, "an array", where=f"to_array: {name}"):
        return _dense(value, name, 0)


def _dense(value: Any, name: str, depth: int) -> np.ndarray:
    if depth > _DEEPEST:
        raise ValueError(f"to_array: {name} is nested more than {_DEEPEST} levels deep, or contains itself")
    if scipy.sparse.issparse(value):
        return np.asarray(value.todense())
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    if isinstance(value, inert.Chumpy):
        return _chumpy_array(value, name, depth)
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        if any(isinstance(entry, Tensor | inert.Chumpy) for entry in value):
            value = [_dense(entry, name, depth + 1) for entry in value]
        else:
            _check_depth(value, name, depth, set())
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"to_array: {name} is no array: {error}") from error
    if array.dtype == object:
        inner = array.item() if array.ndim == 0 else None
        if isinstance(inner, Tensor | inert.Chumpy | set | frozenset | list | tuple) or scipy.sparse.issparse(inner):
            return _dense(inner, name, depth + 1)
        raise ValueError(f"to_array: {name} is an array of Python objects; save it as a dense array of numbers")
    return array


def _check_depth(value: Any, name: str, depth: int, checked: set[int]) -> None:
    """Lists in lists: NumPy follows them as far as they go, and those that contain themselves have no end."""
    if depth > _DEEPEST:
        raise ValueError(f"to_array: {name} is nested more than {_DEEPEST} levels deep, or contains itself")
    for entry in value:
        if isinstance(entry, list | tuple) and id(entry) not in checked:
            _check_depth(entry, name, depth + 1, checked)
    checked.add(id(value))


def _chumpy_array(value: inert.Chumpy, name: str, depth: int) -> np.ndarray:
    def inner(key: str) -> np.ndarray:
        return _dense(state[key], name, depth + 1)

    state, cls = value.__dict__, type(value).name
    kind = cls.rpartition(".")[2]
    if kind == "Ch" and "x" in state:
        return inner("x")
    if kind == "Select" and {"a", "idxs"} <= set(state):
        flat = inner("a").ravel()
        indices = inner("idxs").astype(np.int64).ravel()
        if indices.size and not -len(flat) <= indices.min() <= indices.max() < len(flat):
            raise ValueError(f"to_array: {name} is a {cls} whose idxs reach beyond its {len(flat)} numbers")
        shape = state.get("preferred_shape")
        return flat[indices] if shape is None else flat[indices].reshape(_sizes(shape, name))
    if kind == "Reshape" and {"a", "newshape"} <= set(state):
        return inner("a").reshape(_sizes(state["newshape"], name))
    if kind == "transpose" and "a" in state:
        axes = state.get("axes")
        return np.transpose(inner("a"), None if axes is None else _sizes(axes, name))
    raise ValueError(
        f"to_array: {name} is a {cls}, which stores no array of its own (it has {brief(sorted(map(str, state)))}); "
        "open the file where chumpy is installed and save it with numpy.savez"
    )


def _sizes(value: Any, name: str) -> tuple[int, ...]:
    return tuple(int(size) for size in to_array(value, name).ravel()[:32])
