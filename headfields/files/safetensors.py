"""Crash-safe safetensors files: a crash while writing leaves the previous file whole."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headfields.files.atomic import replacing
from headfields.files.reading import brief, reading
from headfields.files.versions import FileFormat

__all__ = ["BrokenFileError", "read_safetensors", "write_safetensors"]


class BrokenFileError(ValueError):
    """A safetensors file is truncated, or has another format."""


def write_safetensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    headers: Mapping[FileFormat, Mapping[str, Any]],
    previous: Path | None = None,
) -> None:
    """Writes a safetensors file as `headfields.files.atomic.replacing` does.

    Args:
        path: the file; its folder is created.
        tensors: the tensors.
        headers: JSON objects by the format of which they are; each gets its version.
        previous: a path in the same folder that keeps the file now at `path`; None discards it. At any moment, a crash
            included, there is a whole file at `path` or `previous`.

    Raises:
        OSError: the file cannot be written, for lack of space or permission; `path` and `previous` are unchanged.
    """
    metadata = {kind.key: json.dumps(kind.stamp(content)) for kind, content in headers.items()}
    with replacing(path, previous) as temporary:
        try:
            save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            match = re.search(r"\(os error (\d+)\)|Os { code: (\d+),", str(error))  # from 0.7 on, and before
            if match is None:
                raise
            number = int(match[1] or match[2])
            raise OSError(number, os.strerror(number)) from error


def read_safetensors(path: Path | str, kind: FileFormat) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, on the CPU, and the JSON object in its header, checked to be of this version.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: the file is truncated, or no safetensors file.
        FileVersionError: the file has another version of the format.
        ValueError: the file is of another kind, or its header's JSON is no object or is nested hundreds of levels deep.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with reading(path, "a safetensors file"):
        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(kind.key)
                if header is None:
                    raise ValueError(
                        f"{path} is a safetensors file without the header entry {kind.key!r}; it is not {kind.name}"
                    )
                content = json.loads(header)
                if not isinstance(content, dict):
                    raise ValueError(f"{path}: its entry {kind.key!r} is {brief(content)}; expected a JSON object")
                kind.check(path, content)
                # Cloned: otherwise the file stays mapped, and the next checkpoint replaces it
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError) as error:
            raise BrokenFileError(
                f"{path} is not a whole safetensors file ({error}); go back to an earlier copy"
            ) from error
        return tensors, content
