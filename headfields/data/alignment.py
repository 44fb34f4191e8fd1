"""Alignment checks: whether the mesh, matte, labels and depth map of a frame lie on one another.

A mesh that tracking lost by a few pixels raises no error; the avatar only becomes blurred. Hair stands off the mesh
and clothes are cut from the matte, so silhouettes differ even in a good capture. What must hold is that the face lies
within the mesh's silhouette, and the mesh within the matte or clothes. The offset of a frame is the shortest shift
under which both hold as well as they can. Scores and thresholds are our own choice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from headfields.data.camera_axes import Evidence
from headfields.data.labels import Label, labels_of
from headfields.data.projection import coarse_mask, inside_image, project

__all__ = [
    "AlignmentFrame",
    "convention_evidence",
    "misalignments",
    "out_of_view",
    "sample_frames",
]

_CELLS = 96  # cells along the longer image side
_REACH = 0.25  # largest shift tried, image sides
_PLATEAU = 0.005  # shifts that score this much below the best count as equal
_GAIN = 0.03  # a shift must score this much better than none
_LEAST_SHIFT = 0.015  # shifts below this part of the image side are not reported
_DEPTH_TOLERANCE = 0.01  # meters of tolerance between mesh and depth map
_LEAST_FIT = 0.6  # face within mesh times mesh within matte
_LEAST_EXPLAINED = 0.5  # part of a depth map that the mesh explains
_LEAST_IN_VIEW = 0.05  # part of a mesh inside the image, and extent of that part in image sides
_CLOTH = (Label.CLOTH, Label.NECKLACE)
_FACE = labels_of("face", "mouth", "eyes")


@dataclass(frozen=True)
class AlignmentFrame:
    """The projections and masks of one frame that are compared.

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


@dataclass(frozen=True)
class _Offset:
    """A shift in pixels (right, down), and the score in [0, 1] before and after it."""

    right: float
    down: float
    before: float
    after: float


