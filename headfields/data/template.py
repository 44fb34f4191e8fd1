"""The template of a capture: its canonical mesh with the mouth closed, hollowed or left open, and its face regions.

How a mouth is recognized and which frame it is modeled on are our own choices.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.data.errors import CaptureError, NoOpenMouthError
from headfields.data.regions import LabeledView, vote_regions
from headfields.heads.mouth.border import mouth_loop_in_front
from headfields.heads.mouth.closing import close_mouth
from headfields.heads.mouth.inner import InnerMouth, inner_mouth
from headfields.mesh.mesh import Mesh
from headfields.ops.mesh_topology import folded_faces
from headfields.records import Template

__all__ = ["Mouth", "build_inner_mouth", "build_template"]

Mouth = Literal["close", "interior", "none"]
"""Treatment of the open mouth of a tracked mesh; see `headfields.data.load_capture`."""


def build_template(
    canonical: Mesh,
    mouth: Mouth,
    inner: InnerMouth | None,
    regions: Mapping[str, Bool[Tensor, " f"]] | None,
    views: Iterable[LabeledView],
    report: list[str],
) -> Template:
    """The canonical mesh with its mouth treated and its regions.

    Args:
        canonical: the canonical mesh.
        mouth: treatment of an open mouth.
        inner: the inside of the mouth; None unless `mouth` is `"interior"`.
        regions: masks over its faces (or over the closed mesh's), which take precedence over votes.
        views: the frames whose labels vote for `"mouth"`, `"eyes"` and `"face"`; not taken if `regions` has all three.
        report: gets a line on each decision.

    Raises:
        CaptureError: a mask of `regions` has another length, or a frame that votes cannot be read.
    """
    vertices, tracked = canonical.vertices, canonical.faces
    if inner is not None:
        vertices, faces = inner.extend(vertices), inner.faces
    elif mouth == "close":
        faces = torch.cat([tracked, _mouth_faces(vertices, tracked, report)])
    else:
        faces = tracked
    masks: dict[str, Tensor] = {}
    for name, mask in (regions or {}).items():
        if mask.dtype != torch.bool:
            raise CaptureError(f"load_capture: regions[{name!r}] has dtype {mask.dtype}; expected a mask, mask > 0")
        if mask.shape not in ((len(tracked),), (len(faces),)):
            raise CaptureError(
                f"load_capture: regions[{name!r}] has shape {tuple(mask.shape)}; expected ({len(tracked)},), "
                "the faces of canonical.obj"
            )
        closing = torch.full((len(faces) - len(mask),), name == "mouth")
        masks[name] = torch.cat([mask.cpu(), closing])
    missing = [name for name in ("mouth", "eyes", "face") if name not in masks]
    if missing:
        voted = vote_regions(views, vertices, faces, len(tracked))
        if voted is None:
            report.append(
                f"no segmentation labels to find the regions {', '.join(missing)} by; pass load_capture regions=..."
            )
        else:
            masks |= {name: voted[name] for name in missing}
            counts = ", ".join(f"{name} {int(masks[name].sum())}" for name in missing)
            report.append(f"regions voted for by segmentation labels, of {len(faces)} faces: {counts}")
    uv = uv_faces = None
    if canonical.uv is not None and canonical.uv_faces is not None:
        uv, uv_faces = canonical.uv, canonical.uv_faces
        if inner is not None:
            uv, uv_faces = inner.extend_uv(uv, uv_faces)
        else:
            corner = np.zeros(len(vertices), np.int64)  # NumPy: on a seam the last face's coordinate, on every run
            corner[canonical.faces.reshape(-1).numpy()] = canonical.uv_faces.reshape(-1).numpy()
            uv_faces = torch.cat([uv_faces, torch.from_numpy(corner)[faces[len(tracked) :]]])
    if inner is not None:
        masks = inner.extend_regions(masks)
    return Template(vertices, faces, masks, uv, uv_faces, face_count=len(tracked))


def build_inner_mouth(
    canonical: Mesh, posed: Float[Tensor, "b v 3"], names: Sequence[str], report: list[str]
) -> InnerMouth:
    """An inside for the mouth, modeled on the pose whose lips are nearest to each other.

    Args:
        canonical: the canonical mesh, one of the poses.
        posed: (B, V, 3) other poses of it.
        names: names of these B frames.
        report: gets a line.

    Raises:
        NoOpenMouthError: no open border looks like a mouth, or it cannot be filled.
    """
    vertices, faces = canonical.vertices, canonical.faces
    reasons: list[str] = []
    loop = mouth_loop_in_front(faces[~folded_faces(faces)], vertices, reasons)
    if loop is None:
        raise NoOpenMouthError(
            f'load_capture: mouth="interior" needs an open mouth, and {"; ".join(reasons)}. If the mesh has an inside '
            'of the mouth already, nothing is to be added: mouth="none"'
        )
    meshes = torch.cat([posed, vertices[None]])
    ring = meshes[:, loop]
    # Area (twice it) over squared width: pursed lips span little too, but are not closed.
    spokes = ring - ring.mean(1, keepdim=True)
    area = torch.linalg.cross(spokes, spokes.roll(-1, 1)).sum(1).norm(dim=1)
    best = int((area / (ring[..., 0].amax(1) - ring[..., 0].amin(1)) ** 2).argmin())
    try:
        mouth = inner_mouth(meshes[best], faces, loop)
    except ValueError as error:
        raise NoOpenMouthError(f"load_capture: {error}") from None
    report.append(
        f"mouth given an inside of {len(mouth.index)} vertices and {len(mouth.part)} faces behind a border of "
        f"{len(loop)} vertices, as its lips are in {[*names, 'canonical.obj'][best]}"
    )
    return mouth


def _mouth_faces(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], report: list[str]) -> Int[Tensor, "g 3"]:
    """Faces that close the mouth; none if no open border looks like one."""
    simple = faces[~folded_faces(faces)]
    loop = mouth_loop_in_front(simple, vertices, report)
    if loop is None:
        return faces[:0]
    closed, new = close_mouth(simple, loop, vertices)
    report.append(f"mouth closed with {int(new.sum())} faces across a border of {len(loop)} vertices")
    return closed[new].to(faces.dtype)
