"""A template adapted to the person of a recording: smooth offsets of its shape, and a tint of its texture.

Silhouette and texture of a template that is not a scan of the very person, with this hair and these clothes, pull every
pose astray. The offsets are a Gaussian process over the template's surface (Lüthi et al. 2018, "Gaussian Process
Morphable Models", sections 3 and 4), whose leading modes several frames with landmarks share in one bundle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate, triangle_landmarks
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.file_formats import ADAPTED_TEMPLATE
from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.apps.tracking.rig.albedo import estimated_tint
from headfields.apps.tracking.rig.body import TrackedBody
from headfields.apps.tracking.rig.bundle import BundleSolver
from headfields.apps.tracking.rig.light import LightSums
from headfields.apps.tracking.rig.observation import RigObservation
from headfields.apps.tracking.rig.options import Adaptation, RigTrackingOptions
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.ops.rotations import rotation_angle
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera

__all__ = ["AdaptedTemplate", "adapted_template"]

_CONTROL = 600
"""Vertices that the modes are computed from; between them the kernel interpolates (Nyström's method)."""
_LANDMARKS, _TORSO = 4.0, 0.25
"""Factors of the landmarks' weight and of the scale of the torso's angle while the shape is unknown."""
_FEWEST = 3
"""Frames that shape is fitted to, at least; with fewer it stays the template's."""


@dataclass(frozen=True)
class AdaptedTemplate:
    """What the frames of a recording share.

    Attributes:
        offsets: (V, 3) added to the template's vertices, meters.
        tint: (V, 3) added to the texture at the vertices.
        light: normal equations of the light, over the keyframes.
        frames: the keyframes.
    """

    offsets: Float[Tensor, "v 3"]
    tint: Float[Tensor, "v 3"]
    light: LightSums
    frames: tuple[int, ...]

    def rig(self, template: RiggedTemplate) -> RiggedTemplate:
        """The template with this shape; everything else is the template's."""
        return _with(template, template.template_vertices + self.offsets.to(template.template_vertices))

    def save(self, path: Path) -> None:
        """Writes it as safetensors, atomically."""
        tensors = {"offsets": self.offsets, "tint": self.tint, "light.matrix": self.light.matrix,
                   "light.vector": self.light.vector, "light.count": self.light.count}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, {name: value.contiguous().clone() for name, value in tensors.items()},
                          {ADAPTED_TEMPLATE: {"frames": list(self.frames)}})  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "AdaptedTemplate":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds something else.
        """
        with reading(path, "an adapted template"):
            tensors, header = read_safetensors(path, ADAPTED_TEMPLATE)
            light = LightSums(tensors["light.matrix"], tensors["light.vector"], tensors["light.count"])
            return cls(tensors["offsets"], tensors["tint"], light, tuple(int(frame) for frame in header["frames"]))


def adapted_template(
    rig: RiggedTemplate,
    landmarks: Mapping[int, Float[Tensor, "68 2"]],
    camera: Callable[[int], Camera],
    observation: Callable[[int], RigObservation],
    options: RigTrackingOptions,
    adaptation: Adaptation,
    show: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> AdaptedTemplate | None:
    """Shape offsets, tint and light from the frames with landmarks that differ most in rotation.

    First landmarks alone place the template; then, in rounds, landmarks and outlines, and colors from the second round
    on, move poses and shape together, and tint and light are estimated anew.

    Args:
        rig: the template.
        landmarks: by frame, NaN where unknown, of the frames with enough of them.
        camera: a frame's camera, of which the lens counts.
        observation: reads a frame; its last level counts.
        options: scales of the terms.
        adaptation: number of keyframes and modes, scales of the offsets.
        show: called with what is done.
        stop: asked between steps whether to stop.

    Returns:
        The adapted template; without offsets where fewer than three frames can be used. None if stopped.
    """
    body = TrackedBody(rig, options.expressions)
    chosen: dict[int, RigObservation] = {}
    for frame in _spread_views(body, landmarks, camera):
        if len(chosen) == adaptation.keyframes:
            break
        if stop():
            return None
        try:
            chosen[frame] = observation(frame)
        except FrameFailure:
            continue
    frames = tuple(sorted(chosen))
    rest, count = rig.template_vertices, 0
    nothing = AdaptedTemplate(torch.zeros_like(rest), torch.zeros_like(rest), LightSums.empty(), frames)
    if len(frames) < _FEWEST:
        return nothing
    observations = [chosen[frame] for frame in frames]
    pose, _ = landmark_pose(body.landmarks_at_rest(), observations[0].landmarks, observations[0].camera)
    directions = _modes(rig, _within(rest, pose, observations[0].camera), adaptation)
    count = len(directions)
    wide = _with(rig, rest, torch.cat([directions, body.basis]))
    body = TrackedBody(wide, count + len(body.basis))
    count = len(body.expressions) - (len(wide.expression_basis) - count)
    scale = float(options.scales.expression)
    body.scales = torch.cat([torch.ones(count), torch.full((len(body.expressions) - count,), scale)])
    # the face's size decides on the distance, and shoulders that are too wide are not those of a turned torso
    given = options.scales
    terms = replace(given, landmark_weight=_LANDMARKS * float(given.landmark_weight), torso=_TORSO * float(given.torso))
    solver = BundleSolver(body, observations, replace(options, scales=terms), count)
    focal = float(observations[0].camera.intrinsics.reshape(3, 3)[0, 0])
    bundle = solver.started(focal)
    if bundle is None:
        return nothing
    show(f"landmarks of {len(frames)} frames")
    assert solver.body.scales is not None
    free = solver.body.scales[:count].clone()
    solver.body.scales[:count] = 1e-4  # landmarks alone do not tell shape from expression
    bundle = solver.minimized(bundle, None, None, adaptation.landmark_steps, False, stop)[1]
    solver.body.scales[:count] = free
    surface, light, tint = RigSurface(wide), LightSums.empty(), nothing.tint
    for round_ in range(adaptation.rounds):
        show(f"shape and colors of {len(frames)} frames, round {round_ + 1} of {adaptation.rounds}")
        colors = light.coefficients() if round_ and options.scales.color_weight > 0 else None
        bundle = solver.minimized(bundle, surface, colors, adaptation.steps, False, stop)[1]
        if stop():
            return None
        tint, light = estimated_tint(body, surface, bundle.poses, solver.levels(focal))
        surface = RigSurface(wide, tint=tint)
    offsets = torch.tensordot(solver.identity(bundle), body.basis[:count], 1)
    return AdaptedTemplate(offsets, tint, light, frames)


def _with(
    rig: RiggedTemplate, rest: Float[Tensor, "v 3"], directions: Float[Tensor, "e v 3"] | None = None
) -> RiggedTemplate:
    """The rig with other vertices, and other directions in place of its expressions."""
    marks = None
    if rig.landmark_faces is not None and rig.landmark_barycentric is not None:
        marks = triangle_landmarks(rig.landmark_faces, rig.landmark_barycentric)
    own = directions is None
    return RiggedTemplate(
        template=rest, faces=rig.faces, shape_basis=rig.shape_basis,
        expression_basis=rig.expression_basis if directions is None else directions,
        pose_basis=rig.pose_basis, joint_regressor=rig.joint_regressor, weights=rig.weights, parents=rig.parents,
        landmarks=marks, contour=rig.contour, uv=rig.uv, uv_faces=rig.uv_faces, regions=rig.regions,
        expression_names=rig.expression_names if own else (), shape_names=rig.shape_names, texture=rig.texture,
        scale=rig.scale,
    )  # fmt: skip


def _spread_views(
    body: TrackedBody, landmarks: Mapping[int, Float[Tensor, "68 2"]], camera: Callable[[int], Camera]
) -> Sequence[int]:
    """Frames in the order in which each is the farthest in rotation from those before, the best known one first."""
    points = body.landmarks_at_rest()
    turns: dict[int, Tensor] = {}
    for frame, marks in landmarks.items():
        lens = camera(frame)
        try:
            pose, error = landmark_pose(points, marks, lens)
        except (ValueError, RuntimeError):
            continue
        if bool(pose.isfinite().all()) and float(pose[2, 3]) > 0 and bool(error < 0.05 * max(lens.size)):
            turns[frame] = pose[:3, :3]
    names = list(turns)
    if not names:
        return []
    each = torch.stack([turns[name] for name in names])
    nearest = torch.full((len(names),), torch.inf)
    row = max(range(len(names)), key=lambda k: int(landmarks[names[k]].isfinite().all(1).sum()))
    order: list[int] = []
    while len(order) < len(names):
        order.append(names[row])
        nearest = torch.minimum(nearest, rotation_angle(each @ each[row].T))
        nearest[row] = -torch.inf
        row = int(nearest.argmax())
    return order


def _within(points: Float[Tensor, "v 3"], pose: Float[Tensor, "4 4"], camera: Camera) -> Bool[Tensor, " v"]:
    """Points whose pixels are within the image, with a margin of a tenth."""
    pixels, depth = camera.replace(world_to_camera=pose).project(points[None])
    pixels, depth = pixels.reshape(-1, 2), depth.reshape(-1)
    size = pixels.new_tensor([camera.size[1], camera.size[0]])
    return (pixels > -0.1 * size).all(1) & (pixels < 1.1 * size).all(1) & (depth > 0)


def _modes(rig: RiggedTemplate, counts: Bool[Tensor, " v"], adaptation: Adaptation) -> Float[Tensor, "m v 3"]:
    """Directions of unit variance: wide ones along each axis, narrow ones along the normals."""
    rest = rig.template_vertices
    generator = torch.Generator().manual_seed(0)
    rows = counts.nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator)[:_CONTROL]]
    wide = _functions(rest, rows, float(adaptation.wide), float(adaptation.wide_scale), adaptation.wide_modes)
    narrow = _functions(rest, rows, float(adaptation.narrow), float(adaptation.narrow_scale), adaptation.narrow_modes)
    axes = torch.eye(3).to(rest)
    along = (wide[:, None, :, None] * axes[None, :, None, :]).flatten(0, 1)
    normals = vertex_normals(rest, rig.faces)
    return _without_similarity(torch.cat([along, narrow[..., None] * normals]), rest, counts)


def _without_similarity(
    directions: Float[Tensor, "m v 3"], rest: Float[Tensor, "v 3"], counts: Bool[Tensor, " v"]
) -> Float[Tensor, "n v 3"]:
    """Directions of unit variance that neither scale, turn nor shift the counted vertices: their size cannot be told
    from their distance, and their place from the pose."""
    points = rest[counts].double()
    points = points - points.mean(0)
    axes = torch.eye(3, dtype=points.dtype)
    similar = torch.stack([
        points, *(torch.linalg.cross(axis.expand_as(points), points) for axis in axes),
        *(axis.expand_as(points) for axis in axes),
    ]).flatten(1)  # fmt: skip
    products = directions[:, counts].double().flatten(1) @ similar.T
    _, values, vectors = torch.linalg.svd(products.T, full_matrices=True)
    rank = int((values > 1e-9 * values[:1].clamp_min(1e-30)).sum())
    return torch.einsum("nm,mvc->nvc", vectors[rank:].to(directions), directions).contiguous()


def _functions(
    points: Float[Tensor, "v 3"], rows: Tensor, reach: float, scale: float, count: int
) -> Float[Tensor, "k v"]:
    """Leading eigenfunctions of a Gaussian kernel, times the roots of their variances."""
    control = points[rows].double()

    def kernel(one: Tensor) -> Tensor:
        return scale**2 * torch.exp(-0.5 * (torch.cdist(one.double(), control) / reach).square())

    variance, vectors = torch.linalg.eigh(kernel(control))
    variance, vectors = variance.flip(0)[:count], vectors.flip(1)[:, :count]
    keep = variance > 1e-9 * variance[:1].clamp_min(1e-30)
    functions = kernel(points) @ vectors[:, keep] / variance[keep].sqrt()
    return functions.T.to(points).contiguous()
