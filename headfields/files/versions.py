"""Format versions: each file that the library writes says which layout it has, and a reader refuses all but its own.

No reader guesses at another layout. `version` is raised when a reader no longer reads what it read before, so that an
older file is refused by name, with what to do, instead of failing somewhere in its content.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headfields.files.reading import FileVersionError, brief

__all__ = ["FileFormat", "FileVersionError"]


@dataclass(frozen=True)
class FileFormat:
    """A kind of file, and the version of its layout that this library writes and reads.

    Attributes:
        key: its name in files: the header entry of a safetensors file that holds its content.
        name: in words: "an avatar".
        version: of its layout.
        remedy: what to do with a file of another version.
    """

    key: str
    name: str
    version: int
    remedy: str

    def stamp(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content of a file, with its version."""
        return {"format": self.version, **content}

    def check(self, path: object, content: Any) -> None:
        """Refuses the content of a file without this version.

        Args:
            path: the file, for the message.
            content: what the file holds, a JSON object or arrays by name.

        Raises:
            FileVersionError: it has another version, or none.

        >>> from headfields.files.versions import FileFormat
        >>> knot = FileFormat("headfields.knot", "a knot", 2, "tie it")
        >>> knot.check("a.json", knot.stamp({"length": 3}))
        >>> knot.check("a.json", {"format": 1})
        Traceback (most recent call last):
        headfields.files.reading.FileVersionError: a.json is a knot of format 1; this headfields reads format 2: tie it
        """
        found: Any = content.get("format") if isinstance(content, Mapping) else None
        found = found.tolist() if isinstance(found, np.ndarray) else found
        if type(found) is not int or found != self.version:
            number = "without a format version" if found is None else f"of format {brief(found)}"
            raise FileVersionError(
                f"{path} is {self.name} {number}; this headfields reads format {self.version}: {self.remedy}"
            )
