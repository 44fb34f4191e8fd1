"""Reader of FLAME's file format: seven arrays in an npz or a pickle, with optional landmarks, regions and UVs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from headfields.files.arrays import load_arrays
from headfields.files.checked import check_names, check_sums, checked_arrays, names_in, number, whole_numbers
from headfields.files.reading import reading
from headfields.files.versions import FileFormat
from headfields.heads.flame.assets import FlameAssets, embeddings_of, regions_of, uv_of
from headfields.heads.landmarks import LandmarkEmbedding
from headfields.records import check_meters

__all__ = ["FlameArrays", "FlameAssets", "check_model", "flame_arrays", "load_flame_arrays", "split_components"]

FORMAT = FileFormat("headfields.head", "a head of this library", 1, "convert it, or make the rig, again")
NOTHING = FlameAssets()
_REGRESSOR_SLACK = 1e-2  # of the sums of J_regressor's rows; single entries may be negative

SHAPE_COUNT, EXPRESSION_COUNT = 300, 100  # the full model: 300 shape components, then expression
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
    """The validated arrays of a FLAME-format file; lengths in meters.

    Attributes:
        template (V, 3), faces (F, 3), shape_basis (V, 3, S), expression_basis (V, 3, E), pose_basis (V, 3, 36),
        joint_regressor (5, V), weights (V, 5), parents: the model.
        expression_names, shape_names: names of the first directions; () if the file has none.
        uv (T, 2), uv_faces (F, 3): texture coordinates, v up, or None.
        regions: named (F,) boolean face masks.
        landmarks, contour, mediapipe: landmark embeddings, or None.
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
    landmarks: LandmarkEmbedding | None = None
    contour: LandmarkEmbedding | None = None
    mediapipe: LandmarkEmbedding | None = None


def split_components(
    op: str,
    path: str,
    raw: Mapping[str, Any],
    components: int,
    expression_count: int | None,
    names: tuple[str, ...] = (),
) -> tuple[slice, slice]:
    """The slices of the shape and of the expression components; see `FlameHead.from_file`.

    Args:
        op, path: names used in errors.
        raw: the entries of the file.
        components: number of components in the file.
        expression_count: number of expression components, or None to derive it from the file.
        names: the file's expression_names.

    Raises:
        ValueError: the number of expression components is unknown, or exceeds the number of components.
    """
    full = components >= SHAPE_COUNT + EXPRESSION_COUNT
    if expression_count is not None:
        count, source = expression_count, "expression_count"
        if full and 0 <= count <= components - SHAPE_COUNT:
            return slice(0, SHAPE_COUNT), slice(SHAPE_COUNT, SHAPE_COUNT + count)
        if full:
            raise ValueError(
                f"{op}: {path}: expression_count is {count}, but shapedirs has {components} components, of which the "
                f"first {SHAPE_COUNT} are shape; pass at most {components - SHAPE_COUNT}"
            )
    elif "expression_count" in raw:
        count = int(
            whole_numbers(number(raw["expression_count"], f"{path}: expression_count"), f"{path}: expression_count")
        )
        source = "the file's expression_count"
    elif full:
        count, source = components - SHAPE_COUNT, "the number after the 300th"
    elif names:
        count, source = len(names), "the number of the file's expression_names"
    else:
        raise ValueError(
            f"{op}: {path}: shapedirs has {components} components, fewer than the 400 of the full model (300 shape, "
            "100 expression), so which of them are expression is not known; pass expression_count (they are the last "
            "components; 0 if all are shape). smplx would take [10:20] without a warning"
        )
    if not 0 <= count <= components:
        raise ValueError(f"{op}: {path}: {source} is {count}, but shapedirs has {components} components")
    return slice(0, components - count), slice(components - count, components)


def load_flame_arrays(
    path: str | Path, expression_count: int | None = None, assets: FlameAssets = NOTHING
) -> FlameArrays:
    """Reads and validates a FLAME-format file; see `FlameHead.from_file` for arguments and errors."""
    with reading(path, "a model in FLAME's format"):
        return flame_arrays(load_arrays(path), str(path), expression_count, assets)


