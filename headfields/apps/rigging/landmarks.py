"""Facial landmarks of a scan, read from JSON or detected on the shape of a face that looks toward +z.

The paper (3VP Avatar) does not say how it finds landmarks. The detector and its constants are our own choice, from
figures of adult anthropometry.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import binary_opening, gaussian_filter1d, grey_closing, median_filter
from scipy.signal import find_peaks
from torch import Tensor

from headfields.files.reading import read_json, reading
from headfields.ops.triangle_bvh import TriangleBVH

__all__ = ["LANDMARK_NAMES", "ScanLandmarks", "find_scan_landmarks", "read_scan_landmarks"]

LANDMARK_NAMES: Mapping[str, int] = {
    "chin": 8, "nasion": 27, "nose_tip": 30, "subnasale": 33, "right_eye_outer": 36, "right_eye_inner": 39,
    "left_eye_inner": 42, "left_eye_outer": 45, "right_mouth_corner": 60, "upper_lip": 51, "left_mouth_corner": 64,
    "lower_lip": 57, "upper_stomion": 62, "lower_stomion": 66,
}  # fmt: skip
"""Landmark names that a file may use in place of iBUG-68 indices. Right and left are the head's own. The mouth corners
are those of the inner lips (60 and 64)."""
_HEIGHTS = {  # search interval below (positive) or above the nose tip, over the distance from nose tip to crown
    "subnasale": (0.03, 0.16),
    "chin": (0.30, 0.70),
    "nasion": (-0.36, -0.12),
}
_CHIN = math.radians(60)  # below the horizontal: the chin's normal at landmark 8, as annotated on frontal faces
_THIRD, _SPREAD = 0.31, 0.09  # stomion's height from subnasale (0) to chin (1): mean, deviation; canon: 1/3
_HALF_MOUTH = (0.10, 0.23)  # least and greatest distance from stomion to corner, in the unit of `_HEIGHTS`
_CREASE = (5.0, 30.0)  # curvature across the crease between the lips, over 1 / unit: least, and saturation


@dataclass(frozen=True)
class ScanLandmarks:
    """Sparse landmarks of a scan's face, its lip line and whether its eyes are closed.

    Attributes:
        points: (L, 3) meters, in the scan's coordinates.
        indices: (L,) iBUG-68 index of each point, 0 to 67.
        lips: (N, 3) the line where closed lips meet, from the head's right corner to the left one; None if unknown.
        eyes_closed: whether the lids are closed; None if unknown.
    """

    points: Float[Tensor, "l 3"]
    indices: Int[Tensor, " l"]
    lips: Float[Tensor, "n 3"] | None = None
    eyes_closed: bool | None = None


def read_scan_landmarks(path: str | Path) -> ScanLandmarks:
    """Reads a JSON of landmarks: `{"landmarks": {"nose_tip": [x, y, z], "36": [x, y, z]}, "eyes": "closed"}`.

    Keys of "landmarks" are iBUG-68 indices or the names in `LANDMARK_NAMES`; a list of 68 with null for unknown points
    also works. "lips" (optional) is the line between the lips as points, from the head's right corner to the left one.
    "eyes" (optional) is "open" or "closed". Coordinates are the scan's, in meters.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is malformed; the message names the entry.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from headfields.apps.rigging.landmarks import read_scan_landmarks
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "scan.json"
    ...     _ = path.write_text('{"landmarks": {"nose_tip": [0, 0, 0.1], "36": [-0.04, 0.03, 0.06]}, "eyes": "closed"}')
    ...     landmarks = read_scan_landmarks(path)
    >>> landmarks.indices, tuple(landmarks.points.shape), landmarks.eyes_closed
    (tensor([30, 36]), (2, 3), True)
    """
    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("landmarks"), dict | list):
        raise ValueError(
            f'read_scan_landmarks: {path} has no "landmarks"; expected {{"landmarks": {{"nose_tip": ...}}}}'
        )
    unknown = sorted(set(raw) - {"landmarks", "lips", "eyes"})
    if unknown:
        raise ValueError(
            f'read_scan_landmarks: {path} has the entry {unknown[0][:60]!r}; read are "landmarks", "lips" and "eyes"'
        )
    with reading(path, "a file of landmarks"):
        return parse_landmarks(raw["landmarks"], raw.get("lips"), raw.get("eyes"), str(path))


def parse_landmarks(
    landmarks: Mapping[Any, Any] | Sequence[Any],
    lips: Any = None,
    eyes: Any = None,
    source: str = "landmarks",
) -> ScanLandmarks:
    """Landmarks from a dict keyed by name or index, or from a list of 68; see `read_scan_landmarks`.

    Raises:
        ValueError: a name is unknown, a landmark is given twice, a point is not three finite numbers, a list has
            another length than 68, or the line of the lips has fewer than three points.
    """
    if not isinstance(landmarks, Mapping) and len(landmarks) != 68:
        raise ValueError(f"{source}: a list of {len(landmarks)} landmarks; expected 68, with null for unknown ones")
    entries = landmarks.items() if isinstance(landmarks, Mapping) else enumerate(landmarks)
    points, indices = [], []
    for key, value in entries:
        if value is None:
            continue
        text = str(key)
        index = LANDMARK_NAMES.get(text, int(text) if re.fullmatch("[0-9]{1,2}", text) else -1)
        if not 0 <= index < 68:
            raise ValueError(f"{source}: {text!r} is neither one of 0 to 67 nor one of {', '.join(LANDMARK_NAMES)}")
        if index in indices:
            raise ValueError(f"{source}: {text!r} is landmark {index}, which is there twice; remove one of the two")
        points.append(_parse_point(value, f"{source}: {text}"))
        indices.append(index)
    if eyes not in (None, "open", "closed"):
        raise ValueError(f'{source}: eyes is {eyes!r}; expected "open" or "closed"')
    line = None
    if lips is not None:
        if not isinstance(lips, Sequence) or isinstance(lips, str) or len(lips) < 3:
            raise ValueError(f"{source}: lips is {str(lips)[:60]}; expected a line of three or more points")
        line = torch.tensor([_parse_point(point, f"{source}: lips") for point in lips], dtype=torch.float64)
    return ScanLandmarks(
        torch.tensor(points, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(indices, dtype=torch.long),
        line,
        None if eyes is None else eyes == "closed",
    )


def _parse_point(value: Any, source: str) -> list[float]:
    if not isinstance(value, Sequence) or len(value) != 3 or not all(_is_number(number) for number in value):
        raise ValueError(f"{source} is {str(value)[:60]}; expected three finite numbers")
    return [float(number) for number in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


class _DepthProbe:
    """Depth map of the surface as seen along -z: the foremost z at (x, y)."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        self.tree = TriangleBVH(faces, vertices.float())
        self.ahead = float(vertices[:, 2].max()) + 0.1 * float((vertices.amax(0) - vertices.amin(0)).max())

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """z at each (x, y); NaN where the ray misses the surface."""
        origins = np.stack(np.broadcast_arrays(x, y, self.ahead), -1).reshape(-1, 3)
        rays = torch.from_numpy(origins).float()
        directions = torch.tensor([0.0, 0.0, -1.0]).expand(len(rays), 3).contiguous()
        hits = self.tree.raycast(rays, directions)
        z = torch.where(hits.face >= 0, self.ahead - hits.distance.double(), torch.nan)
        return z.numpy().reshape(np.broadcast_shapes(np.shape(x), np.shape(y)))


