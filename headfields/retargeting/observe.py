"""Head surfaces and expression bases from what is known of a head: a capture, or a head model."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera
from headfields.retargeting.codes import ExpressionFit, regress_expressions
from headfields.retargeting.lids import find_lids
from headfields.retargeting.surface import HeadSurface

if TYPE_CHECKING:
    from headfields.data.capture import Capture

__all__ = ["expressions_of_capture", "find_landmarks", "surface_of_capture", "surface_of_head"]

_FRAMES = 400  # that are looked at, evenly spread
_MISS = 0.02  # of the image's height: landmarks that no vertex comes nearer to are left out


def surface_of_capture(capture: "Capture") -> HeadSurface:
    """A captured head's surface, from its template, tracked meshes, codes and 2D landmarks.

    The neutral mesh is that at zero expression coefficients, by `regress_expressions` over the training frames; where
    there are no coefficients, each vertex's median over them. Eyeballs are taken from the canonical mesh, which looks
    straight ahead. The mesh with lips apart is whichever of the canonical one and the frames opens them farthest.
    That with eyes shut is the frame that shuts them farthest.
    Landmarks, where there are files of them, are the vertices that stay nearest to them in the images.

    Args:
        capture: of one head.

    Raises:
        CaptureError: a mesh, expression or landmark file cannot be read.
    """
    template = capture.template
    frames = _spread(capture)
    state = capture.state(frames)
    canonical, faces = template.canonical_vertices, template.faces
    own = len(faces) if template.face_count is None else template.face_count
    closing = torch.arange(len(faces)) >= own
    if state.expression is not None and len(state) >= 3 and state.expression.shape[1]:
        neutral = regress_expressions(state.expression, state.vertices)[0]
    elif len(state):
        neutral = state.vertices.median(dim=0).values
    else:
        neutral = canonical
    for ball in HeadSurface(canonical, faces).eyeballs:
        neutral[ball.vertices] = canonical[ball.vertices]
    opened = _most_open(torch.cat([canonical[None], state.vertices]), neutral, faces, closing)
    surface = HeadSurface(neutral, faces, opened, None, closing)
    closed = _most_shut(surface, state.vertices)
    surface = replace(surface, closed=closed)
    points = [capture.landmarks(frame) for frame in frames]
    known = [i for i, entry in enumerate(points) if entry is not None and bool(entry.isfinite().all())]
    if not known:
        return surface
    picked = [known[i * len(known) // min(len(known), 60)] for i in range(min(len(known), 60))]
    landmarks = find_landmarks(
        state.vertices[picked],
        capture.camera([frames[i] for i in picked]),
        torch.stack([points[i] for i in picked]),
        surface,
    )
    return replace(surface, landmarks=landmarks)


def surface_of_head(
    head: Any, opened: Float[Tensor, "v 3"] | None = None, closed: Float[Tensor, "v 3"] | None = None, **shape: Tensor
) -> HeadSurface:
    """A head model's surface: a `FlameHead` or `BlendshapeHead`, or whatever has `faces`, `template` and a call.

    Args:
        head: the model. Its template's closing faces come with it.
        opened: (V, 3) with lips apart; the template's vertices if left out, which for `FlameHead` has the jaw open.
        closed: (V, 3) with eyes shut; if left out, lids that are shut are taken to touch.
        shape: the identity, as the head's call takes it (`shape=...` or `identity=...`).
    """
    with torch.no_grad():
        neutral = head(**shape).vertices[0]
        template = head.template(**shape)
        marks = None
        if getattr(head, "landmark_vertices", None) is not None:
            marks = head.landmark_vertices
        elif getattr(head, "landmark_faces", None) is not None:
            strongest = head.landmark_barycentric.argmax(dim=1)
            marks = head.faces[head.landmark_faces, strongest]
    marks = marks if marks is not None and len(marks) == 68 else None
    closing = torch.arange(len(template.faces)) >= template.face_count
    opened = template.canonical_vertices if opened is None else opened
    return HeadSurface(neutral, template.faces, opened, marks, closing, closed)


def expressions_of_capture(capture: "Capture", surface: HeadSurface, ridge: float = 1e-4) -> ExpressionFit | None:
    """The fit of a capture's own expression coefficients, or None where it has none.

    The basis is regressed from the training frames' meshes and coefficients, and the bounds are the least and greatest
    value that each coefficient takes there: what a network trained on them has seen. Vertices count as much as the
    area around them, those of the mouth, where INSTA reads the coefficients, four times as much again.

    Args:
        capture: whose coefficients an avatar was trained with.
        surface: of the same head, as `surface_of_capture` gives it.
        ridge: see `ExpressionFit`.
    """
    state = capture.state(_spread(capture))
    if state.expression is None or not state.expression.shape[1] or len(state) < 3:
        return None
    neutral, basis = regress_expressions(state.expression, state.vertices)
    weights = torch.ones(len(neutral))
    mouth = capture.template.regions.get("mouth")
    if mouth is not None:
        weights[capture.template.faces[mouth].flatten()] = 4.0
    low, high = state.expression.aminmax(dim=0)
    return ExpressionFit(neutral, basis, low.clamp_max(0), high.clamp_min(0), weights, ridge)


def find_landmarks(
    vertices: Float[Tensor, "b v 3"], camera: Camera, points: Float[Tensor, "b 68 2"], surface: HeadSurface
) -> Int[Tensor, " 68"]:
    """Which vertex each 2D landmark stays on over B frames, −1 where none does.

    Of the vertices of skin whose normal looks toward the camera on average, it is that of least median distance in the
    image. Frames of an open mouth tell lip from lip, turns of the head tell near from far.

    Args:
        vertices: (B, V, 3) posed, meters.
        camera: of the B frames.
        points: (B, 68, 2) pixels; frames in which one is not finite do not count for it.
        surface: of the head.
    """
    skin = surface.faces[surface.skin].flatten().unique()
    if not len(skin) or not len(vertices):
        return torch.full((68,), -1)
    pixels, depth = camera.project(vertices)
    view = torch.nn.functional.normalize(camera.center[:, None] - vertices, dim=-1)
    facing = (vertex_normals(vertices, surface.faces) * view).sum(-1)
    candidates = skin[(facing.mean(0)[skin] > -0.3) & (depth[:, skin] > 0).all(0)]
    out = torch.full((68,), -1)
    if not len(candidates):
        return out
    for k in range(68):
        frames = points[:, k].isfinite().all(-1)
        if not frames.any():
            continue
        miss = (pixels[frames][:, candidates] - points[frames, k, None]).norm(dim=-1).nanmedian(dim=0).values
        best = int(miss.argmin())
        if float(miss[best]) < _MISS * camera.size[0]:
            out[k] = candidates[best]
    return out


def _most_open(meshes: Tensor, neutral: Tensor, faces: Tensor, closing: Bool[Tensor, " f"]) -> Tensor:
    """The mesh whose mouth is open farthest, by the area of the faces that grow most."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    if bool(closing.any()):
        edges = edges[closing.repeat(3)]
    before = (neutral[edges[:, 0]] - neutral[edges[:, 1]]).norm(dim=-1)
    size = (neutral.amax(0) - neutral.amin(0)).amax()
    best, chosen = -1.0, meshes[0]
    for mesh in meshes:
        grown = (mesh[edges[:, 0]] - mesh[edges[:, 1]]).norm(dim=-1) - before
        score = float(grown[grown > 0.008 * size].sum())
        if score > best:
            best, chosen = score, mesh
    return chosen


def _most_shut(surface: HeadSurface, meshes: Float[Tensor, "b v 3"]) -> Float[Tensor, "v 3"] | None:
    """The mesh whose lids are nearest to each other over both eyes; None without an open eye at rest, or a mesh."""
    eyes = find_lids(surface)
    if not eyes or not len(meshes):
        return None
    openness = torch.stack([lids.openness(meshes.double()).mean(dim=-1) for lids in eyes])
    return meshes[int(openness.mean(dim=0).argmin())]


def _spread(capture: "Capture") -> list[int]:
    frames = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    count = min(len(frames), _FRAMES)
    return [int(frames[i * len(frames) // count]) for i in range(count)]
