"""The energy of a pose on one level and its normal equations: colors, outlines, landmarks, priors and motion.

Every term is a sum of squares, or of Geman and McClure's ρ(r) = r² / (1 + r²), of residuals in units of their scales.
Residuals belong to surface points: each visible point has a color from the texture, and the image gradient gives the
derivative of the image color under it when it moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from headfields.apps.tracking.rig.body import BodyPose, PosedBody, TrackedBody, cross_matrices
from headfields.apps.tracking.rig.observation import Level, RigObservation, outline, signed_distance
from headfields.apps.tracking.rig.options import RigTrackingOptions, TermScales
from headfields.apps.tracking.rig.surface import RigSurface, VisibleSurface
from headfields.ops.rotations import axis_angle
from headfields.renderers.lighting import sh_basis

__all__ = ["Energy", "MotionPrior", "PoseEnergy", "beyond_limits", "prior_scales"]

_OUTSIDE = 0.05
"""Scale of a blendshape's weight below 0 or above 1."""
_LIMITED = (("torso_limit", ("torso",)), ("head_limit", ("neck", "head")))
"""Limits of `TermScales`, and the joints whose turns, one after the other, they are for."""


@dataclass(frozen=True)
class MotionPrior:
    """The pose that a frame is expected near.

    Attributes:
        pose: extrapolated from earlier frames; None for no expectation.
        loose: factor of the motion scales of the options.
    """

    pose: BodyPose | None = None
    loose: float = 1.0


@dataclass(frozen=True)
class Energy:
    """The energy at a pose and its normal equations.

    Attributes:
        value: sum of all terms.
        matrix, vector: (P, P), (P,) float64; the Gauss-Newton step solves matrix · step = -vector.
        center: (3,) of the step's rotation, in camera space.
        parts: value of each term.
        iou: intersection over union of silhouette and matte, the mean over the views.
        visible: the surface that each view shows, the frame's own first; empty if only landmarks count.
    """

    value: float
    matrix: Float[Tensor, "p p"]
    vector: Float[Tensor, " p"]
    center: Float[Tensor, "3"]
    parts: dict[str, float]
    iou: float
    visible: tuple[VisibleSurface, ...] = field(repr=False)


class _Sums:
    """Accumulates residuals as normal equations; a Jacobian may lack the last columns, which are 0 then."""

    def __init__(self, width: int) -> None:
        self.matrix = torch.zeros(width, width, dtype=torch.float64)
        self.vector = torch.zeros(width, dtype=torch.float64)
        self.parts: dict[str, float] = {}

    def add(self, name: str, residual: Tensor, slope: Tensor, robust: bool, weight: float, square: Tensor) -> None:
        """Adds residuals (N, ...) in their scales with Jacobian (N, ..., P); `square` (N,) is the argument of ρ."""
        irls = (1 / (1 + square)).square() if robust else torch.ones_like(square)
        value = square / (1 + square) if robust else square
        rows = slope.reshape(-1, slope.shape[-1])
        each = (weight * irls).expand(square.shape)
        each = each.view(-1, *[1] * (residual.dim() - 1)).expand(residual.shape).reshape(-1)
        weighted, width = rows * each[:, None], rows.shape[1]
        self.matrix[:width, :width] += (weighted.T @ rows).double().cpu()
        self.vector[:width] += (weighted.T @ residual.reshape(-1)).double().cpu()
        self.parts[name] = self.parts.get(name, 0.0) + weight * float(value.sum())


