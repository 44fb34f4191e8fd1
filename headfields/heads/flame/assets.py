"""FLAME's companion files: vertex masks, landmark embeddings and texture coordinates."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headfields.files.arrays import load_arrays
from headfields.files.checked import checked_arrays, whole_numbers
from headfields.files.reading import check_file, reading
from headfields.files.unpickler import to_array
from headfields.heads.landmarks import LandmarkEmbedding, detector_indices, make_embedding, read_embeddings
from headfields.mesh.obj import ObjReader

__all__ = ["FlameAssets", "read_masks", "read_template_uv"]

EMBEDDINGS = {"landmarks": "", "contour": "contour_", "mediapipe": "mediapipe_"}  # name: prefix of its keys
FACE_KEY, WEIGHT_KEY, INDEX_KEY = "lmk_face_idx", "lmk_b_coords", "mediapipe_indices"


@dataclasses.dataclass(frozen=True)
class FlameAssets:
    """Paths of FLAME's companion files; see `FlameHead.from_file` and docs/files.md.

    Attributes:
        masks: `FLAME_masks.pkl`, or vertex ids by name.
        landmarks: an embedding of static landmarks, or of static ones and the contour.
        contour: an embedding of the contour alone.
        mediapipe: MediaPipe's embedding.
        uv: an OBJ of the template with texture coordinates.
    """

    masks: str | Path | Mapping[str, Any] | None = None
    landmarks: str | Path | None = None
    contour: str | Path | None = None
    mediapipe: str | Path | None = None
    uv: str | Path | None = None


def read_masks(path: str | Path) -> dict[str, Any]:
    """Named vertex ids from FLAME's `FLAME_masks.pkl` (or an npz of the same names).

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the pickle refers to anything but arrays.
        ValueError: an entry (named) does not hold vertex ids or a mask.
    """
    masks: dict[str, Any] = {}
    for name, value in load_arrays(path).items():
        masks[name] = array = to_array(value, f"{path}: {name}")
        if array.dtype.kind not in "iub" and array.size:
            raise ValueError(f"{path}: {name} has dtype {array.dtype}; expected vertex ids or a mask")
    return masks


def face_mask(where: str, value: Any, faces: np.ndarray, count: int) -> np.ndarray:
    """(F,) face mask from a mask of faces or vertices, or from vertex ids; a face is in it if all its corners are."""
    array = to_array(value, where)
    if array.dtype == bool:
        if array.shape == (len(faces),):
            return array
        if array.shape == (count,):
            return array[faces].all(1)
        raise ValueError(
            f"{where} is a mask of shape {array.shape}; expected ({len(faces)},) faces or ({count},) vertices"
        )
    ids = whole_numbers(array, where, count, "vertices in the mesh").ravel()
    inside = np.zeros(count, bool)
    inside[ids] = True
    return inside[faces].all(1)


def regions_of(
    raw: Mapping[str, Any], path: str, masks: str | Path | Mapping[str, Any] | None, faces: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """(F,) masks by name, from the model's `region_` keys and from `masks`, which takes precedence."""
    regions = {
        key.removeprefix("region_"): face_mask(f"{path}: {key}", raw[key], faces, count)
        for key in raw
        if key.startswith("region_")
    }
    named = read_masks(masks) if isinstance(masks, str | Path) else masks or {}
    for name, ids in named.items():
        where = f"{masks}: {name}" if isinstance(masks, str | Path) else f"masks[{name!r}]"
        regions[name] = face_mask(where, ids, faces, count)
    for name in regions:
        if not name.isidentifier():
            raise ValueError(f"{path}: a region is called {name!r}; names are letters, digits and underscores")
    return regions


