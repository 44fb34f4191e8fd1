"""Rigid head pose: estimated from posed meshes, and moved from the vertices into the cameras.

Some captures keep the head still and carry its motion in the cameras. Others have meshes that move through a room. For
those the rigid motion of the skull is estimated, taken out of the vertices and put into the cameras. Cameras then see
the same, and only expression moves the vertices (MonoAvatar, Bai et al. 2023, aligns heads by the neck's pose for the
same reason). A pose is a matrix from the head's frame, which is the canonical mesh's, to the frame of the vertices. How
the rigid part is found, and when motion is moved, are our own choices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.data.recording import Recording
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import fit_rigid, rigid_transform
from headfields.ops.rotations import rotation_angle
from headfields.ops.vertex_geometry import vertex_areas
from headfields.records import Camera, HeadState

__all__ = [
    "HeadFrame", "HeadMotion", "head_motion", "head_pose", "rigid_vertices", "to_head_frame",
]  # fmt: skip

_FLOOR = 5e-5  # meters: file formats round; smaller residuals are rounding
_ROUNDS = 24  # most iterations of reweighting
_SHRINK = 0.7  # factor on the scale from one round to the next
_CORE = 0.25  # part of the surface that is assumed to be rigid
_TOLERANCE = 2.0  # times the core's residual: the bound for rigid vertices
_STILL = (2.0, 5.0)  # degrees, millimeters: smaller motion stays in the vertices
_FRAMES = 32  # number of frames that estimate the rigid part
_VERTICES = 1500  # approximate number of vertices in the first estimate
_LOOSE = 0.003  # meters: a larger residual of the rigid part is a warning

HeadFrameChoice = Literal["auto", "keep", "normalize"] | Bool[Tensor, " v"]
"""Whether head motion is moved from a capture's vertices into its cameras; see `headfields.data.load_capture`."""


def rigid_vertices(
    vertices: Float[Tensor, "b v 3"], canonical: Float[Tensor, "v 3"], area: Float[Tensor, " v"] | None = None
) -> Bool[Tensor, " v"]:
    """Mask of the vertices that move with the skull over B frames: cranium, ears, the bridge of the nose.

    Each frame is fitted robustly (`head_pose` without a region). The score of a vertex is the 90th percentile of its
    residuals over frames. Vertices that score within twice the steadiest quarter of the surface, or below 0.1 mm, are
    rigid. Fit and score are repeated until nothing changes. Expression moves less than half of a head's surface at a
    time, and other parts in other frames, so more frames give a better answer. Most of the surface must be the head:
    for a body, pass the head's vertices alone.

    Args:
        vertices: (B, V, 3) posed, meters; with B = 0 every vertex is rigid.
        canonical: (V, 3) meters.
        area: (V,) weight of each vertex; all equal if None. With vertex areas as weights, the dense vertices of eyes,
            lips and teeth, which move most, are weighted by their area.

    Returns:
        (V,) True where rigid; three or more.

    Raises:
        TypeError, ValueError: dtype or shape does not fit, or there are fewer than three vertices.

    Not differentiable.
    """
    area = _checked("rigid_vertices", vertices, canonical, None, area)
    rigid = torch.ones(len(canonical), dtype=torch.bool, device=canonical.device)
    if not len(vertices):
        return rigid
    with torch.no_grad():
        x, y = canonical.double(), vertices.double()
        for _ in range(8):
            pose = _robust_pose(x[rigid], y[:, rigid], area[rigid])
            score = _residuals(x, y, pose).quantile(0.9, dim=0)
            core = _weighted_quantile(score, area, _CORE)
            steady = score <= (_TOLERANCE * core).clamp_min(2 * _FLOOR)
            if int(steady.sum()) < 3 or bool((steady == rigid).all()):
                break
            rigid = steady
    return rigid


