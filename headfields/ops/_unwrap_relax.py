"""Relaxation of a chart: less shear and areas nearer to their shares, without folds, in NumPy."""

import numpy as np
import scipy
from jaxtyping import Float, Int

_Array = np.ndarray
_ROUNDS = 5  # of a head's skin, the energy falls by less than a hundredth in the sixth
_ENOUGH = 1e-3  # part of the energy below which a round's gain ends the relaxation
_LEAST_HEIGHT = 0.05  # of a triangle, relative to its longer edge: slivers are opened
_LEAST_STEP = 1e-3


def relax(
    flat: Float[_Array, "n 2"],
    faces: Int[_Array, "f 3"],
    positions: Float[_Array, "n 3"],
    areas: Float[_Array, " f"],
    weights: Float[_Array, " f"],
    fixed: Int[_Array, " k"],
) -> Float[_Array, "n 2"]:
    """Moves the nodes of a flat chart to lower its symmetric Dirichlet energy; its outline stays.

    The energy is that of the map from each face, scaled to its target area, to the plane: the weighted sum of
    ‖J‖² + ‖J⁻¹‖². It grows without bound as a face shrinks or shears, and no step is taken that folds one, so
    a chart without folds stays one. A chart with a fold is returned as it is.

    Source: Rabinovich et al. 2017, "Scalable locally injective mappings", for the steps; Smith and Schaefer 2015 for
    the energy.

    Args:
        flat: nodes in the plane.
        faces: counterclockwise.
        positions: nodes in space, for the shape of the faces.
        areas: target areas of the faces in the plane.
        weights: of the faces in the energy, above 0.
        fixed: nodes that stay, the outline.
    """
    inverse = _inverse_edges(positions[faces], areas)
    count = len(flat)
    free = np.setdiff1d(np.arange(count), fixed)
    energy, jacobian = _energy(flat, faces, inverse, weights)
    if not np.isfinite(energy) or not len(free):
        return flat
    # J[:, c, k] is the k-th derivative of coordinate c.
    slopes = np.stack([-inverse.sum(1), inverse[:, 0], inverse[:, 1]], axis=1)
    rows = np.repeat(np.arange(len(faces)), 3)
    derivative = [
        scipy.sparse.csr_matrix((slopes[:, :, k].ravel(), (rows, faces.ravel())), shape=(len(faces), count))
        for k in (0, 1)
    ]
    columns, held = np.concatenate([free, count + free]), np.concatenate([fixed, count + fixed])
    for _ in range(_ROUNDS):
        system, target = _proxy(jacobian, weights, derivative)
        unknown, place = system[:, columns], flat.T.ravel()
        normal = unknown.T @ unknown
        normal += 1e-9 * normal.diagonal().mean() * scipy.sparse.identity(len(columns))
        solved = place.copy()
        solved[columns] = scipy.sparse.linalg.splu(normal.tocsc()).solve(
            unknown.T @ (target - system[:, held] @ place[held])
        )
        move = solved.reshape(2, count).T - flat
        step, before = 1.0, energy
        while step > _LEAST_STEP:
            energy, jacobian = _energy(flat + step * move, faces, inverse, weights)
            if energy < before:
                break
            step /= 2
        else:
            return flat
        flat = flat + step * move
        if before - energy < _ENOUGH * before:
            break
    return flat


def _inverse_edges(corners: Float[_Array, "f 3 3"], areas: Float[_Array, " f"]) -> Float[_Array, "f 2 2"]:
    """Inverses of the edges (as columns) from the first corner of each face, laid flat and scaled to its target."""
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    length = np.maximum(np.linalg.norm(one, axis=1), 1e-12)
    along = (one * other).sum(1) / length
    height = np.linalg.norm(np.cross(one, other), axis=1) / length
    height = np.maximum(height, _LEAST_HEIGHT * np.maximum(length, np.hypot(along, height)))
    scale = np.sqrt(2 * areas / (length * height))
    inverse = np.zeros((len(corners), 2, 2))
    inverse[:, 0, 0], inverse[:, 1, 1] = 1 / (scale * length), 1 / (scale * height)
    inverse[:, 0, 1] = -along / (scale * length * height)
    return inverse


def _energy(
    flat: Float[_Array, "n 2"], faces: Int[_Array, "f 3"], inverse: Float[_Array, "f 2 2"], weights: Float[_Array, " f"]
) -> tuple[float, Float[_Array, "f 2 2"]]:
    """The energy, infinite with a fold, and the derivatives."""
    a, b, c = (flat[faces[:, k]] for k in range(3))
    jacobian = np.stack([b - a, c - a], axis=-1) @ inverse
    determinant = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
    if not bool((determinant > 0).all()):
        return np.inf, jacobian
    squares = (jacobian**2).sum((1, 2))
    return float((weights * (squares + squares / determinant**2)).sum()), jacobian


def _proxy(
    jacobian: Float[_Array, "f 2 2"], weights: Float[_Array, " f"], derivative: "list[scipy.sparse.csr_matrix]"
) -> tuple["scipy.sparse.csc_matrix", Float[_Array, " m"]]:
    """The quadratic energy ‖W (J − R)‖² of the same gradient, R the nearest rotation: its matrix and target."""
    left, singular, right = np.linalg.svd(jacobian)
    singular = np.maximum(singular, 1e-8)
    apart = np.where(np.abs(singular - 1) < 1e-6, 1.0, singular - 1)
    slope = np.where(np.abs(singular - 1) < 1e-6, 4.0, (singular - singular**-3) / apart)
    weight = (left * np.sqrt(slope)[:, None, :]) @ left.transpose(0, 2, 1) * np.sqrt(weights)[:, None, None]
    wanted = weight @ left @ right
    blocks = [
        [scipy.sparse.diags(weight[:, r, c]) @ derivative[k] for c in range(2)] for k in range(2) for r in range(2)
    ]  # fmt: skip
    target = np.concatenate([wanted[:, r, k] for k in range(2) for r in range(2)])
    return scipy.sparse.bmat(blocks).tocsc(), target
