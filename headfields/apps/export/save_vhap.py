"""Saving a loaded capture in the layout of VHAP and GaussianAvatars: FLAME's parameters in place of meshes.

A capture that was read with a FLAME model has parameters; to one with meshes of FLAME's topology they are fitted
(`headfields.apps.export.parameter_fit`), and offsets hold what is left, so that reading gives the same meshes.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.apps.export.parameter_fit import Arguments, ParameterFit
from headfields.apps.export.vhap_writer import WIDTHS, VhapWriter
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.recording import DecodedHead, Recording
from headfields.data.save import frames_to_save
from headfields.files.unfinished import filling
from headfields.heads.skinned import SkinnedHead

__all__ = ["VhapExport", "save_vhap"]

_SHARED_FACES = 0.9
"""Part of the head's faces that the capture's mesh has if the two are of one topology: mouths are closed and cut."""
_FARTHEST = 0.02  # meters: a mean offset beyond this is no identity of the head
_OFF_CENTER = 0.005  # image sides: principal points nearer to the center are at it
_STEP_CAMERA = re.compile(r"\d+_(\d{1,4})")
_IMAGE = re.compile(r"\.(png|jpe?g|frame)$", re.IGNORECASE)
_LARGE_OFFSET = 2e-3  # meters: beyond, the meshes are hardly poses of the head
_LEAST_OFFSET = 1e-6  # meters: smaller dynamic offsets are left out


@dataclass
class VhapExport:
    """What `save_vhap` wrote.

    Attributes:
        frames: number of images.
        steps: number of time steps.
        residual: root mean square of the dynamic offset over all steps and coordinates, meters.
        largest: largest length of a dynamic offset, meters.
        report: lines on what was fitted, and on what other programs will not read.
    """

    frames: int = 0
    steps: int = 0
    residual: float = 0.0
    largest: float = 0.0
    report: list[str] = field(default_factory=list)


def save_vhap(
    capture: Capture,
    folder: Path | str,
    head: SkinnedHead | None = None,
    frames: Int[Tensor, " b"] | Sequence[int] | None = None,
    progress: bool = False,
) -> VhapExport:
    """Writes a capture in the layout of VHAP and GaussianAvatars so that `load_capture(folder, head=head)` returns the
    same meshes, images, mattes, splits and cameras.

    Frames with one head, to the bit, are the cameras of one time step; frames are written step by step. Parameters are
    written as recorded where the capture was read with a FLAME model; otherwise they are fitted: shape and
    `static_offset` to the canonical mesh, rotations, translation and expression to each step's, from the recorded
    expression and pose where these fit better than none. `dynamic_offset` is what is left, which the reader adds to
    the rest shape before the joints are regressed. Vertices come back to a micrometer; poses, expressions and joint
    transforms are those fitted. Labels, depth and landmarks have no place in the layout. Cameras and heads stay where
    they are: VHAP moves both so that the mean translation is 0.

    Args:
        capture: decoded one frame at a time, whatever its memory budget. Its head's frame is not applied.
        folder: a new or empty folder, or one that a killed call has left unfinished; empty again after an error.
        head: the FLAME model (5 joints, at most 300 shape and 100 expression directions); None for that with which the
            capture was read.
        frames: write only these, in the capture's order. All if None.
        progress: show a progress bar on stderr.

    Returns:
        Counts, the size of the dynamic offsets and a report.

    Raises:
        FileExistsError: `folder` is a file or not empty.
        IndexError: a frame is out of range.
        ValueError: `frames` is empty; a head is needed and None; it has other joints or more directions; or a camera
            has skew.
        CaptureError: the meshes are not of the head's topology, or a frame cannot be read.
    """
    folder = Path(folder)
    indices = frames_to_save("save_vhap", capture, frames)
    source = _source(capture.recording, head)
    with filling(folder, "save_vhap"):
        return _written(capture, folder, indices, source, progress)


def _written(capture: Capture, folder: Path, indices: list[int], source: "_Source", progress: bool) -> VhapExport:
    """Fills the folder."""
    recording = capture.recording
    export = VhapExport(report=[source.line])
    writer = VhapWriter(folder, capture.size, _named(source.canonical) | {"static_offset": source.static})
    squares: list[float] = []
    varies = False
    steps = _time_steps(recording, indices)
    cameras = _cameras(recording, steps)
    written: list[int] = []
    bar = tqdm(total=len(indices), unit="frame", disable=not progress)
    for rows in steps:
        arguments = source.arguments(rows[0], recording.decode_head(rows[0]))
        varies |= not torch.equal(arguments["shape"], source.canonical["shape"])
        dynamic = _numbers(arguments["offset"])[0] - source.static
        length = np.linalg.norm(dynamic, axis=-1)
        squares.append(float(np.square(dynamic, dtype=np.float64).mean()))
        export.largest = max(export.largest, float(length.max(initial=0)))
        extra = {"dynamic_offset": dynamic} if length.max(initial=0) > _LEAST_OFFSET else {}
        writer.add_step(_named(arguments) | extra)
        for row in sorted(rows, key=cameras.__getitem__):
            rgba = recording.decode_image(row)[0]
            name = _IMAGE.sub("", PurePosixPath(capture.frame_names[row]).name)
            writer.add_image(rgba, recording.camera_to_world[row], recording.intrinsics[row], cameras[row], name)
            written.append(row)
            bar.update()
    bar.close()
    export.frames = len(written)
    place = {frame: index for index, frame in enumerate(written)}
    splits = {
        name: sorted(place[frame] for frame in rows.tolist() if frame in place) for name, rows in capture.splits.items()
    }
    writer.finish(splits)
    export.steps, export.residual = len(squares), float(np.mean(squares)) ** 0.5
    if varies:
        export.report.append("warning: shape differs between steps; GaussianAvatars' code takes the first step's")
    export.report += _limits(capture, recording, indices, splits, export)
    return export


@dataclass(frozen=True)
class _Source:
    """Where the parameters come from: the canonical head's, its offset (V, 3), and those of frames."""

    canonical: Arguments
    static: Float[np.ndarray, "v 3"]
    line: str

    def arguments(self, frame: int, decoded: DecodedHead) -> Arguments:
        """Arguments of the head model in float32's precision, the whole offset (1, V, 3) among them."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Recorded(_Source):
    recording: Recording

    def arguments(self, frame: int, decoded: DecodedHead) -> Arguments:
        assert self.recording.head_arguments is not None
        arguments = dict(self.recording.head_arguments.of_frame(frame))
        if "displacement" not in arguments:
            return {"offset": torch.zeros(1, *self.static.shape), **arguments}
        del arguments["displacement"]  # of the posed mesh; the layout's offsets are of the rest shape
        return {**arguments, "offset": self._fit.offset(torch.from_numpy(decoded.vertices), _rounded(arguments))}

    @functools.cached_property
    def _fit(self) -> ParameterFit:
        assert self.recording.head_arguments is not None
        return ParameterFit(self.recording.head_arguments.head)


@dataclass(frozen=True)
class _Fitted(_Source):
    fit: ParameterFit
    names: Sequence[str]

    def arguments(self, frame: int, decoded: DecodedHead) -> Arguments:
        head = self.fit.head
        starts = []
        width = head.expression_count
        if decoded.expression is not None and not decoded.expression[width:].any():
            padded = np.zeros(width)
            padded[: len(decoded.expression)] = decoded.expression[:width]
            start = {"expression": torch.from_numpy(padded)[None]}
            if decoded.pose is not None and decoded.pose.shape == (len(head.parents), 3):
                start["pose"] = torch.from_numpy(decoded.pose)[None]
            starts.append(start)
        vertices = torch.from_numpy(decoded.vertices)
        identity = {**self.canonical, "offset": torch.from_numpy(self.static)[None]}
        try:
            fitted = _rounded(self.fit.frame(vertices, identity, starts))
            arguments = {**fitted, "shape": self.canonical["shape"]}
            return {**arguments, "offset": self.fit.offset(vertices, arguments)}
        except ValueError as error:
            raise CaptureError(f"frame {self.names[frame]}: {error}") from error


def _source(recording: Recording, head: SkinnedHead | None) -> _Source:
    known = recording.head_arguments
    if known is not None and (head is None or head is known.head):
        _check_head(known.head)
        count = len(known.head.template_vertices)
        offset = known.canonical.get("offset", torch.zeros(1, count, 3))
        line = "FLAME parameters are written as they are recorded"
        return _Recorded(known.canonical, _numbers(offset)[0], line, recording)
    if head is None:
        raise ValueError(
            "save_vhap: head is None, and the capture has meshes and no FLAME parameters; pass "
            'head=headfields.heads.FlameHead.from_file("FLAME.npz"), the model whose topology they have'
        )
    _check_head(head)
    _check_topology(recording, head)
    fit, target = ParameterFit(head), recording.canonical.vertices
    try:
        identity = fit.identity(target)
        canonical = _rounded({name: value for name, value in identity.items() if name != "offset"})
        static = _numbers(fit.offset(target, canonical))[0]
        mean = float(np.linalg.norm(static, axis=-1).mean())
    except ValueError:  # rotations that no head has
        mean = np.inf
    if not mean <= _FARTHEST:
        raise CaptureError(
            f"save_vhap: every identity of the head is more than {1000 * _FARTHEST:.0f} mm from the canonical mesh on "
            "average; its vertices are in another order or unit, or it is of another model: pass the FLAME model that "
            "it was tracked with"
        )
    line = f"FLAME's shape is fitted to the canonical mesh; static_offset holds the other {1000 * mean:.2f} mm (mean)"
    return _Fitted(canonical, static, line, fit, recording.frame_names)


def _check_head(head: SkinnedHead) -> None:
    joints, shapes, expressions = len(head.parents), head.shape_count, head.expression_count
    if joints != 5 or shapes > WIDTHS["shape"] or expressions > WIDTHS["expr"]:
        raise ValueError(
            f"save_vhap: head has {joints} joints, {shapes} shape and {expressions} expression directions; the layout "
            f"is FLAME's, with 5 joints and at most {WIDTHS['shape']} and {WIDTHS['expr']} directions"
        )


def _check_topology(recording: Recording, head: SkinnedHead) -> None:
    own, count = recording.canonical, len(head.template_vertices)
    if len(own.vertices) != count:
        raise CaptureError(
            f"save_vhap: the capture's meshes have {len(own.vertices)} vertices, the head {count}; the layout stores "
            "parameters of the head, so the meshes must have its topology: pass the FLAME model that the capture was "
            "tracked with, or track it with FLAME"
        )
    pairs = [{tuple(sorted(face)) for face in faces.tolist()} for faces in (head.faces, own.faces)]
    shared = len(pairs[0] & pairs[1]) / max(len(pairs[0]), 1)
    if shared < _SHARED_FACES:
        raise CaptureError(
            f"save_vhap: the capture's mesh has {shared:.0%} of the head's faces, and as many vertices; expected one "
            "topology with the vertices in one order: pass the FLAME model that the capture was tracked with"
        )


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float32)


def _rounded(arguments: Arguments) -> dict[str, Tensor]:
    """The arguments as float32 holds them, so that offsets take up the rounding too."""
    return {name: value.float().double() for name, value in arguments.items()}


def _named(arguments: Arguments) -> dict[str, np.ndarray]:
    """Arguments of the head model by VHAP's names; those that are missing are zero."""
    pose = _numbers(arguments.get("pose", torch.zeros(1, 5, 3))).reshape(5, 3)
    joints = {"rotation": pose[0], "neck_pose": pose[1], "jaw_pose": pose[2], "eyes_pose": pose[3:].ravel()}
    rows = {
        vhap: _numbers(arguments[own])[0] if own in arguments else np.zeros(0, np.float32)
        for vhap, own in (("shape", "shape"), ("expr", "expression"), ("translation", "translation"))
    }
    return joints | rows


