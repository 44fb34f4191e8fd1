"""Reader of the NPHM dataset (Giebenhain et al. 2023, 2024), as its own preprocessing writes it.

ROOT/surface_pointclouds/{person:03d}/{expression}_{k}_{face,def_region,non_face,off_surface}.npy   (N, 9) position,
    normal, color 0 to 255; k counts chunks of a scan. face: the registered part; def_region: the rest of the front;
    non_face: the back; off_surface: normally distributed about the surface with standard deviation 0.05. Or, as the
    released preprocessing names what it writes now: face_{expression}_{k}.npy, def_region_..., non_face_..., off_...
ROOT/deformations/{person:03d}/{expression:03d}/corresp_{k}.npy   (N, 6) neutral | posed
DATA/{person:03d}/{expression:03d}/registration.ply, and s.npy, R.npy, t.npy

Lengths are four times those of FLAME in meters; this module divides by 4.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from headfields.apps.priors.scans.batch import PointCounts, ScanBatch, ScanSet, ball, generator
from headfields.data.errors import CaptureError
from headfields.files.arrays import load_npy
from headfields.mesh import load_mesh

__all__ = ["NphmScans", "nphm_to_raw", "read_nphm"]

SCALE = 4.0
"""NPHM's units in a meter."""
_FARTHEST = 100.0  # units: far beyond any head, and short of one in millimeters
_KINDS = ("face", "def_region", "non_face", "off_surface")
_NAMES = (
    re.compile(r"(?P<expression>\d+)_(?P<chunk>\d+)_(?P<kind>face|def_region|non_face|off_surface)\.npy"),
    re.compile(r"(?P<kind>face|def_region|non_face|off)_(?P<expression>\d+)_(?P<chunk>\d+)\.npy"),
)
"""Of chunks: those that the release looks for first, then those that its preprocessing writes where there are none."""
_CORRESPONDENCES = re.compile(r"corresp_(\d+)\.npy")


@dataclass(frozen=True)
class _Files:
    """Files of the chunks of one scan."""

    points: dict[str, list[Path]]
    correspondences: list[Path]


class NphmScans(ScanSet):
    """Scans of the NPHM dataset: chunks of points on disk, of which a step reads one of each kind.

    Each kind of point cloud is required; correspondences and anchors are optional. The files have no distances of
    points off the surface, so `near_known` is False. `read_nphm` makes one.

    Args:
        files: files of each scan, in the order of `scans`.
        people, scans: P and S names; scans are named `person/expression`.
        person: (S,) index of each scan's person.
        neutral: (P,) index of each person's neutral scan.
        anchors: (P, A, 3) meters.
        anchored: (P,) whether a person's anchors are known.
        trusted_back: (S,) whether the hair is that of the canonical head.
    """

    def __init__(
        self,
        files: Sequence[_Files],
        people: Sequence[str],
        scans: Sequence[str],
        person: Int[Tensor, " s"],
        neutral: Int[Tensor, " p"],
        anchors: Float[Tensor, "p a 3"],
        anchored: Bool[Tensor, " p"],
        trusted_back: Bool[Tensor, " s"],
    ) -> None:
        self._files = tuple(files)
        self.people, self.scans = tuple(people), tuple(scans)
        self.person, self.neutral, self.anchors, self.anchored = person, neutral, anchors, anchored
        self.trusted_back = trusted_back
        self.center = torch.zeros(3)

    def sample(self, scans: Int[Tensor, " b"], counts: PointCounts, seed: int) -> ScanBatch:
        """Samples points of B scans; see `ScanSet.sample`. `counts.sigma` is ignored: it is fixed in the files.

        Raises:
            CaptureError: a file cannot be read or has wrong contents; the message names person, expression and file.
        """
        self._check_scans(scans)
        scans = scans.long()
        sizes = {"face": counts.face, "def_region": counts.static, "non_face": counts.back, "off_surface": counts.near}
        random = generator(seed, 3)
        rows: dict[str, list[Tensor]] = {kind: [] for kind in (*_KINDS, "corresp")}
        known = []
        for scan in scans.tolist():
            files, name = self._files[scan], self.scans[scan]
            for kind, count in sizes.items():
                rows[kind].append(_random_rows(_random_chunk(files.points[kind], random), 9, count, name, random))
            known.append(bool(files.correspondences))
            if files.correspondences:
                pairs = _random_rows(
                    _random_chunk(files.correspondences, random), 6, counts.correspondences, name, random
                )
            else:
                pairs = torch.zeros(counts.correspondences, 6)
            rows["corresp"].append(pairs)

        def stacked(kind: str, width: int = 9) -> Tensor:
            empty = torch.zeros(0, sizes.get(kind, counts.correspondences), width)
            return torch.stack(rows[kind]) if len(scans) else empty

        face, static, back, near = (stacked(kind) for kind in _KINDS)
        front, pairs = torch.cat([face, static], 1), stacked("corresp", 6) / SCALE
        person = self.person[scans]
        return ScanBatch(
            scan=scans, person=person, neutral=scans == self.neutral[person],
            front_points=front[..., :3] / SCALE, front_normals=normalize(front[..., 3:6], dim=-1),
            front_rgb=front[..., 6:] / 255,
            back_points=back[..., :3] / SCALE, back_normals=normalize(back[..., 3:6], dim=-1),
            back_rgb=back[..., 6:] / 255,
            near_points=near[..., :3] / SCALE, near_rgb=near[..., 6:] / 255,
            near_distance=torch.zeros(near.shape[:2]), near_known=torch.zeros(near.shape[:2], dtype=torch.bool),
            far_points=ball(len(scans), counts.far, counts.radius, random),
            neutral_points=pairs[..., :3], posed_points=pairs[..., 3:],
            corresponds=torch.tensor(known, dtype=torch.bool),
            anchors=self.anchors[person], anchored=self.anchored[person],
            trusted_back=self.trusted_back[scans],
        )  # fmt: skip


