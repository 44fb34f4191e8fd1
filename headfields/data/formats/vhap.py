"""Reader of the layout that VHAP exports and GaussianAvatars trains on: FLAME parameters in place of meshes.

`transforms*.json` with `file_path`, `fg_mask_path` and `flame_param_path` a frame, `flame_param/*.npz` and
`canonical_flame_param.npz`. One time step may be seen by several cameras; each image is a frame of the capture. Field
names and meanings are those of VHAP's export (Qian 2024). The FLAME model is the user's file.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.alignment import (
    LEAST_IN_VIEW,
    AlignmentFrame,
    convention_evidence,
    in_view,
    misalignments,
    sample_frames,
)
from headfields.data.camera_convention import Decision, decide_convention
from headfields.data.errors import CaptureError
from headfields.data.formats.transforms import TransformsFrame, intrinsics_of, matrix_of, read_frames, read_transforms
from headfields.data.image_files import ImageHeader, decode_image, exists, image_header
from headfields.data.recording import DecodedHead, Recording
from headfields.files.arrays import load_numbers
from headfields.files.reading import reading
from headfields.heads.skinned import SkinnedHead
from headfields.mesh.mesh import Mesh

__all__ = ["is_vhap", "read_vhap"]

_PARAMETERS = {"rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}
"""Key and width of what every file has, in the order of FLAME's joints."""
_OFFSETS = ("static_offset", "dynamic_offset")
_JAW = 0.3
"""Rotation of the jaw, radians, in the canonical pose that VHAP writes."""
_FARTHEST = 50.0  # meters from the origin to a head
_LEAST_SHIFT = 0.01  # image sides: principal points nearer to each other than this are one
_LEAD = 0.02  # by which one principal point's score has to exceed the other's
_CONVENTION = "camera-to-world, OpenGL axes"


def is_vhap(folder: Path) -> bool:
    """Whether the folder has a transforms file whose frames name FLAME parameters."""
    for split in ("", "_train", "_val", "_test"):
        path = folder / f"transforms{split}.json"
        if path.is_file():
            return any("flame_param_path" in frame.values for frame in read_transforms(path)[:1])
    return False


def read_vhap(folder: Path, head: SkinnedHead, root: Path | None = None) -> Recording:
    """Reads everything but pixels and parameters, which are decoded on demand, and decides axes and principal point.

    Args:
        folder: the capture's folder.
        head: the FLAME model that the parameters are of. A model of V vertices reads offsets of V vertices, and of
            V + 120, whose last are the teeth that VHAP adds; those are left out.
        root: a folder that holds all files, where frames refer to sibling folders (`../OTHER/images/...`), as sets
            joined from several sequences do; None: `folder`.

    Raises:
        CaptureError: names the file, the frame and the field.
    """
    report: list[str] = []
    frames, splits = read_frames(folder, report, "flame_param_path", _levels(folder, root))
    header = _check_files(folder, frames, report)
    size = header.size
    matrices = np.stack([matrix_of(frame) for frame in frames])
    intrinsics = np.stack([intrinsics_of(frame, size, report) for frame in frames])
    reader = _FrameReader(folder, frames, head, size, report)
    reader.has_matte = header.has_alpha or "fg_mask_path" in frames[0].values
    if not reader.has_matte:
        report.append("images have no alpha and no fg_mask_path; the matte is 1 everywhere")

    sample = sample_frames(matrices)
    compared = [reader.alignment(index, intrinsics[index]) for index in sample]
    decision, flipped = _decide(folder, compared, matrices[sample], head.faces.numpy(), size, report)
    if flipped:
        intrinsics = _flipped(intrinsics, size)
    camera_to_world = np.stack([decision.camera_to_world(matrix) for matrix in matrices])
    world_to_camera = np.linalg.inv(camera_to_world)
    reader.cameras = world_to_camera, intrinsics
    compared = [
        replace(frame, world_to_camera=world_to_camera[index], intrinsics=intrinsics[index])
        for frame, index in zip(compared, sample, strict=True)
    ]
    for frame, index in zip(compared, sample, strict=True):
        reader.check_view(index, frame.vertices)
    report += misalignments(compared, head.faces.numpy())
    report.append("the files do not record FLAME's version: the meshes are those of the model that was passed")
    cameras = {frame.values.get("camera_index") for frame in frames} - {None}
    if len(cameras) > 1:
        report.append(f"{len(cameras)} cameras: frames of one time step share their head")

    return Recording(
        path=folder,
        size=size,
        frame_names=[frame.name for frame in frames],
        camera_to_world=camera_to_world,
        intrinsics=intrinsics,
        splits=splits,
        canonical=reader.canonical,
        decode_image=reader.image,
        decode_head=reader.head,
        decode_landmarks=_no_landmarks,
        has_label=False,
        has_depth=False,
        expression_width=head.expression_count,
        pose_joints=len(head.parents),
        transform_joints=len(head.parents),
        report=report,
        decoded_vertices={index: frame.vertices for frame, index in zip(compared, sample, strict=True)},
    )


