"""Distances, normal angles and color differences from scans to a model's surface."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.priors.codes import PriorCodes
from headfields.apps.priors.scans.batch import PointCounts, ScanSet
from headfields.avatar.avatar import Avatar
from headfields.parts import Field

__all__ = ["SurfaceErrors", "onto_surface", "surface_errors"]


@dataclass(frozen=True)
class SurfaceErrors:
    """Mean errors of B scans.

    Attributes:
        face, front, back: (B,) mean distance of scan points to the model's surface, meters: of the face, of the whole
            front (with the face), and of the back of the head.
        normal: (B,) mean angle between normals of scan and model on the front, degrees.
        color: (B,) mean absolute color difference per channel on the front, colors in [0, 1].
        lost: (B,) fraction of points without a surface within `REACH`; they count as `REACH` in the means.
    """

    face: Float[Tensor, " b"]
    front: Float[Tensor, " b"]
    back: Float[Tensor, " b"]
    normal: Float[Tensor, " b"]
    color: Float[Tensor, " b"]
    lost: Float[Tensor, " b"]

    def summary(self) -> dict[str, float]:
        """Means over the scans: millimeters, degrees, color, fraction."""
        return {
            "face_mm": 1e3 * float(self.face.mean()),
            "front_mm": 1e3 * float(self.front.mean()),
            "back_mm": 1e3 * float(self.back.mean()),
            "normal_degrees": float(self.normal.mean()),
            "color": float(self.color.mean()),
            "lost": float(self.lost.mean()),
        }


REACH = 0.02
"""Meters; points farther from the surface are counted as lost."""


@torch.no_grad()
def surface_errors(
    avatar: Avatar, scans: ScanSet, which: Int[Tensor, " b"], codes: PriorCodes, points: int = 2000, seed: int = 0
) -> SurfaceErrors:
    """Errors from points of B scans to the surface of a model with the codes of these scans.

    Distances are to the projection by `onto_surface`. They go from scan to model: surface of the model that the scan
    lacks is not counted.

    Args:
        avatar: the model.
        scans: the set of scans.
        which: (B,) numbers of scans in the set.
        codes: B rows.
        points: number of points of each scan on the face; a third as many on the rest of the front and on the back.
        seed: seed of the point sampling.
    """
    avatar.eval()
    counts = PointCounts(face=points, static=points // 3, back=points // 3, near=0, far=0, correspondences=0)
    rows = []
    for row, scan in enumerate(which.tolist()):
        batch = scans.sample(torch.tensor([scan]), counts, seed).to(codes.geometry.device)
        state = codes[row : row + 1]
        field = avatar.field(state.state())
        start = torch.cat([batch.front_points, batch.back_points], 1)[0]
        end, missed = onto_surface(field, start)
        distance = torch.where(missed, REACH, (end - start).norm(dim=-1).clamp(max=REACH))
        front = batch.front_points.shape[1]
        frame = torch.zeros(front, dtype=torch.long, device=start.device)
        canonical, values = field.signed_distance(batch.front_points[0], frame, create_graph=False)
        values = field.color(values, canonical)
        assert values.normal is not None and values.rgb is not None
        cosine = (values.normal * batch.front_normals[0]).sum(-1).clamp(-1, 1)
        metrics = (
            distance[:points], distance[:front], distance[front:], torch.rad2deg(cosine.acos()),
            (values.rgb - batch.front_rgb[0]).abs(), missed.float(),
        )  # fmt: skip
        rows.append(torch.stack([metric.mean() for metric in metrics]))
    table = torch.stack(rows).cpu() if rows else torch.zeros(0, 6)
    return SurfaceErrors(*table.unbind(1))


def onto_surface(
    field: Field, points: Float[Tensor, "m 3"], steps: int = 6, near: float = 5e-5
) -> tuple[Float[Tensor, "m 3"], Tensor]:
    """Points projected onto the surface of a field by Newton's steps along the gradient.

    Args:
        field: signed distance field of one frame.
        points: (M, 3) meters.
        steps: maximum number; each step is at most 5 mm.
        near: the distance that counts as on the surface, meters.

    Returns:
        The projected points (M, 3), and a mask (M,) of those that are not on the surface.
    """
    at = points.clone()
    frame = torch.zeros(len(points), dtype=torch.long, device=points.device)
    active = torch.arange(len(points), device=points.device)
    for _ in range(steps):
        _, values = field.signed_distance(at[active], frame[active], create_graph=False)
        assert values.distance is not None and values.gradient is not None
        length = values.distance / values.gradient.square().sum(-1).clamp_min(1e-2)
        shift = -length[:, None] * values.gradient
        limit = 5e-3 / shift.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        at[active] = at[active] + shift * limit.clamp(max=1.0)
        active = active[values.distance.abs() > near]
        if not len(active):
            break
    missed = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    missed[active] = True
    if len(active):
        _, values = field.signed_distance(at[active], frame[active], create_graph=False)
        assert values.distance is not None
        missed[active] = values.distance.abs() > 10 * near
    return at, missed
