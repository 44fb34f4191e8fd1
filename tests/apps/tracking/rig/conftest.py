"""A small textured bust with five joints, and a capture of it."""

import math

import pytest
import torch

from headfields.apps.rigging import RiggedTemplate
from headfields.apps.rigging.rigged_template import triangle_landmarks
from headfields.data import load_capture
from headfields.heads.landmarks import Landmarks
from headfields.synthetic.rig_captures import write_rig_capture

ROWS, COLUMNS = 26, 32


def bust() -> RiggedTemplate:
    """A head with a nose on shoulders: a surface over height and angle, 0.36 m high, facing +z."""
    height = torch.linspace(0, 1, ROWS)
    angle = torch.arange(COLUMNS) / COLUMNS * 2 * math.pi
    head = (1 - ((height - 0.68) / 0.33).square()).clamp_min(0).sqrt() * 0.09
    body = torch.sigmoid((0.38 - height) * 22) * 0.11 + 0.045 * (height < 0.9)
    radius = torch.maximum(head, body)
    radius[0] = radius[-1] = 1e-3
    h, a = torch.meshgrid(height, angle, indexing="ij")
    r = radius[:, None].expand_as(h)
    nose = 0.03 * torch.exp(-((a - math.pi / 2) / 0.22).square() - ((h - 0.66) / 0.05).square())
    wide = 1 + 0.6 * torch.sigmoid((0.3 - h) * 30)
    x = torch.stack([r * wide * torch.cos(a), 0.36 * (h - 0.5), (r + nose) * torch.sin(a)], -1)
    vertices = x.reshape(-1, 3)
    index = torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS)
    around = index.roll(-1, 1)
    quads = torch.stack([index[:-1], around[:-1], around[1:], index[1:]], -1).reshape(-1, 4)
    faces = torch.cat([quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]])
    u = (torch.arange(COLUMNS + 1) / COLUMNS)[None].expand(ROWS, -1)
    uv = torch.stack([u, height[:, None].expand_as(u)], -1).reshape(-1, 2)
    uv_index = torch.arange(ROWS * (COLUMNS + 1)).view(ROWS, COLUMNS + 1)
    corners = torch.stack([uv_index[:-1, :-1], uv_index[:-1, 1:], uv_index[1:, 1:], uv_index[1:, :-1]], -1).reshape(
        -1, 4
    )
    uv_faces = torch.cat([corners[:, [0, 2, 1]], corners[:, [0, 3, 2]]])
    flat = h.reshape(-1)
    front = torch.sin(a.reshape(-1)).clamp_min(0)
    on_head = torch.sigmoid((flat - 0.42) * 25)
    on_jaw = on_head * 0.8 * front * torch.exp(-((flat - 0.52) / 0.05).square())
    weights = torch.stack([1 - on_head, on_head - on_jaw, on_jaw, 0 * flat, 0 * flat], -1)
    regressor = torch.zeros(5, len(vertices))
    regressor[0, index[3]] = regressor[1, index[10]] = regressor[2, index[14]] = 1 / COLUMNS
    regressor[3:, 0] = 1
    bulge = front * torch.exp(-((flat - 0.75) / 0.06).square())
    side = torch.sign(vertices[:, 0]) * front * torch.exp(-((flat - 0.6) / 0.05).square())
    basis = torch.stack(
        [bulge[:, None] * torch.tensor([0, 0.004, 0.01]), side[:, None] * torch.tensor([0.008, 0, 0.004])]
    )
    noise = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(3))
    noise = torch.cat([noise, noise[..., :1]], -1)
    texture = torch.nn.functional.interpolate(noise, (128, 160), mode="bicubic", align_corners=True)[0].clamp(0.1, 0.9)
    seen = (front > 0.45) & (flat > 0.45) & (flat < 0.9)
    marks = seen[faces[:, 0]].nonzero()[:, 0]
    marks = marks[torch.linspace(0, len(marks) - 1, 68).long()]
    landmarks: Landmarks = triangle_landmarks(marks, torch.full((68, 3), 1 / 3))
    return RiggedTemplate(
        template=vertices, faces=faces, shape_basis=torch.zeros(0, len(vertices), 3), expression_basis=basis,
        pose_basis=torch.zeros(36, len(vertices), 3), joint_regressor=regressor, weights=weights,
        parents=[-1, 0, 1, 1, 1], landmarks=landmarks, uv=uv, uv_faces=uv_faces,
        expression_names=("brow_raise", "smile_left"), texture=texture.movedim(0, -1).contiguous(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def rig():
    return bust()


@pytest.fixture(scope="session")
def folder(rig, tmp_path_factory):
    """Twelve frames of talking during one turn."""
    out = tmp_path_factory.mktemp("bust") / "talk"
    return write_rig_capture(rig, out, "talk", frames=12, size=64, rate=4.0, progress=False)


@pytest.fixture(scope="session")
def capture(folder):
    return load_capture(folder)