def check_model(op: str, raw: Mapping[str, Any], path: str, keys: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The dense, validated arrays of a model file, with the additional entry "parents" (J,).

    Args:
        op, path: names used in errors.
        raw: the entries of the file.
        keys: the required keys and their axes, such as "V 3"; a named axis has the same size in all arrays.

    Raises:
        FileVersionError: another version of the library wrote the file.
        ValueError: a key is missing, is not numeric or not finite, or has the wrong shape; a vertex index is out of
            range or not whole; weights are negative or do not add up to 1; a joint comes before its parent; the
            template is not in meters. The message names `path` and key.
    """
    where = f"{op}: {path}"
    if "format" in raw:  # the library wrote it; a published file has none
        FORMAT.check(path, raw)
    arrays = checked_arrays(where, raw, keys, whole=("f", "kintree_table"))
    vertex_count = len(arrays["v_template"])
    arrays["f"] = whole_numbers(arrays["f"], f"{where}: f", vertex_count, "vertices in v_template")
    check_meters(where, "v_template", torch.from_numpy(arrays["v_template"]))
    check_sums(arrays["weights"], f"{where}: weights")
    check_sums(arrays["J_regressor"], f"{where}: J_regressor", _REGRESSOR_SLACK, lowest=None)
    tree = arrays["kintree_table"]
    # The root's parent is -1 or, in the published files, 4294967295: -1 as uint32.
    if tree[0, 0] not in (-1, 2**32 - 1):
        raise ValueError(f"{where}: kintree_table has {tree[0, 0]} for the parent of joint 0, the root; expected -1")
    if (tree[1] != np.arange(tree.shape[1])).any():
        raise ValueError(
            f"{where}: kintree_table numbers the joints {tree[1].tolist()}; expected 0 to {len(tree[1]) - 1}"
        )
    arrays["parents"] = parents = np.concatenate([[-1], tree[0, 1:]])
    for joint, parent in enumerate(parents.tolist()):
        if joint and not 0 <= parent < joint:
            raise ValueError(
                f"{where}: kintree_table has {parent} for the parent of joint {joint}; a parent comes before its child"
            )
    return arrays


def flame_arrays(
    raw: Mapping[str, Any], path: str, expression_count: int | None = None, assets: FlameAssets = NOTHING
) -> FlameArrays:
    """Validates the arrays of a FLAME-format file; `path` names their source in errors."""
    op = "FlameHead.from_file"
    arrays = check_model(op, raw, path, KEYS)
    faces, vertex_count = arrays["f"], len(arrays["v_template"])
    names = names_in(raw, "expression_names", f"{op}: {path}")
    components = arrays["shapedirs"].shape[2]
    shape, expression = split_components(op, path, raw, components, expression_count, names)
    count = expression.stop - expression.start
    if expression_count is not None:
        names = names[:count]
    shape_names = names_in(raw, "shape_names", f"{op}: {path}")
    check_names(names, count, f"{op}: {path}: expression_names", "expressions")
    check_names(shape_names, shape.stop - shape.start, f"{op}: {path}: shape_names", "shape directions")
    embeddings = embeddings_of(raw, path, assets, len(faces))
    uv, uv_faces = uv_of(raw, path, assets.uv, faces, vertex_count) or (None, None)
    return FlameArrays(
        template=arrays["v_template"],
        faces=faces,
        shape_basis=arrays["shapedirs"][:, :, shape],
        expression_basis=arrays["shapedirs"][:, :, expression],
        pose_basis=arrays["posedirs"],
        joint_regressor=arrays["J_regressor"],
        weights=arrays["weights"],
        parents=tuple(arrays["parents"].tolist()),
        expression_names=names,
        shape_names=shape_names,
        regions=regions_of(raw, path, assets.masks, faces, vertex_count),
        uv=uv,
        uv_faces=uv_faces,
        landmarks=embeddings.get("landmarks"),
        contour=embeddings.get("contour"),
        mediapipe=embeddings.get("mediapipe"),
    )
