"""The energy of a pose on one level and its normal equations: colors, outlines, landmarks and what is expected.

Every term is a sum of squares or of Geman and McClure's ρ(r) = r² / (1 + r²) of residuals in units of their scales.
Points of the surface are followed: a pixel that sees the template says what color its point should have, and the
picture's slope says how the color under the point changes when the point moves. Our own choice throughout.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from headfields.ops.rotations import axis_angle
from headfields.renderers.lighting import sh_basis
from headfields.tracking.rig.body import BodyPose, PosedBody, TrackedBody
from headfields.tracking.rig.observation import Level, RigObservation, outline, signed_distance
from headfields.tracking.rig.options import RigTrackingOptions, TermScales
from headfields.tracking.rig.surface import RigSurface, SeenSurface

__all__ = ["Energy", "Expected", "Problem", "prior_scales"]


@dataclass(frozen=True)
class Expected:
    """What is foreseen for a frame; None where nothing is.

    Attributes:
        pose: the pose foreseen.
        loose: how many times further off than the options say it may be.
    """

    pose: BodyPose | None = None
    loose: float = 1.0


@dataclass(frozen=True)
class Energy:
    """The energy at a pose, its normal equations for a step, and numbers about it.

    Attributes:
        value: of all terms.
        matrix, vector: (P, P), (P,) float64: the step solves (matrix) step = -vector.
        center: (3,) what the step turns about.
        parts: by term. iou: of silhouette and matte.
    """

    value: float
    matrix: Float[Tensor, "p p"]
    vector: Float[Tensor, " p"]
    center: Float[Tensor, "3"]
    parts: dict[str, float]
    iou: float
    seen: SeenSurface = field(repr=False)


class _Sums:
    """Adds up residuals as normal equations."""

    def __init__(self, width: int) -> None:
        self.matrix = torch.zeros(width, width, dtype=torch.float64)
        self.vector = torch.zeros(width, dtype=torch.float64)
        self.parts: dict[str, float] = {}

    def add(self, name: str, residual: Tensor, slope: Tensor, robust: bool, weight: float, square: Tensor) -> None:
        """Residuals (N, ...) in their scales, slopes (N, ..., P); `square` (N,) is what the robust function sees."""
        irls = (1 / (1 + square)).square() if robust else torch.ones_like(square)
        value = square / (1 + square) if robust else square
        rows = slope.reshape(-1, slope.shape[-1])
        each = (weight * irls).expand(square.shape)
        each = each.view(-1, *[1] * (residual.dim() - 1)).expand(residual.shape).reshape(-1)
        weighed = rows * each[:, None]
        self.matrix += (weighed.T @ rows).double().cpu()
        self.vector += (weighed.T @ residual.reshape(-1)).double().cpu()
        self.parts[name] = self.parts.get(name, 0.0) + weight * float(value.sum())


class Problem:
    """The energy of one frame's pose on one level.

    Args:
        body, surface: the template.
        observation: the frame. level: which of its levels.
        light: (9, 3) coefficients of `SHLighting`, or None before there are any: colors then do not count.
        expected: what is foreseen.
        options: scales.
    """

    def __init__(
        self, body: TrackedBody, surface: RigSurface, observation: RigObservation, level: Level,
        light: Float[Tensor, "9 3"] | None, expected: Expected, options: RigTrackingOptions,
    ) -> None:  # fmt: skip
        self.body, self.surface, self.level, self.light = body, surface, level, light
        self.expected, self.scales, self.pixels = expected, options.scales, options.pixels
        self.side = max(level.camera.size)
        self.marks = observation.landmarks * (self.side / max(observation.camera.size))
        rig = body.rig
        usable = rig.landmark_faces is not None and len(rig.landmark_faces) == 68
        self.marked = self.marks.isfinite().all(dim=1).nonzero()[:, 0] if usable else torch.zeros(0, dtype=torch.long)

    def __call__(self, pose: BodyPose) -> Energy:
        """The energy at a pose."""
        body, level, scales = self.body, self.level, self.scales
        posed = body.posed(pose)
        seen = self.surface.see(posed, level.camera)
        sums = _Sums(body.width)
        spot = seen.mask.nonzero()
        counts = seen.clear & level.inside[seen.mask]
        rendered = torch.full_like(level.rgb, torch.nan)
        if self.light is not None:
            rendered[seen.mask] = seen.albedo * (sh_basis(seen.normals) @ self.light)
        edge_mask = outline(seen.mask)
        on_edge = edge_mask[seen.mask]
        colors = self.light is not None and scales.color_weight > 0
        if colors:
            # evenly over the picture, in a fixed order, so that the energy is one function of the pose
            stride = max(round(int(counts.sum()) / self.pixels), 1)
            counts = counts & ((spot[:, 0] * 7 + spot[:, 1] * 3) % stride == 0)
        chosen = on_edge | counts if colors else on_edge
        rows = chosen.nonzero()[:, 0]
        slope, center = body.jacobian(pose, posed, seen.corners[rows], seen.weights[rows])
        local = (seen.weights[rows][..., None] * posed.local[seen.corners[rows]]).sum(1)
        moved = self._projected(local, slope)  # (N, 2, P)
        if colors:
            keep = counts[rows]
            self._colors(sums, rendered, spot[rows[keep]], moved[keep])
        keep = on_edge[rows]
        self._outlines(sums, seen, spot[rows[keep]], moved[keep])
        self._landmarks(sums, pose, posed)
        self._priors(sums, pose, center)
        both = (seen.mask & level.mask).sum() / (seen.mask | level.mask).sum().clamp_min(1)
        return Energy(sum(sums.parts.values()), sums.matrix, sums.vector, center, sums.parts, float(both), seen)

    def _projected(self, local: Float[Tensor, "n 3"], slope: Float[Tensor, "n 3 p"]) -> Float[Tensor, "n 2 p"]:
        """How the pixels of points move."""
        lens = self.level.camera.intrinsics.reshape(3, 3)
        depth = local[:, 2].clamp_min(1e-3)[:, None, None]
        out = torch.stack([lens[0, 0] * slope[:, 0], lens[1, 1] * slope[:, 1]], 1)
        ratio = torch.stack([lens[0, 0] * local[:, 0], lens[1, 1] * local[:, 1]], 1)[..., None] / depth
        return (out - ratio * slope[:, 2:]) / depth

    def _colors(self, sums: _Sums, rendered: Tensor, spot: Tensor, moved: Tensor) -> None:
        level, scale = self.level, float(self.scales.color)
        row, column = spot.unbind(1)
        difference = torch.zeros_like(rendered)
        difference[row, column] = level.rgb[row, column] - rendered[row, column]
        known = torch.zeros_like(rendered[..., :1])
        known[row, column] = 1.0
        reach = float(self.scales.light_reach) * self.side
        if reach > 0:
            # Light that the harmonics do not know (shadows, what bounces) changes slowly over the picture: the local
            # mean of the differences is taken for it.
            difference = difference - _blurred(difference, reach) / _blurred(known, reach).clamp_min(1e-3)
        residual = difference[row, column] / (scale * 3**0.5)
        # The mean slope of picture and rendering, where the rendering has one: second order in how far they are apart.
        x, y = torch.gradient(rendered, dim=(1, 0))
        own = torch.stack([x, y], -1)[row, column]
        given = level.gradient[row, column]
        slope = torch.where(own.isfinite(), 0.5 * (own + given), given) / (scale * 3**0.5)
        square = residual.square().sum(1)
        # As many pixels as the matte has, whatever is seen now, so that seeing less does not pay.
        share = float(self.scales.color_weight) * self.side / max(len(spot), 1)
        sums.add("color", residual, slope @ moved, True, share, square)

    def _outlines(self, sums: _Sums, seen: SeenSurface, spot: Tensor, moved: Tensor) -> None:
        level = self.level
        scale = max(float(self.scales.outline) * self.side, 0.5)
        row, column = spot.unbind(1)
        if not len(spot) or not len(level.outline):
            return
        reach = 8.0  # scales at which the robust function bends: far off is not an outlier here
        weight = reach**2 * float(self.scales.outline_weight) * self.side / (len(spot) + len(level.outline))
        residual = (level.distance[row, column] + 0.5) / scale / reach
        slope = torch.einsum("nk,nkp->np", level.slope[row, column], moved) / scale / reach
        sums.add("outline", residual, slope, True, weight, residual.square())
        centers = spot.flip(-1).float() + 0.5
        own = signed_distance(seen.mask)
        across, down = torch.gradient(own, dim=(1, 0))
        normal = torch.nn.functional.normalize(torch.stack([across, down], -1)[row, column], dim=1, eps=1e-6)
        near = torch.from_numpy(cKDTree(centers.cpu().numpy()).query(level.outline.cpu().numpy())[1]).to(row.device)
        away = centers[near] - level.outline
        facing = (torch.nn.functional.normalize(_at(level.slope, level.outline), dim=1) * normal[near]).sum(1) > 0.3
        near, away = near[facing], away[facing]
        residual = (away * normal[near]).sum(1) / scale / reach
        slope = torch.einsum("nk,nkp->np", normal[near], moved[near]) / scale / reach
        sums.add("outline", residual, slope, True, weight, residual.square())

    def _landmarks(self, sums: _Sums, pose: BodyPose, posed: PosedBody) -> None:
        if not len(self.marked):
            return
        rig = self.body.rig
        assert rig.landmark_faces is not None and rig.landmark_barycentric is not None
        corners = rig.faces[rig.landmark_faces[self.marked]]
        weights = rig.landmark_barycentric[self.marked].to(rig.template_vertices)
        slope, _ = self.body.jacobian(pose, posed, corners, weights)
        local = (weights[..., None] * posed.local[corners]).sum(1)
        moved = self._projected(local, slope)
        lens = self.level.camera.intrinsics.reshape(3, 3)
        pixels = local @ lens.T
        pixels = pixels[:, :2] / pixels[:, 2:].clamp_min(1e-3)
        scale, reach = float(self.scales.landmarks) * self.side, 6.0
        residual = (pixels - self.marks[self.marked]) / scale / reach
        weight = reach**2 * float(self.scales.landmark_weight) * self.side / 68
        sums.add("landmarks", residual, moved / scale / reach, True, weight, residual.square().sum(1))

    def _priors(self, sums: _Sums, pose: BodyPose, center: Tensor) -> None:
        eye = torch.eye(self.body.width)
        joints = pose.turns.numel()
        rest = torch.cat([pose.turns.flatten(), pose.expression]).cpu()
        scale = prior_scales(self.body, self.scales)
        residual = rest / scale
        slope = eye[6:] / scale[:, None]
        sums.add("prior", residual, slope, False, 1.0, residual.square())
        foreseen = self.expected.pose
        if foreseen is None:
            return
        turned = pose.world_to_camera[:3, :3] @ foreseen.world_to_camera[:3, :3].T
        there = _center_of(foreseen, pose, center)
        difference = torch.cat(
            [axis_angle(turned), center - there, (pose.turns - foreseen.turns).flatten(),
             pose.expression - foreseen.expression]
        ).cpu()  # fmt: skip
        scale = motion_scales(self.scales, joints, len(pose.expression)) * self.expected.loose
        residual = difference / scale
        sums.add("motion", residual, eye / scale[:, None], False, 1.0, residual.square())


def prior_scales(body: TrackedBody, scales: TermScales) -> Float[Tensor, " q"]:
    """What joints and coefficients are expected to be off from rest."""
    turns = [float(getattr(scales, name)) for name in body.names for _ in range(3)]
    return torch.tensor([*turns, *[float(scales.expression)] * len(body.expressions)])


def motion_scales(scales: TermScales, joints: int, expressions: int) -> Float[Tensor, " p"]:
    """What a step is expected to be off from the motion foreseen."""
    values = [
        *[float(scales.motion_turn)] * 3, *[float(scales.motion_shift)] * 3, *[float(scales.motion_joint)] * joints,
        *[float(scales.motion_expression)] * expressions,
    ]  # fmt: skip
    return torch.tensor(values)


def _center_of(other: BodyPose, pose: BodyPose, center: Tensor) -> Tensor:
    """Where the point of the body at rest that `pose` sees at `center` is for another pose."""
    view, there = pose.world_to_camera, other.world_to_camera
    point = view[:3, :3].T @ (center - view[:3, 3])
    return there[:3, :3] @ point + there[:3, 3]


def _blurred(image: Float[Tensor, "h w c"], sigma: float) -> Float[Tensor, "h w c"]:
    """The image smoothed by a Gaussian of `sigma` pixels, zero beyond its border."""
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
