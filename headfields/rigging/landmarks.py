"""Landmarks of a scan: read from a file, or found on the profile of a face that looks toward +z."""

import json
import math
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

from headfields.ops.triangle_bvh import TriangleBVH

__all__ = ["LANDMARK_NAMES", "ScanLandmarks", "find_scan_landmarks", "read_scan_landmarks"]

LANDMARK_NAMES: Mapping[str, int] = {
    "chin": 8, "nasion": 27, "nose_tip": 30, "subnasale": 33, "right_eye_outer": 36, "right_eye_inner": 39,
    "left_eye_inner": 42, "left_eye_outer": 45, "right_mouth_corner": 60, "upper_lip": 51, "left_mouth_corner": 64,
    "lower_lip": 57, "upper_stomion": 62, "lower_stomion": 66,
}  # fmt: skip
"""Names that a landmark file may use for some of iBUG's 68 numbers. Right and left are the head's own; the mouth's
corners are where the lips part (60 and 64)."""
_HEIGHTS = {  # below (positive) or above the nose's tip, in units of its distance to the crown; our own, from figures
    "subnasale": (0.03, 0.16),  # of adult anthropometry
    "chin": (0.30, 0.70),
    "nasion": (-0.36, -0.12),
}
_CHIN = math.radians(60)  # below the horizontal: where the chin looks that way annotators of frontal faces put number 8
_THIRD, _SPREAD = 0.31, 0.09  # of the way from subnasale to chin: where lips meet (the neoclassical canon says 1/3)
_HALF_MOUTH = (0.10, 0.23)  # from the middle to a corner, in the same unit as `_HEIGHTS`
_CREASE = (5.0, 30.0)  # curvature across the line between lips, over one by that unit: least, and what is enough


@dataclass(frozen=True)
class ScanLandmarks:
    """What is known of a scan's face.

    Attributes:
        points: (L, 3) meters, in the scan's coordinates.
        indices: (L,) which of iBUG's 68 each is.
        lips: (N, 3) the line where closed lips meet, from the head's right corner to the left one; None if unknown.
        eyes_closed: whether the lids are shut; None if nobody said.
    """

    points: Float[Tensor, "l 3"]
    indices: Int[Tensor, " l"]
    lips: Float[Tensor, "n 3"] | None = None
    eyes_closed: bool | None = None


def read_scan_landmarks(path: str | Path) -> ScanLandmarks:
    """Reads a JSON of landmarks: `{"landmarks": {"nose_tip": [x, y, z], "36": [x, y, z]}, "eyes": "closed"}`.

    Keys of "landmarks" are numbers of iBUG's 68 or the names in `LANDMARK_NAMES`; it may be a list of 68 with null for those
    that are unknown. "lips" may hold the line between the lips, from the right corner to the left one, as points;
    "eyes" may be "open" or "closed". Coordinates are the scan's, meters.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such JSON; the entry is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"read_scan_landmarks: {path} is not a file")
    try:
        raw = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"read_scan_landmarks: {path} is not JSON ({error})") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("landmarks"), dict | list):
        raise ValueError(
            f'read_scan_landmarks: {path} has no "landmarks"; expected {{"landmarks": {{"nose_tip": ...}}}}'
        )
    return parse_landmarks(raw["landmarks"], raw.get("lips"), raw.get("eyes"), str(path))


def parse_landmarks(
    given: Mapping[Any, Any] | Sequence[Any],
    lips: Sequence[Any] | None = None,
    eyes: str | None = None,
    where: str = "landmarks",
) -> ScanLandmarks:
    """Landmarks from a dict by name or number, or a list of 68; see `read_scan_landmarks`.

    Raises:
        ValueError: an unknown name, or a point that is not three finite numbers.
    """
    entries = given.items() if isinstance(given, Mapping) else enumerate(given)
    points, indices = [], []
    for key, value in entries:
        if value is None:
            continue
        text = str(key)
        index = LANDMARK_NAMES.get(text, int(text) if text.isdigit() else -1)
        if not 0 <= index < 68:
            raise ValueError(f"{where}: {text!r} is neither one of 0 to 67 nor of {', '.join(LANDMARK_NAMES)}")
        points.append(_parse_point(value, f"{where}: {text}"))
        indices.append(index)
    if eyes not in (None, "open", "closed"):
        raise ValueError(f'{where}: eyes is {eyes!r}; expected "open" or "closed"')
    line = (
        None if lips is None else torch.tensor([_parse_point(p, f"{where}: lips") for p in lips], dtype=torch.float64)
    )
    return ScanLandmarks(
        torch.tensor(points, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(indices, dtype=torch.long),
        line,
        None if eyes is None else eyes == "closed",
    )


def _parse_point(value: Any, where: str) -> list[float]:
    try:
        point = [float(number) for number in value]
    except (TypeError, ValueError):
        point = []
    if len(point) != 3 or not np.isfinite(point).all():
        raise ValueError(f"{where} is {value!r}; expected three finite numbers")
    return point


class _DepthProbe:
    """The foremost point of the surface at x and y."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        self.tree = TriangleBVH(faces, vertices.float())
        self.ahead = float(vertices[:, 2].max()) + 0.1 * float((vertices.amax(0) - vertices.amin(0)).max())

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """z at each (x, y), NaN where nothing is."""
        origins = np.stack(np.broadcast_arrays(x, y, self.ahead), -1).reshape(-1, 3)
        rays = torch.from_numpy(origins).float()
        down = torch.tensor([0.0, 0.0, -1.0]).expand(len(rays), 3).contiguous()
        found = self.tree.raycast(rays, down)
        z = torch.where(found.face >= 0, self.ahead - found.distance.double(), torch.nan)
        return z.numpy().reshape(np.broadcast_shapes(np.shape(x), np.shape(y)))


