"""Backends of the operations: the C++ module, NVIDIA Warp, or the PyTorch reference.

On CPU an operation runs in the compiled module where it is installed and in Warp otherwise; on CUDA it runs in Warp.
float64 tensors go to a kernel where one is compiled for them and to the reference otherwise.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

CpuBackend = Literal["native", "warp"]
_forced: CpuBackend | None = None

try:
    from headfields import _native as _module

    native: Any = _module  # None where it is not installed; its functions have no type stubs
    _native_reason = f"compiled module, {native.isa()} instructions"
except ImportError as error:  # an installation without a compiler: Warp runs on the CPU
    native = None
    _native_reason = f"not installed ({error}); reinstall with a C++17 compiler to have it"


@functools.lru_cache(maxsize=1)
def warp() -> Any:
    """NVIDIA Warp, imported and initialized quietly at the first call (it takes about a second).

    Raises:
        OSError: its folder of compiled kernels cannot be made; the message says what to set.
    """
    import warp as wp

    config: Any = wp.config
    if hasattr(config, "log_level"):
        config.log_level = max(config.log_level, wp.LOG_WARNING)
    else:  # older versions
        config.quiet = True
    with warp_cache():
        wp.init()
    return wp


def cuda_trouble() -> str | None:
    """Why Warp cannot run on the CUDA devices that torch sees, and the remedy; None where it can."""
    if torch.version.hip is not None:
        return (
            f"this torch is built for ROCm {torch.version.hip}, whose devices it calls cuda, and NVIDIA Warp has no "
            "kernels for them; use device='cpu'"
        )
    wp = warp()
    if wp.is_cuda_available():
        return None
    driver = wp.get_cuda_driver_version() if hasattr(wp, "get_cuda_driver_version") else None
    toolkit = wp.get_cuda_toolkit_version() if hasattr(wp, "get_cuda_toolkit_version") else None
    versions = f"driver for CUDA {_dotted(driver)}, " if driver else ""
    versions += f"built for CUDA {_dotted(toolkit)}" if toolkit else "built without CUDA"
    return (
        f"torch has CUDA and NVIDIA Warp {wp.config.version} has not ({versions}); from 1.18 on its default wheel "
        "needs driver R580 and a GPU of compute capability 7.5: update the driver, or "
        "pip install 'warp-lang>=1.12.1,<1.18'"
    )


def _dotted(version: Any) -> str:
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


@functools.lru_cache(maxsize=1)  # asked at each launch
def require_cuda() -> None:
    """Raises RuntimeError, with the remedy, unless Warp can run on CUDA."""
    trouble = cuda_trouble()
    if trouble is not None:
        raise RuntimeError(f"headfields on CUDA: {trouble}")


@contextlib.contextmanager
def warp_cache() -> Iterator[None]:
    """Turns an OSError of Warp within the `with` block into one that says where it keeps compiled kernels."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"NVIDIA Warp cannot write compiled kernels to its cache, {error.filename or 'in the home folder'} "
            f"({error.strerror or error}); set the environment variable WARP_CACHE_PATH to a writable folder"
        ) from error


def cpu_backend() -> CpuBackend:
    """The backend of CPU tensors now: `"native"` unless the module is missing or `use_cpu_backend` says otherwise."""
    if _forced is not None:
        return _forced
    if native is None:
        _warn_about_warp()
        return "warp"
    return "native"


@functools.lru_cache(maxsize=1)  # once per process
def _warn_about_warp() -> None:
    warnings.warn(
        f"headfields: NVIDIA Warp runs on the CPU, on one thread: the C++ kernels are {_native_reason}", stacklevel=3
    )


def checks_indices(device: torch.device) -> bool:
    """Whether indices are checked before a kernel reads by them: always on the CPU; on CUDA, where a check waits for
    the device, if the environment variable HEADFIELDS_CHECK_INDICES is 1, to find a program's mistake."""
    return device.type == "cpu" or os.environ.get("HEADFIELDS_CHECK_INDICES") == "1"


def use_native(tensor: Tensor, function: str | None = None) -> bool:
    """Whether the C++ module handles this tensor now; with the name of a function, also whether the module has it, as
    one built from earlier sources may not."""
    if tensor.device.type != "cpu" or cpu_backend() != "native":
        return False
    return function is None or hasattr(native, function)


def use_warp(tensor: Tensor) -> bool:
    """Whether a Warp kernel handles this tensor now (float32 only); the reference handles tensors that none takes."""
    return tensor.dtype == torch.float32 and not use_native(tensor)


@contextlib.contextmanager
def use_cpu_backend(name: CpuBackend) -> Iterator[None]:
    """Within the `with` block, CPU tensors run on the named backend.

    Args:
        name: `"native"` (the C++ module) or `"warp"`.

    Raises:
        ValueError: the name is neither.
        RuntimeError: `"native"`, and the compiled module is not installed.
    """
    global _forced
    if name not in ("native", "warp"):
        raise ValueError(f"use_cpu_backend: name is {name!r}; expected 'native' or 'warp'")
    if name == "native" and native is None:
        raise RuntimeError(f"use_cpu_backend: the C++ kernels are {_native_reason}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


@dataclass(frozen=True)
class Backend:
    """A backend of a device, whether it can run, and why; a row of `headfields.backends()`.

    Attributes:
        device: `"cpu"` or `"cuda"`.
        name: `"native"` or `"warp"`.
        available: whether it can run.
        in_use: whether operations on this device run on it now.
        reason: the version found, or why it cannot run.
    """

    device: str
    name: str
    available: bool
    in_use: bool
    reason: str

    def __str__(self) -> str:
        mark = "in use" if self.in_use else ("available" if self.available else "not available")
        return f"{self.device:4s} {self.name:6s} {mark}: {self.reason}"


def backends() -> list[Backend]:
    """The backends of each device; `print(*hf.backends(), sep="\\n")` reads well."""
    chosen = _forced or ("native" if native is not None else "warp")
    try:
        wp = warp()
        warp_ok, warp_reason = True, f"warp {wp.config.version}"
    except Exception as error:  # any failure of Warp to start is reported
        warp_ok, warp_reason = False, f"{type(error).__name__}: {error}"
    cuda = torch.cuda.is_available()
    trouble = cuda_trouble() if cuda and warp_ok else None
    if trouble is not None:
        cuda, cuda_reason = False, trouble
    elif not cuda:
        cuda_reason = "torch sees no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    else:
        cuda_reason = f"{torch.cuda.get_device_name()}, {warp_reason}"
    threads = torch.get_num_threads()
    isa = os.environ.get("HEADFIELDS_ISA")
    forced = f", HEADFIELDS_ISA={isa}" if isa else ""
    return [
        Backend("cpu", "native", native is not None, chosen == "native",
                f"{_native_reason}{forced}" + (f", {threads} threads" if native else "")),
        Backend("cpu", "warp", warp_ok, chosen == "warp", f"{warp_reason}, one thread"),
        Backend("cuda", "warp", warp_ok and cuda, warp_ok and cuda, cuda_reason),
    ]  # fmt: skip
