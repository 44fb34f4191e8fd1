"""FLAME (Li et al. 2017, "Learning a model of facial shape and expression from 4D scans"), read without smplx."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.heads.flame_files import FlameArrays, load_flame_arrays, read_masks
from headfields.heads.mouth import close_mouth, mouth_loop
from headfields.ops._checks import check_floating
from headfields.ops.skinning import (
    blend_shapes,
    joint_transforms,
    linear_blend_skinning,
    pose_features,
    rotation_matrices,
)
from headfields.records import HeadState, Template

__all__ = ["FlameHead"]

_NECK, _JAW = 1, 2
_EYES = (3, 4)


def _masks_of(masks: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return read_masks(masks) if isinstance(masks, (str, Path)) else masks


def _ring(faces: Int[Tensor, "f 3"], vertices: Int[Tensor, " n"], count: int, rings: int) -> Bool[Tensor, " f"]:
    """The faces within so many rings of the vertices."""
    inside = torch.zeros(count, dtype=torch.bool, device=faces.device)
    inside[vertices] = True
    near = inside[faces].any(1)
    for _ in range(rings - 1):
        inside[faces[near]] = True
        near = inside[faces].any(1)
    return near


class FlameHead(nn.Module):
    """A head in FLAME's format: linear shape and expression, pose correctives, five skinned joints.

    The joints are root, neck, jaw, left eye and right eye. Metres, y up, face toward +z, the head's left at +x. All
    arrays are buffers, so `.to` and `.double` move the model; nothing is trainable.

    Attributes:
        template_vertices (V, 3); faces (F, 3) int64; shape_basis (S, V, 3); expression_basis (E, V, 3); pose_basis
        (36, V, 3); joint_regressor (5, V); weights (V, 5); parents.
        expression_names, shape_names: names of the first directions.
        regions: named (F,) boolean face masks as the file has them.
        uv (T, 2), uv_faces (F, 3): texture coordinates, v up, or None.
        landmark_faces (L,), landmark_barycentric (L, 3): landmarks on the mesh (68 in iBUG's order where there are 68),
            or None.
    """

    template_vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    shape_basis: Float[Tensor, "s v 3"]
    expression_basis: Float[Tensor, "e v 3"]
    pose_basis: Float[Tensor, "36 v 3"]
    joint_regressor: Float[Tensor, "5 v"]
    weights: Float[Tensor, "v 5"]
    uv: Float[Tensor, "t 2"] | None
    uv_faces: Int[Tensor, "f 3"] | None
    landmark_faces: Int[Tensor, " l"] | None
    landmark_barycentric: Float[Tensor, "l 3"] | None

    def __init__(self, arrays: FlameArrays) -> None:
        super().__init__()

        def keep(name: str, array: np.ndarray | None) -> None:
            tensor = None if array is None else torch.from_numpy(np.array(array, order="C"))
            if tensor is not None and tensor.is_floating_point():
                tensor = tensor.float()
            self.register_buffer(name, tensor)

        keep("template_vertices", arrays.template)
        keep("faces", arrays.faces)
        keep("shape_basis", arrays.shape_basis.transpose(2, 0, 1))
        keep("expression_basis", arrays.expression_basis.transpose(2, 0, 1))
        keep("pose_basis", arrays.pose_basis.transpose(2, 0, 1))
        keep("joint_regressor", arrays.joint_regressor)
        keep("weights", arrays.weights)
        for name in ("uv", "uv_faces", "landmark_faces", "landmark_barycentric"):
            keep(name, getattr(arrays, name))
        self.parents = arrays.parents
        self.expression_names = arrays.expression_names
        self.shape_names = arrays.shape_names
        self._region_names = tuple(arrays.regions)
        for name, mask in arrays.regions.items():
            keep(f"region_{name}", mask)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        expression_count: int | None = None,
        masks: str | Path | Mapping[str, Any] | None = None,
    ) -> "FlameHead":
        """Reads a FLAME model from an npz, or from a pickle as published, without running code from it.

        Args:
            path: the file. Needed: v_template (V, 3), f (F, 3), shapedirs (V, 3, C), posedirs (V, 3, 36), J_regressor
                (5, V) dense or (pickle) sparse, kintree_table (2, 5), weights (V, 5). Read where present: uv (T, 2)
                and uv_faces (F, 3); region_<name>, vertex ids or a mask of faces; lmk_face_idx (L,) and lmk_b_coords
                (L, 3); expression_names; expression_count.
            expression_count: how many of the last components are expression. Left out: what the file says; else all
                after the 300th if there are 400 or more; else as many as the file has names for; else an error.
            masks: vertex ids by region, or the path of `FLAME_masks.pkl`; joins the file's own regions.

        Raises:
            FileNotFoundError, ValueError: no such file; a key is missing or has the wrong shape (named).
            UnsafePickleError: the pickle names anything but numpy, scipy.sparse and chumpy.
        """
        return cls(load_flame_arrays(path, expression_count, _masks_of(masks)))

    @property
    def shape_count(self) -> int:
        """S, the number of shape coefficients."""
        return self.shape_basis.shape[0]

    @property
    def expression_count(self) -> int:
        """E, the number of expression coefficients."""
        return self.expression_basis.shape[0]

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

    def _coefficients(self, name: str, value: Tensor | None, basis: Tensor) -> Tensor | None:
        if value is None:
            return None
        check_floating("FlameHead", name, value)
        if value.dim() != 2 or value.shape[1] > basis.shape[0]:
            raise ValueError(
                f"FlameHead: {name} has shape {tuple(value.shape)}; expected (B, C) with C <= {basis.shape[0]}, the "
                "number of directions in the file (fewer are taken as the first ones, the rest as 0)"
            )
        return value

    def forward(
        self,
        shape: Float[Tensor, "_ _"] | None = None,
        expression: Float[Tensor, "_ _"] | None = None,
        pose: Float[Tensor, "_ 5 3"] | None = None,
        translation: Float[Tensor, "_ 3"] | None = None,
    ) -> HeadState:
        """Poses the head.

        Args:
            shape: (B, S) or fewer columns (the rest are 0); (1, S) serves all frames. Zero if left out.
            expression: (B, E), likewise.
            pose: (B, 5, 3) axis-angle of root, neck, jaw, left eye, right eye, radians. Zero if left out.
            translation: (B, 3) metres, added last.

        Returns:
            HeadState of B frames: `vertices`, the `expression` (B, E) and `pose` used, and `joint_transforms`, rest to
            posed with the translation in. B is 1 if every argument is left out.

        Raises:
            TypeError, ValueError: an argument's dtype or shape does not fit; batch sizes differ and are not 1.

        Differentiability: any order in every argument.
        """
        shape = self._coefficients("shape", shape, self.shape_basis)
        expression = self._coefficients("expression", expression, self.expression_basis)
        if pose is not None and (pose.dim() != 3 or pose.shape[1:] != (5, 3)):
            raise ValueError(f"FlameHead: pose has shape {tuple(pose.shape)}; expected (B, 5, 3), axis-angle per joint")
        if translation is not None and (translation.dim() != 2 or translation.shape[1] != 3):
            raise ValueError(f"FlameHead: translation has shape {tuple(translation.shape)}; expected (B, 3)")
        named = {"shape": shape, "expression": expression, "pose": pose, "translation": translation}
        sizes = {name: value.shape[0] for name, value in named.items() if value is not None}
        batches = {size for size in sizes.values() if size != 1}
        if len(batches) > 1:
            listing = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(f"FlameHead: batch sizes differ ({listing}); give each B rows or one")
        batch = batches.pop() if batches else 1

        rest = self.template_vertices
        if shape is not None:
            rest = rest + blend_shapes(shape, self.shape_basis[: shape.shape[1]])
        if expression is None:
            expression = self.template_vertices.new_zeros((batch, self.expression_count))
        else:
            rest = rest + blend_shapes(expression, self.expression_basis[: expression.shape[1]])
            padding = expression.new_zeros((expression.shape[0], self.expression_count - expression.shape[1]))
            expression = torch.cat([expression, padding], 1).expand(batch, -1)
        rest = rest.expand(batch, -1, -1)
        if pose is None:
            pose = self.template_vertices.new_zeros((batch, len(self.parents), 3))
        pose = pose.expand(batch, -1, -1)
        joints = self.joint_regressor @ rest
        rotations = rotation_matrices(pose)
        rest = rest + blend_shapes(pose_features(rotations), self.pose_basis)
        transforms = joint_transforms(rotations, joints, self.parents)
        if translation is not None:
            shift = torch.nn.functional.pad(translation[:, None, :, None], (3, 0, 0, 1))
            transforms = transforms + shift
        vertices = linear_blend_skinning(rest, self.weights, transforms)
        return HeadState(vertices=vertices, expression=expression, pose=pose, joint_transforms=transforms)

    def landmarks(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b l 3"]:
        """The landmarks on posed vertices, metres; linear in `vertices`.

        Raises:
            ValueError: the file has no landmarks.
        """
        if self.landmark_faces is None or self.landmark_barycentric is None:
            raise ValueError("FlameHead.landmarks: the file has no lmk_face_idx and lmk_b_coords")
        corners = vertices[:, self.faces[self.landmark_faces]]
        return (corners * self.landmark_barycentric[None, :, :, None]).sum(2)

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
