"""Inert stand-ins for unpickled objects: records without behavior, checked and turned into arrays at the end.

NumPy's own unpickling is unsafe: the state of a dtype may claim that an array of Python objects is an array of plain
bytes, and the bytes are then used as pointers. scipy's sparse matrices trust their indices in the same way. Neither is
rebuilt while a file is read. These records hold the file's content, and `resolve` checks it and converts it to arrays.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from headfields.files.reading import brief

_DEEPEST = 100  # levels of containers in containers
_KEY_ENTRIES, _KEY_BITS = 64, 60  # tuples in a key, and bits of an integer
_PLAIN = re.compile(r"[biufcSUO]\d*|\?")
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Budget:
    """Bytes that the objects of a file may take, shared by all its pickles.

    A pickle of a few bytes can ask for any amount of memory: it names an array twice, a list of that list twice, and so
    on, or has one string turned into many arrays. A file of arrays holds each number once.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self.left = 2**27 + 16 * size
        self._size = size

    def spend(self, size: int) -> None:
        """Counts `size` bytes.

        Raises:
            ValueError: more bytes than a file of this size may take.
        """
        self.left -= size
        if self.left < 0:
            raise ValueError(f"its objects would take far more memory than its {self._size} bytes hold")


def size_of(value: Any) -> int:
    """Bytes that a new value takes, what it refers to aside."""
    if isinstance(value, Array):
        return 0 if value.array is None else int(value.array.nbytes)
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return int(value.nbytes)
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, list | tuple):
        return 8 * len(value)
    if isinstance(value, dict | set | frozenset):
        return 100 * len(value)
    return value.bit_length() // 8 if isinstance(value, int) else 8


def check_keys(keys: Any) -> None:
    """Refuses keys whose hash takes long, or overflows the stack: Python follows tuples to any depth.

    Raises:
        ValueError: a tuple with more than a few entries, at all depths together, or an integer of more than 60 bits.
    """
    for key in keys:
        if isinstance(key, int) and key.bit_length() > _KEY_BITS:
            raise ValueError(f"a key is an integer of {key.bit_length()} bits")
        if isinstance(key, tuple):
            seen, open_ = 0, [key]
            while open_:
                entries = open_.pop()
                seen += 1 + len(entries)
                if seen > _KEY_ENTRIES:
                    raise ValueError(f"a key is a tuple of more than {_KEY_ENTRIES} entries")
                check_keys([entry for entry in entries if isinstance(entry, int)])
                open_ += [entry for entry in entries if isinstance(entry, tuple)]


def _is_shape(value: Any) -> bool:
    fits = isinstance(value, tuple | list) and len(value) <= 32
    return fits and all(isinstance(size, int) and 0 <= size < 2**62 for size in value)


def _sizes(shape: Any, what: str) -> tuple[int, ...]:
    shape = (shape,) if isinstance(shape, int) else shape
    if not _is_shape(shape):
        raise ValueError(f"{what} has the shape {brief(shape)}")
    return tuple(int(size) for size in shape)


@dataclass(frozen=True, eq=False)
class Name:
    """A name that the file may mention, and call if `function` is not None. The file cannot change it."""

    name: str
    function: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self.function is None:
            raise ValueError(f"{self.name} is called, which no file of arrays does")
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"the state of {self.name} is set, which no file of arrays does")


