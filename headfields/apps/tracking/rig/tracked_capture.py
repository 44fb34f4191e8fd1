"""The tracked capture: a recording in INSTA's layout with tracked meshes, expressions and cameras, for training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from headfields.apps.capturing.mesh_labels import MeshLabels
from headfields.apps.tracking.rig.body import TrackedBody
from headfields.apps.tracking.rig.fit import RigFit
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.formats.insta_writer import CapturedFrame, InstaWriter
from headfields.data.untracked import UntrackedRecording
from headfields.mesh.mesh import Mesh
from headfields.records import Camera

__all__ = ["CapturedView", "views_of", "write_fits", "write_tracked_capture"]


@torch.no_grad()
def write_tracked_capture(
    out: str | Path, capture: Capture | UntrackedRecording, body: TrackedBody, fits: Mapping[int, RigFit]
) -> Path:
    """Writes the tracked frames as a capture that `load_capture` and `headfields train vp360` read.

    The motion of the whole body (a turning chair) is in the cameras, that of neck, head, jaw and face in the meshes.
    Expression files hold the jaw's rotation (axis-angle, 3) and then the rig's coefficients: the mapping network of
    `vp360` reads the first values. The rotations of all of the rig's joints, and their transforms from the canonical
    mesh, are written too. Labels are the capture's, else drawn from the rig's regions. Splits are the capture's. A
    moment from several cameras is a frame for each of them, named MOMENT_CAMERA, with one mesh and expression.

    Args:
        out: the folder.
        capture: its images, mattes, labels and landmarks are copied.
        body: the template.
        fits: fits by frame.

    Returns:
        The folder.

    Raises:
        ValueError: there are no fits.
    """
    out, rig = Path(out), body.rig
    if not fits:
        raise ValueError("write_tracked_capture: fits is empty; no frame was tracked")
    template = rig.template()
    canonical = template.canonical_vertices[: len(rig.template_vertices)]
    draw = MeshLabels(template) if template.regions else None
    writer = InstaWriter(out, Mesh(canonical, rig.faces), 0.001)
    coefficients = {frame: body.coefficients([fit.pose])[0] for frame, fit in fits.items()}
    rows = write_fits(writer, capture, body, fits, coefficients, draw)
    splits: dict[str, list[int]] = {
        str(name): [row for frame in capture.splits[name].tolist() for row in rows.get(frame, ())]
        for name in ("train", "test", "val")
        if name in capture.splits
    }
    writer.finish(splits)
    return out


def write_fits(
    writer: InstaWriter,
    capture: Capture | UntrackedRecording,
    body: TrackedBody,
    fits: Mapping[int, RigFit],
    coefficients: Mapping[int, Float[Tensor, " e"]],
    draw: MeshLabels | None,
    depth: Callable[[Float[Tensor, "1 v 3"], Camera], UInt16[np.ndarray, "h w"]] | None = None,
    skinned: bool = True,
) -> dict[int, list[int]]:
    """Writes every view of the fits.

    Args:
        writer: of the new capture.
        capture: its images, labels and landmarks are copied.
        body: the template.
        fits: by frame.
        coefficients: (E,) by frame, for the expression files, after the jaw's rotation.
        draw: labels where the capture has none; None for none.
        depth: depth map of a mesh (1, V, 3) in a camera, in the writer's units; None for none.
        skinned: whether the body has joints, whose rotations and transforms are written too.

    Returns:
        The rows that each frame has in the new capture, one for each of its cameras.
    """
    rig, rows = body.rig, dict[int, list[int]]()
    for frame in sorted(fits):
        fit = fits[frame]
        state = body.state([fit.pose])
        assert state.pose is not None
        values = coefficients[frame]
        if skinned:
            values = torch.cat([state.pose[0, rig.jaw_joint], values])
        for view in views_of(capture, frame, fit):
            label = None if view.label is None else view.label.numpy()
            if label is None and draw is not None:
                label = draw(state.vertices[0].numpy(), view.camera, view.image[..., 3] > 127)
            written = CapturedFrame(
                view.image, state.vertices[0], view.camera, values if len(values) else None, label,
                None if depth is None else depth(state.vertices, view.camera), view.landmarks,
                state.pose[0] if skinned else None, rig.from_template(state)[0] if skinned else None,
            )  # fmt: skip
            rows.setdefault(frame, []).append(writer.count)
            writer.add(view.name, written, view.camera_to_world)
    return rows


@dataclass(frozen=True)
class CapturedView:
    """A tracked moment from one camera.

    Attributes:
        name: of the frame in the capture; MOMENT_CAMERA of a recording from several cameras.
        image: RGBA, straight alpha.
        label: segmentation labels, or None.
        landmarks: (68, 2) pixels, NaN where unknown, or None.
        camera: in the space of the tracked mesh.
        camera_to_world: its inverse pose, in double precision.
    """

    name: str
    image: UInt8[np.ndarray, "h w 4"]
    label: Tensor | None
    landmarks: Float[np.ndarray, "68 2"] | None
    camera: Camera
    camera_to_world: Float[np.ndarray, "4 4"]


def views_of(capture: Capture | UntrackedRecording, frame: int, fit: RigFit) -> Iterator[CapturedView]:
    """What each camera has of a tracked moment; a camera whose frame cannot be used is left out, if there are others.

    Raises:
        CaptureError: the frame of the only camera cannot be read.
    """
    cameras: Sequence[Capture | UntrackedRecording] = (
        capture.cameras if isinstance(capture, UntrackedRecording) else (capture,)
    )
    for number, source in enumerate(cameras):
        try:
            image = (source.image(frame) * 255).round().to(torch.uint8).numpy()
        except CaptureError:
            if len(cameras) == 1:
                raise
            continue
        placed = fit.pose.world_to_camera.double().cpu()
        if isinstance(capture, UntrackedRecording) and isinstance(source, UntrackedRecording):
            placed = torch.from_numpy(capture.camera_in_first(source, frame)) @ placed
        # The focal length of a lone camera may be the tracker's own.
        seen_by = fit.camera if len(cameras) == 1 else source.camera([frame])[0]
        lens = seen_by.intrinsics.reshape(3, 3).float()
        camera = Camera(placed.float(), lens, (int(image.shape[0]), int(image.shape[1])))
        marks = source.landmarks(frame)
        known = marks is not None and bool(marks.isfinite().any())
        yield CapturedView(
            f"{frame:05d}" if len(cameras) == 1 else f"{frame:05d}_{number:02d}", image, source.label(frame),
            marks.numpy() if known and marks is not None else None, camera, np.linalg.inv(placed.numpy()),
        )  # fmt: skip