def head_pose(
    vertices: Float[Tensor, "b v 3"],
    canonical: Float[Tensor, "v 3"],
    rigid: Bool[Tensor, " v"] | None = None,
    area: Float[Tensor, " v"] | None = None,
) -> Float[Tensor, "b 4 4"]:
    """The rigid pose of B posed meshes: the motion that takes the canonical mesh's rigid part nearest to theirs.

    Iteratively reweighted least squares. Vertices whose residual exceeds the scale of a round lose their weight (Geman
    and McClure's function), and the scale falls from the size of all residuals to that of the median one. A part of the
    region that moves after all, up to a third of it, therefore does not count.

    Args:
        vertices: (B, V, 3) posed, meters; B = 0 is legal.
        canonical: (V, 3) meters.
        rigid: (V,) the vertices that move with the skull (`rigid_vertices`). All if None, which holds as long as
            expression leaves more than half of the surface in its place.
        area: (V,) weight of each vertex; all equal if None.

    Returns:
        (B, 4, 4) in the dtype of the vertices: head frame (canonical mesh) to the frame of the vertices. Computed in
        double precision.

    Raises:
        TypeError, ValueError: dtype or shape does not fit, or fewer than three vertices are rigid.

    Differentiable in vertices and canonical mesh to first order, the weights held fixed.

    Source: Kabsch 1976; weights: Geman and McClure 1987.

    >>> import torch
    >>> from headfields.data.head_frame import head_pose
    >>> canonical = torch.rand(50, 3)
    >>> pose = head_pose(canonical[None] + torch.tensor([0.0, 0.0, 2.0]), canonical)
    >>> pose.shape, round(float(pose[0, 2, 3]), 3)
    (torch.Size([1, 4, 4]), 2.0)
    """
    area = _checked("head_pose", vertices, canonical, rigid, area)
    x, y = canonical.double(), vertices.double()
    if rigid is not None:
        x, y, area = x[rigid], y[:, rigid], area[rigid]
    return _robust_pose(x, y, area).to(vertices.dtype)


def to_head_frame(state: HeadState, camera: Camera, pose: Float[Tensor, "b 4 4"]) -> tuple[HeadState, Camera]:
    """B frames and their cameras in the head's frame: pose⁻¹ · vertices, world_to_camera · pose.

    Vertices and joint transforms are transformed. Expression and codes do not depend on the frame, and the joints'
    rotations `state.pose` stay the parameters that the mesh was made with. Cameras see the same as before.

    Args:
        state: B frames.
        camera: B cameras, or one of them.
        pose: (B, 4, 4) rigid, head frame to the frame of the vertices, as `head_pose` returns it.

    Returns:
        The state and B cameras. `torch.linalg.inv(pose)` inverts the change.

    Raises:
        ValueError: B differs, or pose is not (B, 4, 4).

    Differentiable to any order.

    >>> import torch
    >>> from headfields.data.head_frame import to_head_frame
    >>> from headfields.records import Camera, HeadState
    >>> pose = torch.eye(4)[None].clone()
    >>> pose[0, 2, 3] = 2.0  # the head is 2 m before the camera
    >>> camera = Camera(torch.eye(4), torch.diag(torch.tensor([100.0, 100.0, 1.0])), (64, 64))
    >>> state, camera = to_head_frame(HeadState(torch.tensor([[[0.0, 0.1, 2.0]]])), camera, pose)
    >>> state.vertices[0, 0, 2].item(), camera.world_to_camera[0, 2, 3].item()
    (0.0, 2.0)
    """
    _check_pose("to_head_frame", pose)
    if len(pose) != len(state):
        raise ValueError(f"to_head_frame: pose holds {len(pose)} poses and state {len(state)} frames; pass one each")
    views = camera.world_to_camera.reshape(-1, 4, 4)
    if len(views) not in (1, len(pose)):
        raise ValueError(f"to_head_frame: camera holds {len(views)} cameras for {len(pose)} frames; pass B or one")
    joints = state.joint_transforms
    intrinsics = camera.intrinsics.reshape(-1, 3, 3).expand(len(pose), 3, 3)
    moved = state.replace(
        vertices=_inverse_points(state.vertices, pose.to(state.vertices)),
        joint_transforms=None if joints is None else _inverse(pose.to(joints))[:, None] @ joints,
    )
    return moved, Camera(views @ pose.to(views), intrinsics, camera.size, camera.lens_rows(len(pose)))


