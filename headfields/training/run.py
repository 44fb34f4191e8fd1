"""A run folder: what one training leaves behind, and where.

config.json          what was trained, on what, how, with which versions
log.jsonl            one line of figures about once a second, and one line an event
images/              step_000000.png, ...: truth | rendering | error of one validation frame
checkpoint/          last.safetensors: to go on from
avatar.safetensors   the trained avatar, with averaged weights
metrics.json         what `headfields evaluate` found
"""

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class RunFolder:
    """The files of one run. Nothing is created before it is written.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        """Where the last checkpoint is, or would be."""
        return self.path / "checkpoint" / "last.safetensors"

    @property
    def avatar(self) -> Path:
        """Where the trained avatar is, or would be."""
        return self.path / "avatar.safetensors"

    @property
    def images(self) -> Path:
        """Folder of the pictures taken during training."""
        return self.path / "images"

    def create(self) -> None:
        """Makes the folder and those inside.

        Raises:
            NotADirectoryError: a file stands where the folder should be.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file; a run needs a folder")
        for folder in (self.checkpoint.parent, self.images):
            folder.mkdir(parents=True, exist_ok=True)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json, with the versions of what matters added."""
        self.create()
        write_json(self.path / "config.json", {**config, "versions": versions()})

    def config(self) -> dict[str, Any]:
        """Reads config.json.

        Raises:
            FileNotFoundError: this is not a run folder.
            ValueError: the file is not JSON.
        """
        return read_json(self.path / "config.json", "a run folder has one; is this the --out of `headfields train`?")

    def log(self, **entry: Any) -> None:
        """Appends a line to log.jsonl."""
        with open(self.path / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; a last line cut short by a crash is left out."""
        file = self.path / "log.jsonl"
        entries = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return entries

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes metrics.json."""
        write_json(self.path / "metrics.json", metrics)


def versions() -> dict[str, str]:
    """Versions of headfields, Python and the libraries that the result depends on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("headfields", "warp-lang", "numpy", "safetensors", "torchmetrics"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON beside `path` and moves it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: there is no such file; the message ends with `remedy`.
        ValueError: it does not hold a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; expected an object")
    return content


def write_picture(path: Path, image: Float[Tensor, "h w 3"]) -> None:
    """Writes an (H, W, 3) image in [0, 1] as an 8-bit PNG; its folder is made."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    values = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(np.ascontiguousarray(values)).save(path)
