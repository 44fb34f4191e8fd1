"""A tracking baseline: a parametric head fitted to the same landmarks and mattes as the tracker's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.tracking.prior.observation import PriorObservation
from headfields.apps.tracking.prior.pose import world_points
from headfields.heads import BlendshapeHead
from headfields.mesh import Mesh
from headfields.ops import TriangleBVH
from headfields.ops.render_mesh import render_mesh

_JAW = 2
_REACH = 6.0  # pixels of the reduced image beyond which an outline has no match
_AGAIN = 15  # steps between matchings of outlines


@dataclass(frozen=True)
class ParametricFit:
    """Meshes of frames in the world of `PriorObservation.camera`, and the mean landmark distance in its pixels."""

    meshes: dict[int, Mesh]
    landmarks_px: dict[int, float]


def fit_parametric(
    head: Any, frames: Mapping[int, PriorObservation], number: Int[Tensor, " l"], steps: int = 300,
    outlines: bool = True, held: float = 0.0,
) -> ParametricFit:  # fmt: skip
    """Fits identity, expressions, jaw and poses of a head to all frames together, by Adam.

    Landmarks: mean squared distance as a fraction of the image. Outlines: border pixels of the matte, where pixels on
    both sides count, are matched to the nearest rim vertices of the head that lie on the border of its own rasterized
    mask. Regularized by the squares of the coefficients.

    Args:
        head: a `FlameHead` or a `BlendshapeHead`, with 68 landmarks.
        frames: as tracking sees them.
        number: (L,) indices of the landmarks that count.
        steps: of Adam.
        outlines: whether outlines count.
        held: weight of the squared shift of the head from the frames' cameras, meters, and a tenth of it for its
            rotation, radians, for captures with trusted cameras. 0 leaves poses free.
    """
    blend = isinstance(head, BlendshapeHead)
    shapes = head.identity_basis if blend else head.shape_basis
    used = (shapes.abs().amax(dim=(1, 2)) > 0).nonzero()[:, 0]
    moves = (head.expression_basis.abs().amax(dim=(1, 2)) > 0).nonzero()[:, 0]
    order = sorted(frames)
    count = len(order)
    shape = torch.zeros(len(used), requires_grad=True)
    expression = torch.zeros(count, len(moves), requires_grad=True)
    jaw = torch.zeros(count, requires_grad=True)
    rotation, shift = (torch.zeros(count, 3, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam(
        [{"params": [shape, expression], "lr": 0.03}, {"params": [jaw, rotation], "lr": 5e-3},
         {"params": [shift], "lr": 2e-3}]
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=3e-4)
    sides = _sides(head.faces, len(head.template_vertices))
    borders = {frame: _border(frames[frame]) for frame in order}

    def vertices() -> Float[Tensor, "f v 3"]:
        identity = shape.new_zeros(len(shapes)).index_copy(0, used, shape).expand(count, -1)
        face = expression.new_zeros(count, len(head.expression_basis)).index_copy(1, moves, expression)
        if blend:
            return head(identity=identity, expression=face).vertices
        pose = torch.zeros(count, len(head.parents), 3)
        turned = torch.cat([pose[:, :_JAW], _about_x(jaw)[:, None], pose[:, _JAW + 1 :]], dim=1)
        return head(shape=identity, expression=face, pose=turned).vertices

    matches: dict[int, tuple[Tensor, Tensor]] = {}
    for step in range(steps):
        posed = vertices()
        marks = head.landmarks(posed)
        if outlines and step >= steps // 4 and step % _AGAIN == 0:
            with torch.no_grad():
                for row, frame in enumerate(order):
                    world = world_points(posed[row], rotation[row], shift[row])
                    matches[frame] = _match(world, head.faces, sides, frames[frame], borders[frame])
        drift = shift.square().sum(dim=1).mean() + 0.1 * rotation.square().sum(dim=1).mean()
        terms = [
            held * drift,
            0.002 * shape.square().mean(),
            0.002 * expression.square().mean(),
            0.01 * jaw.square().mean(),
        ]
        for row, frame in enumerate(order):
            data = frames[frame]
            target = data.landmarks[number]
            finite = torch.isfinite(target).all(dim=1)
            size = torch.tensor([data.camera.size[1], data.camera.size[0]])
            pixels, _ = data.camera.project(world_points(marks[row, number[finite]], rotation[row], shift[row]))
            terms.append(100 * ((pixels - target[finite]) / size).square().sum(dim=1).mean() / count * 100)
            if frame in matches and len(matches[frame][0]):
                vertex, border = matches[frame]
                rim, _ = data.camera.project(world_points(posed[row, vertex], rotation[row], shift[row]))
                terms.append(25 * ((rim - border) / size).square().sum(dim=1).mean() / count * 100)
        optimizer.zero_grad()
        torch.stack(terms).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        posed = vertices()
        marks = head.landmarks(posed)
        meshes, errors = {}, {}
        for row, frame in enumerate(order):
            meshes[frame] = Mesh(world_points(posed[row], rotation[row], shift[row]), head.faces)
            pixels, _ = frames[frame].camera.project(world_points(marks[row, number], rotation[row], shift[row]))
            errors[frame] = float((pixels - frames[frame].landmarks[number]).norm(dim=1).nanmean())
    return ParametricFit(meshes, errors)


def _about_x(angle: Float[Tensor, " f"]) -> Float[Tensor, "f 3"]:
    return torch.stack([angle, torch.zeros_like(angle), torch.zeros_like(angle)], dim=1)


def _sides(faces: Int[Tensor, "f 3"], count: int) -> Int[Tensor, "e 4"]:
    """Edges of two faces: their vertices, and the faces."""
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(dim=1).values
    owner = torch.arange(len(faces)).repeat(3)
    key = ends[:, 0] * count + ends[:, 1]
    order = key.argsort(stable=True)
    same = key[order][1:] == key[order][:-1]
    first, second = order[:-1][same], order[1:][same]
    return torch.cat([ends[first], owner[first][:, None], owner[second][:, None]], dim=1)


def _border(data: PriorObservation) -> Float[Tensor, "n 2"]:
    """Positions (x, y) between pixels where the matte ends and both sides count."""
    inside, counts = data.alpha > 0.5, data.mask_weight > 0.99
    positions = []
    for axis in (0, 1):
        one = inside.narrow(axis, 0, inside.shape[axis] - 1)
        other = inside.narrow(axis, 1, inside.shape[axis] - 1)
        both = counts.narrow(axis, 0, inside.shape[axis] - 1) & counts.narrow(axis, 1, inside.shape[axis] - 1)
        pixel = ((one != other) & both).nonzero().float()
        step = torch.tensor([1.0, 0.5]) if axis == 0 else torch.tensor([0.5, 1.0])
        positions.append((pixel + step).flip(1))
    return torch.cat(positions)


def _match(
    world: Float[Tensor, "v 3"], faces: Tensor, sides: Tensor, data: PriorObservation, border: Float[Tensor, "n 2"]
) -> tuple[Int[Tensor, " k"], Float[Tensor, "k 2"]]:
    """Rim vertices, and the border position that each is matched to."""
    a, b, c = world[faces].unbind(dim=1)
    normal = torch.linalg.cross(b - a, c - a)
    toward = (normal * (data.camera.center.reshape(3) - a)).sum(dim=1) > 0
    rim = sides[toward[sides[:, 2]] != toward[sides[:, 3]]][:, :2].unique()
    pixels = data.camera.project(world[rim])[0]
    mask: Bool[Tensor, "h w"] = render_mesh(TriangleBVH(faces, world), data.camera).mask
    off = torch.nn.functional.max_pool2d((~mask).float()[None, None], 5, 1, 2)[0, 0] > 0
    x, y = pixels.long().unbind(dim=1)
    height, width = data.camera.size
    visible = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    visible[visible.clone()] &= off[y[visible], x[visible]]
    rim, pixels = rim[visible], pixels[visible]
    if not len(rim) or not len(border):
        return rim[:0], border[:0]
    near = torch.cdist(border, pixels).min(dim=1)
    close = near.values < _REACH
    return rim[near.indices[close]], border[close]