def read_nphm(
    root: str | Path,
    neutrals: Mapping[int, int] | None = None,
    data: str | Path | None = None,
    anchor_vertices: Sequence[int] | Int[Tensor, " a"] | None = None,
    people: Sequence[int] | None = None,
) -> NphmScans:
    """Lists the scans in NPHM's folders; their points are read when they are sampled.

    Hair moves between scans, and the deformation should not learn that: only neutral scans are `trusted_back`, as in
    the released code.

    Args:
        root: the folder that has `surface_pointclouds` and, for correspondences, `deformations`.
        neutrals: neutral expression by person, as in the `neutrals_closed.json` of MonoNPHM's code; a person's lowest
            expression number if missing. A negative number says that there is none, and leaves the person out.
        data: the folder of the people's scans, with `{person:03d}/{expression:03d}/registration.ply`; required for
            anchors.
        anchor_vertices: (A,) vertices of the registration that are anchors; NPHM's are in the `lm_inds_65.npy` of its
            code (`anchors_65.npy` has mean positions). No anchors if None.
        people: person numbers; all that have point clouds if None.

    Raises:
        CaptureError: a folder or file is missing or broken; the message names person, expression and file.
        ValueError: `anchor_vertices` is given without `data`.
    """
    root = Path(root)
    clouds = root / "surface_pointclouds"
    if not clouds.is_dir():
        raise CaptureError(f"{clouds}: does not exist; root must be the folder that NPHM's preprocessing wrote")
    if anchor_vertices is not None and data is None:
        raise ValueError("read_nphm: anchor_vertices need data, the folder with the people's registration.ply")
    available = sorted(
        int(path.name) for path in clouds.iterdir() if path.is_dir() and re.fullmatch("[0-9]+", path.name)
    )
    numbers = list(people or [])
    if people is None:
        numbers = [number for number in available if (neutrals or {}).get(number, 0) >= 0]
    missing = [number for number in numbers if number not in available]
    if missing or not numbers:
        raise CaptureError(f"{clouds}: no folder for person {missing[0] if missing else 'any'}; it has {available[:8]}")
    files: list[_Files] = []
    names, person, neutral, anchors = [], [], [], []
    for place, number in enumerate(numbers):
        expressions = _expressions(clouds / f"{number:03d}", number)
        neutral_expression = (neutrals or {}).get(number, min(expressions))
        if neutral_expression not in expressions:
            raise CaptureError(
                f"{clouds / f'{number:03d}'}: person {number:03d}: neutral expression {neutral_expression} has no "
                f"point clouds; there are {sorted(expressions)}; choose another in neutrals"
            )
        neutral.append(len(files) + sorted(expressions).index(neutral_expression))
        for expression, points in sorted(expressions.items()):
            folder = root / "deformations" / f"{number:03d}" / f"{expression:03d}"
            pairs = sorted(folder.glob("corresp_*.npy"), key=lambda path: path.name) if folder.is_dir() else []
            files.append(_Files(points, [path for path in pairs if _CORRESPONDENCES.fullmatch(path.name)]))
            names.append(f"{number:03d}/{expression:03d}")
            person.append(place)
        if anchor_vertices is not None:
            assert data is not None
            path = Path(data) / f"{number:03d}" / f"{neutral_expression:03d}" / "registration.ply"
            anchors.append(_anchors(path, torch.as_tensor(anchor_vertices).long(), number, neutral_expression))
    table = torch.stack(anchors) if anchors else torch.zeros(len(numbers), 0, 3)
    trusted = torch.zeros(len(files), dtype=torch.bool)
    trusted[neutral] = True
    return NphmScans(
        files, [f"{number:03d}" for number in numbers], names, torch.tensor(person), torch.tensor(neutral),
        table, torch.full((len(numbers),), bool(anchors)), trusted,
    )  # fmt: skip


