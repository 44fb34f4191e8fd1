"""The linear expression basis of a capture: how its vertices move with its expression coefficients, known or regressed,
and the principal components of what that leaves."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.files.arrays import load_arrays, load_numbers
from headfields.files.reading import reading
from headfields.files.unpickler import to_array
from headfields.ops._checks import check_floating, check_shape

__all__ = ["BASIS", "expression_basis", "expression_names", "motion_components", "regress_expressions"]

BASIS = "blendshapes.npz"
"""File name. INSTA's layout has no such file; captures of blendshape heads may."""

_FRAMES = 8  # number of frames that check the basis
_GOAL = 2e-4
"""Meters, root mean square: components of motion are added until less is left."""
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


def regress_expressions(
    codes: Float[Tensor, "n e"], vertices: Float[Tensor, "n v 3"]
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "e v 3"]]:
    """Neutral mesh and expression basis by ridge regression over examples.

    Captures store meshes and coefficients, but not the head model. For blendshapes the relation is linear, and this
    recovers the part of the basis that the examples span; otherwise it is the best linear approximation. The
    leave-one-out error, which has a closed form (Golub, Heath and Wahba 1979), chooses the ridge.

    Args:
        codes: (N, E); N ≥ 3.
        vertices: (N, V, 3) meters.

    Returns:
        neutral (V, 3) and basis (E, V, 3), meters. A coefficient that never varies has a zero displacement.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or there are fewer than three examples.
    """
    check_floating("regress_expressions", "codes", codes)
    check_shape("regress_expressions", "codes", codes, "N E")
    check_floating("regress_expressions", "vertices", vertices)
    check_shape("regress_expressions", "vertices", vertices, "N V 3")
    if len(codes) != len(vertices) or len(codes) < 3:
        raise ValueError(
            f"regress_expressions: {len(codes)} rows of codes and {len(vertices)} meshes; pass three of both or more"
        )
    x, y = codes.double(), vertices.double().flatten(1)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    significant = s > 1e-9 * s.amax().clamp_min(1e-300) if len(s) else s > 0
    u, s, vh = u[:, significant], s[significant], vh[significant]
    if not len(s):
        return mean_y.reshape(-1, 3).to(vertices), codes.new_zeros(codes.shape[1], *vertices.shape[1:])
    along = u.transpose(0, 1) @ y
    best, chosen = torch.inf, 0.0
    for exponent in torch.linspace(-8, 1, 19).tolist():
        penalty = float(s[0]) ** 2 * 10**exponent
        share = s**2 / (s**2 + penalty)
        leverage = 1 / len(x) + ((u * u) * share).sum(1)
        residual = y - u @ (share[:, None] * along)
        error = float(((residual / (1 - leverage).clamp_min(1e-6)[:, None]) ** 2).sum())
        if error < best:
            best, chosen = error, penalty
    slopes = vh.transpose(0, 1) @ ((s / (s**2 + chosen))[:, None] * along)
    neutral = mean_y - mean_x @ slopes
    return neutral.reshape(-1, 3).to(vertices), slopes.reshape(codes.shape[1], *vertices.shape[1:]).to(vertices)


def motion_components(left: Float[Tensor, "t v 3"], most: int) -> Float[Tensor, "k v 3"]:
    """Principal directions (K, V, 3) of what is left of T meshes, each of the size of one standard deviation.

    Args:
        left: displacements, meters.
        most: largest K; fewer, where less than 0.2 mm, root mean square, is left behind them.
    """
    flat = left.double().flatten(1)
    if not len(flat):
        return left[:0]
    gram = flat @ flat.T  # T is small beside V
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    points = left.shape[0] * left.shape[1]
    rest = ((values.sum() - values.cumsum(0)).clamp_min(0) / points).sqrt()
    if float((values.sum() / points).sqrt()) < _GOAL:
        return left[:0]
    enough = int((rest < _GOAL).int().argmax()) + 1 if bool((rest < _GOAL).any()) else len(values)
    count = min(enough, most, int((values > 1e-12 * values[0]).sum()))
    directions = vectors[:, :count].T @ flat  # of the length of a singular value
    return (directions / len(flat) ** 0.5).reshape(count, *left.shape[1:]).to(left)
