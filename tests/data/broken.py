"""Breaking a copy of a folder in many ways, and what must come of each: a named error, or the reason why not."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headfields.data.errors import CaptureError
from headfields.files.reading import UnsafePickleError


@dataclass(frozen=True)
class Broken:
    """`apply` breaks a folder. `names` are patterns that the error must hold; None: the folder still opens."""

    name: str
    apply: Callable[[Path], Any]
    names: tuple[str, ...] | None


def params(rows: Iterable[Broken], default: int = 15) -> list[Any]:
    """Test parameters: `default` of the rows, evenly over them, in the default run; the others are slow."""
    table = list(rows)
    assert len({row.name for row in table}) == len(table) >= 50
    chosen = {round(index) for index in np.linspace(0, len(table) - 1, default)}
    return [
        pytest.param(row, id=row.name, marks=() if index in chosen else pytest.mark.slow)
        for index, row in enumerate(table)
    ]


def check(row: Broken, written: Path, work: Path, opened: Callable[[Path], Any]) -> None:
    """Breaks a copy of `written` and opens it: it is refused by name, or it opens."""
    folder = Path(shutil.copytree(written, work / "broken"))
    row.apply(folder)
    if row.names is None:
        opened(folder)
        return
    with pytest.raises((CaptureError, UnsafePickleError)) as caught:
        opened(folder)
    text = str(caught.value)
    missing = [name for name in row.names if not re.search(name, text)]
    assert not missing, f"the error does not name {missing}: {text}"


def files(path: str, *names: str, missing: tuple[str, ...] | None = ()) -> Iterator[Broken]:
    """A file missing, empty, cut short, of noise, a folder; `missing` overrides the names where it is not there."""
    names = names or (Path(path).name,)

    def half(folder: Path) -> None:
        data = (folder / path).read_bytes()
        (folder / path).write_bytes(data[: len(data) // 2])

    def a_folder(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).mkdir()

    gone = names if missing == () else missing
    yield Broken(f"{path}: missing", lambda folder: (folder / path).unlink(), gone)
    yield Broken(f"{path}: a folder", a_folder, names if path.endswith((".frame", ".png", ".npz")) else gone)
    yield Broken(f"{path}: empty", lambda folder: (folder / path).write_bytes(b""), names)
    yield Broken(f"{path}: half", half, names)
    yield Broken(f"{path}: noise", lambda folder: (folder / path).write_bytes(bytes(range(256)) * 3), names)


def put(owner: dict[str, Any], key: str, new: Any) -> None:
    """Sets an entry, to `new` or to what `new` makes of it; an ellipsis removes it."""
    value = new(owner[key]) if callable(new) else new
    if value is ...:
        del owner[key]
    else:
        owner[key] = value


def array(path: str, key: str, new: Any) -> Callable[[Path], None]:
    """Puts an array into an npz file."""

    def apply(folder: Path) -> None:
        rows = dict(np.load(folder / path))
        put(rows, key, new)
        np.savez(folder / path, **rows)

    return apply


def in_json(pattern: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Applies `change(content)` to JSON files."""

    def apply(folder: Path) -> None:
        for path in folder.glob(pattern):
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))

    return apply


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "text": lambda array: np.array([["a"]]),
    "a word": lambda array: "seven",
    "nested lists": lambda array: [[1, [2]]],
    "an object": lambda array: {"a": 1},
    "nan": lambda array: np.full_like(array, np.nan, dtype=np.float64),
    "infinite": lambda array: np.full_like(array, np.inf, dtype=np.float64),
    "huge": lambda array: np.full_like(array, 1e30, dtype=np.float64),
    "of no numbers": lambda array: np.zeros((0,)),
    "of another frame too": lambda array: np.stack([array, array]),
    "complex": lambda array: array.astype(np.complex128),
}
"""Ways to break an array of numbers."""
