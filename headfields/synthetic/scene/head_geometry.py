"""The scene as one mesh in the head's frame: head, hair, eyebrows, teeth, gums and tongue."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.heads.flame.model import FlameHead
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import HeadState
from headfields.synthetic.scene.anatomy import Anatomy
from headfields.synthetic.scene.hair import brows, scalp_hair
from headfields.synthetic.scene.teeth import teeth_and_tongue
from headfields.synthetic.scene.tubes import SIDES, Tubes, tube_faces, tube_vertices

__all__ = ["BROW", "EYE", "GUM", "HAIR", "SKIN", "TOOTH", "HeadGeometry", "PosedGeometry"]

SKIN, EYE, TOOTH, GUM, HAIR, BROW = range(6)
_JAW, _LEFT_EYE, _RIGHT_EYE = 2, 3, 4
_HAIRS, _BROW_HAIRS = 5000, 170


@dataclass(frozen=True)
class PosedGeometry:
    """A posed frame: vertices; unit normals, or tangents of hair; and joint transforms."""

    vertices: Float[Tensor, "v 3"]
    direction: Float[Tensor, "v 3"]
    joint_transforms: Float[Tensor, "5 4 4"]


class HeadGeometry:
    """Geometry of a synthetic capture, with ambient occlusion at rest.

    Attributes:
        head: the parametric head; its vertices and faces come first.
        anatomy: its measures at rest.
        faces (F, 3), kind (F,): SKIN, EYE, TOOTH, GUM, HAIR or BROW.
        rest (V, 3): positions at rest; of hair, its color coordinates (0 at the root to 1, the strand's tone, 0).
        open_sky (V,): visible share of the surroundings at rest (ambient occlusion).
        lip (V of the head,): weight of the red of the lips.
        eye_center (2, 3): left and right, at rest.
    """

    def __init__(self, head: FlameHead, seed: int) -> None:
        self.head = head
        rest = head.template_vertices
        self.anatomy = _anatomy(head)
        eyes = head.weights[:, [_LEFT_EYE, _RIGHT_EYE]].sum(1) > 0.5
        eye_faces = eyes[head.faces].all(1)
        self.eye_center = (head.joint_regressor @ rest)[[_LEFT_EYE, _RIGHT_EYE]]
        skin_faces = head.faces[~eye_faces]
        lips = head.regions["lips"].float()[:, None].expand(-1, 3).reshape(-1)
        corners = head.faces.reshape(-1)
        total = torch.zeros(len(rest)).index_add_(0, corners, lips)
        self.lip: Float[Tensor, " v"] = total / torch.bincount(corners, minlength=len(rest)).clamp_min(1)
        random = np.random.default_rng([seed, 4])
        self._hair = scalp_hair(rest, skin_faces, self.anatomy, _HAIRS, random)
        self._brows = brows(rest, skin_faces, self.anatomy, _BROW_HAIRS, random)
        self._skin_faces = skin_faces.numpy()
        self._mouth = teeth_and_tongue(self.anatomy)

        brow_tubes = self._brows.on(rest.numpy().astype(np.float64), self._skin_faces)
        groups = [
            (rest, head.faces, torch.where(eye_faces, EYE, SKIN)),
            (
                torch.from_numpy(self._mouth.vertices).float(),
                torch.from_numpy(self._mouth.faces),
                torch.where(torch.from_numpy(self._mouth.tooth), TOOTH, GUM),
            ),
            _strands(brow_tubes, BROW),
            _strands(self._hair, HAIR),
        ]
        starts = np.cumsum([0] + [len(group[0]) for group in groups])
        self._starts = starts.tolist()
        self.rest: Float[Tensor, "v 3"] = torch.cat([group[0] for group in groups])
        shifted = [group[1] + first for group, first in zip(groups, self._starts[:-1], strict=True)]
        self.faces: Int[Tensor, "f 3"] = torch.cat(shifted)
        self.kind: Int[Tensor, " f"] = torch.cat([group[2] for group in groups])
        self._hair_vertices = torch.from_numpy(tube_vertices(self._hair)).float()
        self._hair_tangents = _per_vertex(self._hair.tangent)
        state = head()
        posed = self.pose(state)
        self.tree = TriangleBVH(self.faces, posed.vertices)
        self.open_sky: Float[Tensor, " v"] = self._open_sky(posed)

    def pose(self, state: HeadState) -> PosedGeometry:
        """The scene for a state of `head` of one frame."""
        assert state.joint_transforms is not None
        joints = state.joint_transforms[0]
        head = state.vertices[0]
        teeth = torch.from_numpy(self._mouth.vertices).float()
        lower = torch.from_numpy(self._mouth.lower)[:, None]
        jaw, skull = joints[_JAW], joints[1]
        teeth = torch.where(lower, teeth @ jaw[:3, :3].T + jaw[:3, 3], teeth @ skull[:3, :3].T + skull[:3, 3])
        solid = torch.cat([head, teeth])
        count = int((self.kind <= GUM).sum())
        tubes = self._brows.on(head.numpy().astype(np.float64), self._skin_faces)
        return PosedGeometry(
            torch.cat([solid, torch.from_numpy(tube_vertices(tubes)).float(), self._hair_vertices]),
            torch.cat([vertex_normals(solid, self.faces[:count]), _per_vertex(tubes.tangent), self._hair_tangents]),
            joints,
        )

    def beyond_head(
        self, head: Float[Tensor, "v 3"], skull: Float[Tensor, "4 4"], jaw: Float[Tensor, "4 4"]
    ) -> tuple[Float[Tensor, "w 3"], Float[Tensor, "w 3"]]:
        """Vertices, and normals or tangents, of teeth, brows and hair on a head that moves.

        Args:
            head: (V, 3) posed vertices of the head.
            skull, jaw: rest-to-posed transforms that carry hair and upper teeth, and the lower teeth.
        """
        teeth = torch.from_numpy(self._mouth.vertices).float()
        lower = torch.from_numpy(self._mouth.lower)[:, None]
        teeth = torch.where(lower, teeth @ jaw[:3, :3].T + jaw[:3, 3], teeth @ skull[:3, :3].T + skull[:3, 3])
        first, last = len(self.head.faces), int((self.kind <= GUM).sum())
        tubes = self._brows.on(head.numpy().astype(np.float64), self._skin_faces)
        hair = self._hair_vertices @ skull[:3, :3].T + skull[:3, 3]
        normals = vertex_normals(teeth, self.faces[first:last] - len(head))
        return (
            torch.cat([teeth, torch.from_numpy(tube_vertices(tubes)).float(), hair]),
            torch.cat([normals, _per_vertex(tubes.tangent), self._hair_tangents @ skull[:3, :3].T]),
        )

    def _open_sky(self, posed: PosedGeometry, rays: int = 24) -> Float[Tensor, " v"]:
        """(V,) share of a cosine-weighted hemisphere without a hit within 6 cm; of hair, by position on the strand."""
        count = self._starts[2]
        out = torch.ones(len(posed.vertices))
        index = torch.arange(rays) + 0.5
        radius = (index / rays).sqrt()
        turn = index * 2.399963  # the golden angle
        local = torch.stack([radius * turn.cos(), radius * turn.sin(), (1 - radius**2).clamp_min(0).sqrt()], -1)
        normal = posed.direction[: self._starts[1]]
        reference = torch.where(normal[:, :1].abs() < 0.7, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1.0, 0]))
        across = torch.nn.functional.normalize(torch.linalg.cross(normal, reference), dim=1)
        axes = torch.stack([across, torch.linalg.cross(normal, across), normal], 1)
        directions = torch.einsum("rk,vkc->vrc", local, axes)
        origins = (posed.vertices[: self._starts[1]] + 0.0008 * normal)[:, None].expand_as(directions)
        hit = self.tree.raycast(origins.contiguous(), directions, max_distance=0.06).face
        free = (hit < 0).float().mean(1)
        out[: self._starts[1]] = 0.25 + 0.75 * free
        # Light reaches teeth, gums and tongue only between the lips, less with depth.
        depth = (self.anatomy.landmarks[[62, 66], 2].mean() - posed.vertices[self._starts[1] : count, 2]).clamp_min(0)
        out[self._starts[1] : count] = (0.9 * torch.exp(-((depth / 0.022) ** 2))).clamp_min(0.06)
        along, tone = self.rest[self._starts[3] :, 0], self.rest[self._starts[3] :, 1]
        out[self._starts[3] :] = 0.25 + 0.6 * along + 0.15 * tone
        return out


def _per_vertex(values: Float[np.ndarray, "s p 3"]) -> Float[Tensor, "v 3"]:
    """Values at the points of strands, repeated for the vertices around each point."""
    return torch.from_numpy(np.repeat(values.reshape(-1, 3), SIDES, axis=0)).float()


def _strands(tubes: Tubes, kind: int) -> tuple[Tensor, Tensor, Tensor]:
    strands, points = tubes.radius.shape
    along = np.broadcast_to(np.linspace(0, 1, points), (strands, points))
    tone = np.broadcast_to(tubes.tone[:, None], (strands, points))
    faces = torch.from_numpy(tube_faces(strands, points))
    return _per_vertex(np.stack([along, tone, 0 * tone], -1)), faces, torch.full((len(faces),), kind)


def _anatomy(head: FlameHead) -> Anatomy:
    rest = head.template_vertices
    skull = head.weights[:, 1] > 0.5
    ears = [rest[head.faces[head.regions[name]].unique()].mean(0) for name in ("right_ear", "left_ear")]
    above = rest[skull & (rest[:, 1] > ears[0][1])]
    return Anatomy(
        landmarks=head.landmarks(rest[None])[0],
        top=float(rest[:, 1].amax()),
        axis=0.5 * float(above[:, 2].amin() + above[:, 2].amax()) - 0.01,
        ear=torch.stack(ears),
    )
