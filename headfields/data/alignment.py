"""Whether meshes, mattes, labels and depth maps of a frame lie on one another; the scores are our own choice.

A mesh that tracking lost by a few pixels trains without an error, to a blurred avatar. Hair stands off a mesh and
clothes are cut from a matte, so silhouettes differ where nothing is wrong; what must hold is that the face lies within
the mesh's silhouette and the mesh within the matte (or clothes). The offset is the shortest shift under which both hold
as well as they can.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_CELLS = 96  # along the longer image side
_REACH = 0.25  # how far an offset is looked for, image sides
_PLATEAU = 0.005  # shifts that fit this much worse than the best are as good
_GAIN = 0.03  # by how much a shift must fit better to be believed
_LEAST = 0.015  # shifts of less than this part of the image are no finding
_DEPTH = 0.01  # metres: depth that the mesh explains
_FIT = 0.6  # face within mesh times mesh within matte: the least
_EXPLAINED = 0.5  # the least part of a depth map that it should
_CLOTH = (90, 100)
_FACE = (120, 130, 140, 150, 190, 200, 210, 230, 240, 250)
LABELS = (0, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200, 210, 230, 240, 250)
"""INSTA's numbering: background, hat, hair, cloth, necklace, neck, lips, mouth, nose, earring, ears, glasses, eyes,
brows, skin."""


@dataclass(frozen=True)
class Offset:
    """A shift in pixels (right, down) and how well things fit before and after it, in [0, 1]."""

    right: float
    down: float
    before: float
    after: float


@dataclass(frozen=True)
class Look:
    """One frame as far as it is compared.

    `vertices` (V, 3) metres, `world_to_camera` (4, 4), `intrinsics` (3, 3), `alpha` (H, W) bool, `label` (H, W) uint8
    or None, `depth` (H, W) metres with 0 for none, or None.
    """

    name: str
    vertices: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    alpha: np.ndarray
    label: np.ndarray | None
    depth: np.ndarray | None


def misalignments(looks: Iterable[Look], faces: np.ndarray) -> list[str]:
    """A line for every way in which the frames do not fit, with the mean offset over those that do not.

    Args:
        looks: the frames, taken one at a time.
        faces: (F, 3) of the tracked mesh.
    """
    meshes, labels, depths, unknown, apart = [], [], [], [], []
    empty: list[str] = []
    full: list[str] = []
    nothing: dict[str, list[str]] = {"seg_mask_path": [], "depth_path": []}
    count = 0
    for look in looks:
        count += 1
        matte = look.alpha
        if not matte.any():
            empty.append(look.name)
            continue
        pixels, z = _surface(look, faces)
        full += [look.name] if matte.all() else []
        for name, values in (("seg_mask_path", look.label), ("depth_path", look.depth)):
            if values is not None and not values.any():
                nothing[name].append(look.name)
        fit = None if matte.all() else _mesh_offset(look, pixels)
        if fit is not None and (fit.right or fit.down):
            meshes.append((look.name, fit))
        elif fit is not None and fit.before < _FIT:
            apart.append((look.name, fit.before))
        if look.label is not None:
            strange = set(np.unique(look.label).tolist()) - set(LABELS)
            if strange:
                unknown.append((look.name, min(strange)))
            shown = (look.label != 0) & ~np.isin(look.label, _CLOTH)
            found = None if matte.all() else _silhouette_offset(shown, matte & ~np.isin(look.label, _CLOTH))
            if found is not None and (found.right or found.down):
                labels.append((look.name, found))
        if look.depth is not None and (look.depth > 0).any():
            explained, off = _depth_agreement(look.depth, pixels, z)
            if explained < _EXPLAINED:
                depths.append((look.name, explained, off))
    lines = []
    for what, remedy, entries in (
        ("the mesh lies beside the image", "mesh_path, transform_matrix, cx and cy against file_path", meshes),
        ("segmentation labels lie beside the matte", "seg_mask_path against file_path", labels),
    ):
        if entries:
            right, down = np.mean([(entry.right, entry.down) for _, entry in entries], axis=0)
            before, after = np.mean([(entry.before, entry.after) for _, entry in entries], axis=0)
            lines.append(
                f"warning: {what} in {len(entries)} of {count} frames looked at ({_some([e[0] for e in entries])}); "
                f"a mean offset of {right:+.1f} pixels to the right and {down:+.1f} down would fit better "
                f"({before:.3f} to {after:.3f}): check {remedy}"
            )
    if depths:
        part, off = np.mean([entry[1] for entry in depths]), np.median([entry[2] for entry in depths])
        lines.append(
            f"warning: the mesh explains {part:.0%} of the depth within 1 cm in {len(depths)} of {count} frames "
            f"looked at ({_some([e[0] for e in depths])}; depth is off by {off * 1000:+.0f} mm in the median): check "
            "depth_path and integer_depth_scale"
        )
    if unknown:
        lines.append(
            f"warning: seg_mask_path holds {unknown[0][1]} and the like, no labels of INSTA's, in {len(unknown)} of "
            f"{count} frames looked at ({_some([e[0] for e in unknown])}): face regions will be wrong; pass "
            "regions=... to load_capture"
        )
    if apart:
        lines.append(
            f"warning: mesh and matte do not fit wherever the mesh is moved in {len(apart)} of {count} frames looked "
            f"at ({_some([e[0] for e in apart])}; {np.mean([e[1] for e in apart]):.3f} on average, {_FIT} or more is "
            "usual): check mesh_path, transform_matrix and file_path"
        )
    for what, remedy, names in (
        ("the matte is empty", "the alpha of file_path", empty),
        ("the matte covers all of the image", "the alpha of file_path: the background is taken for the head", full),
        *((f"{key} is 0 everywhere", f"the unit and bits of {key}", names) for key, names in nothing.items()),
    ):
        if names:
            lines.append(
                f"warning: {what} in {len(names)} of {count} frames looked at ({_some(names)}): check {remedy}"
            )
    return lines


def in_view(
    vertices: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[float, float]:
    """The part of some 500 vertices (V, 3) that lies in front of the camera and inside the image, and their extent.

    The extent is that of those vertices, in longer image sides.
    """
    pixels, z = _project(vertices[:: max(1, len(vertices) // 500)], world_to_camera, intrinsics)
    inside = _inside(pixels, z, size)
    if not inside.any():
        return 0.0, 0.0
    return float(inside.mean()), float(np.ptp(pixels[inside], axis=0).max() / max(size))


def _project(points: np.ndarray, world_to_camera: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    local = points.astype(np.float64) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    z = local[:, 2]
    return (local @ k.T)[:, :2] / np.where(z > 1e-6, z, 1.0)[:, None], z


def _inside(pixels: np.ndarray, z: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return (z > 1e-6) & (pixels >= 0).all(axis=1) & (pixels < size[::-1]).all(axis=1)


def _surface(look: Look, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 2) and depth (P,) of vertices, edge midpoints and centres that land inside the image."""
    corners = look.vertices[faces]
    middle = (corners + np.roll(corners, 1, axis=1)) / 2
    points = np.concatenate([look.vertices[np.unique(faces)], middle.reshape(-1, 3), corners.mean(axis=1)])
    pixels, z = _project(points, look.world_to_camera, look.intrinsics)
    inside = _inside(pixels, z, look.alpha.shape)
    return pixels[inside], z[inside]


