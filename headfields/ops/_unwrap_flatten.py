"""Disc parameterization of a chart without folds, and packing of discs into the unit square, in NumPy."""

import numpy as np
import scipy
from jaxtyping import Float, Int

from headfields.ops._unwrap_relax import relax
from headfields.ops._unwrap_topology import Corners, loops

_Array = np.ndarray
_ROUNDS = 4  # bring the areas near their shares, from where the relaxation goes on; more of them shear the faces
_FAN = 1e-3  # weight of the faces that close a hole: they must not fold, but may have any shape
_MOST = 100.0  # largest stretch, relative to the median
_POWER = 0.5  # exponent of the stretch by which the weights are divided


def flatten(mesh: Corners, positions: Float[_Array, "n 3"], room: Float[_Array, " f"]) -> Float[_Array, "n 2"]:
    """Positions in the unit disc, for a piece without handles: its longest boundary on the circle, the rest inside.

    `room` is the target share of the disc of each face, in any unit.

    Each inner node is a mean of its neighbors with positive weights, and the outline is convex, so no face folds
    over (Tutte 1963; Floater 2003, "Mean value coordinates"). Other boundaries are closed by a fan first. The weights
    are then divided, round by round, by the stretch at the neighbor, which moves the faces toward their shares, and
    `relax` trades what is left of it against shear. Two rounds alone left the inside of a mouth a tenth of its share.

    Source of the rounds: Yoshizawa, Belyaev and Seidel 2004, "A fast and simple stretch-minimizing mesh
    parameterization".
    """
    count, edges = len(positions), loops(mesh)
    outer = max(range(len(edges)), key=lambda k: _lengths(positions[edges[k]]).sum())
    faces, shares = [mesh.faces], [room]
    for k, loop in enumerate(edges):
        if k != outer and len(loop) > 2:  # the two edges between two nodes close themselves
            middle = np.full(len(loop), len(positions))
            faces.append(np.stack([np.roll(loop, -1), loop, middle], 1))
            positions = np.concatenate([positions, positions[loop].mean(0, keepdims=True)])
            shares.append(np.full(len(loop), float(np.median(room))))
    every = np.concatenate(faces)
    # A few faces of a scan have no area: least lengths and areas take their place.
    side = np.linalg.norm(positions[every] - positions[np.roll(every, -1, 1)], axis=2)
    least = max(1e-3 * float(np.median(side)), 1e-12)
    weights = _mean_value(positions, every, least)
    share = np.concatenate(shares) / np.concatenate(shares).sum()
    # Each face is measured as if scaled to its target area.
    corners = positions[every] * np.sqrt(share / np.maximum(sizes(positions[every]), least**2))[:, None, None]
    rim = _circle(positions[edges[outer]])
    flat = _solve(weights, edges[outer], rim)
    for _ in range(_ROUNDS):
        stretch = _stretch(corners, flat[every], share)
        # A sliver can have any stretch; it must not outweigh the rest.
        stretch = np.minimum(stretch, _MOST * np.median(stretch))
        total, weight = (
            np.bincount(every.reshape(-1), np.repeat(values, 3), len(positions)) for values in (share * stretch, share)
        )
        node = total / weight
        node = np.maximum(node / max(float(np.median(node)), 1e-300), 1e-6) ** (0.5 * _POWER)  # stretch is squared
        weights = weights @ scipy.sparse.diags(1 / node)
        flat = _solve(weights, edges[outer], rim)
    importance = np.where(np.arange(len(every)) < len(mesh.faces), share, _FAN * share)
    return relax(flat, every, positions, np.pi * share, importance, edges[outer])[:count]


def upright(flat: Float[_Array, "n 2"], positions: Float[_Array, "n 3"]) -> Float[_Array, "n 2"]:
    """The disc, rotated so that its front part has x to the right and y up as nearly as possible."""
    front = positions[:, 2] >= np.quantile(positions[:, 2], 0.7)
    a, b = flat[front] - flat[front].mean(0), positions[front, :2] - positions[front, :2].mean(0)
    angle = np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum())
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned: np.ndarray = flat @ turn
    return turned


