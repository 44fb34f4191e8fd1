"""The tracked capture: a recording in INSTA's layout with tracked meshes, expressions and cameras, for training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from headfields.data.capture import Capture
from headfields.data.formats.insta_writer import CapturedFrame, InstaWriter
from headfields.data.mesh_labels import MeshLabels
from headfields.data.untracked import UntrackedRecording
from headfields.mesh.mesh import Mesh
from headfields.tracking.rig.body import TrackedBody
from headfields.tracking.rig.fit import RigFit

__all__ = ["write_tracked_capture"]


@torch.no_grad()
def write_tracked_capture(
    out: str | Path, capture: Capture | UntrackedRecording, body: TrackedBody, fits: Mapping[int, RigFit]
) -> Path:
    """Writes the tracked frames as a capture that `load_capture` and `headfields train vp360` read.

    The motion of the whole body (a turning chair) is in the cameras, that of neck, head, jaw and face in the meshes.
    Expression files hold the jaw's rotation (axis-angle, 3) and then the rig's coefficients: the mapping network of
    `vp360` reads the first values. The rotations of all of the rig's joints, and their transforms from the canonical
    mesh, are written too. Labels are the capture's, else drawn from the rig's regions. Splits are the capture's.

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
    frames = sorted(fits)
    if not frames:
        raise ValueError("write_tracked_capture: fits is empty; no frame was tracked")
    template = rig.template()
    canonical = template.canonical_vertices[: len(rig.template_vertices)]
    draw = MeshLabels(template) if template.regions else None
    writer = InstaWriter(out, Mesh(canonical, rig.faces), 0.001)
    for frame in frames:
        fit = fits[frame]
        state = body.state([fit.pose])
        assert state.pose is not None and state.expression is not None
        image = (capture.image(frame) * 255).round().to(torch.uint8).numpy()
        label, marks = capture.label(frame), capture.landmarks(frame)
        known = marks is not None and bool(marks.isfinite().any())
        camera = fit.camera.replace(world_to_camera=fit.pose.world_to_camera)
        drawn = None if label is None else label.numpy()
        if label is None and draw is not None:
            drawn = draw(state.vertices[0].numpy(), camera, image[..., 3] > 127)
        values = torch.cat([state.pose[0, rig.jaw_joint], state.expression[0]])
        written = CapturedFrame(
            image, state.vertices[0], camera, values, drawn,
            landmarks=marks.numpy() if known and marks is not None else None,
            pose=state.pose[0], joint_transforms=rig.from_template(state)[0],
        )  # fmt: skip
        pose = np.linalg.inv(fit.pose.world_to_camera.double().cpu().numpy())
        writer.add(f"{frame:05d}", written, pose)
    rows = {frame: row for row, frame in enumerate(frames)}
    splits: dict[str, list[int]] = {
        str(name): [rows[frame] for frame in capture.splits[name].tolist() if frame in rows]
        for name in ("train", "test", "val")
        if name in capture.splits
    }
    writer.finish(splits)
    return out
