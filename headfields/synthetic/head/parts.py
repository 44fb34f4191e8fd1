"""Assembly of the procedural head: the vertices and faces of the skin, then of the two eyeballs."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int

from headfields.synthetic.head.base import base_point
from headfields.synthetic.head.mesh import MOUTH, HeadMesh, head_mesh
from headfields.synthetic.head.shape import EYE_CENTER, EYE_RADIUS, skin_positions

__all__ = ["EYE_SPOKES", "HeadParts", "eye_polar_angles", "head_parts"]

EYE_SPOKES = 20
_POLAR = np.radians([8.0, 17.0, 25.0, 33.0, 45.0, 60.0, 80.0, 104.0, 130.0, 156.0])


def eye_polar_angles() -> Float[np.ndarray, " n"]:
    """(N,) angle of each vertex of an eyeball from its axis, radians: the front pole, the rings, the back pole."""
    return np.concatenate([[0.0], np.repeat(_POLAR, EYE_SPOKES), [np.pi]])


def _eyeball() -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "f 3"]]:
    """A unit sphere about +z, finer toward the iris; counter-clockwise from outside."""
    around = np.arange(EYE_SPOKES) * 2 * np.pi / EYE_SPOKES
    polar = _POLAR[:, None]
    rings = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) + 0 * around], -1)
    points = np.concatenate([[[0, 0, 1.0]], rings.reshape(-1, 3), [[0, 0, -1.0]]])
    spoke = np.arange(EYE_SPOKES)
    after = (spoke + 1) % EYE_SPOKES
    faces = [np.stack([0 * spoke, 1 + spoke, 1 + after], -1)]
    for ring in range(len(_POLAR) - 1):
        a, b = 1 + ring * EYE_SPOKES, 1 + (ring + 1) * EYE_SPOKES
        faces.append(np.stack([a + spoke, b + spoke, b + after], -1))
        faces.append(np.stack([a + spoke, b + after, a + after], -1))
    last = 1 + (len(_POLAR) - 1) * EYE_SPOKES
    faces.append(np.stack([last + spoke, 0 * spoke + len(points) - 1, last + after], -1))
    return points, np.concatenate(faces)


@dataclasses.dataclass(frozen=True)
class HeadParts:
    """All vertices and faces, and the coordinates in which shapes and weights are defined.

    Attributes:
        mesh: topology of the skin, whose vertices and faces come first.
        positions (V, 3): millimeters. faces (F, 3).
        eye (V,): 1 on the left eyeball, -1 on the right, 0 on the skin.
        open (V,): height above the mouth's axis on the parameter sphere, mm. The lips are apart there, so the sign
            separates the upper lip from the lower.
    """

    mesh: HeadMesh
    positions: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    eye: Int[np.ndarray, " v"]
    open: Float[np.ndarray, " v"]

    @property
    def skin(self) -> int:
        """Number of vertices of the skin."""
        return len(self.mesh.longitude)

    @property
    def skin_faces(self) -> int:
        """Number of faces of the skin."""
        return len(self.mesh.faces)

    def eyeball(self, side: int) -> Bool[np.ndarray, " v"]:
        """(V,) mask of the vertices of an eyeball; `side` is 1 for the left, -1 for the right."""
        return self.eye == side


@functools.cache
def head_parts() -> HeadParts:
    """The assembled head; computed once."""
    mesh = head_mesh()
    skin = skin_positions()
    ball, ball_faces = _eyeball()
    flip = np.array([-1.0, 1.0, 1.0])
    left = EYE_CENTER + EYE_RADIUS * ball
    count, size = len(skin), len(ball)
    faces = [mesh.faces, ball_faces + count, ball_faces[:, ::-1] + count + size]
    height = base_point(mesh.longitude, mesh.row)[:, 1] - MOUTH[1]
    return HeadParts(
        mesh=mesh,
        positions=np.concatenate([skin, left, left * flip]),
        faces=np.concatenate(faces),
        eye=np.concatenate([np.zeros(count, int), np.full(size, 1), np.full(size, -1)]),
        open=np.concatenate([height, np.full(2 * size, 60.0)]),
    )
