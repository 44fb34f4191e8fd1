"""How far a model's surface is from scans."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.avatar import Avatar
from headfields.parts import Field
from headfields.priors.codes import PriorCodes
from headfields.priors.scans import PointCounts, ScanSet

__all__ = ["SurfaceErrors", "onto_surface", "surface_errors"]


@dataclass(frozen=True)
class SurfaceErrors:
    """Errors at points of B scans, one figure each.

    Attributes:
        face, front, back: (B,) mean distance of the scan's points from the model's surface, meters: of the face, of all
            in front (the face included), and of the back of the head.
        normal: (B,) mean angle between normals of scan and model in front, degrees.
        color: (B,) mean difference of colors per channel in front, in [0, 1].
        lost: (B,) the share of all points from which no surface was found within reach; in the means they count as
            `REACH`.
    """

    face: Float[Tensor, " b"]
    front: Float[Tensor, " b"]
    back: Float[Tensor, " b"]
    normal: Float[Tensor, " b"]
    color: Float[Tensor, " b"]
    lost: Float[Tensor, " b"]

    def summary(self) -> dict[str, float]:
        """Means over the scans: millimeters, degrees, color, share."""
        return {
            "face_mm": 1e3 * float(self.face.mean()),
            "front_mm": 1e3 * float(self.front.mean()),
            "back_mm": 1e3 * float(self.back.mean()),
            "normal_degrees": float(self.normal.mean()),
            "color": float(self.color.mean()),
            "lost": float(self.lost.mean()),
        }


REACH = 0.02
"""Meters beyond which a scan's point is said to have no surface near it."""


@torch.no_grad()
def surface_errors(
    avatar: Avatar, scans: ScanSet, which: Int[Tensor, " b"], codes: PriorCodes, points: int = 2000, seed: int = 0
) -> SurfaceErrors:
    """How far points of scans are from the surface that a model has with the codes of B scans.

    Distances are to the place where Newton's steps along the gradient end, `onto_surface`: those from a scan to the
    model, so a surface that the model has and the scan has not is not counted.

    Args:
        avatar: the model.
        scans: whose points are taken.
        which: (B,) its scans.
        codes: B rows.
        points: of each scan on the face; a third as many on the rest of the front and on the back.
        seed: draws them.
    """
    avatar.eval()
    counts = PointCounts(face=points, static=points // 3, back=points // 3, near=0, far=0, correspondences=0)
    found = []
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
        figures = (
            distance[:points], distance[:front], distance[front:], torch.rad2deg(cosine.acos()),
            (values.rgb - batch.front_rgb[0]).abs(), missed.float(),
        )  # fmt: skip
        found.append(torch.stack([figure.mean() for figure in figures]))
    table = torch.stack(found).cpu() if found else torch.zeros(0, 6)
    return SurfaceErrors(*table.unbind(1))


def onto_surface(
    field: Field, points: Float[Tensor, "m 3"], steps: int = 6, near: float = 5e-5
) -> tuple[Float[Tensor, "m 3"], Tensor]:
    """Points moved onto the surface of a field of one frame by Newton's steps along the gradient.

    Args:
        field: of one frame, whose decoder gives distances.
        points: (M, 3) meters.
        steps: at most so many, each no longer than 5 mm.
        near: the distance that counts as on the surface, meters.

    Returns:
        Where they end (M, 3), and (M,) which of them are not on the surface there.
    """
    at = points.clone()
    frame = torch.zeros(len(points), dtype=torch.long, device=points.device)
    left = torch.arange(len(points), device=points.device)
    for _ in range(steps):
        _, values = field.signed_distance(at[left], frame[left], create_graph=False)
        assert values.distance is not None and values.gradient is not None
        move = values.distance / values.gradient.square().sum(-1).clamp_min(1e-2)
        shift = -move[:, None] * values.gradient
        length = shift.norm(dim=-1, keepdim=True)
        at[left] = at[left] + shift * (5e-3 / length.clamp_min(1e-9)).clamp(max=1.0)
        left = left[values.distance.abs() > near]
        if not len(left):
            break
    missed = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    missed[left] = True
    if len(left):
        _, values = field.signed_distance(at[left], frame[left], create_graph=False)
        assert values.distance is not None
        missed[left] = values.distance.abs() > 10 * near
    return at, missed
