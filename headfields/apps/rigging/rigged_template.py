"""A textured scan as a parametric head, with reading and writing of its npz file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.files.arrays import load_arrays, save_arrays
from headfields.files.checked import check_names, number, whole_numbers
from headfields.files.reading import reading
from headfields.files.unpickler import to_array
from headfields.heads.flame.assets import regions_of, uv_of
from headfields.heads.flame.files import FORMAT, check_model
from headfields.heads.flame.files import KEYS as FLAME_KEYS
from headfields.heads.flame.model import FlameHead
from headfields.heads.landmarks import LandmarkEmbedding, Landmarks, make_embedding
from headfields.heads.skinned import SkinnedHead
from headfields.heads.smplx import KEYS as SMPLX_KEYS
from headfields.heads.smplx import SmplxHead

__all__ = ["RiggedTemplate"]

_LANDMARKS = {5: ("lmk_face_idx", "lmk_b_coords"), 55: ("lmk_faces_idx", "lmk_bary_coords")}
_ROLES = ("neck_joint", "skull_joint", "jaw_joint", "eye_joints")


class RiggedTemplate(SkinnedHead):
    """A textured mesh rigged like FLAME or SMPL-X: expressions, joints, weights, regions, landmarks and a texture.

    A `SkinnedHead`: a call with `expression` and `pose` returns a `HeadState`; `template()` returns the mesh that
    avatars are built on. The identity is the scan's, so there are no shape directions. Built by `rig_template`.

    Attributes:
        texture: (H, W, 3) sRGB in [0, 1], row 0 at v = 1; or None.
        scale: size of the template over the size of the body it was rigged from.
    """

    texture: Float[Tensor, "h w 3"] | None

    def __init__(
        self,
        *args: Any,
        texture: Float[Tensor, "h w 3"] | None = None,
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """Takes the arguments of `SkinnedHead`, a texture and a scale; joints in the order of FLAME (5) or SMPL-X (55).

        Raises:
            ValueError: the number of joints is neither 5 nor 55.
        """
        super().__init__(*args, **kwargs)
        kind = {5: FlameHead, 55: SmplxHead}.get(len(self.parents))
        if kind is None:
            raise ValueError(
                f"RiggedTemplate: parents has {len(self.parents)} joints; expected 5 (FLAME) or 55 (SMPL-X)"
            )
        for role in _ROLES:
            setattr(self, role, getattr(kind, role))
        self.register_buffer("texture", texture)
        self.scale = float(scale)

    @property
    def joints(self) -> dict[str, int]:
        """Index of each joint that `pose` accepts, by name."""
        indices = super().joints
        if len(self.parents) == 55:
            indices |= {"spine1": 3, "spine2": 6, "torso": 9, "left_collar": 13, "right_collar": 14}
            indices |= {"left_shoulder": 16, "right_shoulder": 17}
        return indices

    def save(self, path: str | Path) -> Path:
        """Writes one npz with the keys of FLAME's or SMPL-X's format and `texture`, so that `FlameHead.from_file` or
        `SmplxHead.from_file` reads it too.

        Args:
            path: output file; `.npz` is appended if it has no suffix, and the folder is created.

        Returns:
            The path written.
        """

        def array(tensor: Tensor) -> np.ndarray:
            return tensor.detach().cpu().numpy()

        directions = torch.cat([self.shape_basis, self.expression_basis]).permute(1, 2, 0)
        count = len(self.parents)
        entries: dict[str, Any] = {
            "v_template": array(self.template_vertices),
            "f": array(self.faces),
            "shapedirs": array(directions),
            "posedirs": array(self.pose_basis.permute(1, 2, 0)),
            "J_regressor": array(self.joint_regressor),
            "kintree_table": np.array([self.parents, range(count)], np.int64),
            "weights": array(self.weights),
            "expression_count": np.array(self.expression_count),
            "expression_names": np.array(self.expression_names, str),
            "shape_names": np.array(self.shape_names, str),
            "scale": np.array(self.scale),
        }
        entries |= {f"region_{name}": array(mask) for name, mask in self.regions.items()}
        if self.uv is not None and self.uv_faces is not None:
            entries |= {"uv": array(self.uv), "uv_faces": array(self.uv_faces)}
        if self.landmark_faces is not None and self.landmark_barycentric is not None:
            index, weights = _LANDMARKS[count]
            entries |= {index: array(self.landmark_faces), weights: array(self.landmark_barycentric)}
        if self.texture is not None:
            entries["texture"] = (array(self.texture).clip(0, 1) * 255).round().astype(np.uint8)
        return save_arrays(path, entries, FORMAT)

    @classmethod
    def from_file(cls, path: str | Path) -> "RiggedTemplate":
        """Reads a file written by `save`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: a key is missing or does not fit; the message names file and key.
        """
        with reading(path, "a rigged template"):
            return cls._of(load_arrays(path), path)

    @classmethod
    def _of(cls, raw: dict[str, Any], path: str | Path) -> "RiggedTemplate":
        op = "RiggedTemplate.from_file"
        tree = to_array(raw.get("kintree_table", ()), f"{path}: kintree_table")
        joints = tree.shape[1] if tree.ndim == 2 else 0
        if joints not in _LANDMARKS:
            raise ValueError(f"{op}: {path} has {joints} joints; expected 5 (FLAME) or 55 (SMPL-X)")
        arrays = check_model(op, raw, str(path), FLAME_KEYS if joints == 5 else SMPLX_KEYS)
        total = arrays["shapedirs"].shape[2]
        count = int(whole_numbers(raw.get("expression_count", total), f"{op}: {path}: expression_count").reshape(()))
        if not 0 <= count <= total:
            raise ValueError(f"{op}: {path}: expression_count is {count}, but shapedirs has {total} components")
        index, weights = _LANDMARKS[joints]
        embedding = None
        if index in raw and weights in raw:
            source = f"{op}: {path}: {index} and {weights}"
            embedding = make_embedding(raw[index], raw[weights], source, 1, len(arrays["f"]))
        texture = None
        if "texture" in raw:
            image = to_array(raw["texture"], f"{path}: texture")
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"{op}: {path}: texture has shape {image.shape} and dtype {image.dtype}; expected "
                                 "(H, W, 3) uint8")  # fmt: skip
            texture = torch.from_numpy(image.copy()).float() / 255
        return _from_arrays(cls, raw, arrays, total - count, embedding, texture, str(path))


def _from_arrays(
    kind: type[RiggedTemplate],
    raw: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    shape_count: int,
    embedding: LandmarkEmbedding | None,
    texture: Tensor | None,
    path: str,
) -> RiggedTemplate:
    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array, np.float32, order="C"))

    def names(key: str) -> tuple[str, ...]:
        return tuple(str(name) for name in to_array(raw.get(key, ()), f"{path}: {key}").ravel())

    count, where = len(arrays["v_template"]), f"RiggedTemplate.from_file: {path}"
    expressions = arrays["shapedirs"].shape[2] - shape_count
    check_names(names("expression_names"), expressions, f"{where}: expression_names", "expressions")
    check_names(names("shape_names"), shape_count, f"{where}: shape_names", "shape directions")
    scale = number(raw.get("scale", 1.0), f"{where}: scale")
    if scale <= 0:
        raise ValueError(f"{where}: scale is {scale}; expected a positive number")
    chart = uv_of(raw, path, None, arrays["f"], count)
    regions = regions_of(raw, path, None, arrays["f"], count)
    return kind(
        template=tensor(arrays["v_template"]),
        faces=torch.from_numpy(arrays["f"].copy()),
        shape_basis=tensor(arrays["shapedirs"][:, :, :shape_count].transpose(2, 0, 1)),
        expression_basis=tensor(arrays["shapedirs"][:, :, shape_count:].transpose(2, 0, 1)),
        pose_basis=tensor(arrays["posedirs"].transpose(2, 0, 1)),
        joint_regressor=tensor(arrays["J_regressor"]),
        weights=tensor(arrays["weights"]),
        parents=arrays["parents"].tolist(),
        landmarks=None if embedding is None else Landmarks(embedding),
        uv=None if chart is None else tensor(chart[0]),
        uv_faces=None if chart is None else torch.from_numpy(chart[1].copy()),
        regions={name: torch.from_numpy(mask.copy()) for name, mask in regions.items()},
        expression_names=names("expression_names"),
        shape_names=names("shape_names"),
        texture=texture,
        scale=scale,
    )


def triangle_landmarks(faces: Int[Tensor, " l"], barycentric: Float[Tensor, "l 3"]) -> Landmarks:
    """Static landmarks of a head from faces (L,) and barycentric coordinates (L, 3)."""
    return Landmarks(LandmarkEmbedding(faces.cpu().numpy(), barycentric.double().cpu().numpy()))