_FINDINGS = {
    "mesh": "the mesh is shifted against the image {where}; a mean offset of {mean[0]:+.1f} pixels to the right and "
    "{mean[1]:+.1f} down would fit better ({mean[2]:.3f} to {mean[3]:.3f}): check mesh_path, transform_matrix, cx and "
    "cy against file_path",
    "apart": "mesh and matte do not fit wherever the mesh is moved {where}: {mean[0]:.3f} on average, "
    f"{_LEAST_FIT} or more is usual: check mesh_path, transform_matrix and file_path",
    "label": "segmentation labels are shifted against the matte {where}; a mean offset of {mean[0]:+.1f} pixels to the "
    "right and {mean[1]:+.1f} down would fit better ({mean[2]:.3f} to {mean[3]:.3f}): check seg_mask_path against "
    "file_path",
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


def misalignments(frames: Iterable[AlignmentFrame], faces: np.ndarray) -> list[str]:
    """A line, "warning: ...", for each kind of misalignment, averaged over the frames that have it.

    Args:
        frames: meshes, read one at a time.
        faces: (F, 3) of the tracked mesh.
    """
    findings: dict[str, list[tuple[str, tuple[float, ...]]]] = {kind: [] for kind in _FINDINGS}
    count = 0
    for frame in frames:
        count += 1
        for kind, values in _compare(frame, faces):
            findings[kind].append((frame.name, values))
    lines = []
    for kind, entries in findings.items():
        if entries:
            names = ", ".join(name for name, _ in entries[:3]) + (", ..." if len(entries) > 3 else "")
            where = f"in {len(entries)} of {count} frames looked at ({names})"
            mean, first = np.mean([values for _, values in entries], axis=0), entries[0][1]
            lines.append("warning: " + _FINDINGS[kind].format(where=where, mean=mean, first=first))
    return lines


def _compare(frame: AlignmentFrame, faces: np.ndarray) -> Iterator[tuple[str, tuple[float, ...]]]:
    """The misalignments of one frame: keys of `_FINDINGS` with their figures."""
    matte, label, depth = frame.alpha, frame.label, frame.depth
    if not matte.any():
        yield "empty", ()
    if matte.all():
        yield "full", ()
    informative = bool(matte.any() and not matte.all())
    pixels, z = _surface(frame, faces)
    if informative:
        fit = _mesh_offset(frame, pixels)
        if fit.right or fit.down:
            yield "mesh", (fit.right, fit.down, fit.before, fit.after)
        elif fit.before < _LEAST_FIT:
            yield "apart", (fit.before,)
    if label is not None and not label.any():
        yield "no label", ()
    elif label is not None:
        unknown = set(np.unique(label).tolist()) - set(Label)
        if unknown:
            yield "unknown", (min(unknown),)
        clothes = np.isin(label, _CLOTH)
        offset = _silhouette_offset((label != 0) & ~clothes, matte & ~clothes) if informative else None
        if offset is not None and (offset.right or offset.down):
            yield "label", (offset.right, offset.down, offset.before, offset.after)
    if depth is not None and not depth.any():
        yield "no depth", ()
    elif depth is not None:
        explained, meters = _depth_agreement(depth, pixels, z)
        if explained < _LEAST_EXPLAINED:
            yield "depth", (explained, 1000 * meters)


def out_of_view(
    vertices: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> str | None:
    """How little of a mesh its camera sees, as part of a message; None where the camera sees enough.

    Part and extent are computed from about 500 of the vertices (V, 3).
    """
    pixels, z = project(vertices[:: max(1, len(vertices) // 500)], world_to_camera, intrinsics)
    inside = inside_image(pixels, z, size)
    part = float(inside.mean())
    extent = float(np.ptp(pixels[inside], axis=0).max() / max(size)) if inside.any() else 0.0
    if part >= _LEAST_IN_VIEW and extent >= _LEAST_IN_VIEW:
        return None
    return f"{part:.0%} of the vertices are in front of the camera and inside the image, over {extent:.1%} of its side"


def _surface(frame: AlignmentFrame, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 2) and depth (P,) of the vertices, edge midpoints and centers of faces that lie inside the image."""
    corners = frame.vertices[faces]
    middle = (corners + np.roll(corners, 1, axis=1)) / 2
    points = np.concatenate([frame.vertices[np.unique(faces)], middle.reshape(-1, 3), corners.mean(axis=1)])
    pixels, z = project(points, frame.world_to_camera, frame.intrinsics)
    inside = inside_image(pixels, z, frame.alpha.shape)
    return pixels[inside], z[inside]


def _mesh_offset(frame: AlignmentFrame, pixels: np.ndarray) -> _Offset:
    """The shift of the mesh after which the face lies within it and it lies within the matte."""
    cell = -(-max(frame.alpha.shape) // _CELLS)
    allowed, face = frame.alpha, None
    if frame.label is not None:
        allowed = allowed | np.isin(frame.label, _CLOTH)
        face = coarse_mask(np.isin(frame.label, _FACE) & frame.alpha, cell)
    mesh = np.zeros(tuple(-(-side // cell) for side in frame.alpha.shape), bool)
    mesh[pixels[:, 1].astype(int) // cell, pixels[:, 0].astype(int) // cell] = True
    mesh = scipy.ndimage.binary_closing(np.pad(mesh, 1, mode="edge"))[1:-1, 1:-1]
    within = _overlaps(mesh, coarse_mask(allowed, cell, 0.0)) / np.maximum(_overlaps(mesh, np.ones_like(mesh)), 1)
    if face is not None and face.any():
        within *= _overlaps(mesh, face) / face.sum()
    return _shortest_shift(within, cell, max(frame.alpha.shape))


def _silhouette_offset(moving: np.ndarray, still: np.ndarray) -> _Offset | None:
    cell = -(-max(moving.shape) // _CELLS)
    one, other = coarse_mask(moving, cell), coarse_mask(still, cell)
    if not one.any() or not other.any():
        return None
    both = _overlaps(one, other)
    union = _overlaps(one, np.ones_like(one)) + other.sum() - both
    return _shortest_shift(both / np.maximum(union, 1), cell, max(moving.shape))


def _depth_agreement(depth: np.ndarray, pixels: np.ndarray, z: np.ndarray) -> tuple[float, float]:
    """The part of a depth map's cells that a point of the mesh explains, and the median difference in meters."""
    cell = -(-max(depth.shape) // (_CELLS // 2))
    column, row = pixels.astype(int).T
    place = (row // cell, column // cell)
    shape = tuple(-(-side // cell) for side in depth.shape)
    nearest, front, measured = np.full((3, *shape), np.inf)
    sampled = depth[row, column]
    np.minimum.at(nearest, place, np.where(sampled > 0, np.abs(sampled - z), np.inf))
    np.minimum.at(front, place, z)
    rows, columns = np.nonzero(depth > 0)
    np.minimum.at(measured, (rows // cell, columns // cell), depth[rows, columns])
    mapped = coarse_mask(depth > 0, cell)
    both = mapped & np.isfinite(front)
    difference = float(np.median(measured[both] - front[both])) if both.any() else 0.0
    return float((nearest[mapped] < _DEPTH_TOLERANCE).mean()) if mapped.any() else 1.0, difference


def _overlaps(moving: np.ndarray, still: np.ndarray) -> np.ndarray:
    """Number of cells of `moving`, shifted by (i, j) cells, that overlap `still`: at [i, j], negative shifts last."""
    shape = [side + int(_REACH * max(moving.shape)) + 1 for side in moving.shape]
    spectrum = np.fft.rfft2(still, shape) * np.conj(np.fft.rfft2(moving, shape))
    counts: np.ndarray = np.fft.irfft2(spectrum, shape).round()
    return counts


def _shortest_shift(scores: np.ndarray, cell: int, side: int) -> _Offset:
    """The shortest shift that scores about as well as the best; no shift if it would gain too little."""
    down = np.fft.fftfreq(scores.shape[0], 1 / scores.shape[0])[:, None]
    right = np.fft.fftfreq(scores.shape[1], 1 / scores.shape[1])[None]
    distance = np.hypot(down, right) * cell
    scores = np.where(distance <= _REACH * side, scores, -1.0)
    candidates = np.where(scores >= scores.max() - _PLATEAU, distance, np.inf)
    i, j = np.unravel_index(candidates.argmin(), candidates.shape)
    if distance[i, j] < max(_LEAST_SHIFT * side, 1.5) or scores[i, j] - scores[0, 0] < _GAIN:
        return _Offset(0.0, 0.0, float(scores[0, 0]), float(scores[0, 0]))
    return _Offset(float(right[0, j] * cell), float(down[i, 0] * cell), float(scores[0, 0]), float(scores[i, j]))


def sample_frames(matrices: np.ndarray) -> list[int]:
    """Eight frames evenly over the sequence and the eight turned farthest, where conventions differ most."""
    count = len(matrices)
    even = np.linspace(0, count - 1, min(8, count)).round().astype(int)
    turned = np.linalg.norm(matrices[:, :3, :3] - matrices[:, :3, :3].mean(axis=0), axis=(1, 2))
    return sorted({*even.tolist(), *np.argsort(-turned, kind="stable")[:8].tolist()})


def convention_evidence(frame: AlignmentFrame, matrix: np.ndarray) -> Evidence:
    """A frame as evidence of the camera convention of `matrix` (4, 4); a matte without any outline is left out."""
    silhouette = frame.alpha if frame.label is None else frame.alpha & (frame.label != Label.CLOTH)
    informative = silhouette.any() and not silhouette.all()
    return Evidence(frame.vertices, matrix, frame.intrinsics, silhouette if informative else None, frame.depth)
