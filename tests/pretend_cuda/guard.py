"""Compiles and loads `guard.cpp`. It has to be loaded before torch is imported, so this file does not import it."""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def compiler() -> str | None:
    """The C++ compiler, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def load() -> None:
    """Loads the guard into this process; the first time on a machine it is compiled, which takes half a minute."""
    specification = importlib.util.find_spec("torch")
    assert specification is not None and specification.origin is not None
    torch = Path(specification.origin).parent
    version = (torch / "version.py").read_bytes()
    name = hashlib.sha256(SOURCE.read_bytes() + version + str(torch).encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"headfields_pretend_cuda_{os.getuid()}_{name}.so"
    if not library.exists():
        built = library.with_suffix(f".{os.getpid()}.so")
        subprocess.run(
            [
                compiler() or "g++", "-O0", "-std=c++20", "-shared", "-fPIC", f"-I{torch}/include",
                f"-I{torch}/include/torch/csrc/api/include", str(SOURCE), f"-L{torch}/lib", "-ltorch_cpu", "-lc10",
                f"-Wl,-rpath,{torch}/lib", "-o", str(built),
            ],
            check=True,
        )  # fmt: skip
        built.replace(library)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
