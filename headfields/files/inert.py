"""Inert stand-ins for unpickled objects: records without behavior, checked and turned into arrays at the end.

NumPy's own unpickling is unsafe: the state of a dtype may claim that an array of Python objects is an array of plain
bytes, and the bytes are then used as pointers. scipy's sparse matrices trust their indices in the same way. Neither is
rebuilt while a file is read. These records hold the file's content, and `resolve` checks it and converts it to arrays.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

__all__ = [
    "Array",
    "Chumpy",
    "Dtype",
    "Name",
    "Sparse",
    "Storage",
    "TensorView",
    "as_bytes",
    "frombuffer",
    "make_dtype",
    "make_scalar",
    "resolve",
]

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


class Name:
    """A name that the file may mention, and call if `function` is not None. The file cannot change it."""

    __slots__ = ("function", "name")
    function: Callable[..., Any] | None
    name: str

    def __init__(self, name: str, function: Callable[..., Any] | None = None) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "function", function)

    def __call__(self, *args: Any) -> Any:
        if self.function is None:
            raise ValueError(f"{self.name} is called, which no file of arrays does")
        return self.function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError(f"the state of {self.name} is set, which no file of arrays does")

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"the state of {self.name} is set, which no file of arrays does")


class Dtype:
    """A NumPy dtype of numbers, text or Python objects; structured ones are refused."""

    def __init__(self, spec: Any, *options: Any) -> None:
        spec = spec.decode("latin1") if isinstance(spec, bytes) else spec
        if not isinstance(spec, str) or not _PLAIN.fullmatch(spec):
            raise ValueError(f"an array has the dtype {spec!r}; only numbers and text are read")
        self.dtype = np.dtype(object if spec[0] == "O" else spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or any(entry is not None for entry in state[2:5]):
            raise ValueError("an array has a structured dtype; only numbers and text are read")
        # Sizes and flags in the state are ignored: the dtype of that name has the right ones.
        if not self.dtype.hasobject:
            self.dtype = self.dtype.newbyteorder(order)


def make_dtype(*args: Any) -> Dtype:
    """Stands for `numpy.dtype`."""
    return Dtype(*args)


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
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"an array has the shape {shape!r}")
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

    def matrix(self, memo: dict[int, Any]) -> Any:
        """The scipy.sparse matrix, its indices checked."""
        if not isinstance(self.state, dict):
            raise ValueError(f"a sparse {self.kind} matrix has no state")
        state = {str(key): resolve(value, memo) for key, value in self.state.items()}
        shape = state.get("_shape", state.get("shape"))
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise ValueError(f"a sparse matrix has the shape {shape!r}; expected two axes")
        shape = (int(shape[0]), int(shape[1]))
        if self.kind == "coo":
            row, column = state["coords"] if "coords" in state else (state["row"], state["col"])
            return scipy.sparse.coo_matrix((state["data"], (row, column)), shape=shape)
        make = scipy.sparse.csc_matrix if self.kind == "csc" else scipy.sparse.csr_matrix
        matrix = make((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
        return matrix


class Storage:
    """The storage of tensors; `raw` may be set after the tensors that use it are made."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"a tensor's storage has {count!r} elements")
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
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def tensor(self) -> Tensor:
        """The view, checked to lie within its storage."""
        numbers = (self.offset, *self.size, *self.stride)
        fits = isinstance(self.storage, Storage) and len(self.size) == len(self.stride)
        if not fits or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError(f"a tensor of size {self.size}, stride {self.stride} and offset {self.offset!r}")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if 0 not in self.size and last >= self.storage.count:
            raise ValueError(
                f"a tensor of size {self.size}, stride {self.stride} and offset {self.offset} reaches beyond the "
                f"{self.storage.count} elements of its storage"
            )
        if 0 in self.size:
            return torch.empty(self.size, dtype=self.storage.dtype)
        return torch.as_strided(self.storage.tensor(), self.size, self.stride, self.offset)


def resolve(value: Any, memo: dict[int, Any]) -> Any:
    """The value with records replaced by arrays, sparse matrices and tensors; shared objects stay shared.

    Args:
        value: value from the unpickler.
        memo: id of a value → (result, value); empty at first.

    Raises:
        ValueError: a record is inconsistent.
    """
    key = id(value)
    if key in memo:
        return memo[key][0]

    def keep(result: Any) -> Any:
        memo[key] = (result, value)  # holds the value too, so that its id is not reused
        return result

    if isinstance(value, dict):
        table = keep({})
        table.update((resolve(name, memo), resolve(entry, memo)) for name, entry in value.items())
        return table
    if isinstance(value, list):
        entries = keep([])
        entries.extend(resolve(entry, memo) for entry in value)
        return entries
    if isinstance(value, tuple):
        return keep(tuple([resolve(entry, memo) for entry in value]))
    if isinstance(value, set | frozenset):
        return keep({resolve(entry, memo) for entry in value})
    if isinstance(value, Array):
        if value.array is None:
            raise ValueError("an array has no content")
        array = keep(value.array)
        if array.dtype == object:
            flat = array.reshape(-1, order="A")
            for place, entry in enumerate(list(flat)):
                flat[place] = resolve(entry, memo)
        return array
    if isinstance(value, Chumpy):
        keep(value)
        for name, entry in list(value.__dict__.items()):
            value.__dict__[name] = resolve(entry, memo)
        return value
    if isinstance(value, Sparse):
        return keep(value.matrix(memo))
    if isinstance(value, TensorView):
        return keep(value.tensor())
    if isinstance(value, Storage):
        return keep(value.tensor())
    if isinstance(value, Dtype):
        return keep(value.dtype)
    if isinstance(value, Name):
        return keep(value.name)
    return value
