"""A mesh with a texture, as scanners write it: an OBJ, its material and an image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from headfields.mesh.obj import read_obj
from headfields.records import Record

__all__ = ["TexturedMesh", "read_textured"]


@dataclass(frozen=True)
class TexturedMesh(Record):
    """A triangle mesh with its colors.

    Attributes:
        vertices: (V, 3) meters, y up, face toward +z.
        faces: (F, 3) int64, counter-clockwise from outside.
        uv, uv_faces: (T, 2) texture coordinates, v up, and (F, 3) indices into them; None if there are none.
        texture: (H, W, 3) sRGB in [0, 1], row 0 at v = 1; None if there is none.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    uv: Float[Tensor, "t 2"] | None = None
    uv_faces: Int[Tensor, "f 3"] | None = None
    texture: Float[Tensor, "h w 3"] | None = None

    def __post_init__(self) -> None:
        self._check(
            vertices=("V 3", self.vertices), faces=("F 3", self.faces), uv=("T 2", self.uv),
            uv_faces=("F 3", self.uv_faces), texture=("H W 3", self.texture),
        )  # fmt: skip


def read_textured(path: str | Path, texture: str | Path | None = None, scale: float = 1.0) -> TexturedMesh:
    """Reads an OBJ file and the image that its material names.

    Args:
        path: the OBJ; polygons are cut into fans.
        texture: the image; the `map_Kd` of the OBJ's material library if left out, and none if that names none.
        scale: meters per unit of the file.

    Raises:
        CaptureError, FileNotFoundError: a file is malformed or missing.
    """
    path = Path(path)
    mesh = read_obj(path)
    image = Path(texture) if texture is not None else _map_of(path)
    pixels = None
    if image is not None:
        if not image.is_file():
            raise FileNotFoundError(f"read_textured: the texture {image} is not a file")
        pixels = torch.from_numpy(np.asarray(Image.open(image).convert("RGB")).copy()).float() / 255
    coordinates = None if mesh.uv is None else torch.from_numpy(mesh.uv)
    corners = None if mesh.uv_faces is None else torch.from_numpy(mesh.uv_faces)
    return TexturedMesh(
        torch.from_numpy(mesh.vertices) * scale, torch.from_numpy(mesh.faces), coordinates, corners, pixels
    )


def _map_of(path: Path) -> Path | None:
    """The image that the first material with one names."""

    def named(file: Path, key: str) -> str | None:
        with file.open(errors="replace") as lines:
            for line in lines:
                if line.startswith(key + " ") or line.strip().startswith(key + " "):
                    return line.strip().removeprefix(key).strip()
        return None

    library = named(path, "mtllib")
    if library is None or not (path.parent / library).is_file():
        return None
    image = named(path.parent / library, "map_Kd")
    return None if image is None else path.parent / image.split()[-1]
