"""Strands of scalp hair, and of eyebrows that are bound to the skin. Our own design."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vectors import unit_rows
from headfields.ops.vertex_geometry import face_crosses
from headfields.synthetic.scene.anatomy import Anatomy
from headfields.synthetic.scene.noise import fractal_noise
from headfields.synthetic.scene.tubes import Tubes

__all__ = ["BoundStrands", "bind_strands", "brows", "scalp_hair"]

_POINTS = 6
_LENGTH = 0.030
_RADIUS = 0.00075


def scalp_hair(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], anatomy: Anatomy, count: int, random: np.random.Generator
) -> Tubes:
    """Short curved strands on the faces above the hairline, combed away from the crown.

    Args:
        vertices, faces: the skin at rest, without eyeballs.
        anatomy: measures of the same head.
        count: number of strands.
        random: generator of roots, lengths and tones.
    """
    middle = vertices[faces].mean(1)
    ragged = 0.006 * fractal_noise(middle, 0.02, 2, seed=11)
    cross = face_crosses(vertices, faces)
    away = (middle[:, :2].square().sum(1) + (middle[:, 2] - anatomy.axis).square()).sqrt()
    near_ear = (middle[:, None] - anatomy.ear.to(middle)).norm(dim=-1).amin(1) < 0.03
    outward = (cross * (middle - torch.tensor([0.0, anatomy.brow_height, anatomy.axis]))).sum(1) > 0
    grows = (anatomy.hairline(middle) + ragged > 0) & ~near_ear & outward & (away > 0.02)
    weight = (cross.norm(dim=1) * grows).double().numpy()
    chosen = random.choice(len(weight), count, p=weight / weight.sum())
    share = random.dirichlet(np.ones(3), count)
    root = (vertices.numpy()[faces.numpy()[chosen]] * share[..., None]).sum(1)
    normal = unit_rows(cross.numpy()[chosen].astype(np.float64))

    # Combed along the skin away from a whorl at the back of the crown, and down; locks share a smooth random rotation.
    whorl = np.array([0.015, anatomy.top, anatomy.axis - 0.03])
    comb = root - whorl
    comb[:, 1] -= 0.05
    comb -= (comb * normal).sum(1, keepdims=True) * normal
    comb = unit_rows(comb)
    at = torch.from_numpy(root).float()
    turn = 0.9 * fractal_noise(at, 0.028, 2, seed=21).numpy().astype(np.float64) + 0.25 * random.standard_normal(count)
    comb = np.cos(turn)[:, None] * comb + np.sin(turn)[:, None] * np.cross(normal, comb)

    clump = fractal_noise(at, 0.02, 2, seed=31).numpy().astype(np.float64)
    front = np.clip((root[:, 2] - anatomy.axis) / 0.09, 0, 1)
    low = np.clip((anatomy.brow_height + 0.02 - root[:, 1]) / 0.06, 0, 1)
    length = _LENGTH * (1 + 0.25 * clump + 0.12 * random.standard_normal(count) + 0.25 * front - 0.6 * low)
    length = np.clip(length, 0.006, 0.05)
    rise = 0.95 + 0.25 * clump
    steps = np.linspace(0, 1, _POINTS)
    points = [root]
    for step in steps[1:]:
        direction = (rise * (1 - step) + 0.12)[:, None] * normal + (0.25 + 0.9 * step) * comb
        direction[:, 1] -= 0.35 * step
        # Gravity must not bend strands into the skin, so the outward component stays at 0.1.
        inward = np.minimum((direction * normal).sum(1, keepdims=True) - 0.1, 0)
        points.append(points[-1] + unit_rows(direction - inward * normal) * (length / (_POINTS - 1))[:, None])
    radius = _RADIUS * np.linspace(1.0, 0.35, _POINTS)[None] * (0.8 + 0.4 * random.random((count, 1)))
    return Tubes(np.stack(points, 1), radius, random.random(count))


@dataclass(frozen=True)
class BoundStrands:
    """Strands bound to a mesh: barycentric roots, and offsets in the frames of their faces.

    Attributes:
        face (S,), barycentric (S, 3): roots on the mesh.
        offset: (S, P, 3) from the root, in the axes of `_frames`.
        radius (S, P), tone (S,): as in `Tubes`.
    """

    face: Int[np.ndarray, " s"]
    barycentric: Float[np.ndarray, "s 3"]
    offset: Float[np.ndarray, "s p 3"]
    radius: Float[np.ndarray, "s p"]
    tone: Float[np.ndarray, " s"]

    def on(self, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Tubes:
        """The strands on posed vertices."""
        corner = vertices[faces[self.face]]
        root = (corner * self.barycentric[..., None]).sum(1)
        points = root[:, None] + np.einsum("spk,skc->spc", self.offset, _frames(corner))
        return Tubes(points, self.radius, self.tone)


def _frames(corner: Float[np.ndarray, "s 3 3"]) -> Float[np.ndarray, "s 3 3"]:
    """Orthonormal axes (rows) of triangles: along the first edge, across it in the plane, and the normal."""
    along = unit_rows(corner[:, 1] - corner[:, 0])
    normal = unit_rows(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    return np.stack([along, np.cross(normal, along), normal], 1)


def bind_strands(tubes: Tubes, vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> BoundStrands:
    """Binds strands to the faces nearest to their roots, which move onto the mesh."""
    tree = TriangleBVH(faces, vertices)
    nearest = tree.closest(torch.from_numpy(tubes.points[:, 0]).float())
    face = nearest.face.numpy()
    corner = vertices.numpy().astype(np.float64)[faces.numpy()[face]]
    offset = np.einsum("spc,skc->spk", tubes.points - tubes.points[:, :1], _frames(corner))
    return BoundStrands(face, nearest.barycentric.numpy().astype(np.float64), offset, tubes.radius, tubes.tone)


def brows(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], anatomy: Anatomy, count: int, random: np.random.Generator
) -> BoundStrands:
    """Two eyebrows of `count` hairs each along the landmarks, thinner outward."""
    parts = []
    for order in ([21, 20, 19, 18, 17], [22, 23, 24, 25, 26]):
        line = anatomy.landmarks[order].double().numpy()
        at = random.random(count) ** 0.85 * 3.999
        piece = at.astype(int)
        base = line[piece] + (at - piece)[:, None] * (line[piece + 1] - line[piece])
        along = unit_rows(line[piece + 1] - line[piece])
        thick = 0.0034 * (1 - 0.13 * at)
        base = base + thick[:, None] * random.uniform(-1, 1, (count, 1)) * np.array([0, 1.0, 0.1])
        # Inner hairs point up, outer ones along the brow; all lean away from the skin.
        up = np.array([0, 1.0, 0]) * (0.9 - 0.25 * at)[:, None] + 0.25 * random.standard_normal((count, 3))
        direction = unit_rows(along + np.array([0, 0, 0.45]) + np.maximum(up, -0.2))
        size = 0.0075 * (0.7 + 0.5 * random.random(count))
        steps = np.linspace(0, 1, 3)[None, :, None]
        bend = along[:, None] * steps**2 * 0.4
        points = base[:, None] + size[:, None, None] * (direction[:, None] * steps + bend)
        radius = 0.00042 * np.linspace(1, 0.4, 3)[None] * np.ones((count, 1))
        parts.append(Tubes(points, radius, random.random(count)))
    merged = Tubes(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "radius", "tone")))
    return bind_strands(merged, vertices, faces)
