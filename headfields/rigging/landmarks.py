"""Landmarks of a scan: read from a file, or found on the profile of a face that looks toward +z."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.signal import find_peaks
from torch import Tensor

from headfields.ops.closest_triangle import TriangleBVH

__all__ = ["NAMES", "ScanLandmarks", "find_scan_landmarks", "read_scan_landmarks"]

NAMES: Mapping[str, int] = {
    "chin": 8, "nasion": 27, "nose_tip": 30, "subnasale": 33, "right_eye_outer": 36, "right_eye_inner": 39,
    "left_eye_inner": 42, "left_eye_outer": 45, "right_mouth_corner": 60, "upper_lip": 51, "left_mouth_corner": 64,
    "lower_lip": 57, "upper_stomion": 62, "lower_stomion": 66,
}  # fmt: skip
"""Names that a landmark file may use for some of iBUG's 68 numbers. Right and left are the head's own; the mouth's
corners are where the lips part (60 and 64)."""
_HEIGHTS = {  # below (positive) or above the nose's tip, in units of its distance to the crown; our own, from figures
    "subnasale": (0.03, 0.15),  # of adult anthropometry
    "stomion": (0.10, 0.32),
    "chin": (0.30, 0.58),
    "nasion": (-0.36, -0.12),
}


@dataclass(frozen=True)
class ScanLandmarks:
    """What is known of a scan's face.

    Attributes:
        points: (L, 3) metres, in the scan's coordinates.
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

    Keys of "landmarks" are numbers of iBUG's 68 or the names in `NAMES`; it may be a list of 68 with null for those
    that are unknown. "lips" may hold the line between the lips, from the right corner to the left one, as points;
    "eyes" may be "open" or "closed". Coordinates are the scan's, metres.

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
    return landmarks_of(raw["landmarks"], raw.get("lips"), raw.get("eyes"), str(path))


def landmarks_of(
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
        index = NAMES.get(text, int(text) if text.isdigit() else -1)
        if not 0 <= index < 68:
            raise ValueError(f"{where}: {text!r} is neither one of 0 to 67 nor of {', '.join(NAMES)}")
        points.append(_point(value, f"{where}: {text}"))
        indices.append(index)
    if eyes not in (None, "open", "closed"):
        raise ValueError(f'{where}: eyes is {eyes!r}; expected "open" or "closed"')
    line = None if lips is None else torch.tensor([_point(p, f"{where}: lips") for p in lips], dtype=torch.float64)
    return ScanLandmarks(
        torch.tensor(points, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(indices, dtype=torch.long),
        line,
        None if eyes is None else eyes == "closed",
    )


def _point(value: Any, where: str) -> list[float]:
    try:
        point = [float(number) for number in value]
    except (TypeError, ValueError):
        point = []
    if len(point) != 3 or not np.isfinite(point).all():
        raise ValueError(f"{where} is {value!r}; expected three finite numbers")
    return point


class _Front:
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

    The nose's tip is the foremost point of the middle of the upper two thirds. Above and below it, on the profile
    through it, the bridge is the deepest point and the base of the nose, the lips' meeting and the chin are the
    extrema where a face has them. The crease between the lips is followed from there to either side for as long as it
    is one; its ends are the mouth's corners. Nothing is learned and the texture is not looked at.

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
    front = _Front(place, table)
    x = tip[0]
    heights = tip[1] - unit * np.linspace(-0.5, 0.7, 1201)
    z = front.depth(np.full_like(heights, x), heights)
    step = 1.2 / 1200
    if np.isnan(z).all():
        raise ValueError("find_scan_landmarks: the profile is empty; is it a head, y up, facing +z?")
    z = np.interp(np.arange(1201), np.nonzero(~np.isnan(z))[0], z[~np.isnan(z)])
    z = gaussian_filter1d(median_filter(z, 7, mode="nearest"), 0.006 / step)
    below = np.linspace(-0.5, 0.7, 1201)

    def extremum(name: str, sign: float) -> int:
        first, last = _HEIGHTS[name]
        inside = np.nonzero((below >= first) & (below <= last))[0]
        peaks, found = find_peaks(sign * z[inside], prominence=0)
        if not len(peaks):
            raise ValueError(
                f"find_scan_landmarks: no {name} between {first} and {last} of the way from the nose's tip to the "
                "crown; give landmarks by hand (--landmarks)"
            )
        return int(inside[peaks[found["prominences"].argmax()]])

    marks = {"nose_tip": tip}
    for name, sign in (("subnasale", -1.0), ("stomion", -1.0), ("chin", 1.0), ("nasion", -1.0)):
        at = extremum(name, sign)
        marks[name] = np.array([x, heights[at], z[at]])
    line = _crease(front, marks["stomion"], unit)
    stomion = marks.pop("stomion")
    marks["right_mouth_corner"], marks["left_mouth_corner"] = line[0], line[-1]
    marks["upper_stomion"] = marks["lower_stomion"] = stomion
    return landmarks_of({name: point.tolist() for name, point in marks.items()}, line.tolist(), None)


def _crease(front: _Front, start: Float[np.ndarray, "3"], unit: float) -> Float[np.ndarray, "n 3"]:
    """The valley between the lips, from the right end to the left one."""
    step, window = 0.006 * unit, 0.030 * unit
    offsets = np.linspace(-window, window, 81)
    sides = []
    for sign in (-1.0, 1.0):
        points, y = [], start[1]
        slope = 0.0
        for k in range(1, 46):
            x = start[0] + sign * k * step
            guess = y + slope
            z = front.depth(np.full_like(offsets, x), guess + offsets)
            if np.isnan(z).any():
                break
            z = gaussian_filter1d(median_filter(z, 5, mode="nearest"), 1.5)  # a ray may slip in between the lips
            trend = np.polyval(np.polyfit(offsets, z, 1), offsets)
            peaks, found = find_peaks(trend - z, prominence=0)
            if not len(peaks):
                break
            near = np.abs(offsets[peaks])
            best = int((found["prominences"] / (1 + (near / (0.3 * window)) ** 2)).argmax())
            if found["prominences"][best] < 0.0035 * unit or near[best] > 0.5 * window:
                break
            at = guess + offsets[peaks[best]]
            slope = 0.7 * slope + 0.3 * (at - y)
            y = at
            points.append(np.array([x, y, z[peaks[best]]]))
        sides.append(points)
    if min(len(side) for side in sides) < 5:
        raise ValueError(
            f"find_scan_landmarks: the line between the lips goes on for {len(sides[0])} and {len(sides[1])} steps to "
            "either side of the middle, too few for a mouth; give landmarks by hand (--landmarks)"
        )
    return np.array([*sides[0][::-1], start, *sides[1]])
