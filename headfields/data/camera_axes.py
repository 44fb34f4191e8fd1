"""Camera conventions: which axes and direction a capture's matrices use, decided by projecting its meshes.

Exporters of one layout have written camera-to-world matrices with OpenCV and with OpenGL axes, and world-to-camera
matrices under the same key. A wrong guess raises no error; the avatar only never converges. So the tracked mesh of
several frames is projected under each convention and compared with the matte and the depth map. Scores and thresholds
are our own choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from headfields.data.errors import CaptureError
from headfields.data.projection import coarse_mask, inside_image, project
from headfields.records.opengl_axes import flip_y_z

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Decision",
    "Evidence",
    "check_convention",
    "convention_word",
    "decide_convention",
    "focal_factor_line",
    "named_convention",
]

Convention = Literal["auto", "opencv", "opengl", "opencv-world-to-camera", "opengl-world-to-camera"]
"""What a user calls a convention: axes of the camera (OpenCV: x right, y down, z forward; OpenGL: x right, y up, z
backward) and, unless the matrices are camera-to-world, their direction. "auto" compares all four with the images."""

_Convert = Callable[[np.ndarray], np.ndarray]

CONVENTIONS: dict[str, _Convert] = {
    "camera-to-world, OpenCV axes": lambda m: m,
    "camera-to-world, OpenGL axes": lambda m: flip_y_z(m),
    "world-to-camera, OpenCV axes": lambda m: np.linalg.inv(m),
    "world-to-camera, OpenGL axes": lambda m: np.linalg.inv(flip_y_z(m, -2)),
}
"""Name → function from a (4, 4) on disk to camera-to-world with OpenCV axes. The first is the format's own definition,
and leaves every bit as it is."""
_NAMES = dict(zip(get_args(Convention)[1:], CONVENTIONS, strict=True))

_CELLS = 48  # cells along the longer image side, for silhouettes
_MARGIN = 0.02  # least lead of the best score over every convention that projects elsewhere
_LEAST_SCORE = 0.2
_CLEAR = 0.1  # lead by which another convention contradicts the one that is stated
_SAME = 0.005  # conventions whose projections differ by less than this part of the image are one
_DEPTH_TOLERANCE = 0.01  # meters of tolerance between mesh and depth map
_FACTORS = np.geomspace(0.2, 5.0, 41)  # of the focal length, about 8 % apart
_WRONG_FOCAL = 1.25  # factor from which a focal length is said to be wrong
_FITTED = 0.55  # least score with the right focal length; mattes have hair that meshes lack
_FITTED_WIDER = 0.75  # the same where the meshes would have to grow, as if they had that hair
_GAIN = 0.2  # least lead of that score over the one with the focal length as it is
_JUDGES, _POINTS = 8, 8_000  # frames, and points of the mesh, by which focal lengths are compared


@dataclass(frozen=True)
class Evidence:
    """One frame to judge by: posed vertices (V, 3), matrix (4, 4) as on disk, intrinsics (3, 3), and its images.

    `silhouette` (H, W) bool where the head is, or None without a matte; `depth` (H, W) meters, 0 for none, or None.
    """

    vertices: np.ndarray
    matrix: np.ndarray
    intrinsics: np.ndarray
    silhouette: np.ndarray | None
    depth: np.ndarray | None


@dataclass(frozen=True)
class Decision:
    """The chosen convention: name, function from a (4, 4) to camera-to-world, all scores, and the compared data."""

    name: str
    camera_to_world: Callable[[np.ndarray], np.ndarray]
    scores: dict[str, float]
    used: str


def decide_convention(
    evidence: Sequence[Evidence],
    faces: np.ndarray,
    size: tuple[int, int],
    prefer: str = "camera-to-world, OpenCV axes",
    stated: bool = False,
    convention: Convention = "auto",
) -> Decision:
    """The camera convention under which the meshes project onto the head.

    The score of a convention is the mean over frames of (part of the mesh in front of the camera and inside the image)
    × (intersection over union of its silhouette with the matte) × (part of the depth map that the mesh explains within
    1 cm). A factor without data is left out. Conventions that project every vertex to the same place (within 0.5 % of
    the image) count as one; `prefer` is taken if it is among them.

    Args:
        evidence: the frames.
        faces: (F, 3) of the meshes.
        size: (height, width) of the images.
        prefer: the layout's own convention.
        stated: whether one program alone writes the layout, so that evidence for another convention has to be clear:
            `prefer` is then taken unless it scores below 0.2 or another scores 0.1 more.
        convention: the convention that the user knows; it is taken unless the images contradict it.

    Raises:
        CaptureError: the best score is below 0.2, or not 0.02 ahead of the next (without `stated`); the images
            contradict `convention`; or another focal length explains the images and the one given does not.
    """
    points = _surface_points(evidence, faces)
    scores: dict[str, float] = {}
    places: dict[str, np.ndarray] = {}
    for name, convert in CONVENTIONS.items():
        results = _scores(evidence, convert, points, size)
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
    if convention != "auto":
        prefer = named_convention(convention)
        if scores[best] - scores[prefer] > _CLEAR and best not in _alike(places, prefer, tolerance):
            wrong = focal_factor_line(evidence, faces, size, (prefer,))
            raise CaptureError(
                f"transform_matrix: convention is {convention!r} ({prefer}), under which the meshes score "
                f"{scores[prefer]:.3f} on the images; {scores[best]:.3f} as {best} (scores: {listing}; {used}). "
                + (wrong or f"Pass {convention_word(best)!r}, or leave convention out")
            )
        stated = True
    certain = stated and scores[prefer] >= _LEAST_SCORE and scores[best] - scores[prefer] < _CLEAR
    if prefer in same or certain:
        best = prefer
    rival = max((name for name in scores if name not in same), key=lambda name: scores[name], default=None)
    ambiguous = not certain and rival is not None and scores[best] - scores[rival] < _MARGIN
    lost = ambiguous or scores[best] < _LEAST_SCORE
    if lost or scores[best] < _FITTED:
        names = tuple(CONVENTIONS) if lost and not stated else (best,)
        line = focal_factor_line(evidence, faces, size, names, doubted=lost)
        if lost and line is None:  # coarse factors may leave a depth map unexplained
            line = focal_factor_line([replace(frame, depth=None) for frame in evidence], faces, size, names)
        if line is not None:
            raise CaptureError(f"{line} (scores as it is: {listing}; {used})")
    if scores[best] < _LEAST_SCORE:
        without_depth = [replace(frame, depth=None) for frame in evidence]
        if any(frame.depth is not None for frame in evidence) and _fits(without_depth, faces, size):
            raise CaptureError(
                "depth_path: the depth maps agree with the meshes under no camera convention, mattes do "
                f"(scores: {listing}; {used}). Check integer_depth_scale (meters per unit), or remove depth_path"
            )
        raise CaptureError(
            f"transform_matrix: no camera convention puts the meshes on the head (scores: {listing}; {used}). "
            "Cameras (also fl_x, fl_y, cx, cy), meshes and images do not belong together, or the meshes are not in "
            "meters in the cameras' frame: export them together"
        )
    if ambiguous:
        raise CaptureError(
            f"transform_matrix: the camera convention is ambiguous between {best!r} and {rival!r} (scores: {listing}; "
            f"{used}). Say which it is ({convention_word(best)!r} or {convention_word(str(rival))!r} as convention), "
            "or add frames in which the head is turned, mattes or depth maps"
        )
    return Decision(best, CONVENTIONS[best], scores, used)


def named_convention(convention: str) -> str:
    """The key of `CONVENTIONS` of a user's word.

    Raises:
        ValueError: there is no such word.
    """
    if convention not in _NAMES:
        raise ValueError(f"convention is {convention!r}; expected one of {', '.join(get_args(Convention))}")
    return _NAMES[convention]


def convention_word(name: str) -> str:
    """The user's word for a key of `CONVENTIONS`."""
    return next(word for word, each in _NAMES.items() if each == name)


