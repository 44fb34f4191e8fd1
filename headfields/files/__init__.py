"""Array files, safetensors and pickles, read without running code from them."""

from headfields.files.arrays import load_arrays
from headfields.files.reading import UnsafePickleError
from headfields.files.safetensors import BrokenFileError
from headfields.files.unpickler import load_pickle, load_torch, to_array

__all__ = [
    "BrokenFileError",
    "UnsafePickleError",
    "load_arrays",
    "load_pickle",
    "load_torch",
    "to_array",
]
