"""Which camera convention a capture is written in, decided by projecting its meshes.

Exporters of one layout have written camera-to-world matrices with OpenCV and with OpenGL axes, and world-to-camera
matrices under the same key. Guessing wrong gives no error, only an avatar that never converges; so the tracked mesh of
several frames is projected under each reading and compared with the matte and the depth map. Our own choice of scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from headfields.data.errors import CaptureError

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
# Each gives camera-to-world with OpenCV axes, the form the format is defined in: its numbers then pass unchanged.
CONVENTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "camera-to-world, OpenCV axes": lambda m: m,
    "camera-to-world, OpenGL axes": lambda m: m @ _FLIP,
    "world-to-camera, OpenCV axes": lambda m: np.linalg.inv(m),
    "world-to-camera, OpenGL axes": lambda m: np.linalg.inv(_FLIP @ m),
}
GRID = 48  # cells along the longer image side on which silhouettes are compared
MARGIN = 0.02  # by how much the best reading's score must beat every reading that projects elsewhere
ACCEPT = 0.2  # and the least score to believe any of them
_SAME = 0.005  # readings whose projections differ by less than this part of the image are one reading


@dataclass(frozen=True)
class Evidence:
    """One frame to judge by: posed vertices (V, 3), matrix (4, 4), intrinsics (3, 3), and what there is of the images.

    `silhouette` (H, W) bool where the head is, or None without a matte; `depth` (H, W) meters, 0 for none, or None.
    """

    vertices: np.ndarray
    matrix: np.ndarray
    intrinsics: np.ndarray
    silhouette: np.ndarray | None
    depth: np.ndarray | None


@dataclass(frozen=True)
class Decision:
    """The chosen reading: its name, its function from a (4, 4) to camera-to-world, the scores of all, what was used."""

    name: str
    camera_to_world: Callable[[np.ndarray], np.ndarray]
    scores: dict[str, float]
    used: str


def decide_convention(
    evidence: Sequence[Evidence], faces: np.ndarray, size: tuple[int, int], prefer: str = "camera-to-world, OpenCV axes"
) -> Decision:
    """The camera convention under which the meshes land on the head.

    The score of a reading is the mean over frames of (part of the mesh in front of the camera and inside the image) ×
    (intersection over union of its silhouette with the matte) × (part of the depth map that the mesh explains, within
    1 cm); a factor without data is left out. Readings that project every vertex to the same place (within 0.5 % of the
    image) are one reading, and `prefer` names it where it can.

    Raises:
        CaptureError: no reading scores `ACCEPT`, or the best is not ahead of the next by `MARGIN`.
    """
    samples = _surface_points(faces)
    scores: dict[str, float] = {}
    places: dict[str, np.ndarray] = {}
    for name, convert in CONVENTIONS.items():
        results = [_score(frame, np.linalg.inv(convert(frame.matrix)), samples, size) for frame in evidence]
        scores[name] = float(np.mean([result[0] for result in results]))
        places[name] = np.stack([result[1] for result in results])
    parts = ["mesh in front of the camera and inside the image"]
    if any(frame.silhouette is not None for frame in evidence):
        parts.append("silhouette against matte")
    if any(frame.depth is not None for frame in evidence):
        parts.append("depth against depth map")
    used = f"{', '.join(parts)}, {len(evidence)} frames"
    listing = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    best = max(scores, key=lambda name: scores[name])
    tolerance = _SAME * max(size)
    same = [name for name in scores if np.abs(places[name] - places[best]).max() < tolerance]
    if prefer in same:
        best = prefer
    if scores[best] < ACCEPT:
        without = [replace(frame, depth=None) for frame in evidence]
        if any(frame.depth is not None for frame in evidence) and _fits(without, faces, size):
            raise CaptureError(
                "depth_path: the depth maps agree with the meshes under no camera convention, mattes do "
                f"(scores: {listing}; {used}). Check integer_depth_scale (meters per unit), or remove depth_path"
            )
        raise CaptureError(
            f"transform_matrix: no camera convention puts the meshes on the head (scores: {listing}; {used}). "
            "Cameras (also fl_x, fl_y, cx, cy), meshes and images do not belong together, or the meshes are not in "
            "meters in the cameras' frame: export them together"
        )
    rival = max((name for name in scores if name not in same), key=lambda name: scores[name], default=None)
    if rival is not None and scores[best] - scores[rival] < MARGIN:
        raise CaptureError(
            f"transform_matrix: the camera convention is ambiguous between {best!r} and {rival!r} (scores: {listing}; "
            f"{used}). Add frames in which the head is turned, mattes or depth maps"
        )
    return Decision(best, CONVENTIONS[best], scores, used)


def _fits(evidence: Sequence[Evidence], faces: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether some convention is good enough."""
    samples = _surface_points(faces)
    means = [
        np.mean([_score(frame, np.linalg.inv(convert(frame.matrix)), samples, size)[0] for frame in evidence])
        for convert in CONVENTIONS.values()
    ]
    return bool(max(means) >= ACCEPT)


def _surface_points(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces and barycentric coordinates (P, 3), (P, 3) of corners' thirds, edge midpoints and centers of every face."""
    weights = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    )
    return np.repeat(faces, len(weights), axis=0), np.tile(weights, (len(faces), 1))


def _score(
    frame: Evidence, world_to_camera: np.ndarray, samples: tuple[np.ndarray, np.ndarray], size: tuple[int, int]
) -> tuple[float, np.ndarray]:
    """The score of one frame, and (P, 2) where a few of its points land (far outside for those behind the camera)."""
    corners, weights = samples
    points = np.einsum("pk,pkc->pc", weights, frame.vertices[corners].astype(np.float64))
    local = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    front = local[:, 2] > 1e-6
    z = np.where(front, local[:, 2], 1.0)
    image = (local @ frame.intrinsics.T)[:, :2] / z[:, None]
    height, width = size
    inside = front & (image >= 0).all(axis=1) & (image < (width, height)).all(axis=1)
    track = np.where(front[:, None], image, -10.0 * max(size))[:: max(1, len(image) // 500)]
    score = float(inside.mean())
    if not inside.any():
        return 0.0, track
    row, column = image[inside, 1].astype(int), image[inside, 0].astype(int)
    cell = -(-max(size) // GRID)
    if frame.silhouette is not None:
        drawn = np.zeros((-(-height // cell), -(-width // cell)), bool)
        drawn[row // cell, column // cell] = True
        wanted = _cells(frame.silhouette, cell)
        score *= (drawn & wanted).sum() / max((drawn | wanted).sum(), 1)
    if frame.depth is not None and (frame.depth > 0).any():
        explained = np.zeros((-(-height // cell), -(-width // cell)), bool)
        measured = frame.depth[row, column]
        near = (measured > 0) & (np.abs(measured - local[inside, 2]) < 0.01)
        explained[row[near] // cell, column[near] // cell] = True
        wanted = _cells(frame.depth > 0, cell)
        score *= (explained & wanted).sum() / max(wanted.sum(), 1)
    return score, track


def _cells(mask: np.ndarray, cell: int) -> np.ndarray:
    """Cells of which at least half is set."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell), (0, -width % cell))).astype(np.float32)
    blocks = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell)
    return blocks.mean(axis=(1, 3)) >= 0.5
