"""Peer libraries, one file each, called through their best documented interfaces."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from benchmarks.case import PeerMissing

_INSTALL = {
    "open3d": "pip install open3d",
    "igl": "pip install libigl",
    "fcpw": "pip install fcpw",
    "trimesh": "pip install trimesh rtree",
    "embreex": "pip install embreex",
    "nerfacc": "pip install nerfacc",
    "skimage": "pip install scikit-image",
    "smplx": "pip install smplx",
    "warp": "pip install warp-lang",
    "gsplat": "pip install gsplat",
    "kaolin": "from its own package index; PyPI holds a placeholder",
    "cubvh": "from its repository, with nvcc",
    "nvdiffrast": "from its repository, with nvcc",
    "tinycudann": "from its repository, with nvcc",
}


def need(module: str, cuda: bool | None = None, device: str = "cpu") -> ModuleType:
    """Imports an optional library.

    Args:
        module: its name; a dotted one for a submodule.
        cuda: True if it runs on CUDA only, False if on CPU only.
        device: of the run.

    Raises:
        PeerMissing: the library cannot be used; the message is the reason, for the table.
    """
    if cuda and device != "cuda":
        raise PeerMissing("runs on CUDA only")
    if cuda is False and device == "cuda":
        raise PeerMissing("runs on CPU only")
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise PeerMissing(f"does not import: {error}") from None
        raise PeerMissing(f"not installed ({_INSTALL[package]})") from None
    except Exception as error:  # a missing shared library, another version's ABI
        raise PeerMissing(f"does not import: {error}") from None


def version(module: Any) -> str:
    return str(getattr(module, "__version__", ""))


def compiled(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """`torch.compile` of a definition in PyTorch, for each shape: what a user has on a GPU without any library.

    Raises:
        PeerMissing: the device is a CPU, where half a minute of C++ compilation would precede each size.
    """
    if device != "cuda":
        raise PeerMissing("on CUDA only")
    return torch.compile(function, dynamic=False)