@dataclass(frozen=True)
class HeadMotion:
    """The range of a head's motion.

    Attributes:
        rotation: the largest angle between any two frames, degrees.
        translation: the largest distance of the head's center between any two frames, millimeters.
    """

    rotation: float
    translation: float

    @property
    def is_still(self) -> bool:
        """Whether it is less than a capture's vertices keep: 2 degrees and 5 mm. Own choice."""
        return self.rotation < _STILL[0] and self.translation < _STILL[1]

    def __str__(self) -> str:
        return f"{self.rotation:.3g} degrees and {self.translation:.3g} mm"


def head_motion(pose: Float[Tensor, "b 4 4"], center: Float[Tensor, "3"]) -> HeadMotion:
    """The range of B poses; 0 for fewer than two.

    Args:
        pose: (B, 4, 4) rigid.
        center: (3,) of the head, in its own frame, meters.

    >>> import torch
    >>> from headfields.data.head_frame import head_motion
    >>> pose = torch.eye(4).repeat(2, 1, 1)
    >>> pose[1, 0, 3] = 0.01
    >>> print(head_motion(pose, torch.zeros(3)))
    0 degrees and 10 mm
    """
    _check_pose("head_motion", pose)
    if not len(pose):
        return HeadMotion(0.0, 0.0)
    turn, place = pose[:, :3, :3].double(), (pose[:, :3, :3] @ center.to(pose) + pose[:, :3, 3]).double()
    angles = rotation_angle(turn[:, None].transpose(-1, -2) @ turn[None])
    apart = torch.linalg.vector_norm(place[:, None] - place[None], dim=-1)
    return HeadMotion(float(torch.rad2deg(angles.amax())), 1000 * float(apart.amax()))