def _time_steps(recording: Recording, indices: list[int]) -> list[list[int]]:
    """Frames with one head, mesh, expression and pose equal to the bit; in the order of their first frames."""
    steps: dict[bytes, list[int]] = {}
    for frame in indices:
        head = recording.decode_head(frame)
        digest = hashlib.sha256()
        for values in (head.vertices, head.expression, head.pose):
            digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
        steps.setdefault(digest.digest(), []).append(frame)
    return list(steps.values())


def _cameras(recording: Recording, steps: list[list[int]]) -> dict[int, int]:
    """The number of each frame's camera, different within a step.

    From names STEP_CAMERA, as VHAP's, where all have one; else one for each pose and lens, where cameras recur; else,
    where every frame has a camera of its own, in the order of a step's frames.
    """
    frames = [frame for rows in steps for frame in rows]
    matches = [_STEP_CAMERA.fullmatch(PurePosixPath(recording.frame_names[frame]).stem) for frame in frames]
    known: dict[bytes, int] = {}
    for frame in sorted(frames):
        lens = recording.camera_to_world[frame].tobytes() + recording.intrinsics[frame].tobytes()
        known.setdefault(lens, len(known))
    numbers = {
        frame: int(match[1])
        if match
        else known[recording.camera_to_world[frame].tobytes() + recording.intrinsics[frame].tobytes()]
        for frame, match in zip(frames, matches, strict=True)
    }
    recur = all(matches) or (not any(matches) and len(known) <= 2 * max(len(rows) for rows in steps))
    if recur and all(len({numbers[frame] for frame in rows}) == len(rows) for rows in steps):
        return numbers
    return {frame: number for rows in steps for number, frame in enumerate(rows)}


