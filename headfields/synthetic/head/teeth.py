"""Teeth, gums, tongue and the mouth's cavity for the procedural head: what a camera sees and a tracked mesh lacks."""

import dataclasses
import functools
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.skinning import linear_blend_skinning
from headfields.records import HeadState, Record
from headfields.synthetic.head.mesh import MOUTH

__all__ = ["PART_NAMES", "MouthParts", "procedural_teeth"]

PART_NAMES = ("upper_teeth", "lower_teeth", "gums", "tongue", "cavity")
_COLORS = {
    "upper_teeth": (0.90, 0.87, 0.79),
    "lower_teeth": (0.87, 0.83, 0.74),
    "gums": (0.72, 0.36, 0.36),
    "tongue": (0.70, 0.34, 0.34),
    "cavity": (0.30, 0.10, 0.10),
}
_FRONT = 85.0  # z of the front teeth, mm; the inner lips end a little before it
_NECK, _JAW = 1, 2
_BODY_SKULL, _BODY_JAW = 15, 22


@dataclasses.dataclass(frozen=True)
class MouthParts(Record):
    """Extra geometry in the procedural head's rest pose, skinned to its five joints or the body's 55.

    Attributes:
        vertices: (V, 3) meters. faces: (F, 3) int64, counter-clockwise from the side that is seen.
        weights: (V, 5) or (V, 55) skinning weights.
        colors: (V, 3) sRGB albedo.
        part: (F,) index into `PART_NAMES`.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    weights: Float[Tensor, "v j"]
    colors: Float[Tensor, "v 3"]
    part: Int[Tensor, " f"]

    def posed(self, state: HeadState) -> Float[Tensor, "b v 3"]:
        """The parts moved with the joints of a state of the procedural head; differentiable in its transforms.

        Raises:
            ValueError: the state has no `joint_transforms`.
        """
        if state.joint_transforms is None:
            raise ValueError("MouthParts.posed: the state has no joint_transforms; it comes from a FlameHead")
        return linear_blend_skinning(self.vertices, self.weights, state.joint_transforms)


def _grid(rows: int, columns: int) -> Int[np.ndarray, "f 3"]:
    """Triangles of a (rows, columns) grid of vertices, counter-clockwise where columns run right and rows run up."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1])
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _arch(s: np.ndarray, inset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and z along a dental arch at s in [-1, 1], and the outward direction's angle from +z."""
    angle = s * np.radians(82)
    width, depth = 25.5 - inset, 38.0 - inset
    x = width * np.sin(angle)
    z = _FRONT - 38.0 + depth * np.cos(angle)
    return x, z, np.arctan2(np.sin(angle) * depth, np.cos(angle) * width)


def _teeth(upper: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, faces and which rows are gum, of a row of 14 teeth; the sheet runs from the gum over the edge inside."""
    teeth, per = 14, 7
    s = np.linspace(-1, 1, teeth * per + 1)
    inset = 0.0 if upper else 2.4
    # Incisors wide above and narrow below; s is warped so that the middle falls between two teeth.
    phase = (s + 1) / 2 * teeth
    dome = np.abs(np.sin(np.pi * phase)) ** 0.45
    long = np.interp(np.abs(s), [0, 0.14, 0.28, 0.43, 1], [9.6, 8.6, 9.3, 7.8, 6.4]) * (1.0 if upper else 0.86)
    profile = [  # how far along the crown from the gum (negative: on the gum), how far out, how far the dome shows
        (-0.85, 0.9, 0.0), (-0.45, 1.1, 0.0), (-0.06, 0.5, 0.2), (0.08, 0.3, 0.7), (0.4, 0.7, 1.0), (0.8, 0.5, 1.0),
        (0.96, -0.1, 1.0), (1.0, -1.2, 1.0), (0.85, -2.6, 0.6), (0.2, -4.2, 0.3), (-0.6, -5.2, 0.0),
    ]  # fmt: skip
    sign = 1.0 if upper else -1.0
    root = MOUTH[1] + (5.4 if upper else -11.0)
    rows = []
    for along, out, shown in profile:
        x, z, angle = _arch(s, inset)
        out_here = out + shown * 1.1 * (dome - 1)
        edge = along * long - (0.7 * (1 - dome) * (along > 0.9))
        scallop = 0.7 * (1 - dome) * (np.abs(along) < 0.1)
        y = root - sign * (edge + scallop)
        rows.append(np.stack([x + out_here * np.sin(angle), y, z + out_here * np.cos(angle)], -1))
    points = np.stack(rows)
    faces = _grid(len(profile), len(s))
    # Rows of the upper teeth run down, those of the lower run up.
    return points.reshape(-1, 3), faces[:, ::-1] if upper else faces, np.repeat(np.arange(len(profile)) < 3, len(s))


def _cavity() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bag behind the lips, seen from inside; its upper half goes with the skull, its lower with the jaw."""
    rings, around = 9, 32
    angle = np.arange(around + 1) * 2 * np.pi / around
    depth = np.linspace(0, 1, rings)[:, None]
    size = np.sqrt(np.clip(1 - depth**2.6, 0, 1))
    tall = np.where(np.sin(angle) > 0, 15.0, 18.0)
    x = 29.0 * np.cos(angle) * size
    y = MOUTH[1] + tall * np.sin(angle) * size
    z = _FRONT - 2.0 - 0.012 * x**2 - 52.0 * depth + 0 * angle
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    lower = np.clip(0.5 - 0.9 * (points[:, 1] - MOUTH[1]) / 15.0, 0, 1)
    return points, _grid(rings, around + 1), lower


def _tongue() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = 12, 15
    t = np.linspace(0, 1, rows)[:, None]  # from the root to the tip
    angle = np.linspace(-np.pi / 2 - 0.5, np.pi / 2 + 0.5, columns)[None]
    width = 17.0 * np.sqrt(np.clip(1 - (np.clip(t - 0.35, 0, 1) / 0.65) ** 2.4, 0, 1))
    x = width * np.sin(angle)
    rise = (5.5 - 3.0 * t) * np.cos(angle) * np.sqrt(width / 17.0) - 1.0 * np.exp(-((x / 3) ** 2)) * (t < 0.95)
    y = MOUTH[1] - 11.5 + 5.0 * np.sin(np.pi * np.clip(1.1 * (1 - t), 0, 1)) * 0.6 + rise
    z = _FRONT - 44.0 + 37.0 * t + 0 * angle
    return np.stack([x, y, z], -1).reshape(-1, 3), _grid(rows, columns)[:, ::-1]


@functools.cache
def _cached() -> MouthParts:
    points: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    lower: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    part: list[np.ndarray] = []
    start = 0

    def add(at: np.ndarray, triangles: np.ndarray, jaw: np.ndarray, name: str, gum: np.ndarray | None = None) -> None:
        nonlocal start
        points.append(at)
        faces.append(triangles + start)
        lower.append(jaw)
        color = np.tile(_COLORS[name], (len(at), 1))
        kind = np.full(len(triangles), PART_NAMES.index(name))
        if gum is not None:
            color[gum] = _COLORS["gums"]
            kind[gum[triangles].all(1)] = PART_NAMES.index("gums")
        colors.append(color)
        part.append(kind)
        start += len(at)

    for upper, name in ((True, "upper_teeth"), (False, "lower_teeth")):
        at, triangles, gum = _teeth(upper)
        add(at, triangles, np.full(len(at), 0.0 if upper else 1.0), name, gum)
    at, triangles = _tongue()
    add(at, triangles, np.ones(len(at)), "tongue")
    at, triangles, jaw = _cavity()
    add(at, triangles, jaw, "cavity")
    moves = np.concatenate(lower)
    weights = np.zeros((start, 5))
    weights[:, _NECK], weights[:, _JAW] = 1 - moves, moves
    return MouthParts(
        vertices=torch.from_numpy(np.concatenate(points) * 1e-3).float(),
        faces=torch.from_numpy(np.concatenate(faces)).long(),
        weights=torch.from_numpy(weights).float(),
        colors=torch.from_numpy(np.concatenate(colors)).float(),
        part=torch.from_numpy(np.concatenate(part)).long(),
    )


def procedural_teeth(of: Literal["head", "body"] = "head") -> MouthParts:
    """Upper and lower teeth with gums, tongue and the cavity behind them, for pictures of `procedural()`.

    Not part of the tracked mesh, as no tracker's mesh has them. The upper row moves with the skull and the lower with
    the jaw: `procedural_teeth().posed(state)`.

    Args:
        of: whether the states are those of `procedural()` or of `procedural_body()`.
    """
    parts = _cached().map(torch.clone)
    if of == "body":
        weights = parts.weights.new_zeros(len(parts.weights), 55)
        weights[:, [_BODY_SKULL, _BODY_JAW]] = parts.weights[:, [_NECK, _JAW]]
        parts = parts.replace(weights=weights)
    return parts
