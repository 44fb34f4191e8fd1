"""Images of a recording in one folder and their mattes in another, as trackers keep them beside their results."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from headfields.data.errors import CaptureError
from headfields.data.image_files import ImageHeader, decode_image, image_header, natural_key

__all__ = ["MATTES", "ImageFolder", "find_images", "image_names"]

MATTES = ("matting", "mattes", "matte", "masks", "mask", "alpha", "alpha_maps", "fg_masks")
"""Names of a folder with mattes, in the order in which they are looked for."""
_SUFFIXES = (".png", ".jpg", ".jpeg")
_NO_HEAD = (0, 3, 20)  # of facer's labels: background, cloth, outside of the square that facer parses


def image_names(folder: Path) -> list[str]:
    """Names of the image files in a folder, 2.png before 10.png; none if there is no such folder."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    return sorted(names, key=natural_key)


def find_images(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first folder of these names that holds an image, in the first place that has one."""
    return next((place / name for place in folders for name in names if image_names(place / name)), None)


class ImageFolder:
    """Images of one size, and their mattes: the images' alpha, or files in a folder of `MATTES`, or labels of facer.

    Mattes have the names of their images (any extension), or there are as many, in the same order.

    Args:
        folder: the images.
        folders: folders that may hold a folder of mattes.
        report: gets a line on where the mattes come from, where it is not the images.
        labels: a folder with facer's labels; all of them but background and clothes are the matte, where there is none.

    Attributes:
        names: the files' names in order.
        size: (height, width) in pixels.
        has_mattes: whether there is any matte.

    Raises:
        CaptureError: an image or a matte is missing, cannot be read, or differs from the first in size or alpha; the
            message names it.
    """

    def __init__(self, folder: Path, folders: Sequence[Path], report: list[str], labels: Path | None = None) -> None:
        self.folder = folder
        self.names = image_names(folder)
        if not self.names:
            raise CaptureError(f"{folder} has no images ({', '.join(_SUFFIXES)}); copy them there")
        first = self._checked_headers()
        self.size = first.size
        mattes = None if first.has_alpha else find_images(folders, MATTES)
        self._labels = mattes is None and not first.has_alpha and labels is not None and bool(image_names(labels))
        place = labels if self._labels else mattes
        self._mattes = None if place is None else self._paired(place, report)
        self.has_mattes = first.has_alpha or place is not None
        if not self.has_mattes:
            report.append(
                f"{folder.name} has no alpha, and no folder beside it is called {', '.join(MATTES)}; the matte is 1 "
                "everywhere"
            )

    def __len__(self) -> int:
        return len(self.names)

    def _checked_headers(self) -> ImageHeader:
        """The header that all images have in common."""
        first: ImageHeader | None = None
        for index, name in enumerate(self.names):
            header = image_header(self.folder / name, f"image {index}", self.folder.name, "rgba")
            first = header if first is None else first
            if header.size != first.size or header.has_alpha != first.has_alpha:
                raise CaptureError(
                    f"{self.folder / name} has {header.size[1]}x{header.size[0]} pixels and {header.channels} "
                    f"channels; expected {first.size[1]}x{first.size[0]} and {first.channels} as {self.names[0]} has; "
                    "export it again"
                )
        assert first is not None
        return first

    def _paired(self, place: Path, report: list[str]) -> list[Path]:
        """The matte of each image."""
        names = image_names(place)
        by_stem = {Path(name).stem: place / name for name in names}
        missing = [name for name in self.names if Path(name).stem not in by_stem]
        if not missing:
            paths = [by_stem[Path(name).stem] for name in self.names]
        elif len(names) == len(self.names):
            paths = [place / name for name in names]
            report.append(f"{place.name} are numbered otherwise than {self.folder.name}; they are paired in order")
        else:
            raise CaptureError(
                f"{place}: {Path(missing[0]).stem} is missing, the matte of {self.folder.name}/{missing[0]} (there are "
                f"{len(names)} mattes and {len(self.names)} images); add it or remove the image"
            )
        report.append(f"mattes are those of {place.name}" + (", all labels but 0, 3, 20" if self._labels else ""))
        return paths

    def image(self, row: int) -> UInt8[np.ndarray, "h w 4"]:
        """RGBA of an image, straight alpha.

        Raises:
            CaptureError: the image or its matte cannot be decoded.
        """
        rgba = decode_image(self.folder / self.names[row], f"image {row}", self.folder.name, "rgba", self.size)
        if self._mattes is not None:
            path = self._mattes[row]
            matte = decode_image(path, f"image {row}", path.parent.name, "label", self.size)
            if self._labels:
                matte = np.where(np.isin(matte, _NO_HEAD), 0, 255).astype(np.uint8)
            rgba[..., 3] = matte * 255 if matte.max(initial=0) == 1 else matte  # some tools write 0 and 1
        return rgba