def _no_landmarks(frame: int) -> None:
    """The layout has none."""


def _levels(folder: Path, root: Path | None) -> int:
    """How many folders up the frames' paths may lead."""
    if root is None:
        return 0
    inside, outside = folder.resolve(), Path(root).resolve()
    if outside != inside and outside not in inside.parents:
        raise CaptureError(f"load_capture: root {root} does not hold {folder}; name a folder above it")
    return len(inside.parts) - len(outside.parts)


def _check_files(folder: Path, frames: list[TransformsFrame], report: list[str]) -> ImageHeader:
    """The header that all images have in common; every named file must exist."""
    first: ImageHeader | None = None
    with_masks = sum("fg_mask_path" in frame.values for frame in frames)
    if 0 < with_masks < len(frames):
        bare = next(frame for frame in frames if "fg_mask_path" not in frame.values)
        raise CaptureError(
            f"{bare.where}: fg_mask_path is missing, {with_masks} other frames have one; add it or remove the frame"
        )
    for frame in frames:
        for key in ("file_path", "flame_param_path", *(("fg_mask_path",) if with_masks else ())):
            if not exists(folder / frame.path(key)):
                raise CaptureError(
                    f"{frame.where}: {key} {frame.path(key)!r} does not exist in {folder}; copy it there or remove the "
                    "frame"
                )
        header = image_header(folder / frame.path("file_path"), frame.where, "file_path", "rgba")
        first = header if first is None else first
        if header.size != first.size:
            raise CaptureError(
                f"{frame.where}: file_path {frame.path('file_path')} is {header.size[1]}x{header.size[0]} pixels; "
                f"expected {first.size[1]}x{first.size[0]} as the first image; export it again"
            )
        if header.has_alpha != first.has_alpha:
            raise CaptureError(
                f"{frame.where}: file_path {frame.path('file_path')} has {header.channels} channels, the first image "
                f"{first.channels}; expected alpha in all images or in none"
            )
        for key, side in (("w", header.size[1]), ("h", header.size[0])):
            if key in frame.values and frame.number(key) != side:
                raise CaptureError(
                    f"{frame.where}: {key} is {frame.number(key):g}, but the image is {header.size[1]}x"
                    f"{header.size[0]} pixels; expected {side}, as the intrinsics are for that size"
                )
    assert first is not None  # read_frames refuses a capture without frames
    if with_masks and first.has_alpha:
        report.append("images have alpha; fg_mask_path is not read")
    return first


def _flipped(intrinsics: Float[np.ndarray, "f 3 3"], size: tuple[int, int]) -> Float[np.ndarray, "f 3 3"]:
    """The intrinsics with the principal point counted from the lower border."""
    flipped = intrinsics.copy()
    flipped[:, 1, 2] = size[0] - flipped[:, 1, 2]
    return flipped


def _decide(
    folder: Path,
    compared: list[AlignmentFrame],
    matrices: Float[np.ndarray, "n 4 4"],
    faces: np.ndarray,
    size: tuple[int, int],
    report: list[str],
) -> tuple[Decision, bool]:
    """The axes of the cameras, and whether `cy` counts from the lower border, as VHAP writes it.

    Both principal points are tried where they differ; the meshes' overlap with the mattes decides.
    """
    intrinsics = np.stack([frame.intrinsics for frame in compared])
    other = _flipped(intrinsics, size)
    points = {"from the image's lower border": other, "from its upper border": intrinsics}
    if np.abs(other - intrinsics).max() < _LEAST_SHIFT * max(size):
        points.pop("from its upper border")
    decisions: dict[str, Decision] = {}
    errors: list[CaptureError] = []
    for name, matrix in points.items():
        evidence = [
            convention_evidence(replace(frame, intrinsics=own), pose)
            for frame, own, pose in zip(compared, matrix, matrices, strict=True)
        ]
        try:
            decisions[name] = decide_convention(evidence, faces, size, prefer=_CONVENTION)
        except CaptureError as error:
            errors.append(error)
    if not decisions:
        raise CaptureError(f"{folder}: {errors[0]}") from None
    score = {name: decision.scores[decision.name] for name, decision in decisions.items()}
    best = max(score, key=lambda name: score[name])
    if len(score) == 2 and abs(score[best] - min(score.values())) < _LEAD:
        both = " and ".join(f"{name} (score {value:.3f})" for name, value in score.items())
        raise CaptureError(
            f"{folder}: cy is ambiguous, counted {both}; the meshes fit the mattes alike. Add frames with mattes in "
            "which the whole head is seen"
        )
    decision = decisions[best]
    scores = ", ".join(f"{name} {value:.3f}" for name, value in decision.scores.items())
    report.append(f"camera convention: {decision.name} (scores: {scores}; {decision.used})")
    if len(points) == 2:
        tried = ", ".join(f"{name} {value:.3f}" for name, value in score.items())
        report.append(f"principal point: cy counts {best} (scores: {tried})")
    return decision, best == "from the image's lower border"


