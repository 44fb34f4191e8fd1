"""The folder of a training run: its files, and writing them atomically.

config.json              what was trained, on what, how, with which versions
log.jsonl                one line of metrics about once per second, and one line per event
images/                  step_000000.png, ...: truth | rendering | error of one validation frame
checkpoint/              last.safetensors, to resume from; previous.safetensors, the one before; parts.safetensors, the
                         untrained avatar, if config.json does not name a preset that builds it
avatar.safetensors       the trained avatar, with averaged weights
metrics.json             metrics of `headfields evaluate`
.lock                    which process writes to the folder

Every file but the log is written under a temporary name and moved into place once it is complete.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.files import reading
from headfields.files.atomic import write_image, write_text
from headfields.files.versions import FileFormat

FORMAT = FileFormat(
    "headfields.run", "the configuration of a run", 1, "resume with the version that began it, or start a new run"
)


class RunWriteError(OSError):
    """A file of a run cannot be written; the message names it and the reason. An older file there is intact."""


class RunFolder:
    """The files of one run. Nothing is created before it is written.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        """Path of the last checkpoint, whether or not it exists."""
        return self.path / "checkpoint" / "last.safetensors"

    @property
    def previous_checkpoint(self) -> Path:
        """Path of the checkpoint before the last, whether or not it exists."""
        return self.path / "checkpoint" / "previous.safetensors"

    @property
    def checkpoints(self) -> list[Path]:
        """Paths of the existing checkpoints, the last one first."""
        return [path for path in (self.checkpoint, self.previous_checkpoint) if path.exists()]

    @property
    def avatar(self) -> Path:
        """Path of the trained avatar, whether or not it exists."""
        return self.path / "avatar.safetensors"

    @property
    def parts(self) -> Path:
        """Path of the avatar as it was before training, for runs whose avatar config.json alone cannot build: a
        checkpoint holds weights, not the parts that they belong to. Whether or not it exists."""
        return self.path / "checkpoint" / "parts.safetensors"

    @property
    def images(self) -> Path:
        """Folder of the pictures taken during training."""
        return self.path / "images"

    def create(self) -> None:
        """Makes the folder and its subfolders.

        Raises:
            NotADirectoryError: a file is where the folder should be.
            RunWriteError: the folder or a subfolder cannot be made or written to.
            ValueError: its pictures are those of something else (`check_pictures`).
        """
        self.check_writable()
        self.check_pictures()
        for folder in (self.checkpoint.parent, self.images):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                _check_writable(folder)

    def check_writable(self) -> None:
        """Checks that the folder can be made and written to, and leaves nothing behind.

        Raises:
            NotADirectoryError: a file is where the folder, or one above it, should be.
            RunWriteError: the folder, or the nearest one above it that exists, cannot be written to.
        """
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise NotADirectoryError(f"{nearest} is a file; a run needs a folder")
        with writing(self.path):
            _check_writable(nearest)

    def check_pictures(self) -> None:
        """Raises ValueError if the folder has images that no run wrote, as a capture does: a run would add its own."""
        written = self.checkpoints or any((self.path / name).exists() for name in ("config.json", "log.jsonl"))
        if self.images.is_dir() and any(self.images.iterdir()) and not written:
            raise ValueError(
                f"{self.path} holds images of something else, and no run: a run writes its pictures to images/; pass "
                "another folder as --out (out=)"
            )

    def check_space(self, size: int) -> None:
        """Raises RunWriteError if the disk has less room than a first checkpoint of `size` bytes needs."""
        free = shutil.disk_usage(self.path).free
        if free < size and not self.checkpoints:
            raise RunWriteError(
                f"{self.path}: a checkpoint takes {size / 1e6:.1f} MB (three of them while one is written), and that "
                f"disk has {free / 1e6:.1f} MB free; make room, or choose another folder"
            )

    def set_aside(self) -> Path | None:
        """Renames the last checkpoint of another run to replaced.safetensors and removes the one before.

        Returns:
            Path of the renamed checkpoint; None if there was none.

        Raises:
            RunWriteError: it cannot be renamed.
        """
        if not self.checkpoints:
            return None
        aside = self.checkpoint.with_name("replaced.safetensors")
        with writing(aside):
            os.replace(self.checkpoints[0], aside)
            self.previous_checkpoint.unlink(missing_ok=True)
        return aside

    def remove_leftovers(self) -> None:
        """Removes unfinished files of a killed process; call it with the folder locked."""
        for folder in (self.path, self.checkpoint.parent, self.images):
            remove_leftovers(folder)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json, with the versions of the libraries added."""
        self.create()
        write_json(self.path / "config.json", FORMAT.stamp({**config, "versions": versions()}))

    def config(self) -> dict[str, Any]:
        """Reads config.json.

        Raises:
            FileNotFoundError: this is not a run folder.
            FileVersionError: another version of the library wrote it.
            ValueError: the file is not JSON.
        """
        path = self.path / "config.json"
        config = read_json_object(path, "a run folder has one; is this the --out of `headfields train`?")
        FORMAT.check(path, config)
        return config

    def log(self, **entry: Any) -> None:
        """Appends a line to log.jsonl.

        Raises:
            RunWriteError: it cannot be written.
        """
        path = self.path / "log.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl. A line that is no JSON object, or whose step is no number, is left out: a crash may
        cut the last one short.
        """
        file = self.path / "log.jsonl"
        entries = []
        for line in reading.file_bytes(file).decode(errors="replace").splitlines() if file.exists() else []:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step", 0), int | float):
                entries.append(entry)
        return entries

    def rewind_log(self, step: int) -> int:
        """Drops incomplete lines and those about steps after `step`, which will be taken again.

        Returns:
            How many lines were dropped.
        """
        path = self.path / "log.jsonl"
        if not path.exists():
            return 0
        content = reading.file_bytes(path)
        lines = [json.dumps(entry) + "\n" for entry in self.read_log() if entry.get("step", 0) <= step]
        if len(lines) < len(content.splitlines()) or not content.endswith(b"\n"):
            replace_text(path, "".join(lines))
        return len(content.splitlines()) - len(lines)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes metrics.json."""
        write_json(self.path / "metrics.json", metrics)


def remove_leftovers(folder: Path, below: bool = False) -> None:
    """Removes what the writers of `headfields.files.atomic` leave in a folder when they are killed.

    Args:
        folder: the folder, which no other process writes to.
        below: whether to look into all folders below it, too.
    """
    for pattern in (".*.tmp", ".tmp*"):
        for path in list(folder.rglob(pattern) if below else folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def last_good(saved: tuple[Path, int] | None, folder: RunFolder | None) -> str:
    """A clause about the newest checkpoint that exists, for the message of an error.

    Args:
        saved: path and step of the checkpoint that was written or read last.
        folder: the run folder, whose checkpoints are named if that one is gone.
    """
    if saved is not None and saved[0].exists():
        return f"the last good checkpoint is {saved[0]} (step {saved[1]})"
    if folder is not None and folder.checkpoints:
        return f"the last good checkpoint is {folder.checkpoints[0]}"
    return "there is no checkpoint"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError within the `with` block into a `RunWriteError` about `path`.

    Raises:
        RunWriteError: instead of the OSError.
    """
    try:
        yield
    except RunWriteError:
        raise
    except OSError as error:
        raise RunWriteError(f"{path} cannot be written: {error.strerror or error}") from error


def versions() -> dict[str, str]:
    """Versions of headfields, Python and the libraries that results depend on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("headfields", "warp-lang", "numpy", "safetensors"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically.

    Raises:
        RunWriteError: it cannot be written; an older file there is intact.
    """
    replace_text(path, json.dumps(content, indent=2, default=str) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Writes a text file atomically; raises as `write_json`."""
    with writing(path):
        write_text(path, text)


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: there is no such file; the message ends with `remedy`.
        ValueError: it does not hold a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")
    content = reading.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; expected an object")
    return content


def write_picture(path: Path, image: Float[Tensor, "h w 3"]) -> None:
    """Writes an (H, W, 3) image in [0, 1] as an 8-bit PNG and makes its folder; raises as `write_json`."""
    values = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    with writing(path):
        write_image(path, values)


def _check_writable(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".try.", suffix=".tmp") as file:
        file.write(b"x")  # a folder on a full disk can be written to, a file in it cannot
        file.flush()
