"""Zip archives in memory, read without unpacking more than the file is good for."""

import io
import zipfile

__all__ = ["Archive"]

_ALWAYS = 2**28  # bytes that any archive may unpack to
_RATIO = 32  # bytes per byte of a larger archive
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


class Archive:
    """The entries of a zip file.

    NumPy and torch store or deflate. Other methods are refused: their decompressors unpack everything at once, whatever
    size an entry declares.

    Args:
        data: bytes of the file.

    Raises:
        zipfile.BadZipFile: it is none.
    """

    def __init__(self, data: bytes) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        self._allowed = max(_ALWAYS, _RATIO * len(data))
        self._size, self._unpacked = len(data), 0
        self.names = self._zip.namelist()

    def read(self, name: str) -> bytes:
        """The content of an entry.

        Raises:
            ValueError: the entry is compressed by another method, is cut short, or unpacks to more than the file may.
            zipfile.BadZipFile, zlib.error, KeyError: it is damaged, or there is none.
        """
        info = self._zip.getinfo(name)
        if info.compress_type not in _METHODS:
            raise ValueError(f"{name} has compression method {info.compress_type}; expected stored or deflated")
        self._unpacked += info.file_size
        if self._unpacked > self._allowed:
            raise ValueError(
                f"it unpacks to {self._unpacked} bytes or more from {self._size}; at most {self._allowed} are read, so "
                "save it without compression"
            )
        with self._zip.open(info) as file:
            data = file.read(info.file_size)  # with a size, zipfile decompresses no more than that
        if len(data) != info.file_size:
            raise ValueError(f"{name} has {len(data)} bytes, and should have {info.file_size}; it is cut short")
        return data
