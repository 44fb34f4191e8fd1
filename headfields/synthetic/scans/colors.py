"""Random vertex colors for head meshes: skin, lips, brows, hair and eyes. Our own choice."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from headfields.ops.mesh_topology import vertex_components
from headfields.synthetic.head.shape import smoothstep
from headfields.synthetic.head.texture import paint_over

__all__ = ["Complexion", "complexion", "vertex_colors"]

Complexion = Mapping[str, tuple[float, float, float]]
"""sRGB colors in [0, 1] by name: skin, lips, brows, iris and hair."""

_SKIN = ((0.93, 0.76, 0.67), (0.80, 0.60, 0.50), (0.62, 0.43, 0.33), (0.40, 0.26, 0.20))
_HAIR = ((0.08, 0.06, 0.05), (0.25, 0.16, 0.10), (0.45, 0.30, 0.17), (0.72, 0.58, 0.38), (0.55, 0.53, 0.51))
_IRIS = ((0.28, 0.17, 0.10), (0.34, 0.30, 0.16), (0.30, 0.42, 0.50), (0.42, 0.46, 0.47))


def complexion(random: np.random.Generator) -> Complexion:
    """Random colors of a person, interpolated between palette entries and jittered."""

    def sample(palette: tuple[tuple[float, float, float], ...]) -> np.ndarray:
        position = random.uniform(0, len(palette) - 1)
        low = min(int(position), len(palette) - 2)
        mixed = np.asarray(palette[low]) * (low + 1 - position) + np.asarray(palette[low + 1]) * (position - low)
        return mixed * random.uniform(0.95, 1.05, 3)

    skin, hair, iris = sample(_SKIN), sample(_HAIR), sample(_IRIS)
    lips = skin * random.uniform((0.80, 0.55, 0.58), (0.98, 0.72, 0.76))
    bald = random.uniform() < 0.25
    shades = {"skin": skin, "lips": lips, "brows": 0.7 * hair + 0.15 * skin, "iris": iris}
    shades["hair"] = 0.9 * skin if bald else hair
    clipped = {name: np.clip(color, 0, 1).tolist() for name, color in shades.items()}
    return {name: (red, green, blue) for name, (red, green, blue) in clipped.items()}


def vertex_colors(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    landmarks: Float[Tensor, "68 3"] | None,
    tones: Complexion,
) -> Float[Tensor, "v 3"]:
    """Vertex colors (V, 3) of a head mesh without texture.

    Skin everywhere; with 68 landmarks (iBUG's order), lips and brows around them and hair above and behind. Small
    connected components beside the nose are eyeballs. Transitions are smooth enough for a few thousand vertices.

    Args:
        vertices: (V, 3) the neutral head, meters.
        faces: (F, 3).
        landmarks: (68, 3) landmarks on the head, meters; None for skin and eyes only.
        tones: the person's colors.
    """
    place = vertices.detach().double().numpy()
    color = np.tile(np.asarray(tones["skin"]), (len(place), 1))
    if landmarks is not None:
        points = landmarks.detach().double().numpy()
        _, y, z = place.T
        top = points[17:27, 1].mean()
        ear = points[[0, 16], 2].mean()
        above = smoothstep(y, top + 0.025, top + 0.040) * (1 - smoothstep(z, ear - 0.03, ear + 0.02))
        crown = smoothstep(y, top + 0.045, top + 0.060)
        behind = smoothstep(z, ear - 0.015, ear - 0.030) * smoothstep(y, points[33, 1] - 0.03, points[33, 1])
        paint_over(color, tones["hair"], np.maximum.reduce([above, crown, behind]))
        outer, inner = _resampled_loop(points[48:60]), _resampled_loop(points[60:68])
        rings = np.concatenate([outer * (1 - t) + inner * t for t in np.linspace(0, 1, 5)])
        front = smoothstep(z, points[48:60, 2].min() - 0.02, points[48:60, 2].min() - 0.01)
        paint_over(color, tones["lips"], front * _near(place, rings, 0.0015, 0.0035))
        for brow in (points[17:22], points[22:27]):
            line = np.stack([np.interp(np.linspace(0, 4, 40), np.arange(5), brow[:, k]) for k in range(3)], -1)
            paint_over(color, tones["brows"], _near(place, line, 0.0025, 0.0050))
    for piece in _eyeballs(place, faces.numpy()):
        ball = place[piece]
        axis = ball - 0.5 * (ball.min(0) + ball.max(0))
        polar = np.degrees(np.arccos(np.clip(axis[:, 2] / np.linalg.norm(axis, axis=1).clip(1e-9), -1, 1)))
        shade = np.tile([0.90, 0.88, 0.86], (len(ball), 1))
        paint_over(shade, tones["iris"], smoothstep(polar, 30, 24))
        paint_over(shade, (0.03, 0.03, 0.03), smoothstep(polar, 13, 9))
        color[piece] = shade
    return torch.from_numpy(np.clip(color, 0, 1)).float()


def _eyeballs(place: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
    """Vertices of each connected component that is small, off the midplane and in the front half."""
    label = vertex_components(torch.from_numpy(faces), len(place)).numpy()
    size = np.bincount(label)
    middle = 0.5 * (place[:, 2].min() + place[:, 2].max())
    eyeballs = []
    for number in np.nonzero((size >= 20) & (size < 0.2 * len(place)))[0]:
        piece = np.nonzero(label == number)[0]
        center, extent = place[piece].mean(0), np.ptp(place[piece], axis=0)
        if 0.01 < abs(center[0]) < 0.06 and center[2] > middle and extent.max() < 0.04:
            eyeballs.append(piece)
    return eyeballs


def _resampled_loop(points: np.ndarray, count: int = 64) -> np.ndarray:
    """`count` points along a closed polyline, uniform by index."""
    closed = np.concatenate([points, points[:1]])
    at = np.linspace(0, len(points), count, endpoint=False)
    return np.stack([np.interp(at, np.arange(len(closed)), closed[:, k]) for k in range(3)], -1)


def _near(place: np.ndarray, points: np.ndarray, inside: float, outside: float) -> np.ndarray:
    """(V,) weights: 1 within `inside` meters of the points, 0 beyond `outside`, smooth between."""
    return smoothstep(cKDTree(points).query(place)[0], outside, inside)
