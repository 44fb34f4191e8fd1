"""A head-like blob of a few hundred faces on 48 x 40 pixels: a capture that takes milliseconds to write."""

import math

import numpy as np
import torch

from headfields.data.formats.insta_writer import CapturedFrame
from headfields.records import Camera

SIZE = (48, 40)


def blob(open_mouth: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(V, 3) vertices and (F, 3) faces: an ellipsoid with a nose, 16 cm by 22 cm, facing +z, off the origin, closed."""
    rings, sides = 15, 24
    polar = torch.linspace(0, math.pi, rings + 2)[1:-1, None]
    turn = torch.arange(sides) * (2 * math.pi / sides)
    unit = torch.stack([polar.sin() * turn.sin(), polar.cos().expand(-1, sides), polar.sin() * turn.cos()], dim=-1)
    unit = torch.cat([unit.reshape(-1, 3), torch.tensor([[0.0, 1, 0], [0, -1, 0]])])
    vertices = unit * torch.tensor([0.08, 0.11, 0.09]) + torch.tensor([0.0, 0.02, 0.01])
    vertices[:, 2] += 0.03 * torch.exp(-((unit - torch.tensor([0.0, -0.1, 1.0])) ** 2).sum(-1) / 0.05)
    faces = []
    for ring in range(rings - 1):
        for side in range(sides):
            a, b = ring * sides + side, ring * sides + (side + 1) % sides
            faces += [(a, a + sides, b + sides), (a, b + sides, b)]
    top, bottom, last = rings * sides, rings * sides + 1, (rings - 1) * sides
    for side in range(sides):
        after = (side + 1) % sides
        faces += [(top, side, after), (bottom, last + after, last + side)]
    table = torch.tensor(faces)
    if open_mouth:
        table = table[~is_lip(unit[table].mean(dim=1), 0.18)]
    return vertices, table


def is_lip(unit: torch.Tensor, radius: float) -> torch.Tensor:
    """Directions (N, 3) within `radius` of the mouth."""
    return (unit - torch.tensor([0.0, -0.5, 0.87])).norm(dim=-1) < radius


def photograph(
    vertices: torch.Tensor, faces: torch.Tensor, camera: Camera
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGBA, labels and depth in millimeters, from points spread densely over the faces."""
    height, width = camera.size
    steps = torch.tensor([(i, j, 12 - i - j) for i in range(13) for j in range(13 - i)]) / 12
    points = torch.einsum("pk,fkc->fpc", steps, vertices[faces]).reshape(1, -1, 3)
    pixels, depth = (value[0] for value in camera.project(points))
    index = pixels[:, 1].long().clamp(0, height - 1) * width + pixels[:, 0].long().clamp(0, width - 1)
    order = depth.argsort(descending=True, stable=True)  # in NumPy later writes win: the nearest point stays
    winner = np.zeros(height * width, np.int64)
    winner[index[order].numpy()] = order.numpy()
    nearest = torch.from_numpy(winner)
    hit = torch.zeros(height * width, dtype=torch.bool)
    hit[index] = True
    unit = (points[0] - torch.tensor([0.0, 0.02, 0.01])) / torch.tensor([0.08, 0.11, 0.09])
    label = torch.full((len(unit),), 250)
    label[is_lip(unit, 0.35)] = 120
    for side, value in ((-0.4, 210), (0.4, 200)):
        label[(unit - torch.tensor([side, 0.3, 0.85])).norm(dim=-1) < 0.2] = value
    label[unit[:, 2] < -0.2] = 80
    rgba = torch.zeros(height * width, 4)
    rgba[:, :3] = (unit[nearest] * 0.5 + 0.5).clamp(0, 1)
    rgba[:, 3] = 1
    rgba[~hit] = 0
    millimeters = (depth[nearest] * 1000).round() * hit
    return (
        (rgba * 255).round().to(torch.uint8).reshape(height, width, 4).numpy(),
        (label[nearest] * hit).to(torch.uint8).reshape(height, width).numpy(),
        millimeters.reshape(height, width).numpy().astype(np.uint16),
    )


def camera(yaw: float, pitch: float) -> Camera:
    """Looks at the head from 0.8 m."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    turn = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = torch.tensor([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    pose = torch.eye(4)
    pose[:3, :3] = torch.diag(torch.tensor([1.0, -1, -1])) @ nod @ turn
    pose[:3, 3] = torch.tensor([0.01, 0.0, 0.8])
    return Camera(pose, torch.tensor([[120.0, 0, 20.5], [0, 121.0, 23.5], [0, 0, 1]]), SIZE)


def tiny_frames(count: int = 6, open_mouth: bool = False, optional: bool = True) -> list[CapturedFrame]:
    """Frames of a head that turns and grows a little, with everything optional or nothing of it."""
    vertices, faces = blob(open_mouth)
    generator = torch.Generator().manual_seed(count)
    frames = []
    for index in range(count):
        view = camera(0.7 * math.sin(index + 0.4), 0.3 * math.cos(1.7 * index))
        posed = vertices * (1 + 0.02 * index / count)
        rgba, label, depth = photograph(posed, faces, view)
        extra = {}
        if optional:
            landmarks = torch.rand(68, 2, generator=generator).numpy() * 40
            extra = {
                "expression": torch.randn(5, generator=generator),
                "label": label,
                "depth": depth,
                "landmarks": landmarks,
            }
        frames.append(CapturedFrame(rgba, posed, view, **extra))
    return frames
