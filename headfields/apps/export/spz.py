"""Gaussians as `.spz`, Niantic's compressed file, which web viewers and engines read, by the package gsply."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headfields.files.reading import reading
from headfields.networks.gaussians import Gaussians
from headfields.records import Splats

__all__ = ["load_spz", "save_spz"]

_BITS = 16
"""Of a position's fraction: steps of 15 µm within 128 m. gsply's default, 12 bits, has steps of 0.24 mm."""

_HEADER = 16
"""Bytes before the Gaussians: magic, version, number, degree, bits, flags, zero."""
_LARGEST = 80
"""Bytes that no Gaussian exceeds: version 3 takes 20, and 45 more for harmonics of degree 3."""


def save_spz(path: Path | str, splats: Splats) -> Path:
    """Writes the Gaussians of one frame as `.spz`, version 3: quantized, a fifth of their `.ply` or less.

    Positions are in steps of 15 µm; logarithms of scales in steps of 1/16, opacities and colors in 8 bits, rotations in
    10 bits a number, harmonics in 5 bits (degree 1) and 4 bits. Axes are as here: y up, the face toward +z.

    Args:
        path: the file, which ends in `.spz`; its folder is made.
        splats: N Gaussians of degree 0 to 3, meters: (N, ...) or (1, N, ...).

    Raises:
        ValueError: another ending, several frames, or a number that is not finite.
        ModuleNotFoundError: gsply is not installed.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".spz":
        raise ValueError(f"save_spz: {path.name} ends in {path.suffix!r}; expected .spz")
    if splats.means.ndim == 3 and len(splats.means) == 1:
        splats = splats.map(lambda tensor: tensor[0])
    if splats.means.ndim != 2:
        raise ValueError(
            f"save_spz: splats has means of shape {tuple(splats.means.shape)}; expected one frame: splats[3]"
        )
    degree = 0 if splats.harmonics is None else round(splats.harmonics.shape[1] ** 0.5) - 1
    gaussians = Gaussians.of(splats.detach(), degree=degree)
    columns = [
        parameter.detach().float().cpu()
        for parameter in (
            gaussians.position, gaussians.log_scale, gaussians.quaternion, gaussians.opacity_logit, gaussians.color,
            gaussians.harmonics,
        )
    ]  # fmt: skip
    names = ("means", "scales", "quaternions", "opacities", "colors", "harmonics")
    for name, values in zip(names, columns, strict=True):
        if not bool(values.isfinite().all()):
            raise ValueError(f"save_spz: splats has {name} that are not finite")
    columns[2] = torch.nn.functional.normalize(columns[2], dim=1)
    gsply = _gsply("save_spz")
    path.parent.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(io.StringIO()), _same_threads():
        gsply.write_spz(path, gsply.GSData(*(values.numpy() for values in columns)), version=3, fractional_bits=_BITS)
    return path


def load_spz(path: Path | str) -> Gaussians:
    """Reads `.spz`: N Gaussians on the CPU, attached to no triangle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none.
        ModuleNotFoundError: gsply is not installed.
    """
    path, gsply = Path(path), _gsply("load_spz")
    with reading(path, "Gaussians", where=f"load_spz: {path}"), _same_threads():
        _check_size(path)
        data = gsply.read_spz(path)
    count = len(data.means)
    harmonics = np.zeros((count, 0, 3), np.float32) if data.shN is None else data.shN.reshape(count, -1, 3)
    gaussians = Gaussians(count, degree=round((1 + harmonics.shape[1]) ** 0.5) - 1)
    parts = {
        "position": data.means, "log_scale": data.scales, "quaternion": data.quats, "color": data.sh0,
        "opacity_logit": data.opacities.reshape(-1), "harmonics": harmonics,
    }  # fmt: skip
    with torch.no_grad():
        for name, values in parts.items():
            getattr(gaussians, name).copy_(torch.from_numpy(np.array(values, np.float32)))
    return gaussians


def _check_size(path: Path) -> None:
    """Refuses a file that unpacks to more than its header says: a few kilobytes can hold gigabytes of zeros."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return  # no gzip: gsply says what else it may be
    with gzip.open(path) as file:
        header = file.read(_HEADER)
        room = int.from_bytes(header[8:12], "little") * _LARGEST
        while room >= 0 and (block := file.read(1 << 20)):
            room -= len(block)
    if room < 0:
        raise ValueError("it unpacks to more than its header's number of Gaussians takes")


@contextmanager
def _same_threads() -> Iterator[None]:
    """numba, which gsply compiles with, gives PyTorch as many threads as there are cores, whatever was asked for."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gsply(op: str) -> Any:
    try:
        import gsply
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{op}: .spz needs gsply ({error}); install it: pip install 'headfields[spz]'"
        ) from error
    return gsply
