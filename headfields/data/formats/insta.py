"""Reader of INSTA's layout: `transforms*.json`, `canonical.obj`, `images/`, `meshes/`, and optionally `flame/exp/`,
`depth/`, `seg_mask/`, `landmarks/`, and our own `pose/` and `joints/`.

Field names and meanings are those of the released data sets (Zielonka et al., "Instant Volumetric Head Avatars",
CVPR 2023, and its data release). Joints (`pose_path`, `joints_path`) are our own addition, which other readers ignore.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headfields.data.alignment import AlignmentFrame, convention_evidence, misalignments, out_of_view, sample_frames
from headfields.data.camera_axes import Convention, Decision, decide_convention
from headfields.data.errors import CaptureError
from headfields.data.formats.transforms import TransformsFrame, distortion_of, intrinsics_of, matrix_of, read_frames
from headfields.data.image_files import ImageHeader, Kind, decode_image, exists, image_header, read_numbers
from headfields.data.labels import Label
from headfields.data.recording import ConventionScores, DecodedHead, Recording
from headfields.data.rigid_transforms import are_rigid
from headfields.data.undistortion import Undistortion
from headfields.files.reading import check_file
from headfields.mesh.mesh import Mesh
from headfields.mesh.obj import MeshFileError, ObjReader

__all__ = ["OpenedInsta", "is_insta", "open_insta", "read_insta"]

_OPTIONAL = {
    "exp_path": "expression coefficients",
    "pose_path": "joint rotations",
    "joints_path": "joint transforms",
    "depth_path": "depth maps",
    "seg_mask_path": "segmentation labels",
    "landmark_path": "landmarks",
}
_OF_ALL_FRAMES = {"exp_path": "exp", "pose_path": "pose", "joints_path": "joints"}
"""Keys and fields of what a capture has in every frame or not at all: zeros for the others would be silently wrong."""
_DEPTH_SCALES = (1e-6, 0.1)  # meters per unit


@dataclass(frozen=True)
class _Files:
    """The files of one frame that exist; None for the others."""

    image: Path
    mesh: Path
    exp: Path | None
    pose: Path | None
    joints: Path | None
    depth: Path | None
    label: Path | None
    landmarks: Path | None

    def pictures(self) -> list[tuple[str, Path | None, Kind]]:
        """Key, path and kind of the images."""
        return [
            ("file_path", self.image, "rgba"),
            ("depth_path", self.depth, "depth"),
            ("seg_mask_path", self.label, "label"),
        ]


def is_insta(folder: Path) -> bool:
    """Whether the folder has a transforms file whose frames name meshes."""
    return any(
        re.search(rb'"mesh_path"\s*:', _start(path)) is not None for path in sorted(folder.glob("transforms*.json"))
    )


def _start(path: Path) -> bytes:
    try:
        with check_file(path).open("rb") as file:
            return file.read(2_000_000)
    except OSError:  # a folder or an unreadable file: the reader reports it if it needs it
        return b""


def read_insta(folder: Path, convention: Convention = "auto") -> Recording:
    """Reads everything but pixels and meshes, which are decoded on demand, and decides the camera convention.

    `convention` is that of the matrices, where the user knows it.

    Raises:
        CaptureError: names the file, the frame and the field.
    """
    return open_insta(folder, convention).recording


def open_insta(folder: Path, convention: Convention = "auto") -> "OpenedInsta":
    """As `read_insta`, open for frames that are written later.

    Raises:
        CaptureError: as `read_insta`.
    """
    report: list[str] = []
    canonical_path = folder / "canonical.obj"
    if not exists(canonical_path):
        raise CaptureError(f"{folder}: canonical.obj is missing; copy it there, every mesh follows its topology")
    try:
        canonical = ObjReader().read(canonical_path, "canonical.obj")
    except MeshFileError as error:
        raise CaptureError(str(error)) from error
    if not len(canonical.faces):
        raise CaptureError(f"canonical.obj: {canonical_path} has no faces; it is cut short: export it again")
    frames, splits = read_frames(folder, report)
    files = _existing_files(folder, frames, report)
    size, header = _sizes(frames, files)
    matrices = np.stack([matrix_of(frame) for frame in frames])
    intrinsics = np.stack([intrinsics_of(frame, size, report) for frame in frames])
    scale = _depth_scale(frames, report)

    reader = _FrameReader(frames, files, canonical, size)
    coefficients = distortion_of(frames)
    if coefficients is not None:
        reader.lens = Undistortion(intrinsics, coefficients, size, [frame.where for frame in frames])
        report.append(reader.lens.line())
    has_label = any(entry.label for entry in files)
    has_depth = any(entry.depth for entry in files)
    if not header.has_alpha:
        reader.matte_from_label = has_label
        bare = next((frame for frame, entry in zip(frames, files, strict=True) if entry.label is None), None)
        if has_label and bare is not None:
            raise CaptureError(
                f"{bare.where}: file_path has no alpha and seg_mask_path is missing, so the frame has no matte as the "
                "others do; add one of the two or remove the frame"
            )
        source = "labels other than 0 and 90 (cloth)" if has_label else "1 everywhere: no segmentation labels either"
        report.append(f"images have no alpha; the matte is {source}")

    sample = sample_frames(matrices)
    compared = [_alignment_frame(reader, index, intrinsics[index], scale) for index in sample]
    try:
        evidence = [convention_evidence(frame, matrices[index]) for frame, index in zip(compared, sample, strict=True)]
        decision = decide_convention(evidence, canonical.faces.numpy(), size, convention=convention)
    except CaptureError as error:
        raise CaptureError(f"{folder}: {error}") from None
    camera_to_world = np.stack([decision.camera_to_world(matrix) for matrix in matrices])
    world_to_camera = np.linalg.inv(camera_to_world)
    reader.cameras = world_to_camera, intrinsics
    compared = [replace(frame, world_to_camera=world_to_camera[i]) for frame, i in zip(compared, sample, strict=True)]
    for frame, index in zip(compared, sample, strict=True):
        reader.check_view(index, frame.vertices)
    scores = ConventionScores("camera convention", decision.scores, decision.name, decision.used)
    report.append(scores.line())
    report += misalignments(compared, canonical.faces.numpy())
    labels = {int(label) for frame in compared if frame.label is not None for label in np.unique(frame.label)}
    if labels - set(Label):
        report.append(f"warning: labels {sorted(labels - set(Label))[:8]} are not INSTA's; they belong to no region")

    recording = Recording(
        path=folder,
        size=size,
        frame_names=[frame.name for frame in frames],
        camera_to_world=camera_to_world,
        intrinsics=intrinsics,
        splits=splits,
        canonical=canonical,
        decode_image=reader.image,
        decode_head=reader.head,
        decode_landmarks=reader.landmarks,
        has_label=has_label,
        has_depth=has_depth,
        expression_width=reader.counts["exp_path"],
        pose_joints=reader.counts["pose_path"],
        transform_joints=reader.counts["joints_path"],
        depth_scale=scale,
        report=report,
        decoded_vertices={index: frame.vertices for frame, index in zip(compared, sample, strict=True)},
        conventions=[scores],
    )
    return OpenedInsta(recording, reader, decision)


@dataclass
class OpenedInsta:
    """A folder that is open for further frames, which are read as the first ones were.

    Attributes:
        recording: the frames so far. Its lists and arrays are replaced; those handed out before stay as they were.
        reader, decision: what decodes files of frames, and the convention of the cameras.
    """

    recording: Recording
    reader: "_FrameReader"
    decision: Decision

    def append(self, frame: TransformsFrame) -> int:
        """Adds a frame at the end of the recording, decoded once as a check, and returns its index; splits are left.

        Raises:
            CaptureError: a file is missing that the frames before have, or cannot be read, or the image has another
                size; the recording stays as it was.
        """
        recording, reader = self.recording, self.reader
        (files,) = _existing_files(recording.path, [frame], [])
        first = vars(reader.files[0])
        missing = [name for name, path in vars(files).items() if path is None and first[name] is not None]
        if missing:
            raise CaptureError(f"{frame.where}: no file of {', '.join(missing)}, which the frames before have")
        size, _ = _sizes([frame], [files])
        if size != recording.size:
            raise CaptureError(
                f"{frame.where}: the image is {size[1]}x{size[0]} pixels; those before are "
                f"{recording.size[1]}x{recording.size[0]}"
            )
        matrix, lens = self.decision.camera_to_world(matrix_of(frame)), intrinsics_of(frame, size, [])
        before = reader.frames, reader.files, reader.cameras
        assert reader.cameras is not None
        poses, lenses = reader.cameras
        index = len(reader.frames)
        frame = replace(frame, name=frame.path("file_path"))
        reader.frames, reader.files = [*reader.frames, frame], [*reader.files, files]
        reader.cameras = np.concatenate([poses, np.linalg.inv(matrix)[None]]), np.concatenate([lenses, lens[None]])
        try:
            reader.head(index)
            reader.image(index)
        except CaptureError:
            reader.frames, reader.files, reader.cameras = before
            raise
        recording.camera_to_world = np.concatenate([recording.camera_to_world, matrix[None]])
        recording.intrinsics = np.concatenate([recording.intrinsics, lens[None]])
        recording.frame_names = [*recording.frame_names, frame.name]
        return index


def _existing_files(folder: Path, frames: list[TransformsFrame], report: list[str]) -> list[_Files]:
    """The files of every frame. Required ones must exist; missing optional ones are counted in the report."""
    missing: dict[str, list[str]] = {key: [] for key in _OPTIONAL}
    files, lost = [], 0
    for frame in frames:
        for key in ("file_path", "mesh_path"):
            if not exists(folder / frame.path(key)):
                raise CaptureError(
                    f"{frame.where}: {key} {frame.path(key)!r} does not exist in {folder}; copy it there or remove the "
                    "frame"
                )
        optional: dict[str, Path | None] = {}
        for key in _OPTIONAL:
            name = frame.values.get(key)
            path = folder / frame.path(key) if name is not None else None
            optional[key] = path if path is not None and exists(path) else None
            if optional[key] is None:
                missing[key].append(frame.name)
                lost += path is not None
        files.append(
            _Files(
                folder / frame.path("file_path"),
                folder / frame.path("mesh_path"),
                optional["exp_path"],
                optional["pose_path"],
                optional["joints_path"],
                optional["depth_path"],
                optional["seg_mask_path"],
                optional["landmark_path"],
            )
        )
    for key, names in missing.items():
        if len(names) == len(frames):
            if key not in ("pose_path", "joints_path"):  # not INSTA's: nobody misses them
                more = "; depth is rendered from the tracked meshes" if key == "depth_path" else ""
                report.append(f"no {_OPTIONAL[key]} ({key}){more}")
        elif names:
            more = ", ..." if len(names) > 3 else ""
            report.append(
                f"{len(names)} of {len(frames)} frames have no {_OPTIONAL[key]} ({key}): {', '.join(names[:3])}{more}"
            )
    if lost:
        report.append(f"warning: {lost} optional files that the frames name do not exist")
    for key, name in _OF_ALL_FRAMES.items():
        if 0 < len(missing[key]) < len(frames):
            report.append(f"{_OPTIONAL[key]} are left out, since not every frame has them")
            files = [replace(entry, **{name: None}) for entry in files]  # type: ignore[arg-type]
    if any("eyes_path" in frame.values for frame in frames):
        report.append("eyes_path is not read: the eyes' pose is in the meshes")
    return files


def _sizes(frames: list[TransformsFrame], files: list[_Files]) -> tuple[tuple[int, int], ImageHeader]:
    """The one (height, width) of all images, label and depth maps, read from headers alone."""
    first = image_header(files[0].image, frames[0].where, "file_path", "rgba")
    size = first.size
    for frame, entry in zip(frames, files, strict=True):
        for key, path, kind in entry.pictures():
            if path is None:
                continue
            header = image_header(path, frame.where, key, kind)
            if header.size != size:
                raise CaptureError(
                    f"{frame.where}: {key} {path.name} is {header.size[1]}x{header.size[0]} pixels; "
                    f"expected {size[1]}x{size[0]} as the first image; export it again"
                )
            if key == "file_path" and header.channels != first.channels:
                raise CaptureError(
                    f"{frame.where}: {key} {path.name} has {header.channels} channels, the first image "
                    f"{first.channels}; expected color and alpha in all images or in none"
                )
        for key, value in (("w", size[1]), ("h", size[0])):
            if key in frame.values and frame.number(key) != value:
                raise CaptureError(
                    f"{frame.where}: {key} is {frame.number(key):g}, but the images are {size[1]}x{size[0]} pixels; "
                    f"expected {value}, as the intrinsics are for that size"
                )
    return size, first


def _depth_scale(frames: list[TransformsFrame], report: list[str]) -> float:
    values = {frame.number("integer_depth_scale") for frame in frames if "integer_depth_scale" in frame.values}
    if len(values) > 1:
        raise CaptureError(
            f"transforms files: integer_depth_scale differs between frames: {sorted(values)}; expected one for all"
        )
    if not values:
        if any("depth_path" in frame.values for frame in frames):
            report.append("no integer_depth_scale: depth is taken as millimeters")
        return 0.001
    scale = values.pop()
    if not _DEPTH_SCALES[0] <= scale <= _DEPTH_SCALES[1]:
        raise CaptureError(
            f"transforms files: integer_depth_scale is {scale:g}; expected meters per unit of depth, "
            f"{_DEPTH_SCALES[0]:g} to {_DEPTH_SCALES[1]:g} (0.001 for millimeters)"
        )
    return scale


class _FrameReader:
    """Decodes the files of single frames; every error names the frame and the field."""

    def __init__(
        self, frames: list[TransformsFrame], files: list[_Files], canonical: Mesh, size: tuple[int, int]
    ) -> None:
        self.frames, self.files, self.size = frames, files, size
        self.vertex_count, self.faces = len(canonical.vertices), canonical.faces
        self.plausible = _PlausibleSize(canonical)
        self.cameras: tuple[np.ndarray, np.ndarray] | None = None  # world-to-camera and intrinsics, once decided
        self.matte_from_label = False
        self.lens: Undistortion | None = None
        self.obj = ObjReader()
        self.counts = {key: self._count(key) for key in _OF_ALL_FRAMES}

    def head(self, index: int) -> DecodedHead:
        """See `Recording.decode_head`."""
        frame, entry = self.frames[index], self.files[index]
        try:
            mesh = self.obj.read(entry.mesh, f"{frame.where}: mesh_path")
        except MeshFileError as error:
            raise CaptureError(str(error)) from error
        vertices = mesh.vertices.numpy()
        if len(mesh.vertices) != self.vertex_count:
            raise CaptureError(
                f"{frame.where}: mesh_path {entry.mesh.name} has {len(mesh.vertices)} vertices; "
                f"canonical.obj has {self.vertex_count}; expected one topology: export them together"
            )
        if mesh.faces is not self.faces:
            if not mesh.faces.equal(self.faces):
                raise CaptureError(
                    f"{frame.where}: mesh_path {entry.mesh.name} has other faces than "
                    "canonical.obj; expected one topology: export them together"
                )
            self.faces = mesh.faces  # files with equal faces share one tensor, so the next are compared by identity
        fault = self.plausible.fault(vertices)
        if fault is not None:
            raise CaptureError(
                f"{frame.where}: mesh_path {entry.mesh.name} cannot be a pose of canonical.obj, {fault}; "
                "expected meters and canonical.obj's order of vertices"
            )
        self.check_view(index, vertices)
        return DecodedHead(
            vertices,
            self._rows(index, "exp_path", "coefficients"),
            self._rows(index, "pose_path", "joints"),
            self._transforms(index),
        )

    def _count(self, key: str) -> int | None:
        """Number of rows that the first frame's file has; None if there are no such files."""
        path = getattr(self.files[0], _OF_ALL_FRAMES[key])
        return None if path is None else len(self._parsed(0, key, path))

    def _rows(self, index: int, key: str, what: str) -> np.ndarray | None:
        """A frame's coefficients (E,), rotations (J, 3), or the first three rows of transforms (J, 12)."""
        frame, path = self.frames[index], getattr(self.files[index], _OF_ALL_FRAMES[key])
        if path is None:
            return None
        rows = self._parsed(index, key, path)
        if len(rows) != self.counts[key]:
            raise CaptureError(
                f"{frame.where}: {key} {path.name} has {len(rows)} {what}; "
                f"{self.frames[0].name} has {self.counts[key]}; expected as many in every frame"
            )
        return rows

    def _parsed(self, index: int, key: str, path: Path) -> np.ndarray:
        where, width = self.frames[index].where, {"exp_path": 1, "pose_path": 3, "joints_path": 12}[key]
        numbers = read_numbers(path, where, key)
        if len(numbers) % width:
            raise CaptureError(
                f"{where}: {key} {path.name} has {len(numbers)} numbers; expected {width} for each joint"
            )
        return numbers if width == 1 else numbers.reshape(-1, width)

    def _transforms(self, index: int) -> np.ndarray | None:
        rows = self._rows(index, "joints_path", "joints")
        if rows is None:
            return None
        last = np.broadcast_to(np.array([0, 0, 0, 1], np.float32), (len(rows), 1, 4))
        transforms = np.concatenate([rows.reshape(-1, 3, 4), last], axis=1)
        if not are_rigid(transforms):
            raise CaptureError(
                f"{self.frames[index].where}: joints_path {self.files[index].joints} holds a matrix that is not rigid; "
                "expected the first three rows of a rotation, without scale and mirroring, with a translation in meters"
            )
        return transforms

    def check_view(self, index: int, vertices: np.ndarray) -> None:
        """Refuses a frame whose camera does not see its mesh; does nothing while the cameras are not known."""
        if self.cameras is None:
            return
        outside = out_of_view(vertices, self.cameras[0][index], self.cameras[1][index], self.size)
        if outside is not None:
            raise CaptureError(
                f"{self.frames[index].where}: of the mesh of mesh_path, {outside}; the camera (transform_matrix, or "
                "fl_x, fl_y, cx, cy) is wrong, in another unit or another convention than the other frames': correct "
                "it or remove the frame"
            )

    def image(self, index: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """RGBA, label and depth of a frame; see `Recording.decode_image`."""
        frame, entry = self.frames[index], self.files[index]
        pictures = {
            kind: None if path is None else decode_image(path, frame.where, key, kind, self.size)
            for key, path, kind in entry.pictures()
        }
        rgba, label, depth = pictures["rgba"], pictures["label"], pictures["depth"]
        assert rgba is not None
        if self.matte_from_label and label is not None:
            rgba[..., 3] = np.where((label != Label.BACKGROUND) & (label != Label.CLOTH), 255, 0)
        return (rgba, label, depth) if self.lens is None else self.lens.image(index, (rgba, label, depth))

    def landmarks(self, index: int) -> np.ndarray | None:
        """68 landmarks (68, 2) float32 in pixels, or None."""
        frame, entry = self.frames[index], self.files[index]
        if entry.landmarks is None:
            return None
        values = read_numbers(entry.landmarks, frame.where, "landmark_path", missing=True)
        if len(values) != 136:
            raise CaptureError(
                f"{frame.where}: landmark_path {entry.landmarks.name} has {len(values)} numbers; "
                "expected 68 lines of x y"
            )
        points = values.reshape(68, 2)
        return points if self.lens is None else self.lens.landmarks(index, points)


class _PlausibleSize:
    """Checks that posed meshes have about the size of the canonical one, as those in its unit and vertex order do.

    Args:
        canonical: canonical mesh with at least one face.

    Raises:
        CaptureError: all canonical vertices are in one place.
    """

    def __init__(self, canonical: Mesh) -> None:
        edges = np.sort(canonical.faces.numpy()[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        self._edges = np.unique(edges, axis=0)
        self._mean, _, self._extent = self._measures(canonical.vertices.numpy())
        if not self._mean > 0:
            raise CaptureError("canonical.obj: all of its vertices are in one place; export it again")

    def fault(self, vertices: np.ndarray) -> str | None:
        """The fault of the vertices (V, 3), in words, or None."""
        mean, longest, extent = self._measures(vertices)
        for what, value, usual in (("edges average", mean, self._mean), ("extent is", extent, self._extent)):
            if not usual / 3 < value < usual * 3:
                return f"its {what} {value:.3g} m, canonical.obj's {usual:.3g} m"
        if longest > self._extent:
            return f"it has an edge of {longest:.3g} m, and canonical.obj is {self._extent:.3g} m across"
        return None

    def _measures(self, vertices: np.ndarray) -> tuple[float, float, float]:
        """Mean and greatest length of the edges, diagonal of the bounding box of the vertices in use."""
        ends = vertices[self._edges].astype(np.float64)
        length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        flat = ends.reshape(-1, 3)
        extent = np.linalg.norm(flat.max(axis=0) - flat.min(axis=0))
        return float(length.mean()), float(length.max()), float(extent)


def _alignment_frame(reader: _FrameReader, index: int, intrinsics: np.ndarray, scale: float) -> AlignmentFrame:
    """A frame to compare, with the identity for its camera, which is not known yet."""
    vertices = reader.head(index).vertices
    rgba, label, depth = reader.image(index)
    meters = None if depth is None else depth.astype(np.float32) * scale
    name = reader.frames[index].name
    return AlignmentFrame(name, vertices, np.eye(4), intrinsics, rgba[..., 3] > 127, label, meters)