def find_scan_landmarks(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> ScanLandmarks:
    """Finds what the shape of a face tells: nose, chin, the bridge of the nose and the line between closed lips.

    The nose's tip is the foremost point of the middle of the upper two thirds. On the profile through it: the bridge
    is the deepest point above; the base of the nose lies farthest behind the chord from the tip to the lips; the chin
    sticks out farthest forward and down; the lips meet where the profile is most hollow about a third of the way from
    the nose's base to the chin. The crease between the lips is followed from there to either side for as long as it is
    one; its ends are the mouth's corners. Nothing is learned and the texture is not looked at.

    Args:
        vertices: (V, 3), y up, face toward +z, lips closed. Any unit.
        faces: (F, 3).

    Raises:
        ValueError: the profile has no such points; give landmarks by hand then.
    """
    place = vertices.detach().double().cpu()
    table = faces.cpu().long()
    used = place[table.flatten().unique()].numpy()
    low, high = used.min(0), used.max(0)
    middle, width = 0.5 * (low[0] + high[0]), high[0] - low[0]
    upper = used[(used[:, 1] > low[1] + 0.3 * (high[1] - low[1])) & (np.abs(used[:, 0] - middle) < 0.12 * width)]
    if not len(upper):
        raise ValueError("find_scan_landmarks: there is no surface in the middle; is it a head, y up, facing +z?")
    tip = upper[upper[:, 2].argmax()]
    unit = high[1] - tip[1]  # from the nose's tip to the crown
    front = _DepthProbe(place, table)
    x = tip[0]
    below = np.linspace(-0.5, 0.8, 1301)
    step = 1.3 / 1300
    heights = tip[1] - unit * below
    z = front.depth(np.full_like(heights, x), heights)
    if np.isnan(z).all():
        raise ValueError("find_scan_landmarks: the profile is empty; is it a head, y up, facing +z?")
    z = np.interp(np.arange(len(z)), np.nonzero(~np.isnan(z))[0], z[~np.isnan(z)])
    # A ray may slip in between the lips, and hit the mouth's inside or the back of the head.
    z = np.maximum(z, grey_closing(z, round(0.05 / step), mode="nearest") - 0.03 * unit)
    z = gaussian_filter1d(median_filter(z, 7, mode="nearest"), 0.006 / step)

    def extremum(name: str, signal: np.ndarray) -> int:
        first, last = _HEIGHTS[name]
        inside = np.nonzero((below >= first) & (below <= last))[0]
        peaks, found = find_peaks(signal[inside], prominence=0)
        if not len(peaks):
            raise ValueError(
                f"find_scan_landmarks: no {name} between {first} and {last} of the way from the nose's tip to the "
                "crown; give landmarks by hand (--landmarks)"
            )
        return int(inside[peaks[found["prominences"].argmax()]])

    nasion = extremum("nasion", -z)
    chin = extremum("chin", z * math.cos(_CHIN) - heights * math.sin(_CHIN))
    deep = extremum("subnasale", -z)
    start = int(np.abs(below).argmin())
    lip = deep + int(z[deep : max(deep + (chin - deep) // 2, deep + 1)].argmax())
    chord = np.interp(np.arange(start, lip + 1), [start, lip], [z[start], z[lip]])
    nose = start + int((chord - z[start : lip + 1]).argmax()) if lip > start else deep
    # How hollow the profile is, at the scale of a crease; where a third of the way says it is the lips'.
    hollow = gaussian_filter1d(z, 0.010 / step, order=2)
    share = (np.arange(len(z)) - nose) / max(chin - nose, 1)
    inside = np.nonzero(np.abs(share - _THIRD) < 2.5 * _SPREAD)[0]
    peaks, _ = find_peaks(hollow[inside])
    peaks = inside[peaks]
    if not len(peaks):
        raise ValueError(
            "find_scan_landmarks: the profile has no crease between nose and chin where lips could meet; give "
            "landmarks by hand (--landmarks)"
        )
    likely = np.exp(-0.5 * ((share[peaks] - _THIRD) / _SPREAD) ** 2)
    meet = int(peaks[(np.maximum(hollow[peaks], 0.05 * np.abs(hollow).max()) * likely).argmax()])
    points = {"nasion": nasion, "subnasale": nose, "chin": chin, "upper_stomion": meet, "lower_stomion": meet}
    marks = {name: np.array([x, heights[at], z[at]]) for name, at in points.items()}
    line = _trace_lip_crease(front, marks["upper_stomion"], unit)
    marks["upper_stomion"] = marks["lower_stomion"] = line[np.abs(line[:, 0] - x).argmin()]
    marks |= {"nose_tip": tip, "right_mouth_corner": line[0], "left_mouth_corner": line[-1]}
    return parse_landmarks({name: point.tolist() for name, point in marks.items()}, line.tolist(), None)


def _trace_lip_crease(front: _DepthProbe, start: Float[np.ndarray, "3"], unit: float) -> Float[np.ndarray, "n 3"]:
    """The valley between the lips, from the right end to the left one.

    The path over columns that is most hollow in all, by dynamic programming; it ends where it is hollow no more.
    """
    step, row = 0.006 * unit, 0.002 * unit
    columns, rows = int(_HALF_MOUTH[1] * unit / step), int(0.11 * unit / row)
    across = start[0] + step * np.arange(-columns, columns + 1)
    heights = start[1] + row * np.arange(-rows, rows + 1)
    z = front.depth(across[:, None], heights[None])
    # Rays slip in between the lips: that is a crease, but no deeper than others. What is wider is a hole of the scan.
    lost = ~(z > start[2] - 0.3 * unit)
    hole = binary_opening(lost, np.ones((1, round(0.018 * unit / row))))
    for column, bad in zip(z, lost, strict=True):
        column[bad] = np.interp(heights[bad], heights[~bad], column[~bad]) if not bad.all() else start[2]
    floor = median_filter(z, (1, round(0.03 * unit / row)), mode="nearest") - 0.02 * unit
    z = np.where(lost & ~hole, floor, np.maximum(z, floor))
    hollow = gaussian_filter1d(z, 0.010 * unit / row, order=2, axis=1) * unit / row**2
    hollow = gaussian_filter1d(hollow, 1.0, axis=0).clip(-_CREASE[1], _CREASE[1])
    reach, count = 3, len(heights)
    lean = 0.04 * _CREASE[1] * np.abs(np.arange(-reach, reach + 1))
    sides = []
    for way in (-1, 1):
        best, steps = np.where(np.abs(np.arange(count) - rows) <= 2, hollow[columns], -np.inf), []
        for k in range(1, columns + 1):
            padded = np.pad(best, reach, constant_values=-np.inf)
            options = np.stack([padded[s : s + count] for s in range(2 * reach + 1)], 1) - lean
            steps.append(options.argmax(1) - reach)
            best = options.max(1) + hollow[columns + way * k]
        walk = [int(best.argmax())]
        for moves in steps[::-1]:
            walk.append(int(walk[-1] + moves[walk[-1]]))
        path = np.array(walk[::-1])
        column = columns + way * np.arange(columns + 1)
        deep = gaussian_filter1d(hollow[column, path], 1.0, mode="nearest")
        ends = np.nonzero(deep < _CREASE[0])[0]
        stop = int(ends[0]) if len(ends) else len(deep)
        near = int(0.014 * unit / row)
        path = np.array([_deepest_row(z[c], int(at), near, 2 * near) for c, at in zip(column, path, strict=True)])
        path = median_filter(path, 5, mode="nearest")
        height = gaussian_filter1d(heights[path].astype(float), 0.8, mode="nearest")
        sides.append(np.stack([across[column], height, z[column, path]], 1)[:stop])
    short = min(len(side) for side in sides) * step / unit
    if short < _HALF_MOUTH[0]:
        raise ValueError(
            f"find_scan_landmarks: the line between the lips goes on for {len(sides[0])} and {len(sides[1])} steps to "
            f"either side of the middle, and {math.ceil(_HALF_MOUTH[0] * unit / step)} are the least of a mouth; give "
            "landmarks by hand (--landmarks)"
        )
    return np.concatenate([sides[0][:0:-1], sides[1]])


def _deepest_row(z: Float[np.ndarray, " r"], at: int, reach: int, window: int) -> int:
    """The row near `at` where a column lies deepest behind its trend; the farther off, the deeper it has to be."""
    low, high = max(at - window, 0), min(at + window + 1, len(z))
    rows = np.arange(low, high)
    depth = np.polyval(np.polyfit(rows, z[low:high], 1), rows) - z[low:high]
    depth = np.where(np.abs(rows - at) <= reach, depth - depth.min(), 0.0)
    return int(rows[(depth * np.exp(-0.5 * ((rows - at) / reach) ** 2)).argmax()])
