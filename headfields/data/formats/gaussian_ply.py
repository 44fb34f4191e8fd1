"""Gaussians in the PLY layout of 3D Gaussian Splatting, and GaussianAvatars': a binding, and FLAME's parameters beside.

Both hold an optimizer's numbers, not what is drawn: logits of opacities, logarithms of scales, coefficients of
harmonics. They are read and written as they are, so that a file that is read and written has the same bits.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.files.arrays import load_numbers, save_arrays
from headfields.files.atomic import write_bytes
from headfields.files.checked import whole_numbers
from headfields.files.ply import ply_bytes, ply_table
from headfields.files.reading import file_bytes, reading
from headfields.networks.gaussians import Gaussians
from headfields.records import Splats

__all__ = [
    "FLAME_PARAMETERS",
    "load_flame_parameters",
    "load_gaussians",
    "save_flame_parameters",
    "save_gaussians",
]

FLAME_PARAMETERS = "flame_param.npz"
"""The name of the file with FLAME's parameters, next to a bound `.ply`."""

_MOST_FACES = 2**24  # float32, in which a binding is written, holds whole numbers below
_LONGEST = 1e9
"""Of a coordinate or a scale, in whatever unit the file has, and of a quaternion: beyond, a number is damaged, or no
logarithm."""
_VECTORS = ("x", "y", "z", "rot_0", "rot_1", "rot_2", "rot_3")
_SHAPES = {
    "translation": "T 3", "rotation": "T 3", "neck_pose": "T 3", "jaw_pose": "T 3", "eyes_pose": "T 6", "expr": "T E",
    "shape": "S", "static_offset": "V 3", "dynamic_offset": "T V 3",
}  # fmt: skip
_OFFSETS = ("static_offset", "dynamic_offset")


