"""FLAME (Li et al. 2017, "Learning a model of facial shape and expression from 4D scans"), read without smplx."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.files.reading import reading
from headfields.heads.flame.files import FlameArrays, FlameAssets, load_flame_arrays
from headfields.heads.landmarks import ContourLandmarks, Landmarks
from headfields.heads.skinned import SkinnedHead

__all__ = ["FLAME_JOINTS", "FlameHead"]

FLAME_JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
"""Names of FLAME's joints, in order."""


class FlameHead(SkinnedHead):
    """A head in FLAME's format: linear shape and expression, pose correctives, five skinned joints.

    The joints are root, neck, jaw, left eye and right eye. Meters, y up, face toward +z, the head's left at +x. All
    arrays are buffers, so `.to` and `.double` move the model; nothing is trainable.

    Attributes:
        template_vertices (V, 3); faces (F, 3) int64; shape_basis (S, V, 3); expression_basis (E, V, 3); pose_basis
        (36, V, 3); joint_regressor (5, V); weights (V, 5); parents.
        expression_names, shape_names: names of the first directions.
        regions: named (F,) boolean face masks of the file.
        uv (T, 2), uv_faces (F, 3): texture coordinates, v up, or None. T is at least V: a vertex on a seam has several.
        landmark_faces (L,), landmark_barycentric (L, 3): landmarks on the mesh (68 in iBUG's order; FLAME's files have
            the last 51), or None.
        contour: `ContourLandmarks`, the other 17, which depend on the yaw, or None.
        mediapipe: `Landmarks` of MediaPipe's face mesh (105 of 478, listed in `mediapipe.indices`), or None.
    """

    mediapipe: Landmarks | None

    def __init__(self, arrays: FlameArrays, dtype: torch.dtype = torch.float32) -> None:
        """Registers the arrays as buffers, floating-point ones as `dtype`."""

        def tensor(array: np.ndarray) -> Tensor:
            copy = torch.from_numpy(np.array(array, order="C"))
            return copy.to(dtype) if copy.is_floating_point() else copy

        super().__init__(
            template=tensor(arrays.template),
            faces=tensor(arrays.faces),
            shape_basis=tensor(arrays.shape_basis.transpose(2, 0, 1)),
            expression_basis=tensor(arrays.expression_basis.transpose(2, 0, 1)),
            pose_basis=tensor(arrays.pose_basis.transpose(2, 0, 1)),
            joint_regressor=tensor(arrays.joint_regressor),
            weights=tensor(arrays.weights),
            parents=arrays.parents,
            landmarks=None if arrays.landmarks is None else Landmarks(arrays.landmarks),
            contour=None if arrays.contour is None else ContourLandmarks(arrays.contour),
            uv=None if arrays.uv is None else tensor(arrays.uv),
            uv_faces=None if arrays.uv_faces is None else tensor(arrays.uv_faces),
            regions={name: tensor(mask) for name, mask in arrays.regions.items()},
            expression_names=arrays.expression_names,
            shape_names=arrays.shape_names,
        )
        self.mediapipe = None if arrays.mediapipe is None else Landmarks(arrays.mediapipe)

    @property
    def joints(self) -> dict[str, int]:
        """Index of each joint that `pose` accepts, by FLAME's names: its neck carries the skull, its root the neck."""
        return {name: joint for joint, name in enumerate(FLAME_JOINTS)}

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        expression_count: int | None = None,
        masks: str | Path | Mapping[str, Any] | None = None,
        landmarks: str | Path | None = None,
        contour: str | Path | None = None,
        mediapipe: str | Path | None = None,
        uv: str | Path | None = None,
    ) -> "FlameHead":
        """Reads FLAME 2017 to 2023, as published (a pickle) or from an npz, without running code from it.

        docs/files.md lists the files, their sources and their pitfalls.

        Args:
            path: the model. Required: v_template (V, 3), f (F, 3), shapedirs (V, 3, C), posedirs (V, 3, 36),
                J_regressor (5, V) dense or sparse, kintree_table (2, 5), weights (V, 5). Chumpy is not needed.
                Optional, as `headfields convert-flame` writes them: uv (T, 2) and uv_faces (F, 3); region_<name>,
                vertex ids or a face mask; lmk_face_idx (L,) and lmk_b_coords (L, 3), also with the prefixes contour_
                and mediapipe_; expression_names; expression_count.
            expression_count: number of expression components. In a file of 400 or more components they follow the
                300th, as in FLAME; else they are the last ones. If None: the file's expression_count; else all after
                the 300th of 400 or more; else the number of the file's names; else an error, because it is unknown.
            masks: `FLAME_masks.pkl`, or vertex ids by region; added to the file's own regions.
            landmarks: `flame_static_embedding.pkl` (51), or DECA's `landmark_embedding.npy`, which has the contour too;
                replaces the file's own.
            contour: `flame_dynamic_embedding.npy` (79 rows of 17).
            mediapipe: `mediapipe_landmark_embedding.npz` (105).
            uv: `head_template_mesh.obj`, for its texture coordinates.

        Raises:
            FileNotFoundError, ValueError: no such file; a key is missing or has the wrong shape (file and key named).
            UnsafePickleError: a file names anything but numpy, scipy.sparse, torch tensors and chumpy. A ValueError.
        """
        extra = FlameAssets(masks=masks, landmarks=landmarks, contour=contour, mediapipe=mediapipe, uv=uv)
        with reading(path, "a model in FLAME's format"):
            return cls(load_flame_arrays(path, expression_count, extra))

    def mediapipe_landmarks(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b l 3"]:
        """MediaPipe's landmarks on posed vertices, (B, 105, 3) meters, linear in `vertices`; `mediapipe.indices` lists
        their indices among MediaPipe's 478.

        Raises:
            ValueError: the head has none.
        """
        if self.mediapipe is None:
            raise ValueError(
                "FlameHead.mediapipe_landmarks: the head has none; pass mediapipe=mediapipe_landmark_embedding.npz to "
                "from_file"
            )
        return self.mediapipe(vertices, self.faces)
