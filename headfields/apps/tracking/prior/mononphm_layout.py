"""Reader and writer of the folder layout of MonoNPHM's tracker, in its units.

`{stage}/{sequence}/%05d/` has z_exp, rot, trans, scale. z_geo, z_app, colorA, colorb and sh_coeffs are in each frame's
folder after stage 1, and once, in the sequence's folder, after stage 2, where every frame's z_exp holds the whole
codebook. Lengths are four times meters, colors in [-1, 1], light in camera space with y up and z toward the viewer.
Names and axes of the arrays are those that the released tracker writes (`Tracker.rec_and_save`) and reads for its
second stage: `rot` (1, 3, 3) is a matrix, `z_geo` and `z_app` are (1, 1, W), `z_exp` is (1, E) or the codebook (T, E).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.options import PUBLISHED_UNIT
from headfields.files.arrays import load_npy, save_array
from headfields.files.reading import reading
from headfields.mesh import Mesh, save_mesh
from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.runs.folder import RunWriteError

__all__ = ["MonoNPHMFrame", "read_mononphm", "write_mononphm"]

_FLIPPED = torch.tensor([1.0, 1, -1, -1, -1, -1, 1, 1, 1])[:, None]
"""Signs of 1, x, y, z, xy, xz, yz, x² - y², 3 z² - 1 between axes with y down, z forward and y up, z backward."""
_NAMES = {"geometry": "z_geo", "appearance": "z_app", "expression_code": "z_exp"}


@dataclass(frozen=True)
class MonoNPHMFrame:
    """One frame of the layout, in the library's units.

    Attributes:
        codes: `"geometry"`, `"appearance"`, `"expression_code"`.
        rotation, translation: (3,) of x → s R x + t from the frame's world to the space of the prior; radians, meters.
        scale: s.
        light: (9, 3) coefficients of `headfields.renderers.SHLighting`.
        matrix, offset: (3, 3), (3,) of `headfields.renderers.ColorAffine`.
        mesh: path of the frame's mesh, in the layout's units, or None.
    """

    codes: Mapping[str, Float[Tensor, " w"]]
    rotation: Float[Tensor, "3"]
    translation: Float[Tensor, "3"]
    scale: float
    light: Float[Tensor, "9 3"]
    matrix: Float[Tensor, "3 3"]
    offset: Float[Tensor, "3"]
    mesh: Path | None


def write_mononphm(
    folder: str | Path,
    sequence: str,
    fits: Mapping[int, PriorFit],
    stage: int,
    meshes: Mapping[int, Mesh] | None = None,
) -> Path:
    """Writes fits in the published layout.

    Args:
        folder: parent of `stage1/` and `stage2/`.
        sequence: name of the recording.
        fits: fits by frame.
        stage: 1 or 2.
        meshes: meshes of frames, meters, in the space of the prior.

    Returns:
        The folder of the sequence.

    Raises:
        ValueError: stage is neither.
        RunWriteError: a file cannot be written.
    """
    if stage not in (1, 2):
        raise ValueError(f"write_mononphm: stage is {stage}; expected 1 or 2")
    root = Path(folder) / f"stage{stage}" / sequence
    codebook = None
    if stage == 2 and fits:
        codebook = torch.stack([fits[frame].codes["expression_code"] for frame in sorted(fits)])
    try:
        for number, frame in enumerate(sorted(fits)):
            fit, place = fits[frame], root / f"{frame:05d}"
            arrays = {
                "rot": rotation_matrices(fit.rotation)[None], "trans": PUBLISHED_UNIT * fit.translation[None],
                "scale": torch.ones(1),
                "z_exp": fit.codes["expression_code"][None] if codebook is None else codebook,
            }  # fmt: skip
            for name, value in arrays.items():
                save_array(place / f"{name}.npy", value.numpy())
            if stage == 1 or number == 0:
                for name, value in _shared(fit).items():
                    save_array((place if stage == 1 else root) / f"{name}.npy", value.numpy())
            if meshes and frame in meshes:
                mesh = meshes[frame]
                save_mesh(place / "mesh.ply", mesh.replace(vertices=PUBLISHED_UNIT * mesh.vertices))
    except OSError as error:
        raise RunWriteError(f"{root} cannot be written: {error.strerror or error}") from error
    return root


def _shared(fit: PriorFit) -> dict[str, Tensor]:
    """Arrays of the person and of the recording."""
    out = {_NAMES[name]: code[None, None] for name, code in fit.codes.items() if name != "expression_code"}
    # c' = c A + b for c in [0, 1] is, for c = (d + 1) / 2: d' = d A + 1ᵀ A + 2 b - 1
    return out | {
        "colorA": fit.matrix, "colorb": (fit.matrix.sum(dim=0) + 2 * fit.offset - 1)[None],
        "sh_coeffs": (fit.light * _FLIPPED)[None],
    }  # fmt: skip


def read_mononphm(folder: str | Path) -> dict[int, MonoNPHMFrame]:
    """Reads the folder of a sequence in the published layout, of either stage.

    Row k of the codebook of stage 2 belongs to the k-th frame folder in order.

    Args:
        folder: `stage1/{sequence}` or `stage2/{sequence}`.

    Returns:
        Frames by number.

    Raises:
        FileNotFoundError: there are no frames, or an array is missing; the message names it.
        ValueError: an array is broken, has another shape, or is not finite; a scale is not positive, a rotation none.
    """
    with reading(folder, "the published layout of MonoNPHM"):
        return _frames(Path(folder))


def _frames(root: Path) -> dict[int, MonoNPHMFrame]:
    places = sorted(path for path in root.glob("[0-9]" * 5) if path.is_dir())
    if not places:
        raise FileNotFoundError(f"read_mononphm: {root} has no folders of frames (00000, ...)")
    out = {}
    for row, place in enumerate(places):

        def load(name: str, required: bool = True, place: Path = place) -> Tensor | None:
            path = next((each for each in (place / f"{name}.npy", root / f"{name}.npy") if each.is_file()), None)
            if path is None:
                if required:
                    raise FileNotFoundError(f"read_mononphm: {name}.npy is neither in {place} nor in {root}")
                return None
            with reading(path, "an array of a fitted frame"):
                array = load_npy(path)
                if array.dtype.kind not in "fiu" or not array.size or not array.ndim or not np.isfinite(array).all():
                    raise ValueError(f"it has dtype {array.dtype} and shape {array.shape}; expected finite numbers")
                return torch.from_numpy(array.astype(np.float32))

        codes = {}
        for name, file in _NAMES.items():
            array = load(file, required=name != "appearance")
            if array is not None:
                rows = array.reshape(-1, array.shape[-1])
                if len(rows) not in (1, len(places)):
                    raise ValueError(
                        f"read_mononphm: {file}.npy of {place} has {len(rows)} rows; expected 1, or one for each of "
                        f"the {len(places)} frames"
                    )
                codes[name] = rows[row if len(rows) > 1 else 0]
        matrix = _shaped(load("colorA"), (3, 3), "colorA", place)
        total = _shaped(load("colorb"), (3,), "colorb", place)
        scale = load("scale", required=False)
        if scale is not None and not bool((scale > 0).all()):
            raise ValueError(f"read_mononphm: scale.npy of {place} is {scale.tolist()}; expected a positive number")
        mesh = place / "mesh.ply"
        out[int(place.name)] = MonoNPHMFrame(
            codes=codes, rotation=_rotation(load("rot"), place),
            translation=_shaped(load("trans"), (3,), "trans", place) / PUBLISHED_UNIT,
            scale=1.0 if scale is None else float(scale.reshape(-1)[0]),
            light=_shaped(load("sh_coeffs"), (9, 3), "sh_coeffs", place) * _FLIPPED,
            matrix=matrix, offset=(total + 1 - matrix.sum(dim=0)) / 2, mesh=mesh if mesh.is_file() else None,
        )  # fmt: skip
    return out


def _rotation(array: Tensor | None, place: Path) -> Float[Tensor, "3"]:
    """The axis-angle of a rotation's matrix; of an axis-angle too, which headfields wrote before version 0.5.0."""
    assert array is not None
    if array.numel() == 3:
        return array.reshape(3)
    matrix = _shaped(array, (3, 3), "rot", place).double()
    off = float((matrix @ matrix.mT - torch.eye(3).double()).abs().max())
    if off > 1e-3 or float(torch.linalg.det(matrix)) < 0:
        raise ValueError(f"read_mononphm: rot.npy of {place} is no rotation (R Rᵀ is off the identity by {off:.2g})")
    return axis_angle(matrix).float()


def _shaped(array: Tensor | None, shape: tuple[int, ...], name: str, place: Path) -> Tensor:
    assert array is not None
    if array.numel() != torch.Size(shape).numel():
        raise ValueError(
            f"read_mononphm: {name}.npy of {place} has shape {tuple(array.shape)}; expected {shape}, axes of 1 aside"
        )
    return array.reshape(shape)
