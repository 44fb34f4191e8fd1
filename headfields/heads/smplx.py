"""SMPL-X (Pavlakos et al. 2019, "Expressive Body Capture"), and conversion of models of the smplx package.

smplx's license is non-commercial, so nothing here imports it: the buffers of the user's model are copied.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.files.arrays import load_arrays
from headfields.files.checked import check_names, checked_arrays, names_in
from headfields.files.reading import reading
from headfields.heads.flame.assets import regions_of, uv_of
from headfields.heads.flame.files import FlameArrays, check_model, split_components
from headfields.heads.flame.model import FlameHead
from headfields.heads.landmarks import ContourLandmarks, LandmarkEmbedding, Landmarks, make_embedding
from headfields.heads.skinned import SkinnedHead
from headfields.ops._checks import check_floating

__all__ = ["SmplxHead", "from_smplx"]

KEYS = {
    "v_template": "V 3",
    "f": "F 3",
    "shapedirs": "V 3 C",
    "posedirs": "V 3 486",
    "J_regressor": "55 V",
    "kintree_table": "2 55",
    "weights": "V 55",
}
PARTS = {  # joints of smplx's pose arguments
    "global_orient": slice(0, 1),
    "body_pose": slice(1, 22),
    "jaw_pose": slice(22, 23),
    "leye_pose": slice(23, 24),
    "reye_pose": slice(24, 25),
    "left_hand_pose": slice(25, 40),
    "right_hand_pose": slice(40, 55),
}


class SmplxHead(SkinnedHead):
    """A body in SMPL-X's format: 55 joints, of which the skull is 15, jaw 22, left eye 23 and right eye 24.

    It has the attributes of `SkinnedHead` and two more.

    Attributes:
        mean_pose: (55, 3) added to every pose: the relaxed hands that smplx's SMPLX adds (unless built with
            `flat_hand_mean=True`) and SMPLXLayer does not. Zero if the file has none.
        hand_components: (2, C, 45) principal components of the left and the right hand's pose, or None.
    """

    mean_pose: Float[Tensor, "55 3"]
    hand_components: Float[Tensor, "2 c 45"] | None
    neck_joint, skull_joint, jaw_joint, eye_joints = 12, 15, 22, (23, 24)

    def __init__(
        self,
        *args: Any,
        mean_pose: Float[Tensor, "55 3"] | None = None,
        hand_components: Float[Tensor, "2 c 45"] | None = None,
        **kwargs: Any,
    ) -> None:
        """As `SkinnedHead`, with `mean_pose` (zero if None) and `hand_components`."""
        super().__init__(*args, **kwargs)
        self.register_buffer("mean_pose", self.template_vertices.new_zeros(55, 3) if mean_pose is None else mean_pose)
        self.register_buffer("hand_components", hand_components)

    @classmethod
    def from_file(
        cls, path: str | Path, expression_count: int | None = None, relaxed_hands: bool = True
    ) -> "SmplxHead":
        """Reads `SMPLX_*.npz` (or .pkl) without running code from it.

        Args:
            path: the file. Required: v_template (V, 3), f (F, 3), shapedirs (V, 3, C), posedirs (V, 3, 486),
                J_regressor (55, V), kintree_table (2, 55), weights (V, 55). Optional: hands_meanl, hands_meanr (45,),
                hands_componentsl, hands_componentsr (C, 45), lmk_faces_idx, lmk_bary_coords, and the latter two with
                the prefix dynamic_. Our own keys, which smplx ignores: uv (T, 2), uv_faces (F, 3), region_<name>,
                expression_names, shape_names, expression_count.
            expression_count: number of expression components, as in `FlameHead.from_file`. Files of 20 components have
                10 shape and 10 expression: pass 10.
            relaxed_hands: True for the file's mean hand pose, False for flat hands.

        Raises:
            FileNotFoundError, UnsafePickleError, ValueError: as `FlameHead.from_file`.
        """
        with reading(path, "a model in SMPL-X's format"):
            return cls.from_arrays(load_arrays(path), str(path), expression_count, relaxed_hands)

    @classmethod
    def from_arrays(
        cls,
        raw: Mapping[str, Any],
        path: str,
        expression_count: int | None = None,
        relaxed_hands: bool = True,
    ) -> "SmplxHead":
        """The head from the arrays of a file; see `from_file` for keys, arguments and errors, which name `path`."""
        op = f"{cls.__name__}.from_file"
        arrays = check_model(op, raw, path, KEYS)
        count = len(arrays["v_template"])
        names = names_in(raw, "expression_names", f"{op}: {path}")
        components = arrays["shapedirs"].shape[2]
        shape, expression = split_components(op, path, raw, components, expression_count, names)
        names = names[: expression.stop - expression.start]
        shape_names = names_in(raw, "shape_names", f"{op}: {path}")
        check_names(names, expression.stop - expression.start, f"{op}: {path}: expression_names", "expressions")
        check_names(shape_names, shape.stop - shape.start, f"{op}: {path}: shape_names", "shape directions")
        embeddings: dict[str, LandmarkEmbedding] = {}
        for prefix, axes in (("", 1), ("dynamic_", 2)):
            keys = (f"{prefix}lmk_faces_idx", f"{prefix}lmk_bary_coords")
            if any(key in raw for key in keys):
                where = f"{op}: {path}: {keys[0]} and {keys[1]}"
                index, weights = (raw.get(key, ()) for key in keys)
                embeddings[prefix] = make_embedding(index, weights, where, axes, len(arrays["f"]))
        mean = np.zeros((55, 3))
        for key, part in (("hands_meanl", "left_hand_pose"), ("hands_meanr", "right_hand_pose")):
            if relaxed_hands and key in raw:
                mean[PARTS[part]] = checked_arrays(f"{op}: {path}", raw, {key: "45"})[key].reshape(15, 3)
        components_of_hands = None
        hands = {"hands_componentsl": "C 45", "hands_componentsr": "C 45"}
        if any(key in raw for key in hands):
            components_of_hands = np.stack(list(checked_arrays(f"{op}: {path}", raw, hands).values()))
        texture = uv_of(raw, path, None, arrays["f"], count)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array, np.float32, order="C"))

        return cls(
            template=tensor(arrays["v_template"]),
            faces=torch.from_numpy(arrays["f"]),
            shape_basis=tensor(arrays["shapedirs"][:, :, shape].transpose(2, 0, 1)),
            expression_basis=tensor(arrays["shapedirs"][:, :, expression].transpose(2, 0, 1)),
            pose_basis=tensor(arrays["posedirs"].transpose(2, 0, 1)),
            joint_regressor=tensor(arrays["J_regressor"]),
            weights=tensor(arrays["weights"]),
            parents=arrays["parents"].tolist(),
            landmarks=Landmarks(embeddings[""]) if "" in embeddings else None,
            contour=ContourLandmarks(embeddings["dynamic_"]) if "dynamic_" in embeddings else None,
            uv=None if texture is None else tensor(texture[0]),
            uv_faces=None if texture is None else torch.from_numpy(texture[1].copy()),
            regions={
                name: torch.from_numpy(mask.copy())
                for name, mask in regions_of(raw, path, None, arrays["f"], count).items()
            },
            expression_names=names,
            shape_names=shape_names,
            mean_pose=tensor(mean),
            hand_components=None if components_of_hands is None else tensor(components_of_hands),
        )

    def full_pose(self, pose: Float[Tensor, "b j 3"]) -> Float[Tensor, "b j 3"]:
        """The pose plus `mean_pose`."""
        return pose + self.mean_pose

    def pose(self, **parts: Float[Tensor, "_ _"]) -> Float[Tensor, "b 55 3"]:
        """A pose (B, 55, 3) from smplx's pose arguments, axis-angle in radians; missing parts are zero.

        Args:
            parts: global_orient, jaw_pose, leye_pose, reye_pose (B, 3), body_pose (B, 63), left_hand_pose and
                right_hand_pose (B, 45); `hand_pose` gives the latter from principal components.

        Raises:
            ValueError: a part is unknown or has the wrong shape; batch sizes differ and are not 1.

        >>> import torch, headfields as hf
        >>> body = hf.synthetic.procedural_body()
        >>> pose = body.pose(jaw_pose=torch.tensor([[0.2, 0.0, 0.0]]))
        >>> pose.shape, round(pose[0, 22, 0].item(), 3)
        (torch.Size([1, 55, 3]), 0.2)
        """
        unknown = sorted(set(parts) - set(PARTS))
        if unknown:
            raise ValueError(f"SmplxHead.pose: no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
        sizes = {part.shape[0] for part in parts.values()} - {1}
        if len(sizes) > 1:
            raise ValueError(f"SmplxHead.pose: parts have {sorted(sizes)} rows; pass B or one for each")
        batch = sizes.pop() if sizes else 1
        pieces = []
        for name, place in PARTS.items():
            count = place.stop - place.start
            part = parts.get(name)
            if part is None:
                pieces.append(self.template_vertices.new_zeros(batch, count, 3))
                continue
            check_floating("SmplxHead.pose", name, part)
            if part.dim() != 2 or part.shape[1] != 3 * count:
                raise ValueError(f"SmplxHead.pose: {name} has shape {tuple(part.shape)}; expected (B, {3 * count})")
            pieces.append(part.reshape(-1, count, 3).expand(batch, -1, -1))
        return torch.cat(pieces, 1)

    def hand_pose(self, side: Literal["left", "right"], coefficients: Float[Tensor, "b c"]) -> Float[Tensor, "b 45"]:
        """Axis-angle (B, 45) of a hand from coefficients (B, C) of its first principal components, for `pose`.

        Raises:
            ValueError: the file has no components, or fewer than C.
        """
        if self.hand_components is None:
            raise ValueError("SmplxHead.hand_pose: the file has no hands_componentsl and hands_componentsr")
        check_floating("SmplxHead.hand_pose", "coefficients", coefficients)
        components = self.hand_components[0 if side == "left" else 1]
        if coefficients.dim() != 2 or coefficients.shape[1] > len(components):
            raise ValueError(
                f"SmplxHead.hand_pose: coefficients has shape {tuple(coefficients.shape)}; expected (B, C) with C <= "
                f"{len(components)}"
            )
        return coefficients @ components[: coefficients.shape[1]].to(coefficients)


def from_smplx(model: Any) -> FlameHead | SmplxHead:
    """Converts a model of the smplx package: `smplx.FLAME`, `FLAMELayer`, `SMPLX` or `SMPLXLayer`, of any version.

    The head has copies of the model's arrays, its dtype and device, its landmarks and contour, and gives the same
    vertices. It has the model's numbers of shape and expression directions (10 and 10 unless `num_betas` and
    `num_expression_coeffs` differ) and the model's choice of expression: of a file with fewer than 400 components smplx
    uses [10:20], which is not undone here. The model's parameters (`model.betas`, `model.jaw_pose`, ...) are not
    copied; pass them to the head. A head takes axis-angle (B, J, 3), in the order of `SmplxHead.pose`; smplx takes
    axis-angle with one argument a joint, and its layers take matrices.

    Raises:
        TypeError: `model` lacks a buffer of FLAME and SMPL-X (named), or has another number of joints.
    """
    names = (
        "v_template",
        "shapedirs",
        "expr_dirs",
        "posedirs",
        "J_regressor",
        "lbs_weights",
        "parents",
        "faces_tensor",
    )
    kind = type(model).__name__
    missing = [name for name in names if not isinstance(getattr(model, name, None), Tensor)]
    if missing:
        raise TypeError(
            f"from_smplx: {kind} has no {', '.join(missing)}; pass a FLAME, FLAMELayer, SMPLX or SMPLXLayer of smplx "
            "(SMPL, SMPL-H and MANO have no face)"
        )
    joints = len(model.parents)
    if joints not in (5, 55):
        raise TypeError(f"from_smplx: {kind} has {joints} joints; FLAME has 5 and SMPL-X 55")
    buffers = {name: getattr(model, name).detach().clone() for name in names}
    template = buffers["v_template"]
    parents = (-1, *buffers["parents"][1:].tolist())

    def landmarks(prefix: str) -> LandmarkEmbedding | None:
        index, weights = (getattr(model, f"{prefix}{name}", None) for name in ("lmk_faces_idx", "lmk_bary_coords"))
        if not isinstance(index, Tensor) or not isinstance(weights, Tensor):
            return None
        return make_embedding(index, weights, f"from_smplx: {kind}.{prefix}lmk_*", 2 if prefix else 1)

    static, contour = landmarks(""), landmarks("dynamic_")
    if joints == 5:
        arrays = FlameArrays(
            template=_double(template),
            faces=buffers["faces_tensor"].long().cpu().numpy(),
            shape_basis=_double(buffers["shapedirs"]),
            expression_basis=_double(buffers["expr_dirs"]),
            pose_basis=_double(buffers["posedirs"].T.reshape(len(template), 3, -1)),
            joint_regressor=_double(buffers["J_regressor"]),
            weights=_double(buffers["lbs_weights"]),
            parents=parents,
            landmarks=static,
            contour=contour,
        )
        return FlameHead(arrays, template.dtype).to(template.device)
    # A layer has the mean pose as a buffer too, but its forward takes matrices and adds nothing.
    layer = any(base.__name__ == "SMPLXLayer" for base in type(model).__mro__)
    mean = getattr(model, "pose_mean", None)
    head = SmplxHead(
        template=template,
        faces=buffers["faces_tensor"].long(),
        shape_basis=buffers["shapedirs"].permute(2, 0, 1).contiguous(),
        expression_basis=buffers["expr_dirs"].permute(2, 0, 1).contiguous(),
        pose_basis=buffers["posedirs"].reshape(-1, len(template), 3),
        joint_regressor=buffers["J_regressor"],
        weights=buffers["lbs_weights"],
        parents=parents,
        landmarks=None if static is None else Landmarks(static),
        contour=None if contour is None else ContourLandmarks(contour),
        mean_pose=None if layer or not isinstance(mean, Tensor) else mean.detach().clone().reshape(55, 3),
    )
    return head.to(template)


def _double(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()
