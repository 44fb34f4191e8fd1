"""Face regions of a template, voted for by the segmentation labels of the images.

The masks that INSTA ships belong to FLAME's topology and carry its license. Where a capture has labels, the same
regions are found from the images: the mesh of several training frames is projected, and every face that is visible
there takes the label it lands on. Our own choice throughout.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.data.labels import REGION_LABELS
from headfields.files.errors import CaptureError
from headfields.mesh.mesh import Mesh
from headfields.ops.vertex_geometry import face_neighbors, face_normals
from headfields.records import Camera, Template

if TYPE_CHECKING:
    from headfields.data.capture import Capture
    from headfields.heads.mouth.inner import InnerMouth

VOTING_FRAMES = 40
_OTHER, _FACE, _EYES, _MOUTH = range(4)
_GRAZING = 0.2  # cosine: faces seen at more than 78 degrees land on their neighbors' labels
_MOUTH_SPAN = 0.1  # meters: wider borders are the neck's


def build_template(
    capture: "Capture", canonical: Mesh, given: Mapping[str, Bool[Tensor, " f"]] | None, report: list[str]
) -> Template:
    """The canonical mesh with its mouth closed (or given an inside, or left open) and its regions.

    Args:
        capture: whose training frames vote.
        canonical: the canonical mesh.
        given: masks over its faces (or over the closed mesh's), which take precedence.
        report: gets a line on each decision.

    Raises:
        CaptureError: a given mask has another length, or a frame that votes cannot be read.
    """
    vertices, own = canonical.vertices, canonical.faces
    inside = capture.inner_mouth
    if inside is not None:
        vertices, faces = inside.extend(vertices), inside.faces
    elif capture.mouth == "close":
        faces = torch.cat([own, _mouth_faces(vertices, own, report)])
    else:
        faces = own
    regions: dict[str, Tensor] = {}
    for name, mask in (given or {}).items():
        if mask.shape not in ((len(own),), (len(faces),)):
            raise CaptureError(
                f"load_capture: regions[{name!r}] has shape {tuple(mask.shape)}; expected ({len(own)},), "
                "the faces of canonical.obj"
            )
        closing = torch.full((len(faces) - len(mask),), name == "mouth")
        regions[name] = torch.cat([mask.bool().cpu(), closing])
    wanted = [name for name in ("mouth", "eyes", "face") if name not in regions]
    if wanted:
        voted = vote_regions(capture, vertices, faces, len(own))
        if voted is None:
            report.append(
                f"no segmentation labels to find the regions {', '.join(wanted)} by; give load_capture regions=..."
            )
        else:
            regions |= {name: voted[name] for name in wanted}
            counts = ", ".join(f"{name} {int(regions[name].sum())}" for name in wanted)
            report.append(f"regions voted for by segmentation labels, of {len(faces)} faces: {counts}")
    uv = uv_faces = None
    if canonical.uv is not None and canonical.uv_faces is not None:
        uv, uv_faces = canonical.uv, canonical.uv_faces
        if inside is not None:
            uv, uv_faces = inside.extend_uv(uv, uv_faces)
        else:
            corner = np.zeros(len(vertices), np.int64)  # NumPy: on a seam the last face's coordinate, on every run
            corner[canonical.faces.reshape(-1).numpy()] = canonical.uv_faces.reshape(-1).numpy()
            uv_faces = torch.cat([uv_faces, torch.from_numpy(corner)[faces[len(own) :]]])
    if inside is not None:
        regions = inside.extend_regions(regions)
    return Template(vertices, faces, regions, uv, uv_faces, face_count=len(own))


def build_inner_mouth(capture: "Capture", canonical: Mesh, report: list[str]) -> "InnerMouth":
    """An inside for the mouth, made on the training frame (of up to 40) whose lips are nearest to each other.

    Args:
        capture: whose tracked meshes are looked at.
        canonical: the canonical mesh.
        report: gets a line.

    Raises:
        CaptureError: no border looks like a mouth, or a mesh cannot be read.
    """
    from headfields.heads.mouth.closing import folded_faces
    from headfields.heads.mouth.inner import inner_mouth

    faces = canonical.faces
    found: list[str] = []
    loop = _mouth_border(canonical.vertices, faces[~folded_faces(faces)], found)
    if loop is None:
        raise CaptureError(
            f'load_capture: mouth="interior" needs an open mouth, and {"; ".join(found)}. If the mesh has an inside of '
            'the mouth already, nothing is to be added: mouth="none"'
        )
    picks = _voting_frames(capture)
    meshes = torch.cat([capture.tracked([frame]) for frame in picks.tolist()] + [canonical.vertices[None]])
    ring = meshes[:, loop]
    # Area (twice it) over squared width: pursed lips span little too, but are not closed.
    spokes = ring - ring.mean(1, keepdim=True)
    area = torch.linalg.cross(spokes, spokes.roll(-1, 1)).sum(1).norm(dim=1)
    best = int((area / (ring[..., 0].amax(1) - ring[..., 0].amin(1)) ** 2).argmin())
    name = capture.frame_names[int(picks[best])] if best < len(picks) else "canonical.obj"
    try:
        made = inner_mouth(meshes[best], faces, loop)
    except ValueError as error:
        raise CaptureError(f"load_capture: {error}") from None
    report.append(
        f"mouth given an inside of {len(made.index)} vertices and {len(made.part)} faces behind a border of "
        f"{len(loop)} vertices, as its lips are in {name}"
    )
    return made


def _voting_frames(capture: "Capture") -> Int[Tensor, " n"]:
    """Up to 40 frames, spread over the training frames (over all where there are none)."""
    train = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    return train[np.unique(np.linspace(0, len(train) - 1, min(VOTING_FRAMES, len(train))).round().astype(int))]


def _mouth_faces(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], report: list[str]) -> Int[Tensor, "g 3"]:
    """Faces that close the mouth; none where no border looks like one."""
    from headfields.heads.mouth.closing import close_mouth, folded_faces

    simple = faces[~folded_faces(faces)]
    loop = _mouth_border(vertices, simple, report)
    if loop is None:
        return faces[:0]
    closed, new = close_mouth(simple, loop, vertices)
    report.append(f"mouth closed with {int(new.sum())} faces across a border of {len(loop)} vertices")
    return closed[new].to(faces.dtype)


def _mouth_border(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], report: list[str]
) -> Int[Tensor, " l"] | None:
    """The border in front, on the midline and less than 10 cm across, or None and a line in the report."""
    from headfields.heads.mouth.closing import boundary_loops

    try:
        loops = boundary_loops(faces)
    except ValueError as error:
        report.append(f"mouth left as it is: {error}")
        return None
    middle = vertices[faces.unique()].amin(0).lerp(vertices[faces.unique()].amax(0), 0.5)
    mouths = []
    for loop in loops:
        ring = vertices[loop]
        low, high = ring.amin(0), ring.amax(0)
        crosses = low[0] < middle[0] < high[0] and ring[:, 2].mean() > middle[2]
        if crosses and (high - low).norm() < _MOUTH_SPAN:
            mouths.append((float((high - low).norm()), loop))
    if not mouths:
        report.append(
            f"mouth taken as closed: of {len(loops)} open borders none is in front, on the midline and under 10 cm"
        )
        return None
    return max(mouths, key=lambda entry: entry[0])[1]


def vote_regions(
    capture: "Capture", vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], own: int
) -> dict[str, Bool[Tensor, " f"]] | None:
    """The regions `"mouth"` (lips and mouth interior), `"eyes"` (about one ring wider than the labels) and `"face"`.

    A face belongs to what most of its visible points land on, over up to 40 training frames; a face that is never seen
    to the mouth or the eyes if its neighbors do, so that e.g. the inside of lips goes with the lips.

    Args:
        capture: the capture.
        vertices: (V, 3) canonical positions.
        faces: (F, 3) template faces.
        own: how many of them are the tracked mesh's; the rest close the mouth and are `"mouth"`.

    Returns:
        (F,) masks by name, or None where no voting frame has labels.
    """
    picks = _voting_frames(capture)
    votes = torch.zeros(own, 4)
    table = torch.zeros(256, dtype=torch.long)
    for number, region in ((_FACE, "face"), (_EYES, "eyes"), (_MOUTH, "mouth")):
        table[list(REGION_LABELS[region])] = number
    labeled = False
    for frame in picks.tolist():
        label = capture.label(frame)
        if label is None or not label.any():
            continue
        labeled = True
        posed = capture.state([frame]).vertices[0]
        face, pixel = visible_points(posed, faces[:own], capture.camera([frame]))
        kind = table[label.reshape(-1)[pixel].long()]
        votes += torch.bincount(face * 4 + kind, minlength=own * 4).reshape(own, 4)
    if not labeled:
        return None
    kind = _spread(votes, faces[:own])
    closing = torch.arange(len(faces)) >= own
    mouth, eyes = closing.clone(), torch.zeros_like(closing)
    mouth[:own] |= kind == _MOUTH
    eyes[:own] |= kind == _EYES
    eyes = _widen(eyes, vertices, faces, own) & ~mouth
    face = mouth | eyes
    face[:own] |= (kind == _FACE) & (votes.sum(dim=1) > 0)  # skin that is never seen is no part of the face
    return {"mouth": mouth, "eyes": eyes, "face": face}


def visible_points(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], camera: Camera, tolerance: float = 0.004
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Points on the faces that a camera sees: the face of each, and the row-major index of the pixel it lands in.

    Six points a face are tested: the face looks at the camera (within 78 degrees), and no other point of the mesh in
    the same cell of a coarse depth buffer is more than `tolerance` meters nearer. Cells are about as wide as the points
    are apart, so the test is for smooth meshes of small faces and is not exact at silhouettes.
    """
    height, width = camera.size
    corners = vertices[faces]
    view = torch.nn.functional.normalize(corners[:, 0] - camera.center.reshape(-1, 3)[0], dim=-1)
    facing = ((face_normals(vertices, faces) * view).sum(dim=-1) < -_GRAZING).nonzero()[:, 0]
    # Points keep off the edges, where two faces' labels meet. Only faces that look here can be in front of a head.
    steps = torch.tensor([(i, j, 2 - i - j) for i in range(3) for j in range(3 - i)])
    points = torch.einsum("pk,fkc->fpc", 0.85 * steps / 2 + 0.05, corners[facing]).reshape(1, -1, 3)
    pixels, depth = (value[0] for value in camera.project(points))
    column, row = pixels.floor().long().unbind(-1)
    inside = ((depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)).nonzero()[:, 0]
    column, row, depth = column[inside], row[inside], depth[inside]
    face = facing[torch.div(inside, len(steps), rounding_mode="floor")]
    if not len(depth):
        return face, row
    spacing = (corners[:, 1] - corners[:, 0]).norm(dim=-1).median() / 2
    cell = max(1, int(camera.intrinsics.reshape(-1, 3, 3)[0, 0, 0] * spacing / depth.median()))
    index = torch.div(row, cell, rounding_mode="floor") * (width // cell + 1)
    index += torch.div(column, cell, rounding_mode="floor")
    buffer = torch.full(((height // cell + 1) * (width // cell + 1),), torch.inf)
    buffer.scatter_reduce_(0, index, depth, "amin")
    seen = (depth <= buffer[index] + tolerance).nonzero()[:, 0]
    return face[seen], (row * width + column)[seen]


def _widen(mask: Bool[Tensor, " f"], vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], own: int) -> Tensor:
    """The mask and the faces within an edge's length of it: a ring more, also where lids and eyeballs do not join."""
    corners = vertices[faces[:own]]
    reach = (corners - corners.roll(1, dims=1)).norm(dim=-1).median()
    inside = faces[mask].unique()
    near = torch.zeros(len(vertices), dtype=torch.bool)
    for part in inside.split(1024):
        near |= (torch.cdist(vertices, vertices[part]) <= reach).any(dim=1)
    wide = mask.clone()
    wide[:own] |= near[faces[:own]].any(dim=1)
    return wide


def _spread(votes: Float[Tensor, "f 4"], faces: Int[Tensor, "f 3"]) -> Int[Tensor, " f"]:
    """The winning class of each face; faces without votes take their neighbors', ring by ring."""
    known = votes.sum(dim=1) > 0
    kind = torch.where(known, votes.argmax(dim=1), 0)
    one, other = face_neighbors(faces)
    while bool(known.any()) and not bool(known.all()):
        tally = torch.zeros_like(votes)
        useful = known[other] & ~known[one]
        if not useful.any():
            break  # a part of the mesh that no frame shows: class 0
        tally.index_put_((one[useful], kind[other[useful]]), torch.ones(()), accumulate=True)
        new = tally.sum(dim=1) > 0
        kind = torch.where(new, tally.argmax(dim=1), kind)
        known = known | new
    return kind


__all__ = ["build_inner_mouth", "build_template", "visible_points", "vote_regions"]