def save_gaussians(path: Path | str, gaussians: Gaussians | Splats) -> Path:
    """Writes Gaussians as binary `.ply` in the layout of 3D Gaussian Splatting, which viewers and editors read.

    Columns are `x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3`, all float32, normals zero; `f_rest`
    has the coefficients of red first, then of green and of blue. Gaussians that are attached to triangles also have
    `binding_0`, as in GaussianAvatars: their positions, rotations and scales are relative to their triangle, so a
    program that does not know bindings shows them in a heap. For such a program write a frame's `Splats`.

    Args:
        path: the file, which ends in `.ply`; its folder is made.
        gaussians: an avatar's, N of degree 0 to 3; or the `Splats` of one frame, meters, which become logits and
            logarithms as `headfields.networks.Gaussians.of` makes them.

    Returns:
        The path.

    Raises:
        ValueError: another ending; a number is not finite; some are attached to a triangle and others not; or they
            have blendshapes or points of attachment, which the layout cannot hold; or the splats are of several frames.
        OSError: the file cannot be written.

    >>> import tempfile, headfields as hf
    >>> gaussians = hf.networks.Gaussians(5, degree=1)
    >>> path = hf.data.save_gaussians(tempfile.mkdtemp() + "/five.ply", gaussians)
    >>> hf.data.load_gaussians(path)
    Gaussians(5 of degree 1)
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise ValueError(f"save_gaussians: {path.name} ends in {path.suffix!r}; expected .ply")
    if isinstance(gaussians, Splats):
        gaussians = _of_frame(gaussians)
    if gaussians.blendshapes:
        raise ValueError(
            f"save_gaussians: gaussians has {gaussians.blendshapes} blendshapes, which a .ply cannot "
            "hold; write the Splats of a frame, or save the avatar"
        )
    face = gaussians.face.cpu()
    bound = face >= 0
    if gaussians.barycentric is not None and bool(bound.any()):
        raise ValueError(
            "save_gaussians: the Gaussians begin at points of their triangles (barycentric), which a .ply cannot hold; "
            "write the Splats of a frame, or save the avatar"
        )
    if bool(bound.any()) and not bool(bound.all()):
        raise ValueError(
            f"save_gaussians: {int(bound.sum())} of {len(face)} Gaussians are attached to a triangle; expected all or "
            "none"
        )
    if len(face) and int(face.max()) >= _MOST_FACES:
        raise ValueError(f"save_gaussians: face {int(face.max())} is more than float32 resolves, {_MOST_FACES - 1}")
    position, color, opacity, scale, rotation, rest = (
        parameter.detach().float().cpu().numpy()
        for parameter in (
            gaussians.position, gaussians.color, gaussians.opacity_logit, gaussians.log_scale, gaussians.quaternion,
            gaussians.harmonics.transpose(1, 2).flatten(1),
        )
    )  # fmt: skip
    columns = dict(zip("xyz", position.T, strict=True))
    columns |= {name: np.zeros(len(position), np.float32) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{i}": values for i, values in enumerate(color.T)}
    columns |= {f"f_rest_{i}": values for i, values in enumerate(rest.T)}
    columns["opacity"] = opacity
    columns |= {f"scale_{i}": values for i, values in enumerate(scale.T)}
    columns |= {f"rot_{i}": values for i, values in enumerate(rotation.T)}
    if bool(bound.any()):
        columns["binding_0"] = face.numpy().astype(np.float32)
    _check_numbers(columns, "save_gaussians")
    return write_bytes(path, ply_bytes(columns))


def load_gaussians(path: Path | str) -> Gaussians:
    """Reads Gaussians from a `.ply` of 3D Gaussian Splatting or GaussianAvatars, as many programs write them.

    Binary of either order of bytes, or ascii; columns by name in any order, float or double (which is rounded); other
    columns and elements are read over, normals too. Without `f_rest` the degree is 0.

    Args:
        path: the file.

    Returns:
        N Gaussians on the CPU, whose `face` is `binding_0`, or -1 without one. `gaussians()` gives their `Splats`,
        which without a binding are in the file's space: of a capture by COLMAP of any unit and with y down.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no PLY, is cut short or longer than its header says, lacks a column, has a number of `f_rest`
            that is of no degree, a number that is not finite, a rotation of length 0, a scale of e^80 or more, or a
            binding that is no index. The message has the file, the column and the row.
    """
    where = f"load_gaussians: {path}"
    with reading(path, "Gaussians", where=where):
        columns = ply_table(file_bytes(path), "vertex", where)
        return _gaussians(columns, where)


def save_flame_parameters(path: Path | str, parameters: Mapping[str, Float[Tensor, "..."]]) -> Path:
    """Writes the parameters of FLAME that belong to a bound `.ply`, as `flame_param.npz`, dtypes kept.

    Args:
        path: the `.ply` next to which they are written, its folder, or the npz itself.
        parameters: by name, as `load_flame_parameters` returns them.

    Returns:
        The path of the npz.

    Raises:
        ValueError: one is missing or unknown, has another shape, or a number that is not finite.
        OSError: it cannot be written.
    """
    path = _beside(path)
    arrays = {name: np.asarray(value.detach().cpu()) for name, value in parameters.items()}
    unknown = sorted(arrays.keys() - _SHAPES.keys())
    if unknown:
        raise ValueError(f"save_flame_parameters: {unknown[0]} is unknown; expected {', '.join(_SHAPES)}")
    _check_parameters(arrays, "save_flame_parameters")
    if "static_offset" in arrays:
        arrays["static_offset"] = arrays["static_offset"][None]  # (1, V, 3), as GaussianAvatars' code writes it
    return save_arrays(path, arrays)


def load_flame_parameters(path: Path | str) -> dict[str, Float[Tensor, "..."]]:
    """Reads `flame_param.npz`, the parameters of FLAME over T frames with which a bound avatar was trained.

    Args:
        path: the npz, or the `.ply` that it lies beside, or their folder.

    Returns:
        By name, in the file's dtype: `translation`, `rotation`, `neck_pose`, `jaw_pose` (T, 3) and `eyes_pose` (T, 6)
        axis-angle and meters, `expr` (T, E), `shape` (S,), and where the file has them `static_offset` (V, 3) and
        `dynamic_offset` (T, V, 3), meters, added to the template before joints are found; `translation` is added last.
        Arrays with other names are left out, and (1, V, 3) offsets become (V, 3).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an array is missing, has another shape, or a number that is not finite.
    """
    path = _beside(path)
    where = f"load_flame_parameters: {path}"
    with reading(path, "FLAME's parameters", where=where):
        arrays = {name: array for name, array in load_numbers(path).items() if name in _SHAPES}
        offset = arrays.get("static_offset")
        if offset is not None and offset.ndim == 3 and len(offset) == 1:
            arrays["static_offset"] = offset[0]
        shape = arrays.get("shape")
        if shape is not None and shape.ndim == 2 and len(shape) == 1:
            arrays["shape"] = shape[0]
        _check_parameters(arrays, where)
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _of_frame(splats: Splats) -> Gaussians:
    if splats.means.ndim == 3 and len(splats.means) == 1:
        splats = splats.map(lambda tensor: tensor[0])
    if splats.means.ndim != 2:
        raise ValueError(
            f"save_gaussians: gaussians has means of shape {tuple(splats.means.shape)}; expected one frame: splats[3]"
        )
    degree = 0 if splats.harmonics is None else round(splats.harmonics.shape[1] ** 0.5) - 1
    return Gaussians.of(splats.detach(), degree=degree)


def _beside(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return path
    return (path if path.is_dir() else path.parent) / FLAME_PARAMETERS


def _check_parameters(arrays: Mapping[str, np.ndarray], where: str) -> None:
    missing = [name for name in _SHAPES if name not in arrays and name not in _OFFSETS]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; expected {', '.join(_SHAPES)} (offsets are optional)")
    sizes: dict[str, tuple[int, str]] = {}
    for name, pattern in _SHAPES.items():
        if name not in arrays:
            continue
        array, axes = arrays[name], pattern.split()
        expected = f"({', '.join(axes)})"
        if array.dtype.kind != "f":
            raise ValueError(f"{where}: {name} has dtype {array.dtype}; expected floating-point numbers")
        if array.ndim != len(axes):
            raise ValueError(f"{where}: {name} has shape {array.shape}; expected {expected}")
        for axis, size in zip(axes, array.shape, strict=True):
            known = (int(axis), "") if axis.isdigit() else sizes.setdefault(axis, (size, name))
            if size != known[0]:
                of = f" with {axis} = {known[0]} as in {known[1]}" if known[1] else ""
                raise ValueError(f"{where}: {name} has shape {array.shape}; expected {expected}{of}")
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: {name} has numbers that are not finite")


def _gaussians(columns: dict[str, np.ndarray], where: str) -> Gaussians:
    if any(name.startswith("packed_") for name in columns):
        raise ValueError(f"{where}: its Gaussians are compressed (packed_position); export them uncompressed")
    rest = sum(name.startswith("f_rest_") for name in columns)
    if rest not in (0, 9, 24, 45):
        raise ValueError(f"{where} has {rest} columns f_rest; expected 0, 9, 24 or 45, for degrees 0 to 3")
    groups = {
        "position": ["x", "y", "z"], "color": [f"f_dc_{i}" for i in range(3)],
        "harmonics": [f"f_rest_{i}" for i in range(rest)], "opacity_logit": ["opacity"],
        "log_scale": [f"scale_{i}" for i in range(3)], "quaternion": [f"rot_{i}" for i in range(4)],
    }  # fmt: skip
    used = [name for names in groups.values() for name in names]
    missing = [name for name in used if name not in columns]
    if missing:
        present = ", ".join(list(columns)[:20]) or "nothing"
        raise ValueError(f"{where} lacks {', '.join(missing[:6])}; it has {present}: is it a mesh or a point cloud?")
    several = [name for name in columns if name.startswith("binding_") and name != "binding_0"]
    if several:
        raise ValueError(f"{where} has {several[0]}; expected one triangle for each Gaussian, binding_0")
    with np.errstate(over="ignore"):  # a double beyond float32 is no finite number, which the check says
        numbers = {name: columns[name].astype(np.float32) for name in used}
    _check_numbers(numbers, where)
    count = len(numbers["x"])
    face = np.full(count, -1)
    if "binding_0" in columns:
        face = whole_numbers(columns["binding_0"], f"{where}: binding_0", _MOST_FACES, "faces that float32 resolves")
    gaussians = Gaussians(count, degree=round((1 + rest // 3) ** 0.5) - 1)
    with torch.no_grad():
        for name, names in groups.items():
            parameter = getattr(gaussians, name)
            values = np.stack([numbers[each] for each in names], axis=1) if names else np.zeros((count, 0), np.float32)
            rows = torch.from_numpy(values)
            if name == "harmonics":
                rows = rows.reshape(count, 3, rest // 3).transpose(1, 2)
            parameter.copy_(rows.reshape(parameter.shape))
        gaussians.face.copy_(torch.from_numpy(face))
    return gaussians


def _limit(name: str) -> float | None:
    """The largest number of a column; of scales its logarithm."""
    if name.startswith("scale_"):
        return math.log(_LONGEST)
    return _LONGEST if name in _VECTORS else None


def _check_numbers(columns: Mapping[str, np.ndarray], where: str) -> None:
    """Raises ValueError for a number that is not finite, a rotation without length, or a scale beyond measure."""
    for name, values in columns.items():
        bad = ~np.isfinite(values)
        limit = _limit(name)
        if limit is not None:
            bad |= np.abs(values) > limit if name in _VECTORS else values > limit
        if bad.any():
            row = int(bad.argmax())
            bound = "" if limit is None else f", at most {limit:.3g}"
            raise ValueError(f"{where}: {name} of Gaussian {row} is {values[row]}; expected a finite number{bound}")
    rotation = np.stack([columns[f"rot_{i}"] for i in range(4)])
    still = ~(np.abs(rotation) > 1e-18).any(0)
    if still.any():
        raise ValueError(f"{where}: the rotation of Gaussian {int(still.argmax())} has length 0")