def find_scan_landmarks(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> ScanLandmarks:
    """Detects nose tip, nasion, subnasale, chin, stomion, mouth corners and the lip line from the shape of a face.

    The nose tip is the foremost point of the central strip of the upper 70 %. On the midsagittal profile through it,
    the nasion is the deepest point above the tip. The subnasale lies farthest behind the chord from the tip to the
    lips. The chin extends farthest in the direction 60 degrees below the horizontal. The stomion is the most concave
    point about a third of the way from subnasale to chin. The crease between the lips is traced from the stomion to
    either side until its curvature falls below a threshold; its ends are the mouth corners. Nothing is learned and the
    texture is not used.

    Args:
        vertices: (V, 3), y up, face toward +z, lips closed. Any unit.
        faces: (F, 3).

    Returns:
        ScanLandmarks in the unit of `vertices`, with `lips` set and `eyes_closed` None. Not differentiable.

    Raises:
        ValueError: a landmark cannot be detected; pass landmarks by hand.
    """
    points = vertices.detach().double().cpu()
    triangles = faces.cpu().long()
    used = points[triangles.flatten().unique()].numpy()
    lower, upper = used.min(0), used.max(0)
    middle, width = 0.5 * (lower[0] + upper[0]), upper[0] - lower[0]
    central = used[(used[:, 1] > lower[1] + 0.3 * (upper[1] - lower[1])) & (np.abs(used[:, 0] - middle) < 0.12 * width)]
    if not len(central):
        raise ValueError("find_scan_landmarks: vertices has no surface in the middle; expected a head, y up, facing +z")
    tip = central[central[:, 2].argmax()]
    unit = upper[1] - tip[1]  # distance from nose tip to crown
    front = _DepthProbe(points, triangles)
    x = tip[0]
    below = np.linspace(-0.5, 0.8, 1301)
    step = 1.3 / 1300
    heights = tip[1] - unit * below
    z = front.depth(np.full_like(heights, x), heights)
    if np.isnan(z).all():
        raise ValueError("find_scan_landmarks: the profile is empty; expected a head, y up, facing +z")
    z = np.interp(np.arange(len(z)), np.nonzero(~np.isnan(z))[0], z[~np.isnan(z)])
    # A ray between the lips hits the inside of the mouth or the back of the head; bound the depth of such gaps.
    z = np.maximum(z, grey_closing(z, round(0.05 / step), mode="nearest") - 0.03 * unit)
    z = gaussian_filter1d(median_filter(z, 7, mode="nearest"), 0.006 / step)

    def extremum(name: str, signal: np.ndarray) -> int:
        first, last = _HEIGHTS[name]
        candidates = np.nonzero((below >= first) & (below <= last))[0]
        peaks, properties = find_peaks(signal[candidates], prominence=0)
        if not len(peaks):
            raise ValueError(
                f"find_scan_landmarks: the profile has no {name} at {first} to {last} tip-to-crown distances below the "
                "nose tip; pass landmarks by hand (--landmarks)"
            )
        return int(candidates[peaks[properties["prominences"].argmax()]])

    nasion = extremum("nasion", -z)
    chin = extremum("chin", z * math.cos(_CHIN) - heights * math.sin(_CHIN))
    sulcus = extremum("subnasale", -z)
    tip_row = int(np.abs(below).argmin())
    lip = sulcus + int(z[sulcus : max(sulcus + (chin - sulcus) // 2, sulcus + 1)].argmax())
    chord = np.interp(np.arange(tip_row, lip + 1), [tip_row, lip], [z[tip_row], z[lip]])
    subnasale = tip_row + int((chord - z[tip_row : lip + 1]).argmax()) if lip > tip_row else sulcus
    # Concavity of the profile at the scale of a crease, weighted by the prior on the height of the stomion.
    concavity = gaussian_filter1d(z, 0.010 / step, order=2)
    fraction = (np.arange(len(z)) - subnasale) / max(chin - subnasale, 1)
    candidates = np.nonzero(np.abs(fraction - _THIRD) < 2.5 * _SPREAD)[0]
    peaks, _ = find_peaks(concavity[candidates])
    peaks = candidates[peaks]
    if not len(peaks):
        raise ValueError(
            "find_scan_landmarks: the profile has no crease between nose and chin where lips could meet; pass "
            "landmarks by hand (--landmarks)"
        )
    likelihood = np.exp(-0.5 * ((fraction[peaks] - _THIRD) / _SPREAD) ** 2)
    stomion = int(peaks[(np.maximum(concavity[peaks], 0.05 * np.abs(concavity).max()) * likelihood).argmax()])
    rows = {"nasion": nasion, "subnasale": subnasale, "chin": chin, "upper_stomion": stomion, "lower_stomion": stomion}
    marks = {name: np.array([x, heights[at], z[at]]) for name, at in rows.items()}
    line = _trace_lip_crease(front, marks["upper_stomion"], unit)
    marks["upper_stomion"] = marks["lower_stomion"] = line[np.abs(line[:, 0] - x).argmin()]
    marks |= {"nose_tip": tip, "right_mouth_corner": line[0], "left_mouth_corner": line[-1]}
    return parse_landmarks({name: point.tolist() for name, point in marks.items()}, line.tolist(), None)


def _trace_lip_crease(front: _DepthProbe, start: Float[np.ndarray, "3"], unit: float) -> Float[np.ndarray, "n 3"]:
    """The crease between the lips, from the head's right end to the left one.

    Dynamic programming over columns of the depth map finds the path of greatest total concavity; the path ends where
    its concavity falls below the first value of `_CREASE`.
    """
    step, row = 0.006 * unit, 0.002 * unit
    half_width, half_height = int(_HALF_MOUTH[1] * unit / step), int(0.11 * unit / row)
    columns_x = start[0] + step * np.arange(-half_width, half_width + 1)
    heights = start[1] + row * np.arange(-half_height, half_height + 1)
    z = front.depth(columns_x[:, None], heights[None])
    # A narrow gap is where rays pass between the lips: a crease, of bounded depth. A wider gap is a hole of the scan.
    missing = ~(z > start[2] - 0.3 * unit)
    hole = binary_opening(missing, np.ones((1, round(0.018 * unit / row))))
    for column, gaps in zip(z, missing, strict=True):
        column[gaps] = np.interp(heights[gaps], heights[~gaps], column[~gaps]) if not gaps.all() else start[2]
    floor = median_filter(z, (1, round(0.03 * unit / row)), mode="nearest") - 0.02 * unit
    z = np.where(missing & ~hole, floor, np.maximum(z, floor))
    concavity = gaussian_filter1d(z, 0.010 * unit / row, order=2, axis=1) * unit / row**2
    concavity = gaussian_filter1d(concavity, 1.0, axis=0).clip(-_CREASE[1], _CREASE[1])
    reach, count = 3, len(heights)
    slope_penalty = 0.04 * _CREASE[1] * np.abs(np.arange(-reach, reach + 1))
    sides = []
    for direction in (-1, 1):
        best, steps = np.where(np.abs(np.arange(count) - half_height) <= 2, concavity[half_width], -np.inf), []
        for k in range(1, half_width + 1):
            padded = np.pad(best, reach, constant_values=-np.inf)
            options = np.stack([padded[s : s + count] for s in range(2 * reach + 1)], 1) - slope_penalty
            steps.append(options.argmax(1) - reach)
            best = options.max(1) + concavity[half_width + direction * k]
        reversed_path = [int(best.argmax())]
        for moves in steps[::-1]:
            reversed_path.append(int(reversed_path[-1] + moves[reversed_path[-1]]))
        path = np.array(reversed_path[::-1])
        column = half_width + direction * np.arange(half_width + 1)
        strength = gaussian_filter1d(concavity[column, path], 1.0, mode="nearest")
        ends = np.nonzero(strength < _CREASE[0])[0]
        stop = int(ends[0]) if len(ends) else len(strength)
        near = int(0.014 * unit / row)
        path = np.array([_deepest_row(z[c], int(at), near, 2 * near) for c, at in zip(column, path, strict=True)])
        path = median_filter(path, 5, mode="nearest")
        height = gaussian_filter1d(heights[path].astype(float), 0.8, mode="nearest")
        sides.append(np.stack([columns_x[column], height, z[column, path]], 1)[:stop])
    shortest = min(len(side) for side in sides) * step / unit
    if shortest < _HALF_MOUTH[0]:
        raise ValueError(
            f"find_scan_landmarks: the line between the lips has {len(sides[0])} and {len(sides[1])} steps right and "
            f"left of the middle; a mouth has at least {math.ceil(_HALF_MOUTH[0] * unit / step)}; pass landmarks by "
            "hand (--landmarks)"
        )
    return np.concatenate([sides[0][:0:-1], sides[1]])


def _deepest_row(z: Float[np.ndarray, " r"], at: int, reach: int, window: int) -> int:
    """The row within `reach` of `at` where a column lies deepest behind its linear trend, weighted by a Gaussian of the
    distance from `at`."""
    low, high = max(at - window, 0), min(at + window + 1, len(z))
    rows = np.arange(low, high)
    depth = np.polyval(np.polyfit(rows, z[low:high], 1), rows) - z[low:high]
    depth = np.where(np.abs(rows - at) <= reach, depth - depth.min(), 0.0)
    return int(rows[(depth * np.exp(-0.5 * ((rows - at) / reach) ** 2)).argmax()])
