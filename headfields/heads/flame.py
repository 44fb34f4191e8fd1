"""FLAME (Li et al. 2017, "Learning a model of facial shape and expression from 4D scans"), read without smplx."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.heads.flame_files import Extras, FlameArrays, load_flame_arrays
from headfields.heads.landmarks import ContourLandmarks, Landmarks
from headfields.heads.mouth import close_mouth, mouth_loop
from headfields.heads.skinned import SkinnedHead
from headfields.records import Template

__all__ = ["FlameHead"]

_NECK, _JAW = 1, 2
_EYES = (3, 4)


def _ring(faces: Int[Tensor, "f 3"], vertices: Int[Tensor, " n"], count: int, rings: int) -> Bool[Tensor, " f"]:
    """The faces within so many rings of the vertices."""
    inside = torch.zeros(count, dtype=torch.bool, device=faces.device)
    inside[vertices] = True
    near = inside[faces].any(1)
    for _ in range(rings - 1):
        inside[faces[near]] = True
        near = inside[faces].any(1)
    return near


class FlameHead(SkinnedHead):
    """A head in FLAME's format: linear shape and expression, pose correctives, five skinned joints.

    The joints are root, neck, jaw, left eye and right eye. Metres, y up, face toward +z, the head's left at +x. All
    arrays are buffers, so `.to` and `.double` move the model; nothing is trainable.

    Attributes:
        template_vertices (V, 3); faces (F, 3) int64; shape_basis (S, V, 3); expression_basis (E, V, 3); pose_basis
        (36, V, 3); joint_regressor (5, V); weights (V, 5); parents.
        expression_names, shape_names: names of the first directions.
        regions: named (F,) boolean face masks as the file has them.
        uv (T, 2), uv_faces (F, 3): texture coordinates, v up, or None. T is not V: a vertex on a seam has several.
        landmark_faces (L,), landmark_barycentric (L, 3): landmarks on the mesh (68 in iBUG's order where there are 68;
            the last 51 of them in FLAME's files), or None.
        contour: `ContourLandmarks`, the other 17, which depend on the yaw, or None.
        mediapipe: `Landmarks` of MediaPipe's face mesh (105 of 478; `mediapipe.indices` says which), or None.
    """

    uv: Float[Tensor, "t 2"] | None
    uv_faces: Int[Tensor, "f 3"] | None
    mediapipe: Landmarks | None

    def __init__(self, arrays: FlameArrays, dtype: torch.dtype = torch.float32) -> None:
        """Keeps the arrays, those of floating point as `dtype`."""

        def tensor(array: np.ndarray) -> Tensor:
            made = torch.from_numpy(np.array(array, order="C"))
            return made.to(dtype) if made.is_floating_point() else made

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
        )
        self.register_buffer("uv", None if arrays.uv is None else tensor(arrays.uv))
        self.register_buffer("uv_faces", None if arrays.uv_faces is None else tensor(arrays.uv_faces))
        self.mediapipe = None if arrays.mediapipe is None else Landmarks(arrays.mediapipe)
        self.expression_names = arrays.expression_names
        self.shape_names = arrays.shape_names
        self._region_names = tuple(arrays.regions)
        for name, mask in arrays.regions.items():
            self.register_buffer(f"region_{name}", tensor(mask))

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

        docs/files.md says where the files come from and what is treacherous about them.

        Args:
            path: the model. Needed: v_template (V, 3), f (F, 3), shapedirs (V, 3, C), posedirs (V, 3, 36), J_regressor
                (5, V) dense or sparse, kintree_table (2, 5), weights (V, 5); chumpy arrays are read without chumpy.
                Read where present: what `headfields convert-flame` writes, i.e. uv (T, 2) and uv_faces (F, 3);
                region_<name>, vertex ids or a mask of faces; lmk_face_idx (L,) and lmk_b_coords (L, 3), and these with
                contour_ and mediapipe_ before their names; expression_names; expression_count.
            expression_count: how many components are expression. In a file of 400 or more components these are the
                first so many after the 300th, as FLAME numbers them; else the last so many. Left out: what the file
                says; else all after the 300th of 400 or more; else as many as the file has names for; else an error,
                for then nobody knows.
            masks: `FLAME_masks.pkl`, or vertex ids by region; joins the file's own regions.
            landmarks: `flame_static_embedding.pkl` (51), or DECA's `landmark_embedding.npy`, whose contour is then
                taken too; takes the place of the file's own.
            contour: `flame_dynamic_embedding.npy` (79 rows of 17).
            mediapipe: `mediapipe_landmark_embedding.npz` (105).
            uv: `head_template_mesh.obj`, for its texture coordinates.

        Raises:
            FileNotFoundError, ValueError: no such file; a key is missing or has the wrong shape (file and key named).
            UnsafePickleError: a file names anything but numpy, scipy.sparse, torch tensors and chumpy. A ValueError.
        """
        extra = Extras(masks=masks, landmarks=landmarks, contour=contour, mediapipe=mediapipe, uv=uv)
        return cls(load_flame_arrays(path, expression_count, extra))

    @property
    def regions(self) -> dict[str, Bool[Tensor, " f"]]:
        """Named (F,) face masks, as the file has them."""
        return {name: getattr(self, f"region_{name}") for name in self._region_names}

    def expression(self, **weights: float | Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Coefficients from names: `head.expression(smile_left=1.0, blink_left=0.5)` is (1, E); (B,) tensors batch.

        Raises:
            ValueError: a name that the file does not have; batch sizes differ and are not 1.
        """
        return self._named("expression", self.expression_names, self.expression_count, weights)

    def shape(self, **weights: float | Float[Tensor, " b"]) -> Float[Tensor, "b s"]:
        """Shape coefficients from names, as `expression` does: `head.shape(jaw_width=-1.0)`.

        Raises:
            ValueError: as `expression`.
        """
        return self._named("shape", self.shape_names, self.shape_count, weights)

    def _named(
        self, what: str, names: tuple[str, ...], count: int, weights: Mapping[str, float | Tensor]
    ) -> Float[Tensor, "b c"]:
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise ValueError(
                f"FlameHead.{what}: no direction is called {', '.join(unknown)}; "
                f"there are {', '.join(names) or 'no names in this file'}"
            )
        columns = {k: torch.as_tensor(v).to(self.template_vertices).reshape(-1) for k, v in weights.items()}
        sizes = {len(column) for column in columns.values()} - {1}
        if len(sizes) > 1:
            raise ValueError(f"FlameHead.{what}: weights have {sorted(sizes)} entries; give each B of them or one")
        batch = sizes.pop() if sizes else 1
        out = [self.template_vertices.new_zeros(batch)] * count
        for name, column in columns.items():
            out[names.index(name)] = column.expand(batch)
        return torch.stack(out, -1)

    def mediapipe_landmarks(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b l 3"]:
        """MediaPipe's landmarks on posed vertices, (B, 105, 3) metres, linear in `vertices`; `mediapipe.indices` are
        their numbers among MediaPipe's 478.

        Raises:
            ValueError: the head has none.
        """
        if self.mediapipe is None:
            raise ValueError(
                "FlameHead.mediapipe_landmarks: the head has none; pass mediapipe=mediapipe_landmark_embedding.npz to "
                "from_file"
            )
        return self.mediapipe(vertices, self.faces)

    def derived_regions(self, loop: Int[Tensor, " l"] | None = None) -> dict[str, Bool[Tensor, " f"]]:
        """The file's regions, and of "mouth", "eyes", "neck" and "face" those that it lacks, from names and weights.

        Our own rules. "mouth": the file's "lips", else three rings of faces around the inner-lip `loop`. "eyes": the
        file's eyeballs and eye regions, else faces that an eye joint carries. "neck": faces that the root carries.
        "face": what is left in front of the neck joint with a normal toward +z.
        """
        found = self.regions
        nothing = torch.zeros(len(self.faces), dtype=torch.bool, device=self.faces.device)
        if "mouth" not in found:
            lips = found.get("lips")
            if lips is None:
                lips = nothing if loop is None else _ring(self.faces, loop, len(self.template_vertices), 3)
            found["mouth"] = lips
        if "eyes" not in found:
            parts = [found[key] for key in found if key.endswith("eyeball") or key.endswith("eye_region")]
            carried = self.weights[:, list(_EYES)].sum(1) > 0.5
            found["eyes"] = torch.stack(parts).any(0) if parts else carried[self.faces].all(1)
        if "neck" not in found:
            found["neck"] = (self.weights[:, 0] > 0.5)[self.faces].all(1)
        if "face" not in found:
            corners = self.template_vertices[self.faces]
            normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            neck = (self.joint_regressor @ self.template_vertices)[_NECK]
            found["face"] = (corners[..., 2].mean(1) > neck[2]) & (normal[:, 2] > 0) & ~found["neck"]
        return found

    def template(
        self,
        shape: Float[Tensor, "_ _"] | None = None,
        jaw: float = math.radians(12.0),
        loop: Sequence[int] | Int[Tensor, " l"] | None = None,
    ) -> Template:
        """The canonical mesh that an avatar is built on: no expression, jaw open, mouth cavity closed.

        Args:
            shape: (1, S) the head's shape; zero if left out.
            jaw: rotation of the jaw about x, radians; 12 degrees as INSTA's tracker has it, so that the lips part.
            loop: the inner-lip border; found by `mouth_loop` from the jaw's weights if left out.

        Returns:
            Template with the regions of `derived_regions` (the closing faces are in "mouth" and "face") and
            `face_count`, the number of the head's own faces. A head whose mouth is closed already gets no faces.
        """
        pose = self.template_vertices.new_zeros((1, len(self.parents), 3))
        pose[0, _JAW, 0] = jaw
        vertices = self(shape=shape, pose=pose).vertices[0]
        if loop is not None:
            border: Tensor | None = torch.as_tensor(loop, dtype=torch.int64, device=self.faces.device)
        else:
            try:
                border = mouth_loop(self.faces, self.template_vertices, self.weights[:, _JAW])
            except ValueError:
                border = None
        regions = self.derived_regions(border)
        faces, uv_faces = self.faces, self.uv_faces
        count = len(faces)
        if border is not None:
            faces, new = close_mouth(faces, border, vertices)
            regions = {
                name: torch.cat([mask, torch.full_like(new[count:], name in ("mouth", "face"))])
                for name, mask in regions.items()
            }
            if uv_faces is not None:
                corner = torch.empty(len(self.template_vertices), dtype=torch.int64, device=faces.device)
                corner[self.faces.flatten()] = uv_faces.flatten()
                uv_faces = torch.cat([uv_faces, corner[faces[count:]]])
        return Template(
            canonical_vertices=vertices, faces=faces, regions=regions, uv=self.uv, uv_faces=uv_faces, face_count=count
        )
