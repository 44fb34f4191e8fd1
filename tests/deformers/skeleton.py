"""A tube that bends at two joints: the smallest body with which skinning can be tested."""

import torch
from torch import Tensor

from headfields.ops.skinning import joint_transforms, linear_blend_skinning
from headfields.records import HeadState

JOINTS = torch.tensor([[0.0, -0.15, 0.0], [0.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
PARENTS = (-1, 0, 1)


def tube(rings: int = 13, around: int = 10, radius: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices (V, 3) of an open tube along y, faces outward, and weights (V, 3) of three joints, soft between them."""
    y = torch.linspace(-0.2, 0.2, rings)
    angle = torch.arange(around) * (2 * torch.pi / around)
    ring = torch.stack([angle.sin(), torch.zeros(around), angle.cos()], dim=-1) * radius
    vertices = (ring[None] + y[:, None, None] * torch.tensor([0.0, 1.0, 0.0])).reshape(-1, 3)
    faces = []
    for r in range(rings - 1):
        for s in range(around):
            a, b = r * around + s, r * around + (s + 1) % around
            faces += [[a, b, b + around], [a, b + around, a + around]]
    height = vertices[:, 1:2]
    weights = torch.softmax(-((height - torch.tensor([[-0.1, 0.05, 0.15]])) / 0.05).square(), dim=-1)
    return vertices, torch.tensor(faces), weights


def posed(pose: Tensor, expression: Tensor | None = None, dtype: torch.dtype = torch.float32) -> HeadState:
    """States of the tube: pose (B, 3, 3) axis-angles, expression (B, 1) bulges the tube sideways before it is posed."""
    vertices, _, weights = (tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tube())
    pose = pose.to(dtype)
    rest = vertices.expand(len(pose), -1, -1)
    if expression is not None:
        bulge = torch.stack([0.2 * torch.sin(20 * vertices[:, 1]) * vertices[:, 0], *vertices.T[1:] * 0], dim=-1)
        rest = rest + expression.to(dtype)[:, :, None] * bulge
    transforms = joint_transforms(pose, JOINTS.to(dtype).expand(len(pose), -1, -1), PARENTS)
    return HeadState(
        vertices=linear_blend_skinning(rest, weights, transforms), joint_transforms=transforms, pose=pose,
        expression=expression,
    )  # fmt: skip


def bend(frames: int = 2, amount: float = 0.5) -> Tensor:
    """Poses (B, 3, 3), each frame of its own."""
    generator = torch.Generator().manual_seed(5)
    return amount * torch.randn(frames, 3, 3, generator=generator)