def embeddings_of(
    raw: Mapping[str, Any], path: str, assets: FlameAssets, face_count: int
) -> dict[str, LandmarkEmbedding]:
    """The embeddings "landmarks", "contour" and "mediapipe" of the model, or of `assets`, which take precedence."""
    embeddings: dict[str, LandmarkEmbedding] = {}
    for name, prefix in EMBEDDINGS.items():
        keys = (prefix + FACE_KEY, prefix + WEIGHT_KEY)
        if any(key in raw for key in keys):
            where = f"{path}: {keys[0]} and {keys[1]}"
            index, weights = (raw.get(key, ()) for key in keys)
            embeddings[name] = make_embedding(index, weights, where, 2 if name == "contour" else 1, face_count)
    if INDEX_KEY in raw and "mediapipe" in embeddings:
        indices = detector_indices(raw[INDEX_KEY], f"{path}: {INDEX_KEY}")
        if indices.shape != embeddings["mediapipe"].faces.shape:
            raise ValueError(
                f"{path}: {INDEX_KEY} has shape {indices.shape}, not {embeddings['mediapipe'].faces.shape}"
            )
        embeddings["mediapipe"] = dataclasses.replace(embeddings["mediapipe"], indices=indices)
    if assets.landmarks is not None:
        static = _read_checked(assets.landmarks, "static", face_count)
        embeddings["landmarks"] = static["static"]
        if "contour" in static:
            embeddings["contour"] = static["contour"]
    if assets.contour is not None:
        embeddings["contour"] = _read_checked(assets.contour, "contour", face_count)["contour"]
    if assets.mediapipe is not None:
        embeddings["mediapipe"] = _read_checked(assets.mediapipe, "static", face_count)["static"]
    return embeddings


def _read_checked(path: str | Path, kind: str, face_count: int) -> dict[str, LandmarkEmbedding]:
    embeddings = read_embeddings(path)
    if kind not in embeddings:
        raise ValueError(f"{path} has no {kind} landmarks; it has {', '.join(embeddings)} ones")
    for name, embedding in embeddings.items():
        if embedding.faces.size and embedding.faces.max() >= face_count:
            raise ValueError(
                f"{path}: its {name} landmarks lie on faces up to {embedding.faces.max()}, but the model has "
                f"{face_count}; the file was made for another mesh"
            )
    return embeddings


def uv_of(
    raw: Mapping[str, Any], path: str, uv: str | Path | None, faces: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Texture coordinates (T, 2) and their faces (F, 3), from the template OBJ `uv` or else from the model; or None."""
    if uv is not None:
        return read_template_uv(uv, faces, count)
    if "uv" not in raw and "uv_faces" not in raw:
        return None
    coordinates, corners = (to_array(raw.get(key, ()), f"{path}: {key}") for key in ("uv", "uv_faces"))
    if coordinates.ndim != 2 or coordinates.shape[1] != 2 or corners.shape != faces.shape:
        raise ValueError(
            f"FlameHead.from_file: {path}: uv has shape {coordinates.shape} and uv_faces {corners.shape}; expected "
            f"(T, 2) and {faces.shape}"
        )
    where = f"FlameHead.from_file: {path}"
    coordinates = checked_arrays(where, {"uv": coordinates}, {"uv": "T 2"})["uv"]
    return coordinates, whole_numbers(corners, f"{where}: uv_faces", len(coordinates), "rows in uv")


def read_template_uv(path: str | Path, faces: np.ndarray, vertex_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates of a template OBJ (more `vt` than `v`), in the order of the model's faces.

    Args:
        path: `head_template_mesh.obj` or DECA's `head_template.obj`.
        faces: (F, 3) the model's faces. The OBJ may order them differently and start each at another corner.
        vertex_count: the model's number of vertices.

    Returns:
        (T, 2) coordinates, v up, and (F, 3) int64 indices into them, row for row with `faces`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a face has no texture coordinates, or the OBJ is of another mesh.
    """
    path = check_file(path)
    with reading(path, "a template"):
        mesh = ObjReader().read(path, "uv")
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError(f"{path} has no vt, or a face without them; texture coordinates come from the template OBJ")
    if len(mesh.vertices) != vertex_count or len(mesh.faces) != len(faces):
        raise ValueError(
            f"{path} has {len(mesh.vertices)} vertices and {len(mesh.faces)} faces, the model {vertex_count} and "
            f"{len(faces)}; it is another mesh"
        )
    place = {
        tuple(face[turn:] + face[:turn]): (row, turn)
        for row, face in enumerate(mesh.faces.tolist())
        for turn in range(3)
    }
    uv_faces = mesh.uv_faces.numpy()
    corners = np.empty(faces.shape, np.int64)
    for index, face in enumerate(map(tuple, np.asarray(faces).tolist())):
        if face not in place:
            raise ValueError(f"{path} has no face {face}, which is face {index} of the model; it is another mesh")
        row, turn = place[face]
        corners[index] = np.roll(uv_faces[row], -turn)
    return mesh.uv.numpy().astype(np.float64), corners
