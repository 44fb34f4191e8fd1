"""Conversion of FLAME's published pickle and companion files to one plain npz."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Shaped

from headfields.files.arrays import load_arrays
from headfields.files.atomic import write_bytes
from headfields.files.unpickler import ChumpyStandIn, to_array
from headfields.heads.flame.assets import EMBEDDINGS, FACE_KEY, INDEX_KEY, WEIGHT_KEY, FlameAssets
from headfields.heads.flame.files import EXPRESSION_COUNT, FORMAT, KEYS, NOTHING, SHAPE_COUNT, FlameArrays, flame_arrays

__all__ = ["FlameConversion", "convert_flame"]


@dataclasses.dataclass(frozen=True)
class FlameConversion:
    """Summary of `convert_flame`.

    Attributes:
        path: the file written.
        vertices, faces, joints: counts.
        shape, expression: numbers of components in the source; the file pads them with zeros to 300 and at least 100.
        chumpy, sparse: keys of the source that were chumpy objects and sparse matrices.
        ignored: keys of the source that were not converted.
        regions: names of the regions written.
        landmarks, contour, mediapipe, uv: counts written (0 for none).
    """

    path: Path
    vertices: int
    faces: int
    joints: int
    shape: int
    expression: int
    chumpy: tuple[str, ...]
    sparse: tuple[str, ...]
    ignored: tuple[str, ...]
    regions: tuple[str, ...]
    landmarks: int
    contour: int
    mediapipe: int
    uv: int


def convert_flame(
    path: str | Path,
    out: str | Path,
    expression_count: int | None = None,
    assets: FlameAssets = NOTHING,
    overwrite: bool = False,
) -> FlameConversion:
    """Writes a FLAME model as an npz of plain dense arrays, which this library and smplx read without chumpy.

    The file has 300 shape components and at least 100 of expression, padded with zeros, because smplx takes [10:20] for
    expression in a file with fewer than 400 components. Precision is kept. The file is written atomically.

    Args:
        path: the model, as published or any other that `FlameHead.from_file` reads.
        out: the npz to write.
        expression_count: number of expression components, as in `FlameHead.from_file`.
        assets: companion files; masks, landmarks and texture coordinates go into the npz.
        overwrite: whether `out` may exist.

    Raises:
        FileNotFoundError, UnsafePickleError, ValueError: as `FlameHead.from_file`; `out` does not end in .npz or is
            `path` itself; the source has more than 300 shape components.
        FileExistsError: `out` exists and `overwrite` is False.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".npz":
        raise ValueError(f"convert_flame: out is {out}; its name must end in .npz")
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"convert_flame: out is {out}, the file to convert; choose another name")
    if out.exists() and not overwrite:
        raise FileExistsError(f"convert_flame: {out} exists already")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"convert_flame: {out.parent} is not a folder")
    raw = load_arrays(path)
    arrays = flame_arrays(raw, str(path), expression_count, assets)
    shape, expression = arrays.shape_basis.shape[2], arrays.expression_basis.shape[2]
    if shape > SHAPE_COUNT:
        raise ValueError(
            f"convert_flame: {path} has {shape} shape components; smplx and other readers take those after the "
            f"{SHAPE_COUNT}th for expression"
        )
    _write(out, _entries(raw, arrays))
    known = {*KEYS, "format", "uv", "uv_faces", "expression_names", "shape_names", "expression_count", INDEX_KEY}
    known |= {prefix + key for prefix in EMBEDDINGS.values() for key in (FACE_KEY, WEIGHT_KEY)}
    counts = {name: 0 if value is None else value.faces.shape[-1] for name, value in _embeddings(arrays).items()}
    return FlameConversion(
        path=out,
        vertices=len(arrays.template),
        faces=len(arrays.faces),
        joints=len(arrays.parents),
        shape=shape,
        expression=expression,
        chumpy=tuple(key for key in KEYS if isinstance(raw[key], ChumpyStandIn)),
        sparse=tuple(key for key in KEYS if scipy.sparse.issparse(_unwrapped(raw[key]))),
        ignored=tuple(sorted(key for key in raw if key not in known and not key.startswith("region_"))),
        regions=tuple(arrays.regions),
        uv=0 if arrays.uv is None else len(arrays.uv),
        **counts,
    )


def _unwrapped(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0 else value


def _embeddings(arrays: FlameArrays) -> dict[str, Any]:
    return {name: getattr(arrays, name) for name in EMBEDDINGS}


def _entries(raw: dict[str, Any], arrays: FlameArrays) -> dict[str, Shaped[np.ndarray, "..."]]:
    def padded(basis: np.ndarray, count: int) -> np.ndarray:
        return np.concatenate([basis, np.zeros((*basis.shape[:2], max(0, count - basis.shape[2])))], 2)

    entries: dict[str, np.ndarray] = {
        "v_template": arrays.template,
        "f": arrays.faces.astype(np.int32),
        "shapedirs": np.concatenate(
            [padded(arrays.shape_basis, SHAPE_COUNT), padded(arrays.expression_basis, EXPRESSION_COUNT)], 2
        ),
        "posedirs": arrays.pose_basis,
        "J_regressor": arrays.joint_regressor,
        "kintree_table": np.array([arrays.parents, range(len(arrays.parents))], np.int64),
        "weights": arrays.weights,
    }
    for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights"):
        source = to_array(raw[key], key).dtype
        if source in (np.float16, np.float32):
            entries[key] = entries[key].astype(np.float32)
    for name in ("expression_names", "shape_names"):
        if getattr(arrays, name):
            entries[name] = np.array(getattr(arrays, name))
    if arrays.uv is not None and arrays.uv_faces is not None:
        entries |= {"uv": arrays.uv, "uv_faces": arrays.uv_faces.astype(np.int32)}
    entries |= {f"region_{name}": mask for name, mask in arrays.regions.items()}
    for name, embedding in _embeddings(arrays).items():
        if embedding is not None:
            prefix = EMBEDDINGS[name]
            entries |= {prefix + FACE_KEY: embedding.faces, prefix + WEIGHT_KEY: embedding.barycentric}
    if arrays.mediapipe is not None and arrays.mediapipe.indices is not None:
        entries[INDEX_KEY] = arrays.mediapipe.indices
    return entries


def _write(out: Path, entries: dict[str, np.ndarray]) -> None:
    plain = io.BytesIO()  # not compressed, as the published files
    np.savez(plain, **FORMAT.stamp(entries))
    write_bytes(out, plain.getvalue())
