"""How a capture's vertices move with its expression coefficients, where that is known and linear."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError

__all__ = ["BASIS", "expression_basis"]

BASIS = "blendshapes.npz"
"""Name of the file; INSTA's layout has none, captures of blendshape heads may."""

_FRAMES = 8  # that the basis is tried on
_UNEXPLAINED = 0.05  # of the meshes' motion: what a basis may leave over


def expression_basis(capture: Any) -> tuple[Float[Tensor, "e v 3"] | None, str]:
    """What the vertices move by with each coefficient, from `blendshapes.npz` in the capture's folder.

    It is believed if it explains how the meshes of eight frames differ, but for a twentieth: a head whose jaw or eyes
    are turned by joints, or whose coefficients are another head's, is not described by a basis.

    Args:
        capture: of one head.

    Returns:
        (E, V, 3) meters, or None and the reason.

    Raises:
        CaptureError: there is such a file and it cannot be read, or a mesh cannot be read.
    """
    folder = getattr(capture, "path", None)
    path = None if folder is None else folder / BASIS
    if path is None or not path.is_file():
        return None, f"the capture has no {BASIS}, so how the mesh follows the coefficients is not known"
    try:
        with np.load(path, allow_pickle=False) as file:
            basis = torch.from_numpy(file["expression"].astype(np.float32))
    except Exception as error:  # broken archives, streams and headers each raise their own
        raise CaptureError(f"expression_basis: {path} cannot be read ({error}); write it again or remove it") from error
    count = len(capture)
    state = capture.state(sorted({int(f) for f in np.linspace(0, count - 1, min(_FRAMES, count)).round()}))
    wanted = None if state.expression is None else (state.expression.shape[1], state.vertices.shape[1], 3)
    if basis.shape != wanted:
        return None, f"the expression of {BASIS} has shape {tuple(basis.shape)}, and the capture's frames want {wanted}"
    motion = state.vertices - state.vertices.mean(0)
    told = torch.einsum("be,evk->bvk", state.expression - state.expression.mean(0), basis)
    left = float((motion - told).norm() / motion.norm().clamp_min(1e-12))
    if left > _UNEXPLAINED:
        return None, f"{BASIS} leaves {left:.0%} of the meshes' motion over: they do not follow the coefficients by it"
    return basis, ""