def _mesh_offset(look: Look, pixels: np.ndarray) -> Offset:
    """How far the mesh is from where the face lies within it and it within the matte."""
    cell = -(-max(look.alpha.shape) // _CELLS)
    allowed, face = look.alpha, None
    if look.label is not None:
        allowed = allowed | np.isin(look.label, _CLOTH)
        face = _cells(np.isin(look.label, _FACE) & look.alpha, cell)
    drawn = np.zeros(tuple(-(-side // cell) for side in look.alpha.shape), bool)
    drawn[pixels[:, 1].astype(int) // cell, pixels[:, 0].astype(int) // cell] = True
    drawn = ndimage.binary_closing(np.pad(drawn, 1, mode="edge"))[1:-1, 1:-1]
    within = _overlaps(drawn, _cells(allowed, cell, 0.0)) / np.maximum(_overlaps(drawn, np.ones_like(drawn)), 1)
    if face is not None and face.any():
        within *= _overlaps(drawn, face) / face.sum()
    return _best(within, cell, max(look.alpha.shape))


def _silhouette_offset(moving: np.ndarray, still: np.ndarray) -> Offset | None:
    cell = -(-max(moving.shape) // _CELLS)
    one, other = _cells(moving, cell), _cells(still, cell)
    if not one.any() or not other.any():
        return None
    both = _overlaps(one, other)
    union = _overlaps(one, np.ones_like(one)) + other.sum() - both
    return _best(both / np.maximum(union, 1), cell, max(moving.shape))


def _depth_agreement(depth: np.ndarray, pixels: np.ndarray, z: np.ndarray) -> tuple[float, float]:
    """The part of a depth map's cells that some point of the mesh explains, and by how much it is off, metres."""
    cell = -(-max(depth.shape) // (_CELLS // 2))
    column, row = pixels.astype(int).T
    place = (row // cell, column // cell)
    shape = tuple(-(-side // cell) for side in depth.shape)
    nearest, front, measured = np.full((3, *shape), np.inf)
    here = depth[row, column]
    np.minimum.at(nearest, place, np.where(here > 0, np.abs(here - z), np.inf))
    np.minimum.at(front, place, z)
    rows, columns = np.nonzero(depth > 0)
    np.minimum.at(measured, (rows // cell, columns // cell), depth[rows, columns])
    wanted = _cells(depth > 0, cell)
    both = wanted & np.isfinite(front)
    off = float(np.median(measured[both] - front[both])) if both.any() else 0.0
    return float((nearest[wanted] < _DEPTH).mean()) if wanted.any() else 1.0, off


def _overlaps(moving: np.ndarray, still: np.ndarray) -> np.ndarray:
    """How many cells of `moving`, shifted by (i, j) cells, meet `still`; at [i, j], negative shifts at the end."""
    shape = [side + int(_REACH * max(moving.shape)) + 1 for side in moving.shape]
    spectrum = np.fft.rfft2(still, shape) * np.conj(np.fft.rfft2(moving, shape))
    counts: np.ndarray = np.fft.irfft2(spectrum, shape).round()
    return counts


def _best(scores: np.ndarray, cell: int, side: int) -> Offset:
    """The shortest shift that scores as well as any; none where none is needed."""
    down = np.fft.fftfreq(scores.shape[0], 1 / scores.shape[0])[:, None]
    right = np.fft.fftfreq(scores.shape[1], 1 / scores.shape[1])[None]
    distance = np.hypot(down, right) * cell
    scores = np.where(distance <= _REACH * side, scores, -1.0)
    near = np.where(scores >= scores.max() - _PLATEAU, distance, np.inf)
    i, j = np.unravel_index(near.argmin(), near.shape)
    if distance[i, j] < max(_LEAST * side, 1.5) or scores[i, j] - scores[0, 0] < _GAIN:
        return Offset(0.0, 0.0, float(scores[0, 0]), float(scores[0, 0]))
    return Offset(float(right[0, j] * cell), float(down[i, 0] * cell), float(scores[0, 0]), float(scores[i, j]))


def _cells(mask: np.ndarray, cell: int, least: float = 0.5) -> np.ndarray:
    """Cells of which at least this part is set (more than none)."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell), (0, -width % cell))).astype(np.float32)
    part = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell).mean(axis=(1, 3))
    return (part > 0) & (part >= least)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
