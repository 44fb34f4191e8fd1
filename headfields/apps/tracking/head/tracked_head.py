"""The tracked head as a capture in INSTA's layout, with depth and labels of the mesh where the recording has none."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from headfields.apps.capturing.mesh_labels import MeshLabels
from headfields.apps.tracking.head.rig import HeadModel
from headfields.apps.tracking.rig.body import TrackedBody
from headfields.apps.tracking.rig.fit import RigFit
from headfields.apps.tracking.rig.tracked_capture import write_fits
from headfields.data.formats.insta_writer import InstaWriter
from headfields.data.formats.transforms import splits_from_end
from headfields.data.mesh_depth import MeshDepth
from headfields.data.untracked import UntrackedRecording
from headfields.heads.blendshapes import BlendshapeHead
from headfields.mesh.mesh import Mesh
from headfields.records import Camera, Template

__all__ = ["head_template", "write_tracked_head"]

_JAW_OPEN = ("jawOpen", "jaw_open", "mouth_open")
_OPEN = 0.45
"""Weight of the jaw's blendshape in the canonical mesh, in which the lips part."""
_MILLIMETER = 0.001
_TEST_EVERY, _TEST_CAMERA = 8, 4  # of the cameras of a single moment; the first one has the best view of the face


def head_template(model: HeadModel, coefficients: Float[Tensor, " s"], body: TrackedBody) -> Template:
    """The canonical mesh of a person with its regions: neutral, the lips apart, the mouth closed by faces."""
    head = model.head
    if not isinstance(head, BlendshapeHead):
        return body.rig.template()
    full = head.identity_basis.new_zeros(1, len(head.identity_basis))
    full[0, list(model.identity)] = coefficients
    name = next((name for name in _JAW_OPEN if name in head.expression_names), None)
    opened = None if name is None else {name: _OPEN}
    try:
        template = head.template(identity=full, expression=opened)
    except ValueError:  # no border looks like a mouth
        weights = None if opened is None else head.expression(**opened)
        vertices = head(identity=full, expression=weights).vertices[0]
        template = Template(canonical_vertices=vertices, faces=head.faces, regions={}, face_count=len(head.faces))
    added = len(template.faces) - len(head.faces)
    regions = {
        name: torch.cat([mask, mask.new_zeros(added)])
        for name, mask in body.rig.derived_regions().items()
        if name in ("eyes", "face")
    }
    return replace(template, regions={**regions, **template.regions})


@torch.no_grad()
def write_tracked_head(
    out: str | Path,
    recording: UntrackedRecording,
    model: HeadModel,
    coefficients: Float[Tensor, " s"],
    body: TrackedBody,
    fits: Mapping[int, RigFit],
) -> Path:
    """Writes the tracked frames as a capture that `load_capture` reads and every model trains on.

    The head's pose is in the cameras, the face's motion in the meshes. Expression files hold the jaw's rotation
    (axis-angle, 3; not of blendshapes, which have no jaw) and then the tracked coefficients. Labels are the
    recording's, else the mesh's; depth is that of the mesh. Splits are the recording's own, else the last frames test.
    A moment from several cameras is a frame for each of them, named MOMENT_CAMERA, with one mesh and expression; of a
    single moment every eighth camera is test (nerfstudio's interval).

    Args:
        out: the folder.
        recording: its images, mattes, labels and landmarks are copied.
        model: the head.
        coefficients: (S,) of the person.
        body: the person's rig, tracked.
        fits: by frame.

    Raises:
        ValueError: there are no fits.
    """
    out, rig = Path(out), body.rig
    if not fits:
        raise ValueError("write_tracked_head: fits is empty; no frame was tracked")
    template = head_template(model, coefficients, body)
    count = len(rig.template_vertices)
    skinned = not isinstance(model.head, BlendshapeHead)
    writer = InstaWriter(out, Mesh(template.canonical_vertices[:count], rig.faces), _MILLIMETER)
    rows = write_fits(
        writer, recording, body, fits, {frame: fit.pose.expression for frame, fit in fits.items()},
        MeshLabels(template), functools.partial(_depth, MeshDepth(template)), skinned,
    )  # fmt: skip
    frames = sorted(rows)
    if len(frames) == 1 and len(views := rows[frames[0]]) > 1 and recording.own_splits is None:
        test = views[_TEST_CAMERA::_TEST_EVERY] or views[-1:]
        writer.finish({"train": [row for row in views if row not in test], "test": test, "val": test})
        return out
    if recording.own_splits is None:
        splits = splits_from_end("write_tracked_head", len(frames))
        chosen = {name: [frames[k] for k in own] for name, own in splits.items()}
    else:
        chosen = {name: list(own) for name, own in recording.own_splits.items() if name in ("train", "test", "val")}
    writer.finish({name: [row for frame in own for row in rows.get(frame, ())] for name, own in chosen.items()})
    return out


def _depth(depth_of: MeshDepth, vertices: Float[Tensor, "1 v 3"], camera: Camera) -> UInt16[np.ndarray, "h w"]:
    rays = camera.rays()
    along = rays.directions @ camera.world_to_camera.reshape(4, 4)[2, :3]
    meters = depth_of(vertices, rays, 1 / along.clamp_min(1e-6)).reshape(camera.size)
    return (meters / _MILLIMETER).round().clamp(0, 65535).numpy().astype(np.uint16)