def nphm_to_raw(points: Float[Tensor, "*n 3"], folder: str | Path) -> Float[Tensor, "*n 3"]:
    """Transforms points (..., 3) from the head's frame to the frame of the raw scan: raw = (x - t) R / s.

    Args:
        points: meters; x is in NPHM's unit.
        folder: folder of the scan, with s.npy, R.npy and t.npy.

    Raises:
        CaptureError: a file is missing, or its array has the wrong shape, is not finite, or is no rotation or scale.
    """
    arrays = {}
    for name, size in (("s", 1), ("R", 9), ("t", 3)):
        path = Path(folder) / f"{name}.npy"
        array = _load(path, f"scan {Path(folder).parent.name}/{Path(folder).name}")
        if array.size != size or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise CaptureError(
                f"{path}: has dtype {array.dtype} and shape {array.shape}; expected {size} finite numbers"
            )
        if name == "s" and float(array.reshape(())) <= 0:
            raise CaptureError(f"{path}: the scale is {float(array.reshape(()))}; expected a positive number")
        if name == "R":
            turn = array.astype(np.float64).reshape(3, 3)
            if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
                raise CaptureError(f"{path}: is no rotation (its determinant is {np.linalg.det(turn):.4g})")
        arrays[name] = torch.from_numpy(array.astype(np.float64)).to(points)
    rotated = (points * SCALE - arrays["t"].reshape(3)) @ arrays["R"].reshape(3, 3)
    return rotated / arrays["s"].reshape(())


def _expressions(folder: Path, number: int) -> dict[int, dict[str, list[Path]]]:
    """Chunks by expression and kind."""
    named: dict[tuple[int, str, int], Path] = {}
    paths = sorted(folder.iterdir())
    for pattern in _NAMES:
        for path in paths:
            match = pattern.fullmatch(path.name)
            if match:
                kind = "off_surface" if match["kind"] == "off" else match["kind"]
                named.setdefault((int(match["expression"]), kind, int(match["chunk"])), path)
    if not named:
        raise CaptureError(
            f"{folder}: person {number:03d} has no files like 0_0_face.npy or face_0_0.npy; run NPHM's preprocessing"
        )
    chunks: dict[int, dict[str, list[Path]]] = {}
    for (expression, kind, _), path in sorted(named.items(), key=lambda item: item[1].name):
        chunks.setdefault(expression, {kind: [] for kind in _KINDS})[kind].append(path)
    for expression, kinds in chunks.items():
        for kind, paths in kinds.items():
            if not paths:
                raise CaptureError(
                    f"{folder}: person {number:03d}, expression {expression}: no {expression}_*_{kind}.npy; "
                    "each scan needs face, def_region, non_face and off_surface"
                )
    return chunks


def _random_chunk(paths: list[Path], random: torch.Generator) -> Path:
    return paths[int(torch.randint(len(paths), (1,), generator=random))]


def _random_rows(path: Path, width: int, count: int, scan: str, random: torch.Generator) -> Tensor:
    """(count, width) random rows of a file, among the finite ones."""
    array = _load(path, f"scan {scan}")
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "fiu":
        raise CaptureError(
            f"{path}: scan {scan}: has dtype {array.dtype} and shape {array.shape}; expected (N, {width})"
        )
    rows = torch.from_numpy(array.astype(np.float32))
    rows = rows[torch.isfinite(rows).all(1)]
    if not len(rows):
        raise CaptureError(f"{path}: scan {scan}: has no row of finite numbers; write it again, or remove the scan")
    places = rows[:, :3] if width == 9 else rows
    if float(places.abs().max()) > _FARTHEST:
        raise CaptureError(
            f"{path}: scan {scan}: has a point {float(places.abs().max()):.4g} units off; expected NPHM's unit, "
            f"{SCALE:g} a meter, in which heads end at about 1.5"
        )
    if width == 9 and not -1 <= float(rows[:, 6:].min()) <= float(rows[:, 6:].max()) <= 256:
        raise CaptureError(
            f"{path}: scan {scan}: has colors from {float(rows[:, 6:].min()):g} to {float(rows[:, 6:].max()):g}; "
            "expected 0 to 255"
        )
    return rows[torch.randint(len(rows), (count,), generator=random)]


def _load(path: Path, whose: str) -> np.ndarray:
    try:
        return load_npy(path)
    except FileNotFoundError as error:
        raise CaptureError(f"{path}: does not exist; {whose} needs it") from error
    except (OSError, ValueError, EOFError) as error:
        raise CaptureError(f"{path}: {whose}: cannot be read ({error}); write it again") from error


def _anchors(path: Path, vertices: Tensor, number: int, expression: int) -> Tensor:
    try:
        places = load_mesh(path).vertices
    except (OSError, ValueError) as error:
        raise CaptureError(
            f"{path}: person {number:03d}, expression {expression}: cannot be read ({error}); register the scan again"
        ) from error
    outside = [vertex for vertex in vertices.tolist() if not 0 <= vertex < len(places)]
    if outside:
        raise CaptureError(
            f"{path}: person {number:03d}, expression {expression}: has {len(places)} vertices, and an anchor is "
            f"vertex {outside[0]}; are anchor_vertices those of this registration?"
        )
    if len(places) and float(places.abs().max()) > _FARTHEST:
        raise CaptureError(
            f"{path}: person {number:03d}, expression {expression}: has a vertex {float(places.abs().max()):.4g} "
            f"units off; expected NPHM's unit, {SCALE:g} a meter"
        )
    return places[vertices] / SCALE
