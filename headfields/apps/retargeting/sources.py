"""Head surfaces and expression fits, built from a capture or from a head model."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.retargeting.expression_fit import ExpressionFit, regress_expressions
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.lids import find_lids
from headfields.ops.mesh_topology import directed_edges
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera, HeadState

if TYPE_CHECKING:
    from headfields.data.capture import Capture

__all__ = ["expressions_of_capture", "expressions_of_states", "find_landmarks", "surface_of_capture", "surface_of_head"]

_FRAMES = 400  # most frames used, evenly spaced
_MISS = 0.02  # of the image's height: a landmark with no vertex this near is left out


def surface_of_capture(capture: "Capture") -> HeadSurface:
    """The surface of a captured head, from its template, tracked meshes, expression coefficients and 2D landmarks.

    `neutral` is the mesh at zero expression coefficients, by `regress_expressions` over the training frames; without
    coefficients, the median of each vertex. Its eyeballs come from the canonical mesh, which looks straight ahead.
    `opened` is the mesh with the widest open mouth among the canonical one and the frames, `closed` the frame with the
    eyes most shut. Landmarks, where the capture has them, are the vertices that stay nearest to them in the images.

    Args:
        capture: a capture of one head.

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
    """The surface of a head model: `FlameHead`, `BlendshapeHead`, or any object with `faces`, `template` and a call.

    Args:
        head: the model.
        opened: (V, 3) with lips apart; by default the template's vertices, whose jaw is open for `FlameHead`.
        closed: (V, 3) with eyes shut; None: shut lids are assumed to touch.
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
    """The fit of a capture's own expression coefficients; None if it has none.

    The basis is regressed from the meshes and coefficients of the training frames. The bounds are each coefficient's
    range there, which is what an avatar was trained on. Vertices of the mouth, where INSTA reads the coefficients,
    count four times.

    Args:
        capture: the capture that an avatar was trained on.
        surface: surface of the same head, from `surface_of_capture`.
        ridge: regularization; see `ExpressionFit`.
    """
    mouth = capture.template.regions.get("mouth")
    return expressions_of_states(
        capture.state(_spread(capture)), None if mouth is None else capture.template.faces[mouth].unique(), ridge
    )


def expressions_of_states(
    state: HeadState, mouth: Int[Tensor, " m"] | None = None, ridge: float = 1e-4
) -> ExpressionFit | None:
    """The fit of a head's expression coefficients, from states of it that an avatar was trained on; None without
    coefficients or with fewer than three states.

    Args:
        state: the states.
        mouth: vertices that count four times.
        ridge: regularization; see `ExpressionFit`.
    """
    if state.expression is None or not state.expression.shape[1] or len(state) < 3:
        return None
    neutral, basis = regress_expressions(state.expression, state.vertices)
    weights = torch.ones(len(neutral))
    if mouth is not None:
        weights[mouth] = 4.0
    low, high = state.expression.aminmax(dim=0)
    return ExpressionFit(neutral, basis, low.clamp_max(0), high.clamp_min(0), weights, ridge)


def find_landmarks(
    vertices: Float[Tensor, "b v 3"], camera: Camera, points: Float[Tensor, "b 68 2"], surface: HeadSurface
) -> Int[Tensor, " 68"]:
    """The vertex on which each 2D landmark stays over B frames; −1 where there is none.

    It is the skin vertex of least median distance in the image, among those that face the camera on average. Open
    mouths separate the lips, and turns of the head separate near from far.

    Args:
        vertices: (B, V, 3) posed, meters.
        camera: camera of the B frames.
        points: (B, 68, 2) pixels; values that are not finite are ignored.
        surface: the head's.
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
    """The mesh with the widest open mouth, by how much the edges across it grow."""
    edges = directed_edges(faces[closing] if bool(closing.any()) else faces).flatten(0, 1)
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
    """The mesh with the least openness over both eyes; None without a mesh, or without an eye that is open at rest."""
    eyes = find_lids(surface)
    if not eyes or not len(meshes):
        return None
    openness = torch.stack([lids.openness(meshes.double()).mean(dim=-1) for lids in eyes])
    return meshes[int(openness.mean(dim=0).argmin())]


def _spread(capture: "Capture") -> list[int]:
    frames = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    count = min(len(frames), _FRAMES)
    return [int(frames[i * len(frames) // count]) for i in range(count)]
