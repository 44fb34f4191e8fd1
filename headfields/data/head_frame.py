"""The head's own frame: how the skull lies in posed meshes, and cameras and rays taken there.

Where a capture keeps the head still and carries its motion in the cameras, posed meshes are in the head's frame
already. Where the meshes move through a room, the rigid motion of the skull is found in them, taken out, and put into
the cameras: nothing changes of what a camera sees, and expression is all that moves what is left (MonoAvatar, Bai et
al. 2023, aligns its heads by the neck's pose for the same end). A pose is a matrix from the head's frame to that of the
vertices; the head's frame is the canonical mesh's.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.data.recording import Recording
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import fit_rigid, rigid_transform
from headfields.ops.rotations import axis_angle
from headfields.ops.vertex_geometry import vertex_areas
from headfields.records import Camera, HeadState

__all__ = [
    "HeadFrame", "HeadMotion", "head_motion", "head_pose", "rigid_vertices", "to_head_frame",
]  # fmt: skip

_FLOOR = 5e-5  # meters: file formats round; misses below it say nothing about what is rigid
_ROUNDS = 24  # at most, of reweighting
_SHRINK = 0.7  # of the scale from one round to the next
_CORE = 0.25  # of the surface: the part that is taken to be rigid for certain
_SPREAD = 2.0  # times the core's misses: what still counts as rigid
_STILL = (2.0, 5.0)  # degrees, millimeters: a head that moves by less in the vertices is left there
_FRAMES = 32  # that the rigid part is looked for in
_VERTICES = 1500  # at most about so many, for a first look
_LOOSE = 0.003  # meters: a rigid part that misses by more is none

HeadFrameChoice = Literal["auto", "keep", "normalize"] | Bool[Tensor, " v"]
"""Whether the head's motion is taken out of a capture's vertices; see `headfields.data.load_capture`."""


def rigid_vertices(
    vertices: Float[Tensor, "b v 3"], canonical: Float[Tensor, "v 3"], area: Float[Tensor, " v"] | None = None
) -> Bool[Tensor, " v"]:
    """Which vertices keep their places on the head over B frames: skull, ears, the bridge of the nose.

    Each frame is fitted robustly (`head_pose` without a region). A vertex's score is by how much it misses in all but a
    tenth of the frames; those whose score is within twice that of the steadiest quarter of the surface, or below
    0.1 mm, are rigid. Fits and scores are repeated until nothing changes. Expression moves less than half of a head's
    surface at a time, and other parts in other frames, so the more frames show it the better. It must be a head that
    most of the surface is on: for a body, mark the head's vertices and call this for them alone.

    Args:
        vertices: (B, V, 3) posed, meters; with B = 0 every vertex is rigid.
        canonical: (V, 3) meters.
        area: (V,) how much each vertex counts, evenly if left out. With a vertex's share of the surface's area eyes,
            lips and teeth, of many vertices and the first to move, have no more say than their size.

    Returns:
        (V,) True where rigid; three or more.

    Raises:
        TypeError, ValueError: dtype or shape does not fit, or there are fewer than three vertices.

    Not differentiable. Our own choice.
    """
    area = _checked("rigid_vertices", vertices, canonical, None, area)
    found = torch.ones(len(canonical), dtype=torch.bool, device=canonical.device)
    if not len(vertices):
        return found
    with torch.no_grad():
        x, y = canonical.double(), vertices.double()
        for _ in range(8):
            pose = _robust(x[found], y[:, found], area[found])
            score = _misses(x, y, pose).quantile(0.9, dim=0)
            core = _weighted_quantile(score, area, _CORE)
            kept = score <= (_SPREAD * core).clamp_min(2 * _FLOOR)
            if int(kept.sum()) < 3 or bool((kept == found).all()):
                break
            found = kept
    return found


def head_pose(
    vertices: Float[Tensor, "b v 3"],
    canonical: Float[Tensor, "v 3"],
    rigid: Bool[Tensor, " v"] | None = None,
    area: Float[Tensor, " v"] | None = None,
) -> Float[Tensor, "b 4 4"]:
    """The rigid pose of B posed meshes: what takes the canonical mesh's rigid part nearest to theirs.

    Iteratively reweighted least squares: vertices that miss by more than the scale of a round lose their weight
    (Geman and McClure's function), and the scale falls from the size of all misses to that of the middle one. So a
    part of the region that moves after all, be it a third of it, does not count.

    Args:
        vertices: (B, V, 3) posed, meters; B = 0 is legal.
        canonical: (V, 3) meters.
        rigid: (V,) the vertices that move with the skull; `rigid_vertices` finds them, in one frame or many. All if
            left out: right as long as expression leaves more than half of the surface in its place.
        area: (V,) how much each vertex counts; evenly if left out.

    Returns:
        (B, 4, 4) in the dtype of the vertices: head frame (canonical mesh) to the frame of the vertices. Computed in
        double precision.

    Raises:
        TypeError, ValueError: dtype or shape does not fit, or fewer than three vertices are rigid.

    Differentiable in vertices and canonical mesh to first order, the weights held fixed.

    Source: Kabsch 1976; weights: Geman and McClure 1987.
    """
    area = _checked("head_pose", vertices, canonical, rigid, area)
    x, y = canonical.double(), vertices.double()
    if rigid is not None:
        x, y, area = x[rigid], y[:, rigid], area[rigid]
    return _robust(x, y, area).to(vertices.dtype)


def to_head_frame(state: HeadState, camera: Camera, pose: Float[Tensor, "b 4 4"]) -> tuple[HeadState, Camera]:
    """B frames and their cameras, seen from the head: vertices · pose⁻¹, world_to_camera · pose.

    Vertices and joint transforms are taken along; expression and codes do not depend on the frame, and the joints'
    rotations `pose` stay what they are: the parameters that the mesh was made with. What a camera sees is the same.

    Args:
        state: B frames.
        camera: B cameras, or one of them.
        pose: (B, 4, 4) rigid, head frame to the frame of the vertices, as `head_pose` gives it.

    Returns:
        The state and B cameras. `torch.linalg.inv(pose)` takes them back.

    Raises:
        ValueError: B differs, or pose is not (B, 4, 4).

    Differentiable to any order.
    """
    _check_pose("to_head_frame", pose)
    if len(pose) != len(state):
        raise ValueError(f"to_head_frame: pose holds {len(pose)} poses and state {len(state)} frames; give one each")
    views = camera.world_to_camera.reshape(-1, 4, 4)
    if len(views) not in (1, len(pose)):
        raise ValueError(f"to_head_frame: camera holds {len(views)} cameras for {len(pose)} frames; give B or one")
    joints = state.joint_transforms
    intrinsics = camera.intrinsics.reshape(-1, 3, 3).expand(len(pose), 3, 3)
    moved = state.replace(
        vertices=_inverse_points(state.vertices, pose.to(state.vertices)),
        joint_transforms=None if joints is None else _inverse(pose.to(joints))[:, None] @ joints,
    )
    return moved, Camera(views @ pose.to(views), intrinsics, camera.size)


@dataclass(frozen=True)
class HeadMotion:
    """How far a head moves between frames.

    Attributes:
        rotation: the largest angle between any two frames, degrees.
        translation: the largest distance between the places of the head's middle in any two frames, millimeters.
    """

    rotation: float
    translation: float

    def __str__(self) -> str:
        return f"{self.rotation:.3g} degrees and {self.translation:.3g} mm"


def head_motion(pose: Float[Tensor, "b 4 4"], middle: Float[Tensor, "3"]) -> HeadMotion:
    """The range of B poses; 0 where there are fewer than two.

    Args:
        pose: (B, 4, 4) rigid.
        middle: (3,) of the head, in its own frame, meters.
    """
    _check_pose("head_motion", pose)
    if not len(pose):
        return HeadMotion(0.0, 0.0)
    turn, place = pose[:, :3, :3].double(), (pose[:, :3, :3] @ middle.to(pose) + pose[:, :3, 3]).double()
    angles = torch.linalg.vector_norm(axis_angle(turn[:, None].transpose(-1, -2) @ turn[None]), dim=-1)
    apart = torch.linalg.vector_norm(place[:, None] - place[None], dim=-1)
    return HeadMotion(float(torch.rad2deg(angles.amax())), 1000 * float(apart.amax()))


class HeadFrame:
    """The rigid part of one head, ready to find the pose of its frames one at a time.

    Args:
        canonical: (V, 3) canonical vertices, meters.
        rigid: (V,) the vertices that move with the skull.
        area: (V,) how much each vertex counts; evenly if left out.

    Raises:
        TypeError, ValueError: dtype or shape does not fit, or fewer than three vertices are rigid.
    """

    def __init__(
        self, canonical: Float[Tensor, "v 3"], rigid: Bool[Tensor, " v"], area: Float[Tensor, " v"] | None = None
    ) -> None:
        area = _checked("HeadFrame", canonical[None], canonical, rigid, area)
        self.rigid = rigid
        self._canonical, self._area = canonical.double()[rigid], area[rigid]

    @property
    def center(self) -> Float[Tensor, "3"]:
        """Of the rigid part, in the head's frame, meters."""
        return (self._area[:, None] * self._canonical).sum(0) / self._area.sum()

    def pose(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b 4 4"]:
        """(B, 4, 4) float64 poses of (B, V, 3) posed vertices; see `head_pose`. Without gradients."""
        with torch.no_grad():
            return _robust(self._canonical, vertices.double()[:, self.rigid], self._area)

    def without_pose(self, vertices: Float[Tensor, "b v 3"], pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b v 3"]:
        """Posed vertices (B, V, 3) in the head's frame, in their own dtype; computed in the pose's."""
        return _inverse_points(vertices.to(pose), pose).to(vertices.dtype)

    def residual(self, vertices: Float[Tensor, "b v 3"], pose: Float[Tensor, "b 4 4"]) -> float:
        """By how much half of the rigid vertices miss at most, over all frames, meters; 0 for none."""
        misses = _misses(self._canonical, vertices.double()[:, self.rigid], pose.double())
        return float(misses.median()) if misses.numel() else 0.0


def choose_head_frame(recording: Recording, choice: HeadFrameChoice, report: list[str]) -> HeadFrame | None:
    """The head frame that a capture is to be used in, or None to use it as it is on disk; says which and why.

    Args:
        recording: of the capture.
        choice: see `headfields.data.load_capture`.
        report: a line is added, unless the choice is "keep".

    Raises:
        ValueError: the choice is no such word, or a mask of another number of vertices.
        CaptureError: a mesh cannot be read.
    """
    if isinstance(choice, str) and choice not in ("auto", "keep", "normalize"):
        raise ValueError(f"head_frame is {choice!r}; expected 'auto', 'keep', 'normalize' or a mask of the vertices")
    if isinstance(choice, str) and choice == "keep":
        return None
    count = len(recording.frame_names)
    canonical = recording.canonical.vertices
    area = vertex_areas(canonical, recording.canonical.faces)

    def meshes(frames: list[int]) -> Float[Tensor, "b v 3"]:
        known = recording.decoded_vertices
        found = [torch.from_numpy(known[f] if f in known else recording.decode_head(f)[0]) for f in frames]
        return torch.stack(found) if found else canonical.new_zeros(0, *canonical.shape)

    frames = sorted(recording.decoded_vertices) or _evenly(count, 8)
    if isinstance(choice, str) and choice == "auto":
        some = slice(None, None, 1 + len(canonical) // _VERTICES)
        posed = meshes(frames)[:, some]
        rough = HeadFrame(canonical[some], rigid_vertices(posed, canonical[some], area[some]), area[some])
        motion = head_motion(rough.pose(posed), rough.center)
        if motion.rotation < _STILL[0] and motion.translation < _STILL[1]:
            report.append(
                f"head pose: in the cameras (between {len(frames)} frames looked at the head moves by {motion} in the "
                "vertices, which are left as they are)"
            )
            return None
    posed = meshes(sorted({*frames, *_evenly(count, _FRAMES)}))
    rigid = rigid_vertices(posed, canonical, area) if isinstance(choice, str) else choice
    frame = HeadFrame(canonical, rigid, area)
    pose = frame.pose(posed)
    miss, share = frame.residual(posed, pose), float(area[rigid].sum() / area.sum())
    report.append(
        f"head pose: taken out of the vertices, where the head moves by {head_motion(pose, frame.center)} between "
        f"{len(posed)} frames looked at, and put into the cameras; found from {share:.0%} of the surface, which keeps "
        f"its shape within {1000 * miss:.2g} mm (head_frame='keep' leaves it)"
    )
    if miss > _LOOSE:
        report.append(
            "warning: the part of the mesh that should move with the skull misses its canonical shape by "
            f"{1000 * miss:.2g} mm, so the head's pose is rough: pass load_capture a mask of its vertices as head_frame"
        )
    return frame


def _evenly(count: int, most: int) -> list[int]:
    return sorted({int(frame) for frame in np.linspace(0, count - 1, min(most, count)).round()})


def _robust(x: Tensor, y: Tensor, area: Tensor) -> Float[Tensor, "b 4 4"]:
    """Poses of y (B, N, 3) against x (N, 3), both double, by reweighting."""
    weights = area.expand(len(y), -1)
    with torch.no_grad():
        scale: Tensor | None = None
        for _ in range(_ROUNDS if len(y) else 0):
            squared = _misses(x, y, rigid_transform(*fit_rigid(x, y, weights))).square()
            least = (1.5 * _weighted_quantile(squared, area, 0.5).sqrt()).clamp_min(_FLOOR)
            before, whole = scale, (squared @ area / area.sum()).sqrt()
            scale = least.maximum(2 * whole if before is None else _SHRINK * before)
            weights = area * (scale.square() / (scale.square() + squared.transpose(0, 1))).transpose(0, 1).square()
            if before is not None and bool((scale >= 0.999 * before).all()):
                break
    return rigid_transform(*fit_rigid(x, y, weights))


def _misses(x: Tensor, y: Tensor, pose: Tensor) -> Float[Tensor, "b n"]:
    return torch.linalg.vector_norm(x @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3] - y, dim=-1)


def _weighted_quantile(values: Float[Tensor, "*b n"], weights: Float[Tensor, " n"], part: float) -> Float[Tensor, "*b"]:
    """The value below which this part of the weights lies."""
    ordered, order = values.sort(dim=-1)
    passed = weights[order].cumsum(-1)
    index = (passed < part * weights.sum()).sum(-1, keepdim=True).clamp_max(values.shape[-1] - 1)
    return ordered.gather(-1, index)[..., 0]


def _inverse(pose: Tensor) -> Float[Tensor, "b 4 4"]:
    back = pose[:, :3, :3].transpose(1, 2)
    return rigid_transform(back, -(back @ pose[:, :3, 3:])[..., 0])


def _inverse_points(points: Float[Tensor, "b n 3"], pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b n 3"]:
    return (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]


def _check_pose(op: str, pose: Tensor) -> None:
    check_floating(op, "pose", pose)
    check_shape(op, "pose", pose, "B 4 4")


def _checked(
    op: str, vertices: Tensor, canonical: Tensor, rigid: Tensor | None, area: Tensor | None
) -> Float[Tensor, " v"]:
    """The areas in double precision, none of them quite 0."""
    check_floating(op, "canonical", canonical)
    check_shape(op, "canonical", canonical, "V 3")
    check_floating(op, "vertices", vertices)
    if vertices.dim() != 3 or vertices.shape[1:] != canonical.shape:
        raise ValueError(
            f"{op}: vertices has shape {tuple(vertices.shape)}; expected (B, {len(canonical)}, 3) as canonical has "
            f"{len(canonical)} vertices"
        )
    for name, value in (("rigid", rigid), ("area", area)):
        if value is not None and value.shape != canonical.shape[:1]:
            raise ValueError(f"{op}: {name} has shape {tuple(value.shape)}; expected ({len(canonical)},)")
    if rigid is not None and rigid.dtype != torch.bool:
        raise TypeError(f"{op}: rigid has dtype {rigid.dtype}; expected a boolean mask (rigid > 0 makes one)")
    count = len(canonical) if rigid is None else int(rigid.sum())
    if count < 3:
        raise ValueError(f"{op}: {count} vertices are rigid; a pose needs three or more, not on a line")
    if area is None:
        return torch.ones(len(canonical), dtype=torch.float64, device=canonical.device)
    area = area.double()
    return area.clamp_min(1e-6 * float(area.mean())).clamp_min(1e-300)
