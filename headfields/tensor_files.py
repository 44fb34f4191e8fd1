"""safetensors files, written so that a crash leaves the old file whole, and read with errors that say what is wrong."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_safetensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file beside `path`, waits until it is on disk, and moves it into place."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # safetensors writes for the owner alone, which is not what a shared disk wants
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def read_safetensors(path: Path | str, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, on the CPU, and the JSON that its header holds under `key`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, is cut short, or its header lacks `key`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(key)
            if header is None:
                raise ValueError(
                    f"{path} is a safetensors file without the header entry {key!r}; it is no file of this kind"
                )
            # clone: the file stays mapped otherwise, and is about to be replaced by the next checkpoint
            return {name: file.get_tensor(name).clone() for name in file.keys()}, json.loads(header)  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); go back to an earlier copy") from error


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows does not open folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
