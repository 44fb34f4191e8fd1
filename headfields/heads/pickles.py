"""Reads the pickles that morphable models are published in, without running code from them.

A pickle may name any importable function and call it. This reader allows what the published files hold (numpy arrays
and scalars, scipy.sparse matrices, plain containers) and puts inert stand-ins in the place of chumpy's classes, which
old files hold and which no longer import; every other name is refused.
"""

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Shaped

__all__ = ["UnsafePickleError", "load_pickle", "to_array"]


class UnsafePickleError(pickle.UnpicklingError):
    """The pickle names something that is neither numpy, scipy.sparse, a plain container nor chumpy."""


class ChumpyStandIn:
    """Holds the state of a chumpy object; has none of its behaviour. `name` is the class it stands for."""

    name = "chumpy"

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise UnsafePickleError(f"load_pickle: refused to encode bytes as {encoding!r}; a numpy pickle uses latin1")
    return codecs.encode(text, encoding)


def _reconstruct(cls: type, base: type, state: Any) -> Any:
    if isinstance(cls, type) and issubclass(cls, ChumpyStandIn):
        return cls()
    if isinstance(cls, type) and cls in [getattr(scipy.sparse, name, None) for name in _SPARSE]:
        return cls.__new__(cls)
    raise UnsafePickleError(f"load_pickle: refused to rebuild a {cls!r} through copyreg")


def _numpy_internals() -> dict[str, Any]:
    core = getattr(np, "_core", None) or np.core
    return {
        "_reconstruct": core.multiarray._reconstruct,
        "scalar": core.multiarray.scalar,
        "_frombuffer": core.numeric._frombuffer,
    }


_CONTAINERS = {"dict": dict, "list": list, "tuple": tuple, "set": set, "object": object, "bytearray": bytearray}
_SPARSE = ("csc_matrix", "csr_matrix", "coo_matrix", "csc_array", "csr_array", "coo_array")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "chumpy" and name.isidentifier():
            return type(name, (ChumpyStandIn,), {"name": f"{module}.{name}"})
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return _numpy_internals()[name]
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return _numpy_internals()[name]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module.startswith("scipy.sparse") and name in _SPARSE and hasattr(scipy.sparse, name):
            return getattr(scipy.sparse, name)
        if module in ("__builtin__", "builtins") and name in _CONTAINERS:
            return _CONTAINERS[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return _reconstruct
        raise UnsafePickleError(
            f"load_pickle: the file names {module}.{name}, which is not one of numpy, scipy.sparse, plain containers "
            "or chumpy; a pickle can run code, so it was not loaded. If you trust the file, load it yourself and save "
            "its arrays with numpy.savez"
        )


def load_pickle(source: str | Path | bytes) -> Any:
    """Reads a pickle of arrays (Python 2 pickles too, as latin1).

    Args:
        source: path of the file, or its bytes.

    Returns:
        The object, with `ChumpyStandIn`s where the file holds chumpy objects; `to_array` turns those into arrays.

    Raises:
        UnsafePickleError: the file names anything but numpy, scipy.sparse, plain containers and chumpy; the message
            has the name, and nothing of the file has been run.
        OSError: the file cannot be read.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


def to_array(value: Any, name: str = "value") -> Shaped[np.ndarray, "..."]:
    """A dense array from an array, sparse matrix, number, list or chumpy stand-in.

    Raises:
        ValueError: a chumpy class whose value is not stored in the file, or an array of Python objects; the message
            has `name`.
    """
    if scipy.sparse.issparse(value):
        return np.asarray(value.todense())
    if isinstance(value, ChumpyStandIn):
        state = value.__dict__
        if "x" in state:
            return to_array(state["x"], name)
        if "a" in state and "idxs" in state:  # chumpy.reordering.Select and its kin
            picked = to_array(state["a"], name).ravel()[to_array(state["idxs"], name).astype(np.int64).ravel()]
            shape = state.get("preferred_shape")
            return picked if shape is None else picked.reshape([int(size) for size in to_array(shape, name).ravel()])
        raise ValueError(
            f"to_array: {name} is a {value.name}, which stores no array of its own (it has {sorted(state)}); "
            "open the file where chumpy is installed and save it with numpy.savez"
        )
    array = np.asarray(value)
    if array.dtype == object:
        if array.ndim == 0 and not isinstance(array.item(), np.ndarray) and scipy.sparse.issparse(array.item()):
            return to_array(array.item(), name)
        raise ValueError(f"to_array: {name} is an array of Python objects; save it as a dense array of numbers")
    return array