@dataclass(frozen=True)
class _View:
    """A camera's picture of the frame at one size.

    Attributes:
        level: its images; its camera stands in the frame's camera space.
        landmarks: (68, 2) pixels of the level.
        known: (K,) which of them are known.
        first: whether the camera is that of the frame's camera space.
        side: longer side of the level, pixels.
    """

    level: Level
    landmarks: Float[Tensor, "68 2"]
    known: Int[Tensor, " k"]
    first: bool
    side: int

    @classmethod
    def of(cls, observation: RigObservation, level: Level, usable: bool) -> "_View":
        side = max(level.camera.size)
        landmarks = observation.landmarks * (side / max(observation.camera.size))
        known = landmarks.isfinite().all(dim=1).nonzero()[:, 0] if usable else torch.zeros(0, dtype=torch.long)
        placed = level.camera.world_to_camera.reshape(4, 4)
        return cls(level, landmarks, known, bool((placed == torch.eye(4).to(placed)).all()), side)

    @property
    def turn(self) -> Float[Tensor, "3 3"]:
        """Rotation from the frame's camera space to this camera's."""
        return self.level.camera.world_to_camera.reshape(4, 4)[:3, :3]

    def seen(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points of the frame's camera space in this camera's."""
        return points @ self.turn.T + self.level.camera.world_to_camera.reshape(4, 4)[:3, 3]

    def pose(self, pose: BodyPose) -> BodyPose:
        """A pose as seen by this camera."""
        return replace(pose, world_to_camera=self.level.camera.world_to_camera.reshape(4, 4) @ pose.world_to_camera)


class PoseEnergy:
    """The energy of one frame on one level, as a function of the pose; the sum over its views, if it has several.

    Args:
        body, surface: the template.
        observation: the frame.
        level: one of its levels.
        light: (9, 3) coefficients of `SHLighting`; None leaves the photometric term out.
        expected: pose predicted from earlier frames.
        options: scales.
        lens: whether the logarithm of the focal length is a parameter, after those of the body.
        offsets: (68, 3) of the landmarks at rest, meters, whose 204 numbers are then the last parameters; those of the
            body, which are fixed, if None.
        others: the same moment from other cameras, each with one of its levels.
    """

    def __init__(
        self, body: TrackedBody, surface: RigSurface | None, observation: RigObservation, level: Level,
        light: Float[Tensor, "9 3"] | None, expected: MotionPrior, options: RigTrackingOptions, lens: bool = False,
        offsets: Float[Tensor, "68 3"] | None = None, others: Sequence[tuple[RigObservation, Level]] = (),
    ) -> None:  # fmt: skip
        self.body, self.surface, self.light = body, surface, light
        self._fits_offsets = offsets is not None
        self._offsets = body.landmark_offsets if offsets is None else offsets
        self.width = body.width + lens + (0 if offsets is None else offsets.numel())
        self._lens = lens
        self.expected, self.scales, self.pixels = expected, options.scales, options.pixels
        usable = body.landmark_count == 68
        self.views = tuple(_View.of(own, reduced, usable) for own, reduced in ((observation, level), *others))

    def __call__(self, pose: BodyPose) -> Energy:
        """The energy at a pose."""
        posed = self.body.posed(pose)
        sums = _Sums(self.width)
        visible = []
        for view in self.views:
            if self.surface is not None:
                visible.append(self._pictured(sums, view, self.surface, pose, posed))
            self._landmarks(sums, view, pose, posed)
        center = posed.local.mean(dim=0)
        self._priors(sums, pose, center)
        overlaps = [view.level.overlap(seen.mask) for view, seen in zip(self.views, visible, strict=False)]
        iou = sum(overlaps) / len(overlaps) if overlaps else 1.0
        return Energy(sum(sums.parts.values()), sums.matrix, sums.vector, center, sums.parts, iou, tuple(visible))

    def _pictured(
        self, sums: _Sums, view: "_View", surface: RigSurface, pose: BodyPose, posed: PosedBody
    ) -> VisibleSurface:
        """Adds colors and outlines of a view; returns what it shows."""
        body, level, scales = self.body, view.level, self.scales
        visible = surface.visible(posed, level.camera)
        pixel = visible.mask.nonzero()
        counts = visible.clear & (level.inside & ~level.free)[visible.mask]
        rendered = torch.full_like(level.rgb, torch.nan)
        if self.light is not None:
            rendered[visible.mask] = visible.albedo * (sh_basis(visible.normals) @ self.light)
        edge_mask = outline(visible.mask)
        on_edge = edge_mask[visible.mask] & visible.outlined
        colors = self.light is not None and scales.color_weight > 0
        if colors:
            # evenly over the image by a fixed rule, so that the energy is a function of the pose
            stride = max(round(int(counts.sum()) / self.pixels), 1)
            counts = counts & ((pixel[:, 0] * 7 + pixel[:, 1] * 3) % stride == 0)
        used = on_edge | counts if colors else on_edge
        rows = used.nonzero()[:, 0]
        slope, _ = body.jacobian(pose, posed, visible.corners[rows], visible.weights[rows])
        local = (visible.weights[rows][..., None] * posed.local[visible.corners[rows]]).sum(1)
        moved = self._projected(view, local, slope)  # (N, 2, P)
        if colors:
            keep = counts[rows]
            self._colors(sums, view, rendered, pixel[rows[keep]], moved[keep])
        keep = on_edge[rows]
        self._outlines(sums, view, visible, pixel[rows[keep]], moved[keep], pixel[edge_mask[visible.mask] & ~on_edge])
        return visible

    def _projected(
        self, view: "_View", local: Float[Tensor, "n 3"], slope: Float[Tensor, "n 3 p"]
    ) -> Float[Tensor, "n 2 q"]:
        """The Jacobian of the points' pixels in a view, the focal length's last if it is a parameter."""
        lens = view.level.camera.intrinsics.reshape(3, 3)
        if not view.first:
            local, slope = view.seen(local), view.turn @ slope
        depth = local[:, 2].clamp_min(1e-3)[:, None, None]
        out = torch.stack([lens[0, 0] * slope[:, 0], lens[1, 1] * slope[:, 1]], 1)
        ratio = torch.stack([lens[0, 0] * local[:, 0], lens[1, 1] * local[:, 1]], 1)[..., None] / depth
        moved = (out - ratio * slope[:, 2:]) / depth
        return torch.cat([moved, ratio], 2) if self._lens else moved

    def _colors(self, sums: _Sums, view: "_View", rendered: Tensor, pixel: Tensor, moved: Tensor) -> None:
        level, scale, side = view.level, float(self.scales.color), view.side
        row, column = pixel.unbind(1)
        difference = torch.zeros_like(rendered)
        difference[row, column] = level.rgb[row, column] - rendered[row, column]
        known = torch.zeros_like(rendered[..., :1])
        known[row, column] = 1.0
        reach = float(self.scales.light_reach) * side
        if reach > 0:
            # Light beyond the harmonics (shadows, interreflections) varies slowly over the image: the local mean of the
            # differences is attributed to it.
            difference = difference - _blurred(difference, reach) / _blurred(known, reach).clamp_min(1e-3)
        residual = difference[row, column] / (scale * 3**0.5)
        # The mean of the gradients of image and rendering, as in efficient second-order minimization; where the
        # rendering has no gradient, that of the image.
        x, y = torch.gradient(rendered, dim=(1, 0))
        own = torch.stack([x, y], -1)[row, column]
        image = level.gradient[row, column]
        slope = torch.where(own.isfinite(), 0.5 * (own + image), image) / (scale * 3**0.5)
        square = residual.square().sum(1)
        # The total weight is independent of the number of visible pixels, so that showing fewer does not lower it.
        weight = float(self.scales.color_weight) * side / max(len(pixel), 1)
        sums.add("color", residual, slope @ moved, True, weight, square)

    def _outlines(
        self, sums: _Sums, view: "_View", visible: VisibleSurface, pixel: Tensor, moved: Tensor,
        ends: Int[Tensor, "n 2"],
    ) -> None:  # fmt: skip
        """Outlines: `pixel` on the person's; `ends` where the mesh ends and the person does not, which stand for the
        parts of the matte's outline that the mesh does not reach."""
        level, side = view.level, view.side
        scale = max(float(self.scales.outline) * side, 0.5)
        row, column = pixel.unbind(1)
        if not len(pixel):
            return
        reach = 8.0  # width of ρ in scales: a distant outline is not an outlier
        weight = reach**2 * float(self.scales.outline_weight) * side / (len(pixel) + len(level.outline))
        beyond = level.distance[row, column] + 0.5
        beyond = torch.where(level.open[row, column], beyond.clamp_min(0), beyond)
        residual = beyond / scale / reach
        acts = (beyond != 0).to(beyond.dtype)[:, None]
        slope = acts * torch.einsum("nk,nkp->np", level.slope[row, column], moved) / scale / reach
        sums.add("outline", residual, slope, True, weight, residual.square())
        centers = pixel.flip(-1).float() + 0.5
        if not len(level.outline):
            return
        own = signed_distance(visible.mask)
        across, down = torch.gradient(own, dim=(1, 0))
        normal = torch.nn.functional.normalize(torch.stack([across, down], -1)[row, column], dim=1, eps=1e-6)
        both = torch.cat([centers, ends.flip(-1).float() + 0.5])
        nearest = torch.from_numpy(cKDTree(both.cpu().numpy()).query(level.outline.cpu().numpy())[1]).to(row.device)
        target = level.outline[nearest < len(centers)]
        nearest = nearest[nearest < len(centers)]
        offset = centers[nearest] - target
        facing = (torch.nn.functional.normalize(_at(level.slope, target), dim=1) * normal[nearest]).sum(1) > 0.3
        nearest, offset = nearest[facing], offset[facing]
        residual = (offset * normal[nearest]).sum(1) / scale / reach
        slope = torch.einsum("nk,nkp->np", normal[nearest], moved[nearest]) / scale / reach
        sums.add("outline", residual, slope, True, weight, residual.square())

    def _landmarks(self, sums: _Sums, view: "_View", pose: BodyPose, posed: PosedBody) -> None:
        known = view.known
        if not len(known):
            return
        corners, weights = self.body.landmarks(pose if view.first else view.pose(pose))
        corners, weights = corners[known], weights[known]
        slope, _ = self.body.jacobian(pose, posed, corners, weights)
        local = (weights[..., None] * posed.local[corners]).sum(1)
        if self._offsets is not None:
            frames = self.body.landmark_frames(pose, posed, corners, weights)
            offsets = (frames @ self._offsets[known][..., None])[..., 0]
            local = local + offsets
            slope = torch.cat([slope[..., :3] - cross_matrices(offsets), slope[..., 3:]], 2)
        moved = self._projected(view, local, slope)
        lens = view.level.camera.intrinsics.reshape(3, 3)
        if self._fits_offsets:
            own = torch.zeros(len(known), 2, 68, 3)
            own[torch.arange(len(known)), :, known] = self._projected(view, local, frames)[..., :3]
            moved = torch.cat([moved, own.flatten(2)], 2)
        pixels = (local if view.first else view.seen(local)) @ lens.T
        pixels = pixels[:, :2] / pixels[:, 2:].clamp_min(1e-3)
        scale, reach = float(self.scales.landmarks) * view.side, 6.0
        residual = (pixels - view.landmarks[known]) / scale / reach
        weight = reach**2 * float(self.scales.landmark_weight) * view.side / 68
        sums.add("landmarks", residual, moved / scale / reach, True, weight, residual.square().sum(1))

    def _priors(self, sums: _Sums, pose: BodyPose, center: Tensor) -> None:
        eye = torch.eye(self.body.width, self.width)
        joints = pose.turns.numel()
        parameters = torch.cat([pose.turns.flatten(), pose.expression]).cpu()
        scale = prior_scales(self.body, self.scales)
        residual = parameters / scale
        sums.add("prior", residual, eye[6:] / scale[:, None], False, 1.0, residual.square())
        residual, slope = beyond_limits(self.body, pose, self.scales)
        sums.add("limits", residual, slope @ eye[6 : 6 + joints], False, 1.0, residual.square())
        if self.body.blendshapes is not None:
            weights = parameters[joints:]
            excess = (weights.clamp_max(0) + (weights - 1).clamp_min(0)) * self.body.blendshapes / _OUTSIDE
            rows = eye[6 + joints :] * ((excess != 0)[:, None] / _OUTSIDE)
            sums.add("range", excess, rows, False, 1.0, excess.square())
        expected = self.expected.pose
        if expected is None:
            return
        rotation = pose.world_to_camera[:3, :3] @ expected.world_to_camera[:3, :3].T
        expected_center = _center_of(expected, pose, center)
        difference = torch.cat(
            [axis_angle(rotation), center - expected_center, (pose.turns - expected.turns).flatten(),
             pose.expression - expected.expression]
        ).cpu()  # fmt: skip
        scale = motion_scales(self.scales, joints, len(pose.expression)) * self.expected.loose
        residual = difference / scale
        sums.add("motion", residual, eye / scale[:, None], False, 1.0, residual.square())


def prior_scales(body: TrackedBody, scales: TermScales) -> Float[Tensor, " q"]:
    """Standard deviations of joints and coefficients from rest."""
    turns = [float(getattr(scales, name.split("_")[-1])) for name in body.names for _ in range(3)]
    own = torch.full((len(body.expressions),), float(scales.expression)) if body.scales is None else body.scales
    return torch.cat([torch.tensor(turns), own])


def beyond_limits(
    body: TrackedBody, pose: BodyPose, scales: TermScales
) -> tuple[Float[Tensor, " l"], Float[Tensor, "l q"]]:
    """How far turns of joints are beyond `TermScales.torso_limit` and `head_limit`, in units of `beyond`.

    Returns:
        (L,) 0 within a limit, and the derivative (L, Q) by the Q numbers of `BodyPose.turns`.
    """
    residuals, slopes = [], []
    for name, names in _LIMITED:
        turn, columns = body.turn_of(pose, names)
        angle = turn.norm()
        excess = (angle - float(getattr(scales, name))).clamp_min(0) / float(scales.beyond)
        residuals.append(excess)
        slopes.append((excess > 0) * (turn / angle.clamp_min(1e-9)) @ columns / float(scales.beyond))
    return torch.stack(residuals).cpu(), torch.stack(slopes).cpu()


def motion_scales(scales: TermScales, joints: int, expressions: int) -> Float[Tensor, " p"]:
    """Standard deviations of the parameters of a step from the extrapolated motion."""
    values = [
        *[float(scales.motion_turn)] * 3, *[float(scales.motion_shift)] * 3, *[float(scales.motion_joint)] * joints,
        *[float(scales.motion_expression)] * expressions,
    ]  # fmt: skip
    return torch.tensor(values)


def _center_of(other: BodyPose, pose: BodyPose, center: Tensor) -> Tensor:
    """The point of the rest mesh that is at the center in camera space under one pose, under another."""
    one, two = pose.world_to_camera, other.world_to_camera
    point = one[:3, :3].T @ (center - one[:3, 3])
    return two[:3, :3] @ point + two[:3, 3]


def _blurred(image: Float[Tensor, "h w c"], sigma: float) -> Float[Tensor, "h w c"]:
    """The image convolved with a Gaussian of `sigma` pixels, zero beyond the border."""
    half = max(round(2.5 * sigma), 1)
    at = torch.arange(-half, half + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (at / sigma).square())
    kernel = kernel / kernel.sum()
    flat = image.movedim(-1, 0)[:, None]
    flat = torch.nn.functional.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, half))
    return torch.nn.functional.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(half, 0))[:, 0].movedim(0, -1)


def _at(image: Float[Tensor, "h w 2"], centers: Float[Tensor, "q 2"]) -> Float[Tensor, "q 2"]:
    column, row = (centers - 0.5).long().unbind(1)
    return image[row, column]