def pack(radii: Float[_Array, " n"], margin: float) -> tuple[Float[_Array, "n 2"], float]:
    """Centers of discs in the unit square, at least `margin` apart, and the scale of their radii, as large as it gets.

    The largest lies in the middle, each further one as near to a corner as there is room.
    """
    order = np.argsort(-radii, kind="stable")
    side = max(129, 6 * int(np.ceil(np.sqrt(len(radii)))))
    line = (np.arange(side) + 0.5) / side
    spots = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    spots = spots[np.argsort(-np.abs(spots - 0.5).sum(1), kind="stable")]
    wall = np.minimum(spots, 1 - spots).min(1) - margin / 2

    def centers(scale: float) -> Float[_Array, "n 2"] | None:
        placed = np.full((len(radii), 2), 0.5)
        if scale * radii[order[0]] > 0.5 - margin / 2:
            return None
        room = np.minimum(wall, np.linalg.norm(spots - 0.5, axis=1) - scale * radii[order[0]] - margin)
        for index in order[1:]:
            fits = room >= scale * radii[index]
            if not fits.any():
                return None
            placed[index] = spots[fits.argmax()]
            room = np.minimum(room, np.linalg.norm(spots - placed[index], axis=1) - scale * radii[index] - margin)
        return placed

    high = (0.5 - margin / 2) / float(radii.max())
    low, best = 0.0, centers(high)
    if best is not None:
        return best, high
    for _ in range(14):
        middle = (low + high) / 2
        placed = centers(middle)
        low, high, best = (middle, high, placed) if placed is not None else (low, middle, best)
    if best is None:
        raise ValueError(
            f"unwrap: {len(radii)} pieces do not fit with a margin of {margin:g} between them; pass a smaller margin, "
            "or join vertices that lie at the same place"
        )
    return best, low


def _lengths(loop: Float[_Array, "k 3"]) -> Float[_Array, " k"]:
    return np.linalg.norm(np.roll(loop, -1, 0) - loop, axis=1)


def sizes(corners: Float[_Array, "f 3 3"]) -> Float[_Array, " f"]:
    """Areas; for a sliver, the area of a less slender face of its perimeter."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    perimeter = sum(np.linalg.norm(p - q, axis=1) for p, q in ((a, b), (b, c), (c, a)))
    areas: np.ndarray = np.maximum(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1), 0.01 * perimeter**2)
    return areas


def _circle(loop: Float[_Array, "k 3"]) -> Float[_Array, "k 2"]:
    """A loop on the circle by its edge lengths, none of them zero, or the face of that edge would have no area."""
    lengths = _lengths(loop)
    steps = np.maximum(lengths, max(0.1 * float(lengths.mean()), 1e-12))
    angle = 2 * np.pi * np.concatenate([[0], np.cumsum(steps)[:-1]]) / steps.sum()
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _mean_value(positions: Float[_Array, "n 3"], faces: Int[_Array, "f 3"], least: float) -> "scipy.sparse.csr_matrix":
    rows, columns, values = [], [], []
    for k in range(3):
        i, j, m = faces[:, k], faces[:, (k + 1) % 3], faces[:, (k + 2) % 3]
        a, b = positions[j] - positions[i], positions[m] - positions[i]
        angle = np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1))
        half = np.tan(np.clip(angle, 0.02, 3.1) / 2)
        for other, edge in ((j, a), (m, b)):
            rows.append(i)
            columns.append(other)
            values.append(half / np.maximum(np.linalg.norm(edge, axis=1), least))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    matrix = scipy.sparse.csr_matrix(entries, shape=(len(positions),) * 2)
    matrix.setdiag(0)
    return matrix


def _solve(
    weights: "scipy.sparse.csr_matrix", rim: Int[_Array, " k"], where: Float[_Array, "k 2"]
) -> Float[_Array, "n 2"]:
    count = weights.shape[0]
    flat = np.zeros((count, 2))
    flat[rim] = where
    inner = np.setdiff1d(np.arange(count), rim)
    if len(inner):
        total = np.asarray(weights.sum(1)).reshape(-1)
        rows = scipy.sparse.diags(1 / total[inner]) @ weights[inner]
        system = (scipy.sparse.identity(len(inner)) - rows[:, inner]).tocsc()
        flat[inner] = scipy.sparse.linalg.splu(system).solve(np.asarray(rows[:, rim] @ where))
    return flat


def _stretch(corners: Float[_Array, "f 3 3"], flat: Float[_Array, "f 3 2"], share: Float[_Array, " f"]) -> _Array:
    """Squared L2 stretch of each face, from the disc to the surface (Sander et al. 2001)."""
    s, t = flat[..., 0], flat[..., 1]
    doubled = (s[:, 1] - s[:, 0]) * (t[:, 2] - t[:, 0]) - (s[:, 2] - s[:, 0]) * (t[:, 1] - t[:, 0])
    doubled = np.maximum(np.abs(doubled), 1e-6 * share)
    along = sum(corners[:, k] * (t[:, (k + 1) % 3] - t[:, (k + 2) % 3])[:, None] for k in range(3))
    down = sum(corners[:, k] * (s[:, (k + 2) % 3] - s[:, (k + 1) % 3])[:, None] for k in range(3))
    stretch: np.ndarray = ((along**2).sum(1) + (down**2).sum(1)) / (2 * doubled**2)
    return stretch
