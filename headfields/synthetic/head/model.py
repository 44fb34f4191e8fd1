"""A head made by code, in FLAME's file format: what everything in the library runs on without a licensed asset.

Deterministic and free of data: an anthropometric base surface, sculpted, cut into edge loops, rigged. It has 300 shape
and 100 expression components as FLAME has, of which the first are named and the rest are zero.
"""

import functools

import numpy as np
from jaxtyping import Shaped

from headfields.heads.flame.files import flame_arrays
from headfields.heads.flame.model import FlameHead
from headfields.synthetic.head.expressions import expression_fields
from headfields.synthetic.head.identities import identity_fields
from headfields.synthetic.head.parts import head_parts
from headfields.synthetic.head.rig import joint_regressor, pose_correctives, skinning_weights
from headfields.synthetic.head.uv import landmark_embedding, region_masks, texture_coordinates

__all__ = ["procedural_head", "procedural_head_arrays"]

_MM = 1e-3


@functools.cache
def _cached() -> dict[str, Shaped[np.ndarray, "..."]]:
    parts = head_parts()
    count = len(parts.positions)
    expressions, identities = expression_fields(), identity_fields()
    directions = np.zeros((count, 3, 400), np.float32)
    for index, field in enumerate(identities.values()):
        directions[:, :, index] = field * _MM
    for index, field in enumerate(expressions.values()):
        directions[:, :, 300 + index] = field * _MM
    uv, uv_faces = texture_coordinates()
    landmark_faces, landmark_weights = landmark_embedding()
    arrays: dict[str, np.ndarray] = {
        "v_template": (parts.positions * _MM).astype(np.float32),
        "f": parts.faces.astype(np.int32),
        "shapedirs": directions,
        "posedirs": (pose_correctives() * _MM).astype(np.float32),
        "J_regressor": joint_regressor().astype(np.float32),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64),
        "weights": skinning_weights().astype(np.float32),
        "uv": uv.astype(np.float32),
        "uv_faces": uv_faces.astype(np.int32),
        "lmk_face_idx": landmark_faces.astype(np.int64),
        "lmk_b_coords": landmark_weights.astype(np.float32),
        "expression_names": np.array(list(expressions)),
        "shape_names": np.array(list(identities)),
    }
    arrays |= {f"region_{name}": mask for name, mask in region_masks().items()}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def procedural_head_arrays() -> dict[str, Shaped[np.ndarray, "..."]]:
    """The procedural head as the arrays of a FLAME file (read-only), meters; see `FlameHead.from_file` for the keys."""
    return dict(_cached())


def procedural_head() -> FlameHead:
    """A parametric head made by code: some 4,600 vertices, 9,000 faces, meters, y up, face toward +z.

    The same on every call, generated once a process; each call gives a model of its own. Named directions are in
    `expression_names` and `shape_names`; regions, texture coordinates and 68 landmarks come with it.
    """
    return FlameHead(flame_arrays(procedural_head_arrays(), "procedural_head()"))
