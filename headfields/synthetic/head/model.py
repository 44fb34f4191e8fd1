"""A procedural head in FLAME's file format, on which the library runs without a licensed asset.

Deterministic and free of data: an anthropometric base surface, sculpted, meshed along edge loops and rigged. Like FLAME
it has 300 shape and 100 expression components; the first are named and the others are zero.
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
    """The procedural head as the arrays of a FLAME file (read-only), meters; see `FlameHead.from_file` for the keys.

    `numpy.savez(path, **procedural_head_arrays())` writes a file that `FlameHead.from_file` and smplx read.
    """
    return dict(_cached())


def procedural_head() -> FlameHead:
    """A procedural parametric head of 4,515 vertices and 8,868 faces; meters, y up, face toward +z.

    Deterministic; generated once per process, and each call returns a new model. `expression_names` and `shape_names`
    name the directions; it has regions, texture coordinates and 68 landmarks.

    >>> import headfields as hf
    >>> head = hf.synthetic.procedural_head()
    >>> head.template_vertices.shape, head.faces.shape, len(head.expression_names)
    (torch.Size([4515, 3]), torch.Size([8868, 3]), 30)
    """
    return FlameHead(flame_arrays(procedural_head_arrays(), "procedural_head()"))
