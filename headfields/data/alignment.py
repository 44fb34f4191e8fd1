"""Whether meshes, mattes, labels and depth maps of a frame lie on one another; the scores are our own choice.

A mesh that tracking lost by a few pixels trains without an error, to a blurred avatar. Hair stands off a mesh and
clothes are cut from a matte, so silhouettes differ where nothing is wrong; what must hold is that the face lies within
the mesh's silhouette and the mesh within the matte (or clothes). The offset is the shortest shift under which both hold
as well as they can.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from headfields.data.labels import Label, labels_of

_CELLS = 96  # along the longer image side
_REACH = 0.25  # how far an offset is looked for, image sides
_PLATEAU = 0.005  # shifts that fit this much worse than the best are as good
_GAIN = 0.03  # by how much a shift must fit better to be believed
_LEAST = 0.015  # shifts of less than this part of the image are no finding
_DEPTH = 0.01  # meters: depth that the mesh explains
_FIT = 0.6  # face within mesh times mesh within matte: the least
_EXPLAINED = 0.5  # the least part of a depth map that it should
_CLOTH = (Label.CLOTH, Label.NECKLACE)
_FACE = labels_of("face", "mouth", "eyes")


@dataclass(frozen=True)
class Offset:
    """A shift in pixels (right, down) and how well things fit before and after it, in [0, 1]."""

    right: float
    down: float
    before: float
    after: float


@dataclass(frozen=True)
class AlignmentFrame:
    """One frame as far as it is compared.

    `vertices` (V, 3) meters, `world_to_camera` (4, 4), `intrinsics` (3, 3), `alpha` (H, W) bool, `label` (H, W) uint8
    or None, `depth` (H, W) meters with 0 for none, or None.
    """

    name: str
    vertices: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    alpha: np.ndarray
    label: np.ndarray | None
    depth: np.ndarray | None


_FINDINGS = {
    "mesh": "the mesh lies beside the image {where}; a mean offset of {mean[0]:+.1f} pixels to the right and "
    "{mean[1]:+.1f} down would fit better ({mean[2]:.3f} to {mean[3]:.3f}): check mesh_path, transform_matrix, cx and "
    "cy against file_path",
    "apart": "mesh and matte do not fit wherever the mesh is moved {where}: {mean[0]:.3f} on average, "
    f"{_FIT} or more is usual: check mesh_path, transform_matrix and file_path",
    "label": "segmentation labels lie beside the matte {where}; a mean offset of {mean[0]:+.1f} pixels to the right "
    "and {mean[1]:+.1f} down would fit better ({mean[2]:.3f} to {mean[3]:.3f}): check seg_mask_path against file_path",
    "unknown": "seg_mask_path holds {first[0]} and the like, no labels of INSTA's, {where}: face regions will be "
    "wrong; pass regions=... to load_capture",
    "depth": "the mesh explains {mean[0]:.0%} of the depth within 1 cm {where}; depth is off by {mean[1]:+.0f} mm: "
    "check depth_path and integer_depth_scale",
    "empty": "the matte is empty {where}: check the alpha of file_path",
    "full": "the matte covers all of the image {where}, so the background is taken for the head: check the alpha of "
    "file_path",
    "no label": "seg_mask_path is 0 everywhere {where}: check its values",
    "no depth": "depth_path is 0 everywhere {where}: check its unit and bits",
}


def misalignments(looks: Iterable[AlignmentFrame], faces: np.ndarray) -> list[str]:
    """A line, "warning: ...", for every way in which the frames do not fit, with the mean over those that do not.

    Args:
        looks: the frames, taken one at a time.
        faces: (F, 3) of the tracked mesh.
    """
    found: dict[str, list[tuple[str, tuple[float, ...]]]] = {kind: [] for kind in _FINDINGS}
    count = 0
    for look in looks:
        count += 1
        for kind, values in _compare(look, faces):
            found[kind].append((look.name, values))
    lines = []
    for kind, entries in found.items():
        if entries:
            names = ", ".join(name for name, _ in entries[:3]) + (", ..." if len(entries) > 3 else "")
            where = f"in {len(entries)} of {count} frames looked at ({names})"
            mean, first = np.mean([values for _, values in entries], axis=0), entries[0][1]
            lines.append("warning: " + _FINDINGS[kind].format(where=where, mean=mean, first=first))
    return lines


def _compare(look: AlignmentFrame, faces: np.ndarray) -> Iterator[tuple[str, tuple[float, ...]]]:
    """What does not fit in one frame: keys of `_FINDINGS` with their figures."""
    matte, label, depth = look.alpha, look.label, look.depth
    if not matte.any():
        yield "empty", ()
    if matte.all():
        yield "full", ()
    told = bool(matte.any() and not matte.all())  # whether the matte says where the head is
    pixels, z = _surface(look, faces)
    if told:
        fit = _mesh_offset(look, pixels)
        if fit.right or fit.down:
            yield "mesh", (fit.right, fit.down, fit.before, fit.after)
        elif fit.before < _FIT:
            yield "apart", (fit.before,)
    if label is not None and not label.any():
        yield "no label", ()
    elif label is not None:
        strange = set(np.unique(label).tolist()) - set(Label)
        if strange:
            yield "unknown", (min(strange),)
        clothes = np.isin(label, _CLOTH)
        off = _silhouette_offset((label != 0) & ~clothes, matte & ~clothes) if told else None
        if off is not None and (off.right or off.down):
            yield "label", (off.right, off.down, off.before, off.after)
    if depth is not None and not depth.any():
        yield "no depth", ()
    elif depth is not None:
        explained, meters = _depth_agreement(depth, pixels, z)
        if explained < _EXPLAINED:
            yield "depth", (explained, 1000 * meters)


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


def _surface(look: AlignmentFrame, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 2) and depth (P,) of vertices, edge midpoints and centers that land inside the image."""
    corners = look.vertices[faces]
    middle = (corners + np.roll(corners, 1, axis=1)) / 2
    points = np.concatenate([look.vertices[np.unique(faces)], middle.reshape(-1, 3), corners.mean(axis=1)])
    pixels, z = _project(points, look.world_to_camera, look.intrinsics)
    inside = _inside(pixels, z, look.alpha.shape)
    return pixels[inside], z[inside]


def _mesh_offset(look: AlignmentFrame, pixels: np.ndarray) -> Offset:
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
    """The part of a depth map's cells that some point of the mesh explains, and by how much it is off, meters."""
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