class _FrameReader:
    """Decodes single frames; every error names the frame and the field."""

    def __init__(
        self,
        folder: Path,
        frames: list[TransformsFrame],
        head: SkinnedHead,
        size: tuple[int, int],
        report: list[str],
    ) -> None:
        self.folder, self.frames, self.size = folder, frames, size
        self.head_model = head
        self.has_matte = False
        self.cameras: tuple[np.ndarray, np.ndarray] | None = None
        rest = self._canonical_parameters(report)
        with torch.no_grad():
            posed = head(**rest)
        uv = None if head.uv is None else head.uv.float()
        self.canonical = Mesh(posed.vertices[0].float(), head.faces, uv=uv, uv_faces=head.uv_faces).to("cpu")
        assert posed.joint_transforms is not None
        self._from_canonical = torch.linalg.inv(posed.joint_transforms[0])
        self._report_teeth(report)

    def head(self, index: int) -> DecodedHead:
        """See `Recording.decode_head`."""
        frame = self.frames[index]
        parameters = self._parameters(frame.path("flame_param_path"), f"{frame.where}: flame_param_path")
        with torch.no_grad():
            state = self.head_model(**parameters)
        vertices = state.vertices[0].float().cpu().numpy()
        self.check_view(index, vertices)
        assert state.expression is not None and state.pose is not None and state.joint_transforms is not None
        return DecodedHead(
            vertices,
            state.expression[0].float().cpu().numpy(),
            state.pose[0].float().cpu().numpy(),
            (state.joint_transforms[0] @ self._from_canonical).float().cpu().numpy(),
        )

    def image(self, index: int) -> tuple[np.ndarray, None, None]:
        """RGBA of a frame; see `Recording.decode_image`."""
        frame = self.frames[index]
        rgba = decode_image(self.folder / frame.path("file_path"), frame.where, "file_path", "rgba", self.size)
        if "fg_mask_path" in frame.values and (rgba[..., 3] == 255).all():
            path = self.folder / frame.path("fg_mask_path")
            mask = decode_image(path, frame.where, "fg_mask_path", "label", self.size)
            rgba[..., 3] = mask * 255 if mask.max(initial=0) == 1 else mask  # some tools write 0 and 1
        return rgba, None, None

    def alignment(self, index: int, intrinsics: np.ndarray) -> AlignmentFrame:
        """A frame to compare, with the identity for its camera, which is not known yet."""
        alpha = self.image(index)[0][..., 3] > 127
        vertices = self.head(index).vertices
        return AlignmentFrame(self.frames[index].name, vertices, np.eye(4), intrinsics, alpha, None, None)

    def check_view(self, index: int, vertices: np.ndarray) -> None:
        """Refuses a frame whose camera does not see its head; does nothing while the cameras are not known."""
        if self.cameras is None:
            return
        part, extent = in_view(vertices, self.cameras[0][index], self.cameras[1][index], self.size)
        if part < LEAST_IN_VIEW or extent < LEAST_IN_VIEW:
            raise CaptureError(
                f"{self.frames[index].where}: transform_matrix (or fl_x, fl_y, cx, cy) puts {part:.0%} of the head's "
                f"vertices in front of the camera and inside the image, over {extent:.1%} of its side; camera and "
                "flame_param_path are not of one frame: correct them or remove the frame"
            )

    def _canonical_parameters(self, report: list[str]) -> dict[str, Tensor]:
        path = self.folder / "canonical_flame_param.npz"
        if exists(path):
            return self._parameters(path.name, path.name)
        first = self.frames[0]
        rest = self._parameters(first.path("flame_param_path"), f"{first.where}: flame_param_path", _OFFSETS[:1])
        rest["expression"] = torch.zeros_like(rest["expression"])
        rest["translation"] = torch.zeros_like(rest["translation"])
        rest["pose"] = torch.zeros_like(rest["pose"])
        rest["pose"][0, self.head_model.jaw_joint, 0] = _JAW
        report.append(f"no canonical_flame_param.npz: the canonical head is the first frame's, its jaw at {_JAW} rad")
        return rest

    def _parameters(self, name: str, where: str, offsets: tuple[str, ...] = _OFFSETS) -> dict[str, Tensor]:
        """The arguments of the head model from one file."""
        path = self.folder / name
        what = f"{where} {name}" if where != name else name
        with reading(path, "FLAME parameters", CaptureError):
            raw = load_numbers(path, CaptureError)
        missing = [key for key in ("shape", "expr", *_PARAMETERS) if key not in raw]
        if missing:
            raise CaptureError(
                f"{what} lacks {', '.join(missing)} (it has {', '.join(sorted(raw)) or 'nothing'}); export it again"
            )
        values = {key: _row(raw, key, width, what) for key, width in _PARAMETERS.items()}
        if values["translation"].abs().max() > _FARTHEST:
            raise CaptureError(f"{what}: translation is {values['translation'].tolist()}; expected meters")
        head = self.head_model
        if len(head.parents) != 5:
            raise CaptureError(f"load_capture: head has {len(head.parents)} joints; the layout is FLAME's, which has 5")
        pose = torch.cat([values[key] for key in list(_PARAMETERS)[:4]]).reshape(1, 5, 3)
        arguments = {
            "shape": self._coefficients(raw, "shape", head.shape_count, what),
            "expression": self._coefficients(raw, "expr", head.expression_count, what),
            "pose": pose,
            "translation": values["translation"][None],
        }
        present = [self._offset(raw, key, what) for key in offsets if key in raw]
        if present:
            arguments["offset"] = torch.stack(present).sum(dim=0)[None]
        return {key: value.to(head.template_vertices) for key, value in arguments.items()}

    def _coefficients(self, raw: Mapping[str, np.ndarray], key: str, most: int, what: str) -> Tensor:
        """(1, C) coefficients; those beyond the head's directions must be zero."""
        values = _row(raw, key, None, what)
        if values[most:].any():
            raise CaptureError(
                f"{what}: {key} has {len(values)} coefficients, and the head has {most} such directions; pass the full "
                "FLAME model (300 shape and 100 expression components)"
            )
        return values[None, :most]

    def _offset(self, raw: Mapping[str, np.ndarray], key: str, what: str) -> Tensor:
        """(V, 3) displacements, without those of the teeth that the head lacks."""
        count = len(self.head_model.template_vertices)
        values = raw[key]
        rows = values[0] if values.ndim == 3 and len(values) == 1 else values
        if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) not in (count, count + _TEETH):
            raise CaptureError(
                f"{what}: {key} has shape {values.shape}; expected (1, {count}, 3), the head's vertices, or {_TEETH} "
                "more with VHAP's teeth: pass the FLAME model that the capture was tracked with"
            )
        if not np.isfinite(rows).all():
            raise CaptureError(f"{what}: {key} holds a number that is not finite; export it again")
        return torch.from_numpy(rows[:count].astype(np.float64))

    def _report_teeth(self, report: list[str]) -> None:
        first = self.frames[0]
        with reading(self.folder / first.path("flame_param_path"), "FLAME parameters", CaptureError):
            raw = load_numbers(self.folder / first.path("flame_param_path"), CaptureError)
        count = len(self.head_model.template_vertices)
        if any(key in raw and raw[key].shape[-2] == count + _TEETH for key in _OFFSETS):
            report.append(
                f"offsets are of {count + _TEETH} vertices, with VHAP's teeth, which the head lacks; they are left out "
                '(mouth="interior" builds our own)'
            )


_TEETH = 120
"""Vertices that VHAP adds to FLAME's 5,023 for two rows of teeth."""


def _row(raw: Mapping[str, np.ndarray], key: str, width: int | None, what: str) -> Float[Tensor, " c"]:
    """One row of finite numbers of a file, float64."""
    values = raw[key]
    row = values[0] if values.ndim == 2 and len(values) == 1 else values
    if row.ndim != 1 or (width is not None and len(row) != width):
        expected = f"(1, {'C' if width is None else width})"
        raise CaptureError(f"{what}: {key} has shape {values.shape}; expected {expected}, the values of one frame")
    if values.dtype.kind not in "fiu" or not np.isfinite(row).all():
        raise CaptureError(f"{what}: {key} holds values that are not finite numbers; export it again")
    return torch.from_numpy(row.astype(np.float64))
