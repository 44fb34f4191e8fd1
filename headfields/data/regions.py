"""Face regions of a mesh, voted for by segmentation labels.

INSTA ships region masks for FLAME's topology under FLAME's license. Here each face that a camera sees takes the label
that it projects to, and the votes of several frames decide; this works for any topology. Our own choice throughout.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from headfields.data.labels import REGION_LABELS
from headfields.ops.mesh_topology import face_neighbors
from headfields.records import Camera

__all__ = ["LabeledView", "visible_points", "vote_regions"]

_OTHER, _FACE, _EYES, _MOUTH = range(4)
_GRAZING = 0.2  # cosine: faces tilted by more than 78 degrees project onto their neighbors' labels


@dataclass(frozen=True)
class LabeledView:
    """One frame that votes: posed vertices (V, 3) in meters, its camera, and labels (H, W) in INSTA's numbering."""

    vertices: Float[Tensor, "v 3"]
    camera: Camera
    label: UInt8[Tensor, "h w"]


def vote_regions(
    views: Iterable[LabeledView], vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], face_count: int
) -> dict[str, Bool[Tensor, " f"]] | None:
    """The regions `"mouth"` (lips and mouth interior), `"eyes"` (about one ring wider than the labels) and `"face"`.

    A face takes the class that most of its visible points have. A face that no view sees joins the mouth or the eyes if
    its neighbors do, so that the inside of the lips goes with the lips; invisible skin is not part of `"face"`.

    Args:
        views: frames with labels, read one at a time.
        vertices: (V, 3) canonical vertices.
        faces: (F, 3) template faces.
        face_count: number of leading faces that belong to the tracked mesh; the others close the mouth and are
            `"mouth"`.

    Returns:
        (F,) masks by name, or None without views.
    """
    votes = torch.zeros(face_count, 4)
    label_class = torch.full((256,), _OTHER, dtype=torch.long)
    for number, region in ((_FACE, "face"), (_EYES, "eyes"), (_MOUTH, "mouth")):
        label_class[list(REGION_LABELS[region])] = number
    labeled = False
    for view in views:
        labeled = True
        face, pixel = visible_points(view.vertices, faces[:face_count], view.camera)
        vote = label_class[view.label.reshape(-1)[pixel].long()]
        votes += torch.bincount(face * 4 + vote, minlength=face_count * 4).reshape(face_count, 4)
    if not labeled:
        return None
    winner = _winning_class(votes, faces[:face_count])
    closing = torch.arange(len(faces)) >= face_count
    mouth, eyes = closing.clone(), torch.zeros_like(closing)
    mouth[:face_count] |= winner == _MOUTH
    eyes[:face_count] |= winner == _EYES
    eyes = _widen(eyes, vertices, faces, face_count) & ~mouth
    face = mouth | eyes
    face[:face_count] |= (winner == _FACE) & (votes.sum(dim=1) > 0)
    return {"mouth": mouth, "eyes": eyes, "face": face}


def visible_points(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], camera: Camera, tolerance: float = 0.004
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Points on faces that a camera sees.

    Six points per face are tested. A point is visible if its face is turned to the camera (within 78 degrees) and no
    other point of the mesh in the same cell of a coarse depth buffer is more than `tolerance` meters nearer. Cells are
    about as wide as the distance between points, so the test suits smooth meshes of small faces and is not exact at
    silhouettes.

    Args:
        vertices: (V, 3) posed, meters.
        faces: (F, 3).
        camera: one camera.
        tolerance: meters.

    Returns:
        The face (P,) of each visible point, and the row-major index (P,) of the pixel that it projects to.
    """
    height, width = camera.size
    corners = vertices[faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    view = torch.nn.functional.normalize(corners[:, 0] - camera.center.reshape(-1, 3)[0], dim=-1)
    facing = ((torch.nn.functional.normalize(normal, dim=-1) * view).sum(dim=-1) < -_GRAZING).nonzero()[:, 0]
    # Points keep off the edges, where two faces' labels meet. On a head only faces turned to the camera occlude.
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
    visible = (depth <= buffer[index] + tolerance).nonzero()[:, 0]
    return face[visible], (row * width + column)[visible]


def _widen(
    mask: Bool[Tensor, " f"], vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], face_count: int
) -> Bool[Tensor, " f"]:
    """The mask and the faces within an edge's length of it: one ring more, also where lids and eyeballs do not join."""
    corners = vertices[faces[:face_count]]
    reach = (corners - corners.roll(1, dims=1)).norm(dim=-1).median()
    inside = faces[mask].unique()
    near = torch.zeros(len(vertices), dtype=torch.bool)
    for part in inside.split(1024):
        near |= (torch.cdist(vertices, vertices[part]) <= reach).any(dim=1)
    wide = mask.clone()
    wide[:face_count] |= near[faces[:face_count]].any(dim=1)
    return wide


def _winning_class(votes: Float[Tensor, "f 4"], faces: Int[Tensor, "f 3"]) -> Int[Tensor, " f"]:
    """The class (F,) with most votes; faces without votes take that of most neighbors, ring by ring."""
    known = votes.sum(dim=1) > 0
    winner = torch.where(known, votes.argmax(dim=1), 0)
    face, neighbor = face_neighbors(faces)
    while bool(known.any()) and not bool(known.all()):
        tally = torch.zeros_like(votes)
        usable = known[neighbor] & ~known[face]
        if not usable.any():
            break  # a part of the mesh that no view sees: class 0
        tally.index_put_((face[usable], winner[neighbor[usable]]), torch.ones(()), accumulate=True)
        reached = tally.sum(dim=1) > 0
        winner = torch.where(reached, tally.argmax(dim=1), winner)
        known = known | reached
    return winner