class HeadFrame:
    """The rigid part of one head, from which the pose of any of its frames is estimated.

    Args:
        canonical: (V, 3) canonical vertices, meters.
        rigid: (V,) the vertices that move with the skull.
        area: (V,) weight of each vertex; all equal if None.

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
        """The center of the rigid part in the head's frame, meters."""
        return (self._area[:, None] * self._canonical).sum(0) / self._area.sum()

    def pose(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b 4 4"]:
        """Poses (B, 4, 4) float64 of posed vertices (B, V, 3); see `head_pose`. No gradient."""
        with torch.no_grad():
            return _robust_pose(self._canonical, vertices.double()[:, self.rigid], self._area)

    def without_pose(self, vertices: Float[Tensor, "b v 3"], pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b v 3"]:
        """Posed vertices (B, V, 3) in the head's frame, computed in the pose's dtype and returned in their own."""
        return _inverse_points(vertices.to(pose), pose).to(vertices.dtype)

    def residual(self, vertices: Float[Tensor, "b v 3"], pose: Float[Tensor, "b 4 4"]) -> float:
        """The median distance of rigid vertices from their canonical places over all frames, meters; 0 for none."""
        residuals = _residuals(self._canonical, vertices.double()[:, self.rigid], pose.double())
        return float(residuals.median()) if residuals.numel() else 0.0


def choose_head_frame(recording: Recording, choice: HeadFrameChoice, report: list[str]) -> HeadFrame | None:
    """The head frame to use a capture in, or None to use it as on disk.

    Args:
        recording: the capture's.
        choice: `head_frame` of `headfields.data.load_capture`.
        report: gets a line with the decision and its evidence, unless the choice is "keep".

    Raises:
        ValueError: the choice is an unknown word, or a mask of another number of vertices.
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
        posed = [torch.from_numpy(known[f] if f in known else recording.decode_head(f).vertices) for f in frames]
        return torch.stack(posed) if posed else canonical.new_zeros(0, *canonical.shape)

    frames = sorted(recording.decoded_vertices) or _evenly(count, 8)
    if isinstance(choice, str) and choice == "auto":
        motion = _rough_motion(meshes(frames), canonical, area)
        if motion.is_still:
            report.append(
                f"head pose: in the cameras (between {len(frames)} frames looked at the head moves by {motion} in the "
                "vertices, which are left as they are)"
            )
            return None
    posed = meshes(sorted({*frames, *_evenly(count, _FRAMES)}))
    rigid = rigid_vertices(posed, canonical, area) if isinstance(choice, str) else choice
    frame = HeadFrame(canonical, rigid, area)
    pose = frame.pose(posed)
    residual, share = frame.residual(posed, pose), float(area[rigid].sum() / area.sum())
    report.append(
        f"head pose: taken out of the vertices, where the head moves by {head_motion(pose, frame.center)} between "
        f"{len(posed)} frames looked at, and put into the cameras; found from {share:.0%} of the surface, which keeps "
        f"its shape within {1000 * residual:.2g} mm (head_frame='keep' leaves it)"
    )
    if residual > _LOOSE:
        report.append(
            "warning: the part of the mesh that should move with the skull deviates from its canonical shape by "
            f"{1000 * residual:.2g} mm, so the pose is rough: pass load_capture a mask of its vertices as head_frame"
        )
    return frame


def motion_in_vertices(capture: Any, frames: Sequence[int]) -> HeadMotion:
    """How the head moves in the vertices of a capture's states, estimated from at most 8 of these frames.

    Args:
        capture: with `template` and `state`.
        frames: its frames.
    """
    chosen = [frames[row] for row in _evenly(len(frames), 8)]
    canonical = capture.template.canonical_vertices
    return _rough_motion(capture.state(chosen).vertices, canonical, vertex_areas(canonical, capture.template.faces))


def _rough_motion(
    posed: Float[Tensor, "b v 3"], canonical: Float[Tensor, "v 3"], area: Float[Tensor, " v"]
) -> HeadMotion:
    subset = slice(None, None, 1 + len(canonical) // _VERTICES)
    posed, canonical, area = posed[:, subset], canonical[subset], area[subset]
    rough = HeadFrame(canonical, rigid_vertices(posed, canonical, area), area)
    return head_motion(rough.pose(posed), rough.center)


def _evenly(count: int, most: int) -> list[int]:
    return sorted({int(frame) for frame in np.linspace(0, count - 1, min(most, count)).round()})


def _robust_pose(x: Tensor, y: Tensor, area: Tensor) -> Float[Tensor, "b 4 4"]:
    """Poses (B, 4, 4) of y (B, N, 3) relative to x (N, 3), both double, by iteratively reweighted least squares."""
    weights = area.expand(len(y), -1)
    with torch.no_grad():
        scale: Tensor | None = None
        for _ in range(_ROUNDS if len(y) else 0):
            squared = _residuals(x, y, rigid_transform(*fit_rigid(x, y, weights))).square()
            least = (1.5 * _weighted_quantile(squared, area, 0.5).sqrt()).clamp_min(_FLOOR)
            previous, overall = scale, (squared @ area / area.sum()).sqrt()
            scale = least.maximum(2 * overall if previous is None else _SHRINK * previous)
            weights = area * (scale.square() / (scale.square() + squared.transpose(0, 1))).transpose(0, 1).square()
            if previous is not None and bool((scale >= 0.999 * previous).all()):
                break
    return rigid_transform(*fit_rigid(x, y, weights))


def _residuals(x: Tensor, y: Tensor, pose: Tensor) -> Float[Tensor, "b n"]:
    return torch.linalg.vector_norm(x @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3] - y, dim=-1)


def _weighted_quantile(values: Float[Tensor, "*b n"], weights: Float[Tensor, " n"], part: float) -> Float[Tensor, "*b"]:
    """The value (...) below which the fraction `part` of the weights lies."""
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
    """Checks the arguments; the areas in double precision, all above 0."""
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
