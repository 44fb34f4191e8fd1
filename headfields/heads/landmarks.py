"""Landmark embeddings: landmarks at barycentric coordinates of triangles, and a contour that depends on the yaw.

docs/files.md lists FLAME's landmark files and their keys.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.files.arrays import load_arrays
from headfields.files.checked import check_sums, whole_numbers
from headfields.files.reading import reading
from headfields.files.unpickler import to_array
from headfields.ops._checks import check_floating, check_integer, check_shape

__all__ = ["ContourLandmarks", "LandmarkEmbedding", "Landmarks", "head_yaw", "read_embeddings"]

_KEYS = {
    "static": (("static_lmk_faces_idx", "static_lmk_bary_coords"), ("lmk_face_idx", "lmk_b_coords")),
    "contour": (("dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords"), ("lmk_face_idx", "lmk_b_coords")),
    "full": (("full_lmk_faces_idx", "full_lmk_bary_coords"),),
}
_SLACK = 1e-2  # of barycentric coordinates: a landmark may lie a little off its triangle
Kind = Literal["static", "contour", "full"]


@dataclasses.dataclass(frozen=True)
class LandmarkEmbedding:
    """Positions of landmarks on a mesh.

    Attributes:
        faces: (..., L) int64 face indices.
        barycentric: (..., L, 3) float64 barycentric coordinates.
        indices: (L,) indices among the landmarks of a detector (MediaPipe's 478), or None.
    """

    faces: Int[np.ndarray, "*rows l"]
    barycentric: Float[np.ndarray, "*rows l 3"]
    indices: Int[np.ndarray, " l"] | None = None


def make_embedding(
    faces: Any, barycentric: Any, where: str, axes: int, face_count: int | None = None
) -> LandmarkEmbedding:
    """Validates the arrays of an embedding.

    Args:
        faces: (L,), or (R, L) for a contour.
        barycentric: the same shape with a last axis of 3.
        where: file and keys, for errors.
        axes: 1 for landmarks, 2 for a contour.
        face_count: number of faces of the mesh; not checked if None.

    Raises:
        ValueError: shapes do not fit, a face index is out of range, a coordinate is not finite, or those of a
            landmark are negative or do not add up to 1.
    """
    index, weights = to_array(faces, where), to_array(barycentric, where)
    if index.ndim == axes + 1 and index.shape[0] == 1:  # DECA's full embedding has an axis of one frame
        index, weights = index[0], weights[0] if weights.ndim == axes + 2 else weights
    if index.ndim != axes or weights.shape != (*index.shape, 3):
        expected = "(L,) and (L, 3)" if axes == 1 else "(R, L) and (R, L, 3)"
        raise ValueError(f"{where} have the shapes {index.shape} and {weights.shape}; expected {expected}")
    if index.dtype.kind not in "iuf" or weights.dtype.kind not in "iuf" or (index != np.floor(index)).any():
        raise ValueError(f"{where} have the dtypes {index.dtype} and {weights.dtype}; expected whole and real numbers")
    index, weights = index.astype(np.int64), weights.astype(np.float64)
    if index.size and (index.min() < 0 or (face_count is not None and index.max() >= face_count)):
        count = "" if face_count is None else f", but the mesh has {face_count} faces"
        raise ValueError(f"{where} name faces in [{index.min()}, {index.max()}]{count}")
    if not np.isfinite(weights).all():
        raise ValueError(f"{where} have barycentric coordinates that are not finite")
    check_sums(weights, f"{where}: barycentric coordinates", _SLACK, -_SLACK)
    if axes == 2 and len(index) % 2 == 0:
        raise ValueError(f"{where} have {len(index)} rows; expected an odd number: none, and as many to each side")
    return LandmarkEmbedding(index, weights)


def detector_indices(value: Any, where: str) -> Int[np.ndarray, " l"]:
    """Indices of landmarks among a detector's.

    Raises:
        ValueError: they are not whole, are negative, or repeat.
    """
    indices = whole_numbers(value, where)
    if indices.size and (indices.min() < 0 or len(np.unique(indices)) != indices.size):
        raise ValueError(f"{where} has negative or repeated indices; expected each landmark of the detector once")
    return indices


def read_embeddings(path: str | Path) -> dict[str, LandmarkEmbedding]:
    """The "static", "contour" and "full" embeddings of a landmark file (docs/files.md lists the files).

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the file could run code.
        ValueError: it has no embedding, or one of the wrong shape; the message names file and keys.
    """
    with reading(path, "a file of landmarks"):
        return _embeddings(load_arrays(path), path)


def _embeddings(raw: dict[str, Any], path: str | Path) -> dict[str, LandmarkEmbedding]:
    embeddings: dict[str, LandmarkEmbedding] = {}
    for kind, names in _KEYS.items():
        for index_key, weight_key in names:
            present = [key for key in (index_key, weight_key) if key in raw]
            if not present:
                continue
            if len(present) == 1:
                missing = weight_key if present == [index_key] else index_key
                raise ValueError(f"{path} has {present[0]} but not {missing}")
            where = f"{path}: {index_key} and {weight_key}"
            rows = to_array(raw[index_key], where).ndim
            if index_key == "lmk_face_idx" and (kind == "static") != (rows == 1):
                continue  # the static and the contour file have the same keys
            embeddings[kind] = make_embedding(raw[index_key], raw[weight_key], where, 2 if kind == "contour" else 1)
            break
    if not embeddings:
        keys = ", ".join(sorted({key for names in _KEYS.values() for pair in names for key in pair}))
        raise ValueError(f"{path} has none of {keys}; it has {', '.join(sorted(raw)) or 'nothing'}")
    if "landmark_indices" in raw and "static" in embeddings:
        indices = detector_indices(raw["landmark_indices"], f"{path}: landmark_indices")
        if indices.shape != embeddings["static"].faces.shape:
            raise ValueError(
                f"{path}: landmark_indices has shape {indices.shape}; expected {embeddings['static'].faces.shape}"
            )
        embeddings["static"] = dataclasses.replace(embeddings["static"], indices=indices)
    return embeddings


def _of_kind(path: str | Path, kind: Kind) -> LandmarkEmbedding:
    embeddings = read_embeddings(path)
    if kind not in embeddings:
        raise ValueError(f"{path} has no {kind} landmarks; it has {', '.join(embeddings)} ones")
    return embeddings[kind]


def points_on_faces(
    vertices: Tensor, triangles: Tensor, faces: Tensor, barycentric: Tensor, where: str
) -> Float[Tensor, "b l 3"]:
    """Points (B, L, 3) at barycentric coordinates of faces (L,) or (B, L); `where` names the caller in errors."""
    check_floating(where, "vertices", vertices)
    check_integer(where, "triangles", triangles)
    check_shape(where, "vertices", vertices, "B V 3")
    check_shape(where, "triangles", triangles, "F 3")
    if faces.numel() and int(faces.max()) >= len(triangles):
        raise ValueError(f"{where}: a landmark lies on face {int(faces.max())}, but triangles has {len(triangles)}")
    corners = triangles.long()[faces]
    if corners.numel() and int(corners.max()) >= vertices.shape[1]:
        raise ValueError(f"{where}: triangles use vertex {int(corners.max())}, but vertices has {vertices.shape[1]}")
    batch = torch.arange(vertices.shape[0], device=vertices.device)[:, None, None]
    points = vertices[:, corners] if faces.dim() == 1 else vertices[batch, corners]
    return (points * barycentric.to(vertices.dtype)[..., None]).sum(-2)


class Landmarks(nn.Module):
    """L landmarks, each on one triangle of the mesh.

    Args:
        embedding: faces and barycentric coordinates; `from_file` reads them.

    Attributes:
        faces: (L,) int64 face indices.
        barycentric: (L, 3) barycentric coordinates.
        indices: (L,) indices among the landmarks of a detector (MediaPipe's 478), or None.
    """

    faces: Int[Tensor, " l"]
    barycentric: Float[Tensor, "l 3"]
    indices: Int[Tensor, " l"] | None

    def __init__(self, embedding: LandmarkEmbedding) -> None:
        super().__init__()
        self.register_buffer("faces", torch.from_numpy(embedding.faces.copy()))
        self.register_buffer("barycentric", torch.from_numpy(embedding.barycentric).float())
        indices = embedding.indices
        self.register_buffer("indices", None if indices is None else torch.from_numpy(indices.copy()))

    @classmethod
    def from_file(cls, path: str | Path, kind: Literal["static", "full"] = "static") -> "Landmarks":
        """Reads `flame_static_embedding.pkl` (51), `mediapipe_landmark_embedding.npz` (105), or DECA's
        `landmark_embedding.npy` (51 static, or all 68 with a fixed contour: "full").

        Raises:
            FileNotFoundError: no such file.
            UnsafePickleError: the file could run code.
            ValueError: the file has no such landmarks, or their shapes do not fit.
        """
        with reading(path, "a file of landmarks"):
            return cls(_of_kind(path, kind))

    def forward(self, vertices: Float[Tensor, "b v 3"], triangles: Int[Tensor, "f 3"]) -> Float[Tensor, "b l 3"]:
        """The landmarks on posed vertices.

        Args:
            vertices: (B, V, 3) meters.
            triangles: (F, 3) faces of the mesh that the file was made for.

        Returns:
            (B, L, 3) meters, linear in `vertices`.

        Raises:
            TypeError, ValueError: dtype or shape do not fit, or a landmark's face or vertex is not in the mesh.
        """
        return points_on_faces(vertices, triangles, self.faces, self.barycentric, "Landmarks")


def head_yaw(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Yaw of a head about the vertical axis, degrees in [-90, 90]; positive to the head's left.

    The middle angle of R = Rz Ry Rx, asin(-R[2, 0]), as in FLAME's contour table.

    Args:
        rotation: (..., 3, 3) of the head, y up and z toward the viewer.
    """
    check_floating("head_yaw", "rotation", rotation)
    check_shape("head_yaw", "rotation", rotation, "... 3 3")
    across = torch.linalg.vector_norm(rotation[..., :2, 0], dim=-1)
    return torch.rad2deg(torch.atan2(-rotation[..., 2, 0], across))


class ContourLandmarks(nn.Module):
    """C landmarks along the visible edge of the face, from a table indexed by the head's yaw.

    FLAME's table has 79 rows: row k for a head turned k degrees to its own right (k from 0 to 39), row 39 + k for one
    turned k degrees to its own left. Larger angles use the last row of their side.

    Args:
        embedding: the table; `from_file` reads it.

    Attributes:
        faces: (R, C) int64 face indices; R is odd.
        barycentric: (R, C, 3) barycentric coordinates.
    """

    faces: Int[Tensor, "r c"]
    barycentric: Float[Tensor, "r c 3"]

    def __init__(self, embedding: LandmarkEmbedding) -> None:
        super().__init__()
        if embedding.faces.ndim != 2 or len(embedding.faces) % 2 == 0:
            raise ValueError(
                f"ContourLandmarks: the table has the shape {embedding.faces.shape}; expected an odd number of rows "
                "(79): none, 39 to the right and 39 to the left"
            )
        self.register_buffer("faces", torch.from_numpy(embedding.faces.copy()))
        self.register_buffer("barycentric", torch.from_numpy(embedding.barycentric).float())

    @classmethod
    def from_file(cls, path: str | Path) -> "ContourLandmarks":
        """Reads `flame_dynamic_embedding.npy`, or the contour of DECA's `landmark_embedding.npy` (79 rows of 17).

        Raises:
            FileNotFoundError: no such file.
            UnsafePickleError: the file could run code.
            ValueError: the file has no contour, or its shapes do not fit.
        """
        with reading(path, "a file of landmarks"):
            return cls(_of_kind(path, "contour"))

    def rows(self, rotation: Float[Tensor, "b 3 3"]) -> Int[Tensor, " b"]:
        """(B,) the row of the table for each head; piecewise constant, so `rotation` gets no gradient."""
        last = (len(self.faces) - 1) // 2
        yaw = torch.nan_to_num(head_yaw(rotation.detach()))  # a non-finite rotation uses the frontal row
        right = (-yaw).clamp(-last, last).round().long()
        return torch.where(right >= 0, right, last - right)

    def forward(
        self, vertices: Float[Tensor, "b v 3"], triangles: Int[Tensor, "f 3"], rotation: Float[Tensor, "b 3 3"]
    ) -> Float[Tensor, "b c 3"]:
        """The contour on posed vertices.

        Args:
            vertices: (B, V, 3) meters.
            triangles: (F, 3) faces of the mesh that the file was made for.
            rotation: (B, 3, 3) of the skull as the camera sees it (y up, z toward the camera):
                `FlameHead.skull_rotation`.

        Returns:
            (B, C, 3) meters, linear in `vertices`; the rotation selects triangles and gets no gradient.

        Raises:
            TypeError, ValueError: dtype or shape do not fit, or a landmark's face or vertex is not in the mesh.
        """
        check_shape("ContourLandmarks", "rotation", rotation, "B 3 3")
        if rotation.shape[0] != vertices.shape[0]:
            raise ValueError(
                f"ContourLandmarks: rotation has shape {tuple(rotation.shape)} and vertices {tuple(vertices.shape)}; "
                "expected one rotation for each of the B heads"
            )
        rows = self.rows(rotation)
        return points_on_faces(vertices, triangles, self.faces[rows], self.barycentric[rows], "ContourLandmarks")
