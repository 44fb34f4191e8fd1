"""The linear expression basis of a capture: how its vertices move with its expression coefficients, if known."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.files.arrays import load_arrays, load_numbers
from headfields.files.reading import reading
from headfields.files.unpickler import to_array

__all__ = ["BASIS", "expression_basis", "expression_names"]

BASIS = "blendshapes.npz"
"""File name. INSTA's layout has no such file; captures of blendshape heads may."""

_FRAMES = 8  # number of frames that check the basis
_UNEXPLAINED = 0.05  # largest fraction of the meshes' motion that a basis may leave unexplained


def expression_basis(capture: Any) -> tuple[Float[Tensor, "e v 3"] | None, str]:
    """The displacement of every vertex per coefficient, from `blendshapes.npz` in the capture's folder.

    It is accepted if it explains 95 % of the differences between the meshes of eight frames. It does not describe a
    head whose jaw or eyes are turned by joints, or one with the coefficients of another head.

    Args:
        capture: capture with `state`, a length, and `path` if it lies in a folder.

    Returns:
        (E, V, 3) meters, or None and the reason.

    Raises:
        CaptureError: the file or a mesh cannot be read.
    """
    folder = getattr(capture, "path", None)
    path = None if folder is None else folder / BASIS
    if path is None or not path.is_file():
        return None, f"the capture has no {BASIS}, so how the mesh follows the coefficients is not known"
    with reading(path, "a file of blendshapes", CaptureError, "write it again or remove it"):
        basis = torch.from_numpy(load_numbers(path)["expression"].astype(np.float32))
    count = len(capture)
    state = capture.state(sorted({int(f) for f in np.linspace(0, count - 1, min(_FRAMES, count)).round()}))
    expected = None if state.expression is None else (state.expression.shape[1], state.vertices.shape[1], 3)
    if not bool(basis.isfinite().all()):
        raise CaptureError(f"expression_basis: {path}: expression has numbers that are not finite; write it again")
    if basis.shape != expected:
        return None, f"the expression of {BASIS} has shape {tuple(basis.shape)}; the capture's frames need {expected}"
    motion = state.vertices - state.vertices.mean(0)
    predicted = torch.einsum("be,evk->bvk", state.expression - state.expression.mean(0), basis)
    left = float((motion - predicted).norm() / motion.norm().clamp_min(1e-12))
    if left > _UNEXPLAINED:
        return None, f"{BASIS} leaves {left:.0%} of the meshes' motion unexplained"
    return basis, ""


def expression_names(capture: Any) -> tuple[str, ...]:
    """The names of a capture's expression coefficients, from `blendshapes.npz` in its folder; () where it has none.

    Args:
        capture: capture with `expression_width`, and `path` if it lies in a folder.

    Raises:
        CaptureError: the file cannot be read.
    """
    folder = getattr(capture, "path", None)
    path = None if folder is None else folder / BASIS
    if path is None or not path.is_file():
        return ()
    with reading(path, "a file of blendshapes", CaptureError, "write it again or remove it"):
        names = to_array(load_arrays(path).get("expression_names", ()), f"{path}: expression_names")
    return tuple(str(name) for name in names.ravel()) if len(names) == capture.expression_width else ()