class Dtype:
    """A NumPy dtype of numbers, text or Python objects; structured ones are refused."""

    def __init__(self, spec: Any, *options: Any) -> None:
        spec = spec.decode("latin1") if isinstance(spec, bytes) else spec
        if not isinstance(spec, str) or not _PLAIN.fullmatch(spec):
            raise ValueError(f"an array has the dtype {brief(spec)}; only numbers and text are read")
        self.dtype = np.dtype(object if spec[0] == "O" else spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or any(entry is not None for entry in state[2:5]):
            raise ValueError("an array has a structured dtype; only numbers and text are read")
        # Sizes and flags in the state are ignored: the dtype of that name has the right ones.
        if not self.dtype.hasobject:
            self.dtype = self.dtype.newbyteorder(order)


def as_bytes(data: Any) -> bytes:
    """The bytes in a pickle of Python 2 or 3."""
    if isinstance(data, str):  # Python 2 wrote bytes as strings
        return data.encode("latin1")
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise ValueError(f"the content of an array is a {type(data).__name__}; expected bytes")


def _build(data: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, Dtype):
        raise ValueError(f"an array has a {type(dtype).__name__} for its dtype")
    shape = _sizes(shape, "an array")
    count, kind = math.prod(shape), dtype.dtype
    if kind.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise ValueError(f"an array of objects of shape {shape} does not hold {count} of them")
        objects = np.empty(count, object)
        for place, entry in enumerate(data):  # one by one: NumPy would take rows of equal length for another axis
            objects[place] = entry
        return objects.reshape(shape, order="F" if fortran else "C")
    raw = as_bytes(data)
    if len(raw) != count * kind.itemsize or not kind.itemsize:
        raise ValueError(f"an array of shape {shape} and dtype {kind} has {len(raw)} bytes")
    if not count:
        return np.empty(shape, kind)
    flat = np.frombuffer(raw, np.uint8 if kind.kind == "b" else kind)
    flat = flat.astype(bool) if kind.kind == "b" else flat.copy()  # bytes other than 0 and 1 are no valid bool
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


class Array:
    """A NumPy array, empty until its state is set."""

    def __init__(self, *args: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, fortran, data = state
        self.array = _build(data, dtype, shape, bool(fortran))


def frombuffer(data: Any, dtype: Any, shape: Any, order: str, *_: Any) -> Array:
    """Stands for NumPy's `_frombuffer`, with which protocol 5 writes arrays."""
    out = Array()
    out.array = _build(data, dtype, shape, order == "F")
    return out


def make_scalar(dtype: Any, data: Any = b"") -> Any:
    """Stands for NumPy's `scalar`: the number itself."""
    if isinstance(dtype, Dtype) and dtype.dtype.hasobject:
        return data
    return _build(data, dtype, (), False)[()]


class Chumpy:
    """The state of a chumpy object without its behavior; `name` is its class."""

    name = "chumpy"

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class Sparse:
    """The state of a scipy.sparse matrix; `kind` is csc, csr or coo."""

    kind = ""
    state: Any = None

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def matrix(self, state: Any, budget: Budget) -> Any:
        """The scipy.sparse matrix of a resolved state. scipy trusts indices: it reads and writes wherever they point.

        Raises:
            ValueError: an index lies outside of the matrix, or the dense matrix is beyond the budget.
        """
        if not isinstance(state, dict):
            raise ValueError(f"a sparse {self.kind} matrix has no state")
        shape = state.get("_shape", state.get("shape"))
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise ValueError(f"a sparse matrix has the shape {brief(shape)}; expected two axes")
        rows, columns = _sizes(tuple(int(n) if isinstance(n, np.integer) else n for n in shape), "a sparse matrix")
        data = state["data"]
        if not isinstance(data, np.ndarray) or data.ndim != 1 or data.dtype.kind not in "biufc":
            raise ValueError(f"a sparse matrix has a {type(data).__name__} for its numbers; expected an axis of them")
        budget.spend(rows * columns * data.itemsize)
        if self.kind == "coo":
            row, column = state["coords"] if "coords" in state else (state["row"], state["col"])
            row, column = _indices(row, rows, len(data), "row"), _indices(column, columns, len(data), "col")
            return scipy.sparse.coo_matrix((data, (row, column)), shape=(rows, columns))
        major, minor = (columns, rows) if self.kind == "csc" else (rows, columns)
        starts = _indices(state["indptr"], len(data) + 1, major + 1, "indptr")
        if starts[0] != 0 or starts[-1] != len(data) or (np.diff(starts) < 0).any():
            raise ValueError(f"the indptr of a sparse matrix does not rise from 0 to its {len(data)} numbers")
        indices = _indices(state["indices"], minor, len(data), "indices")
        make = scipy.sparse.csc_matrix if self.kind == "csc" else scipy.sparse.csr_matrix
        return make((data, indices, starts), shape=(rows, columns))


def _indices(array: Any, end: int, count: int, name: str) -> np.ndarray:
    """(count,) signed integers in [0, end)."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.shape != (count,):
        what = f"shape {array.shape}, {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"the {name} of a sparse matrix has {what}; expected {count} integers")
    if count and not 0 <= int(array.min()) <= int(array.max()) < end:
        raise ValueError(f"the {name} of a sparse matrix lies in [{array.min()}, {array.max()}]; expected [0, {end})")
    return array.astype(np.int64)


class Storage:
    """The storage of tensors; `raw` may be set after the tensors that use it are made."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"a tensor's storage has {brief(count)} elements")
        self.dtype, self.count = dtype, count
        self.raw: bytes | None = None
        self._tensor: Tensor | None = None

    def tensor(self) -> Tensor:
        """The elements (count,), the same tensor for all views."""
        if self._tensor is None:
            size = self.dtype.itemsize
            if self.raw is None or len(self.raw) != self.count * size:
                raise ValueError(
                    f"a tensor's storage of {self.count} {self.dtype} has {0 if self.raw is None else len(self.raw)} "
                    "bytes; the file is cut short"
                )
            if not self.count:
                self._tensor = torch.empty(0, dtype=self.dtype)
            elif self.dtype == torch.bool:
                self._tensor = torch.frombuffer(bytearray(self.raw), dtype=torch.uint8) != 0
            else:
                self._tensor = torch.frombuffer(bytearray(self.raw), dtype=self.dtype)
        return self._tensor


class TensorView:
    """A tensor: a strided view of a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def tensor(self) -> Tensor:
        """The view, checked to lie within its storage."""
        fits = isinstance(self.storage, Storage) and _is_shape(self.size) and _is_shape(self.stride)
        if not fits or len(self.size) != len(self.stride) or not _is_shape((self.offset,)):
            raise ValueError(
                f"a tensor of size {brief(self.size)}, stride {brief(self.stride)} and offset {brief(self.offset)}"
            )
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if 0 not in self.size and last >= self.storage.count:
            raise ValueError(
                f"a tensor of size {self.size}, stride {self.stride} and offset {self.offset} reaches beyond the "
                f"{self.storage.count} elements of its storage"
            )
        if 0 in self.size:
            return torch.empty(self.size, dtype=self.storage.dtype)
        return torch.as_strided(self.storage.tensor(), self.size, self.stride, self.offset)


def resolve(value: Any, budget: Budget) -> Any:
    """The value with records replaced by arrays, sparse matrices and tensors; shared objects stay shared.

    Args:
        value: value from the unpickler.
        budget: of the file.

    Raises:
        ValueError: a record is inconsistent, containers are nested deeper than 100 levels, or an object takes more
            memory, or more steps to walk through, than the budget has.
    """
    resolver = _Resolver(budget)
    result, size = resolver.resolve(value, 0)
    budget.spend(size)
    return result


class _Resolver:
    """One walk through the objects of a file."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        # id of a value → result, its size with everything in it as often as it occurs, and the value itself, so that
        # its id is not reused. The size is 0 while the value is being resolved: what contains itself is no larger.
        self._known: dict[int, tuple[Any, int, Any]] = {}

    def resolve(self, value: Any, depth: int) -> tuple[Any, int]:
        """The result, and its size in bytes."""
        key = id(value)
        if key in self._known:
            return self._known[key][:2]
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        if isinstance(value, dict | list | Chumpy):
            return self._mutable(value, depth)
        if isinstance(value, tuple | set | frozenset):
            pairs = [self.resolve(entry, depth + 1) for entry in value]
            entries = [result for result, _ in pairs]
            result: Any = tuple(entries) if isinstance(value, tuple) else set(entries)
            return self._keep(value, result, sum(size for _, size in pairs))
        if isinstance(value, Array):
            return self._array(value, depth)
        if isinstance(value, Sparse):
            state, size = self.resolve(value.state, depth + 1)
            result = value.matrix(state, self._budget)
            self._budget.spend(int(result.data.nbytes) * 3)
            return self._keep(value, result, size)
        if isinstance(value, TensorView | Storage):
            result = value.tensor()
            return self._keep(value, result, int(result.nbytes))
        if isinstance(value, Dtype):
            return value.dtype, 8
        if isinstance(value, Name):
            return value.name, 8
        return value, 8 + size_of(value)

    def _keep(self, value: Any, result: Any, size: int) -> tuple[Any, int]:
        self._known[id(value)] = (result, 8 + size, value)
        return result, 8 + size

    def _mutable(self, value: Any, depth: int) -> tuple[Any, int]:
        result: Any = value if isinstance(value, Chumpy) else type(value)()
        self._known[id(value)] = (result, 0, value)
        total = 0
        if isinstance(value, list):
            for entry in value:
                resolved, size = self.resolve(entry, depth + 1)
                result.append(resolved)
                total += size
        else:
            table = value.__dict__ if isinstance(value, Chumpy) else value
            out: dict[Any, Any] = {}
            for name, entry in table.items():
                resolved_name, name_size = self.resolve(name, depth + 1)
                resolved, size = self.resolve(entry, depth + 1)
                out[resolved_name] = resolved
                total += name_size + size
            (result.__dict__ if isinstance(value, Chumpy) else result).update(out)
        return self._keep(value, result, total)

    def _array(self, value: Array, depth: int) -> tuple[Any, int]:
        array = value.array
        if array is None:
            raise ValueError("an array has no content")
        if array.dtype != object:
            return self._keep(value, array, int(array.nbytes))
        self._known[id(value)] = (array, 0, value)
        flat, total = array.reshape(-1, order="A"), 0
        for place, entry in enumerate(list(flat)):
            flat[place], size = self.resolve(entry, depth + 1)
            total += size
        return self._keep(value, array, total)