def _alike(places: dict[str, np.ndarray], name: str, tolerance: float) -> list[str]:
    """The conventions that project every vertex to the same place as one of them."""
    return [other for other in places if np.abs(places[other] - places[name]).max() < tolerance]


def focal_factor_line(
    evidence: Sequence[Evidence],
    faces: np.ndarray,
    size: tuple[int, int],
    conventions: Sequence[str],
    doubted: bool = True,
) -> str | None:
    """What is wrong with a focal length, where another one puts the meshes onto the images and the one given does not.

    All frames share one factor. A mesh that is smaller than its matte is no evidence by itself: hair and shoulders may
    be around it, so that the score with a longer focal length has to be a very good one unless the cameras are doubted
    anyway, or depth maps have a say.

    Args:
        evidence: the frames; those without a silhouette do not count.
        faces: (F, 3) of the meshes.
        size: (height, width) of the images.
        conventions: keys of `CONVENTIONS` that come into question.
        doubted: whether the cameras are refused in any case, and only the reason is asked for.

    Returns:
        A sentence for an error, or None.
    """
    judges = [frame for frame in evidence if frame.silhouette is not None]
    judges = judges[:: max(-(-len(judges) // _JUDGES), 1)]
    if not judges:
        return None
    points = _surface_points(judges, faces, _POINTS)

    def score(name: str, factor: float) -> float:
        seen = [replace(frame, intrinsics=_zoomed(frame.intrinsics, factor)) for frame in judges]
        return _mean_score(seen, CONVENTIONS[name], points, size)

    now = max(score(name, 1.0) for name in conventions)
    best, factor, name = max((score(name, factor), factor, name) for name in conventions for factor in _FACTORS)
    sure = factor < 1 or doubted or any(frame.depth is not None for frame in judges)
    least = _FITTED if sure else _FITTED_WIDER
    if best < least or best - now < _GAIN or 1 / _WRONG_FOCAL < factor < _WRONG_FOCAL:
        return None
    wide, amount = ("wide", 1 / factor) if factor < 1 else ("narrow", factor)
    focal = float(np.mean([frame.intrinsics[0, 0] for frame in judges]))
    return (
        f"fl_x, fl_y: the focal length is wrong: the projected meshes are {amount:.1f} times too {wide}. With "
        f"{focal * factor:.0f} in place of {focal:.0f} pixels they cover the heads (score {best:.3f}, {name}). Are the "
        "intrinsics those of images of another size, or of uncropped ones?"
    )


_REMEDIES = {
    "camera-to-world, OpenGL axes": "have OpenGL axes: pass torch.diag(torch.tensor([1.0, -1, -1, 1])) @ matrix",
    "world-to-camera, OpenCV axes": "are camera-to-world: pass torch.linalg.inv(matrix)",
    "world-to-camera, OpenGL axes": "are camera-to-world with OpenGL axes: pass "
    "torch.linalg.inv(matrix @ torch.diag(torch.tensor([1.0, -1, -1, 1])))",
}
"""What world-to-camera matrices look like if the inverses of them are of a convention."""


def check_convention(evidence: Sequence[Evidence], faces: np.ndarray, size: tuple[int, int]) -> str:
    """Checks cameras that are said to be world-to-camera with OpenCV axes; their inverses are in the evidence.

    Unlike in `decide_convention`, conventions that fit alike are no reason to refuse: the caller has named one.

    Returns:
        A line for the report, with the scores.

    Raises:
        CaptureError: another convention fits better, with its remedy; another focal length explains the images and the
            one given does not; or nothing fits.
    """
    points = _surface_points(evidence, faces)
    scores = {name: _mean_score(evidence, convert, points, size) for name, convert in CONVENTIONS.items()}
    stated = next(iter(CONVENTIONS))
    best = max(scores, key=lambda name: scores[name])
    if scores[best] - scores[stated] > _CLEAR and scores[best] >= _LEAST_SCORE:
        raise CaptureError(
            f"cameras.world_to_camera puts the meshes on the heads with a score of {scores[stated]:.3f}, and with "
            f"{scores[best]:.3f} if the matrices {_REMEDIES[best]}"
        )
    if scores[stated] < _FITTED:
        line = focal_factor_line(evidence, faces, size, (stated,), doubted=scores[stated] < _LEAST_SCORE)
        if line is not None:
            raise CaptureError(f"cameras.intrinsics: {line.removeprefix('fl_x, fl_y: ')}")
    if scores[stated] < _LEAST_SCORE:
        raise CaptureError(
            f"cameras put the meshes on the heads under no convention (score {scores[best]:.3f}); cameras, meshes and "
            "images do not belong together, or are not in meters in one frame"
        )
    return f"camera convention: world-to-camera, OpenCV axes, as given (score {scores[stated]:.3f}, others at most " + (
        f"{max(score for name, score in scores.items() if name != stated):.3f})"
    )


def _fits(evidence: Sequence[Evidence], faces: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether any convention reaches the least score."""
    points = _surface_points(evidence, faces)
    return max(_mean_score(evidence, convert, points, size) for convert in CONVENTIONS.values()) >= _LEAST_SCORE


def _surface_points(evidence: Sequence[Evidence], faces: np.ndarray, most: int | None = None) -> list[np.ndarray]:
    """Of each frame every face's corners, edge midpoints and center (P, 3), or some of them, about `most`."""
    weights = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    )
    corners, tiled = np.repeat(faces, len(weights), axis=0), np.tile(weights, (len(faces), 1))
    step = 1 if most is None else -(-len(corners) // most)
    corners, tiled = corners[::step], tiled[::step]
    return [np.einsum("pk,pkc->pc", tiled, frame.vertices[corners].astype(np.float64)) for frame in evidence]


def _zoomed(intrinsics: np.ndarray, factor: float) -> np.ndarray:
    lens = intrinsics.copy()
    lens[:2, :2] *= factor
    return lens


def _mean_score(
    evidence: Sequence[Evidence], convert: _Convert, points: Sequence[np.ndarray], size: tuple[int, int]
) -> float:
    return float(np.mean([score for score, _ in _scores(evidence, convert, points, size)]))


def _scores(
    evidence: Sequence[Evidence], convert: _Convert, points: Sequence[np.ndarray], size: tuple[int, int]
) -> list[tuple[float, np.ndarray]]:
    """The score of each frame under a convention, and where it puts some of its points."""
    pairs = zip(evidence, points, strict=True)
    return [_score(frame, np.linalg.inv(convert(frame.matrix)), at, size) for frame, at in pairs]


def _score(
    frame: Evidence, world_to_camera: np.ndarray, points: np.ndarray, size: tuple[int, int]
) -> tuple[float, np.ndarray]:
    """The score of one frame by points (P, 3), and pixels of some of them (far outside if behind the camera)."""
    pixels, z = project(points, world_to_camera, frame.intrinsics)
    inside = inside_image(pixels, z, size)
    places = np.where((z > 1e-6)[:, None], pixels, -10.0 * max(size))[:: max(1, len(pixels) // 500)]
    score = float(inside.mean())
    if not inside.any():
        return 0.0, places
    height, width = size
    row, column = pixels[inside, 1].astype(int), pixels[inside, 0].astype(int)
    cell = -(-max(size) // _CELLS)
    if frame.silhouette is not None:
        mesh = np.zeros((-(-height // cell), -(-width // cell)), bool)
        mesh[row // cell, column // cell] = True
        matte = coarse_mask(frame.silhouette, cell)
        score *= (mesh & matte).sum() / max((mesh | matte).sum(), 1)
    if frame.depth is not None and (frame.depth > 0).any():
        explained = np.zeros((-(-height // cell), -(-width // cell)), bool)
        measured = frame.depth[row, column]
        near = (measured > 0) & (np.abs(measured - z[inside]) < _DEPTH_TOLERANCE)
        explained[row[near] // cell, column[near] // cell] = True
        mapped = coarse_mask(frame.depth > 0, cell)
        score *= (explained & mapped).sum() / max(mapped.sum(), 1)
    return score, places
