"""A rig of the procedural head's expressions and joints, small: every seventh face, three expressions, four frames."""

import math

import pytest
import torch

import headfields as hf
from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion
from headfields.ops.skinning import joint_transforms


@pytest.fixture(scope="session")
def rig(head) -> RiggedMesh:
    """Part of the head, with a seam in its texture coordinates and a texture."""
    whole = hf.export.rig_of_head(head, torch.rand(8, 16, 3, generator=torch.Generator().manual_seed(3)))
    keep = torch.zeros(len(head.faces), dtype=torch.bool)
    keep[::7] = True
    used = head.faces[keep].unique()
    mesh = whole.mesh.select(keep)
    named = whole.targets.norm(dim=-1).amax(1).topk(3).indices.tolist()
    return RiggedMesh(
        mesh, whole.targets[named][:, used], tuple(whole.target_names[i] for i in named), whole.joint_names,
        whole.parents, whole.joints, whole.weights[used],
    ).limited()  # fmt: skip


@pytest.fixture(scope="session")
def motion(rig) -> RigMotion:
    generator = torch.Generator().manual_seed(5)
    amounts = torch.rand(4, len(rig.targets), generator=generator)
    turns = 0.5 * torch.randn(4, len(rig.joints), 3, generator=generator)
    turns[:, 0] = torch.tensor([0.0, 1, 0]) * torch.tensor([0.0, 0.6, 1.2, 1.8])[:, None] * math.pi  # past half a turn
    rotations = hf.ops.rotation_matrices(turns)
    moved = joint_transforms(rotations, rig.joints.expand(4, -1, -1), rig.parents)
    moved[:, :, :3, 3] += torch.linspace(0, 0.1, 4)[:, None, None]
    return RigMotion(torch.arange(4) / 25.0, amounts, moved)
