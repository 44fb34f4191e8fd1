"""Reads a model in FLAME's file format: seven arrays, in an npz or a pickle, and what else the file may carry."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from headfields.heads.pickles import load_pickle, to_array

__all__ = ["FlameArrays", "flame_arrays", "load_flame_arrays", "read_masks"]

SHAPE_COUNT = 300  # FLAME's own split: 300 shape components, then expression
JOINTS = 5
KEYS = {
    "v_template": "V 3",
    "f": "F 3",
    "shapedirs": "V 3 C",
    "posedirs": "V 3 36",
    "J_regressor": "5 V",
    "kintree_table": "2 5",
    "weights": "V 5",
}


@dataclasses.dataclass(frozen=True)
class FlameArrays:
    """The arrays of one FLAME-format file, checked against one another; lengths in metres.

    Attributes:
        template (V, 3), faces (F, 3), shape_basis (V, 3, S), expression_basis (V, 3, E), pose_basis (V, 3, 36),
        joint_regressor (5, V), weights (V, 5), parents: the model.
        expression_names, shape_names: names of the first directions; () if the file has none.
        uv (T, 2), uv_faces (F, 3): texture coordinates, v up, or None.
        regions: named (F,) boolean face masks.
        landmark_faces (L,), landmark_barycentric (L, 3): landmarks on the mesh, or None.
    """

    template: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    shape_basis: Float[np.ndarray, "v 3 s"]
    expression_basis: Float[np.ndarray, "v 3 e"]
    pose_basis: Float[np.ndarray, "v 3 36"]
    joint_regressor: Float[np.ndarray, "5 v"]
    weights: Float[np.ndarray, "v 5"]
    parents: tuple[int, ...]
    expression_names: tuple[str, ...] = ()
    shape_names: tuple[str, ...] = ()
    uv: Float[np.ndarray, "t 2"] | None = None
    uv_faces: Int[np.ndarray, "f 3"] | None = None
    regions: Mapping[str, Bool[np.ndarray, " f"]] = dataclasses.field(default_factory=dict)
    landmark_faces: Int[np.ndarray, " l"] | None = None
    landmark_barycentric: Float[np.ndarray, "l 3"] | None = None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"FlameHead.from_file: {path} is not a file")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            raw = {}
            for key in archive.files:
                try:
                    raw[key] = archive[key]
                except ValueError as error:
                    raise ValueError(
                        f"FlameHead.from_file: {path}: {key} is stored as a pickled object; save it as a dense array "
                        "(a sparse J_regressor with .toarray())"
                    ) from error
            return raw
    if path.suffix == ".pkl":
        loaded = load_pickle(path)
        if not isinstance(loaded, dict):
            raise ValueError(f"FlameHead.from_file: {path} holds a {type(loaded).__name__}; expected a dict of arrays")
        return {str(key): value for key, value in loaded.items()}
    raise ValueError(f"FlameHead.from_file: {path} ends in {path.suffix!r}; expected .npz or .pkl")


def _vertex_or_face_mask(where: str, value: Any, faces: np.ndarray, count: int) -> np.ndarray:
    """A face mask from one, or from the vertex ids of a region (a face is in it with all three corners)."""
    array = to_array(value, where)
    if array.dtype == bool:
        if array.shape == (len(faces),):
            return array
        if array.shape == (count,):
            return array[faces].all(1)
        raise ValueError(
            f"{where} is a mask of shape {array.shape}; expected ({len(faces)},) faces or ({count},) vertices"
        )
    ids = array.astype(np.int64).ravel()
    if ids.size and (ids.min() < 0 or ids.max() >= count):
        raise ValueError(f"{where} has vertex ids in [{ids.min()}, {ids.max()}], but the mesh has {count} vertices")
    inside = np.zeros(count, bool)
    inside[ids] = True
    return inside[faces].all(1)


def read_masks(path: str | Path) -> dict[str, Any]:
    """Named vertex ids from FLAME's `FLAME_masks.pkl` (or an npz of the same names).

    Raises:
        UnsafePickleError: the pickle names anything but arrays.
        ValueError: the file is no dictionary.
    """
    path = Path(path)
    loaded = dict(np.load(path, allow_pickle=False)) if path.suffix == ".npz" else load_pickle(path)
    if not isinstance(loaded, dict):
        raise ValueError(f"read_masks: {path} holds a {type(loaded).__name__}; expected a dict of vertex ids")
    return {str(name): to_array(value, str(name)) for name, value in loaded.items()}


def _expression_count(
    path: str, raw: Mapping[str, Any], components: int, asked: int | None, names: tuple[str, ...]
) -> int:
    if asked is not None:
        count, source = asked, "expression_count"
    elif "expression_count" in raw:
        count, source = int(to_array(raw["expression_count"], "expression_count")), "the file's expression_count"
    elif components >= SHAPE_COUNT + 100:
        return components - SHAPE_COUNT
    elif names:
        count, source = len(names), "the number of the file's expression_names"
    else:
        raise ValueError(
            f"FlameHead.from_file: {path}: shapedirs has {components} components, fewer than FLAME's 400, so which of "
            "them are expression is not known; pass expression_count (the last so many components)"
        )
    if not 0 <= count <= components:
        raise ValueError(f"FlameHead.from_file: {path}: {source} is {count}, but shapedirs has {components} components")
    return count


def load_flame_arrays(
    path: str | Path, expression_count: int | None = None, masks: Mapping[str, Any] | None = None
) -> FlameArrays:
    """Reads and checks a FLAME-format file; see `FlameHead.from_file` for arguments and errors."""
    return flame_arrays(_read(Path(path)), str(path), expression_count, masks)


def flame_arrays(
    raw: Mapping[str, Any], path: str, expression_count: int | None = None, masks: Mapping[str, Any] | None = None
) -> FlameArrays:
    """Checks the arrays of a FLAME-format file; `path` says in errors where they came from."""
    missing = [key for key in KEYS if key not in raw]
    if missing:
        raise ValueError(
            f"FlameHead.from_file: {path} lacks {', '.join(missing)}; a FLAME file has {', '.join(KEYS)} "
            f"(this one has {', '.join(sorted(raw)) or 'nothing'})"
        )
    arrays = {key: to_array(raw[key], f"{path}: {key}") for key in KEYS}
    sizes: dict[str, tuple[int, str]] = {}
    for key, pattern in KEYS.items():
        axes, shape = pattern.split(), arrays[key].shape
        wanted = f"({', '.join(axes)})"
        if len(shape) != len(axes):
            raise ValueError(f"FlameHead.from_file: {path}: {key} has shape {shape}; expected {wanted}")
        for axis, size in zip(axes, shape, strict=True):
            if axis.isdigit() and size != int(axis):
                raise ValueError(f"FlameHead.from_file: {path}: {key} has shape {shape}; expected {wanted}")
            if not axis.isdigit() and sizes.setdefault(axis, (size, key))[0] != size:
                raise ValueError(
                    f"FlameHead.from_file: {path}: {key} has shape {shape}; expected {wanted} with {axis} = "
                    f"{sizes[axis][0]} as in {sizes[axis][1]}"
                )
    vertex_count = len(arrays["v_template"])
    faces = arrays["f"].astype(np.int64)
    if faces.size and (faces.min() < 0 or faces.max() >= vertex_count):
        raise ValueError(
            f"FlameHead.from_file: {path}: f has indices in [{faces.min()}, {faces.max()}], but v_template has "
            f"{vertex_count} vertices"
        )
    tree = arrays["kintree_table"].astype(np.int64)
    parents = tuple(-1 if joint == 0 else int(parent) for joint, parent in enumerate(tree[0]))
    names = tuple(str(name) for name in to_array(raw.get("expression_names", ()), "expression_names").ravel())
    count = _expression_count(path, raw, arrays["shapedirs"].shape[2], expression_count, names)
    if len(names) > count:
        raise ValueError(f"FlameHead.from_file: {path} has {len(names)} expression_names for {count} expressions")
    split = SHAPE_COUNT if arrays["shapedirs"].shape[2] == SHAPE_COUNT + count else arrays["shapedirs"].shape[2] - count
    basis = arrays["shapedirs"].astype(np.float64)

    regions = {
        key.removeprefix("region_"): _vertex_or_face_mask(f"{path}: {key}", raw[key], faces, vertex_count)
        for key in raw
        if key.startswith("region_")
    }
    for name, ids in (masks or {}).items():
        regions[name] = _vertex_or_face_mask(f"masks[{name!r}]", ids, faces, vertex_count)
    optional: dict[str, Any] = {}
    if "uv" in raw or "uv_faces" in raw:
        uv, uv_faces = (to_array(raw.get(key, ()), f"{path}: {key}") for key in ("uv", "uv_faces"))
        if uv.ndim != 2 or uv.shape[1] != 2 or uv_faces.shape != faces.shape:
            raise ValueError(
                f"FlameHead.from_file: {path}: uv has shape {uv.shape} and uv_faces {uv_faces.shape}; expected (T, 2) "
                f"and {faces.shape}"
            )
        optional |= {"uv": uv.astype(np.float64), "uv_faces": uv_faces.astype(np.int64)}
    if "lmk_face_idx" in raw or "lmk_b_coords" in raw:
        where, bary = (to_array(raw.get(key, ()), f"{path}: {key}") for key in ("lmk_face_idx", "lmk_b_coords"))
        if where.ndim != 1 or bary.shape != (len(where), 3):
            raise ValueError(
                f"FlameHead.from_file: {path}: lmk_face_idx has shape {where.shape} and lmk_b_coords {bary.shape}; "
                "expected (L,) and (L, 3)"
            )
        optional |= {"landmark_faces": where.astype(np.int64), "landmark_barycentric": bary.astype(np.float64)}
    return FlameArrays(
        template=arrays["v_template"].astype(np.float64),
        faces=faces,
        shape_basis=basis[:, :, :split],
        expression_basis=basis[:, :, split:],
        pose_basis=arrays["posedirs"].astype(np.float64),
        joint_regressor=arrays["J_regressor"].astype(np.float64),
        weights=arrays["weights"].astype(np.float64),
        parents=parents,
        expression_names=names,
        shape_names=tuple(str(name) for name in to_array(raw.get("shape_names", ()), "shape_names").ravel()),
        regions=regions,
        **optional,
    )