def _limits(
    capture: Capture, recording: Recording, indices: list[int], splits: dict[str, list[int]], export: VhapExport
) -> list[str]:
    """Lines on what the layout has no place for, and on what GaussianAvatars' code does not read."""
    height, width = capture.size
    lenses = recording.intrinsics[indices]
    off = np.abs(lenses[:, :2, 2] - [width / 2, height / 2]).max(axis=0)
    warning = "warning: " if export.residual > _LARGE_OFFSET else ""
    unread = "; GaussianAvatars' code does not read it" if export.largest > _LEAST_OFFSET else ""
    lines = [
        f"{warning}dynamic_offset: {1000 * export.residual:.3f} mm (root mean square), {1000 * export.largest:.2f} mm "
        f"at most{unread}"
    ]
    if off.max() > _OFF_CENTER * max(capture.size):
        lines.append(
            f"warning: the principal point is up to {off[0]:.1f} pixels across and {off[1]:.1f} down from the image's "
            "center; GaussianAvatars' code ignores cx and cy and shifts heads by as much: crop the images around it"
        )
    if np.abs(lenses[:, 1, 1] / lenses[:, 0, 0] - 1).max() > _OFF_CENTER:
        lines.append("warning: fl_x and fl_y differ; GaussianAvatars' code takes fl_x for both")
    if 0 not in {*splits.get("train", ()), *splits.get("test", ())}:
        lines.append("warning: the first frame is in neither train nor test; GaussianAvatars' code reads shape from it")
    lost = [name for name, has in (("labels", recording.has_label), ("depth", recording.has_depth)) if has]
    if recording.decode_landmarks(indices[0]) is not None:
        lost.append("landmarks")
    if lost:
        lines.append(f"the layout has no {', '.join(lost)}: not written")
    return lines
