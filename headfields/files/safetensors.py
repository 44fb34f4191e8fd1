"""safetensors files, written so that a crash leaves the old file whole, and read with errors that say what is wrong."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class BrokenFileError(ValueError):
    """A file that should hold tensors cannot be read: it is cut short, or no safetensors file at all."""


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], previous: Path | None = None
) -> None:
    """Writes a safetensors file beside `path`, waits until it is on disk, and moves it into place.

    Args:
        path: where it goes; its folder must exist.
        tensors, metadata: what it holds.
        previous: where the file that stands at `path` now is kept, in the same folder; it is lost if None. At no
            moment, a crash included, is there less than one whole file at `path` or `previous`.

    Raises:
        OSError: it cannot be written, for lack of room or permission; `path` and `previous` are as they were.
    """
    path = Path(path)
    # safetensors puts a temporary file of its own beside its target; in a folder of ours it can be found and removed
    workplace = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary = workplace / path.name
    try:
        shutil.rmtree(workplace, ignore_errors=True)
        workplace.mkdir()
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # safetensors writes for the owner alone, which is not what a shared disk wants
        _to_disk(temporary)
        if previous is not None and path.exists():
            _keep(path, previous, workplace / previous.name)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _keep(path: Path, previous: Path, link: Path) -> None:
    """`path` under the name `previous` as well; without hard links, under that name alone for a moment."""
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, previous)
    else:
        os.replace(link, previous)


def read_safetensors(path: Path | str, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, on the CPU, and the JSON that its header holds under `key`.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is no safetensors file, or is cut short.
        ValueError: its header lacks `key`: it is a file of another kind.
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
    except (SafetensorError, json.JSONDecodeError) as error:
        raise BrokenFileError(
            f"{path} is not a whole safetensors file ({error}); go back to an earlier copy"
        ) from error


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows does not open folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
